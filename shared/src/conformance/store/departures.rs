//! A caller that leaves changes nothing for the next one: what it has begun is finished, or as if it had never been.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use super::World;
use super::rig::{Rig, SHARD, eventually, from_now, new_user, new_worker, receipt, report, request, unique};
use crate::ids::{ApiKeyId, FamilyId, MediaId};
use crate::message::{NewMessage, Status};
use crate::ports::audit::{Action, Actor, AuditEntry};
use crate::ports::devices::{DeviceChange, DeviceRange, DeviceWrite};
use crate::ports::operations::CancelFilter;
use crate::ports::store::*;
use crate::session::{BridgeKind, SessionStatus};
use crate::time::Time;
use crate::user::{NewUser, UserChange};

/// More points at which a call can be left than any call has.
const POINTS: usize = 10;

/// Polls a call so many times, each time after it has asked for it, and then drops it.
async fn leave_at(point: usize, call: impl Future<Output = ()>) {
    let mut call = Box::pin(call);
    let mut polls = 0;
    std::future::poll_fn(|context| {
        polls += 1;
        match call.as_mut().poll(context) {
            Poll::Pending if polls < point => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
}

/// A call whose answer, whatever it is, nobody hears.
fn unheard<'a, T: 'a>(call: impl Future<Output = Result<T>> + Send + 'a) -> BoxFuture<'a, ()> {
    call.map(drop).boxed()
}

/// One call of each kind of write.
async fn writes(rig: &Rig) -> Vec<BoxFuture<'_, ()>> {
    let (store, user, worker, session) = (&rig.store, rig.user, rig.worker, rig.session);
    let victim = new_user(store, None).await;
    let key = store.create_api_key(victim, "key", &unique("key"), b"hash", None, Actor::MACHINE).await.expect("a key");
    let spare = unique("spare");
    store.create_session(user, &spare, BridgeKind::Simulator, u32::MAX, Actor::MACHINE).await.expect("a session");
    let leaver = new_worker(store).await;
    let later = |to| NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(to) };
    let mine = rig.put(later(1)).await;
    let referred = unique("many");
    rig.put_all((0..3).map(|to| NewMessage { reference: Some(referred.clone()), ..later(to) }).collect()).await;
    let filter = CancelFilter { session: None, to: None, reference: Some(referred) };
    let device = DeviceWrite {
        worker,
        session,
        changes: vec![DeviceChange { kind: 1, key: b"key".to_vec(), value: Some((b"value".to_vec(), Time::now())) }],
    };
    let settlement = rig.settlement(mine, 1, Outcome::Sent);
    let received =
        ReceiptBatch { worker, session, shard: SHARD, receipts: vec![receipt("unknown", Status::Read, Time::now())] };
    let pull = rig.pull_request(0);
    let accept = request(user, None, vec![later(2)]);
    vec![
        unheard(async move { store.cancel(Scope::User(user), mine, Actor::MACHINE).await }),
        unheard(async move { store.cancel_waiting(user, &filter, None, Actor::MACHINE).await }),
        unheard(store.accept(accept)),
        unheard(store.pull(pull)),
        unheard(store.settle(settlement)),
        unheard(store.receipts(received)),
        unheard(store.write_device(device)),
        unheard(store.clear_device(worker, session, 2, DeviceRange::Prefix(Vec::new()))),
        unheard(async move {
            let user = NewUser {
                username: unique("left"),
                password_hash: "$argon2id$none".to_owned(),
                is_staff: false,
                max_messages_per_day: None,
            };
            store.create_user(&user, BridgeKind::Simulator, Actor::MACHINE).await
        }),
        unheard(async move { store.change_user(victim, &UserChange::default(), None, Actor::MACHINE).await }),
        unheard(store.set_active(victim, false)),
        unheard(store.delete_user(victim, Actor::MACHINE)),
        unheard(store.revoke_api_key(key, Actor::MACHINE)),
        unheard(async move { store.mark_keys_used(&[(ApiKeyId(1), Time::now())]).await }),
        unheard(store.start_login(user, "$argon2id$none", Duration::from_secs(60))),
        unheard(store.rotate(FamilyId::generate(), 1, Duration::from_secs(60))),
        unheard(store.attempt("192.0.2.1", "nobody")),
        unheard(store.forget_failures("nobody")),
        unheard(async move { store.command(user, &spare, SessionCommand::Connect, Actor::MACHINE).await }),
        unheard(store.request_pair_code(user, "none", "+15550000000", Actor::MACHINE)),
        unheard(store.delete_session(user, "none", Actor::MACHINE)),
        unheard(store.renew(worker, super::rig::LONG)),
        unheard(store.take(leaver, 1)),
        unheard(store.leave(leaver)),
        unheard(store.bury(worker, true)),
        unheard(async move { store.report(worker, session, &report(SessionStatus::Connected)).await }),
        unheard(store.report_pacing(worker, session, None)),
        unheard(store.remove_file(Scope::User(user), MediaId::generate(), Actor::MACHINE)),
        unheard(async move { store.count_requests(SHARD, &[(user, 1)]).await }),
        unheard(async move {
            let entry = AuditEntry::new(Actor::MACHINE, Action::Login, None);
            store.write_audit(&[entry]).await
        }),
        unheard(store.promote()),
        unheard(store.expire()),
        unheard(store.count_backlog()),
        unheard(store.drain_deleted()),
    ]
}

/// Whoever writes next, on whatever connection it is given, finds it in order: what it is told is written is there for other
/// processes, too. And quota, messages and events agree to the unit.
pub async fn a_caller_that_leaves_changes_nothing_for_the_next(world: &dyn World) {
    let (store, other) = (world.store().await, world.store().await);
    let rig = Rig::limited(&store, Some(10_000)).await;
    let nexts: Vec<_> = join_all((0..6).map(|_| new_user(&store, None))).await;
    for point in 1..=POINTS {
        for (kind, write) in writes(&rig).await.into_iter().enumerate() {
            leave_at(point, write).await;
            let limit = i64::try_from(point * 100 + kind).expect("a small number");
            let next = nexts.iter().map(|user| next_writes(&store, &other, *user, limit));
            join_all(next).await;
        }
    }
    eventually("what was begun comes to its end, and the books agree", || async {
        let all = rig.list_all(&MessageFilter::default(), 200).await.len();
        let cancelled = MessageFilter { status: Some(Status::Cancelled), ..MessageFilter::default() };
        let cancelled = rig.list_all(&cancelled, 200).await.len();
        let events = world.numbers("SELECT count(*) FROM events WHERE message_id IS NOT NULL AND status = 8").await;
        let used = usize::try_from(rig.used().await).expect("a number of units");
        (used == all - cancelled && events == [i64::try_from(cancelled).expect("a number")]).then_some(())
    })
    .await;
}

async fn next_writes(store: &Arc<dyn Store>, other: &Arc<dyn Store>, user: crate::ids::UserId, limit: i64) {
    assert!(store.set_limit(user, Some(limit)).await.expect("the next write is made"), "the user is there");
    let quota = other.quota(user).await.expect("a read").expect("the user is there");
    assert_eq!(quota.limit, Some(limit), "what was written is there for others");
}
