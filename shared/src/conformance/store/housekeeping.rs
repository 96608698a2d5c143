//! Housekeeping: what falls due, what expires, what waits, what is deleted, what is kept no longer.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;

use super::World;
use super::rig::{LONG, Rig, bury, eventually, from_now, in_doubt, keep_all, receipt, request, retry, unique};
use crate::ids::{MessageId, SessionId};
use crate::message::{DEFAULT_LIFE, MessageError, NewMessage, Status};
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::{BridgeKind, DELETE_GRACE};
use crate::time::Time;

/// Scheduled messages that fell due take their places behind what was accepted before, in the order of their times, and
/// among the same times in the order of acceptance; their jobs are answered in that order.
pub async fn due_messages_are_promoted_in_the_order_of_their_times(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let mut random = rand::rng();
    let base = from_now(-1_000).0;
    let mut scheduled: Vec<(i64, usize, MessageId)> = Vec::new();
    let later = rig.put(NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(0) }).await;
    for n in 0..60_usize {
        let send_at = base + random.random_range(0..20);
        let to = u32::try_from(n).unwrap_or(0);
        let id = rig.put(NewMessage { send_at: Some(Time(send_at)), ..rig.draft(to) }).await;
        scheduled.push((send_at, n, id));
    }
    let now = rig.send(100).await;
    assert_eq!(rig.pull_ids().await, [now], "what is scheduled isn't sent before it is promoted");
    let before = rig.send(101).await;
    scheduled.sort();
    let order: Vec<MessageId> = scheduled.iter().map(|(_, _, id)| *id).collect();

    let (jobs, more) = rig.store.promote().await.expect("a promotion");
    assert!(!more);
    assert_eq!(jobs.iter().map(|job| job.message).collect::<Vec<_>>(), order, "times and places: {scheduled:?}");
    assert!(jobs.iter().all(|job| job.session == rig.session && job.request_id == "req-conformance"));
    assert!(jobs.iter().all(|job| job.life > Duration::ZERO && job.life <= DEFAULT_LIFE));
    let again = rig.store.promote().await.expect("a promotion");
    assert_eq!(again, (Vec::new(), false));
    let after = rig.send(102).await;
    let expected = [&[before], &order[..], &[after]].concat();
    assert_eq!(rig.pull_ids().await, expected, "times and places: {scheduled:?}");
    assert_eq!(rig.status(later).await, Status::Scheduled);
    assert_eq!(rig.used().await, 64, "a promotion takes no quota");
}

/// A sweep changes so many rows in a transaction and says whether there may be more; several at once share the work.
pub async fn sweeps_go_in_chunks(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let chunk = usize::try_from(SWEEP_CHUNK).unwrap_or(0);
    for _ in 0..3 {
        let draft = || NewMessage { send_at: Some(from_now(-60)), expires_at: Some(from_now(-1)), ..rig.draft(1) };
        rig.put_all((0..chunk / 2).map(|_| draft()).collect()).await;
    }
    let (jobs, more) = handles[0].promote().await.expect("a promotion");
    assert!(jobs.len() <= chunk && !jobs.is_empty());
    assert!(more, "1,500 don't fit into a chunk");
    let mut promoted: Vec<MessageId> = jobs.iter().map(|job| job.message).collect();
    eventually("all that is due is promoted", async || {
        let swept = join_all((0..4_usize).map(|n| handles[n % 2].promote())).await;
        let swept: Vec<_> = swept.into_iter().map(|swept| swept.expect("a promotion")).collect();
        let more = swept.iter().any(|(jobs, more)| *more || !jobs.is_empty());
        promoted.extend(swept.iter().flat_map(|(jobs, _)| jobs.iter().map(|job| job.message)));
        (!more).then_some(())
    })
    .await;
    assert_eq!(promoted.len(), chunk / 2 * 3, "each once");
    let mut expired: Vec<MessageId> = Vec::new();
    eventually("all that is past its time is swept", async || {
        let swept = join_all((0..4_usize).map(|n| handles[n % 2].expire())).await;
        let swept: Vec<Swept> = swept.into_iter().map(|swept| swept.expect("a sweep")).collect();
        assert!(swept.iter().all(|swept| swept.messages.len() <= chunk));
        let more = swept.iter().any(|swept| swept.more || !swept.messages.is_empty());
        expired.extend(swept.into_iter().flat_map(|swept| swept.messages));
        (!more).then_some(())
    })
    .await;
    assert_eq!((expired.len(), rig.used().await), (chunk / 2 * 3, 0), "each once, and each unit back");
    let expired: HashSet<MessageId> = expired.into_iter().collect();
    assert_eq!(expired, promoted.into_iter().collect());
}

/// What is past its time ends, with its unit back if it was never sent; what its owner is sending is left to it while that
/// lives, and ends once it is dead.
pub async fn the_sweep_leaves_what_is_under_way_to_its_living_owner(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let end = rig.clock().await.plus(Duration::from_secs(1));
    let put = async |to| rig.put(NewMessage { expires_at: Some(end), ..rig.draft(to) }).await;
    let (under_way, waits) = (put(1).await, put(2).await);
    assert_eq!(rig.pull_ids().await, [under_way, waits], "claimed within a second");
    let settlement = rig.settlement(waits, 1, retry(LONG));
    assert_eq!(rig.store.settle(settlement).await.expect("an answer"), Settled::Done(Status::Accepted));
    let (behind, lasting) = (put(1).await, rig.send(3).await);
    rig.past(end).await;
    let swept = rig.store.expire().await.expect("a sweep");
    assert_eq!(swept.messages.into_iter().collect::<HashSet<_>>(), [waits, behind].into());
    assert_eq!((rig.status(under_way).await, rig.status(lasting).await), (Status::Sending, Status::Accepted));
    assert_eq!((rig.status(waits).await, rig.status(behind).await), (Status::Expired, Status::Expired));
    assert_eq!(rig.used().await, 2);
    bury(&rig.store, rig.worker).await;
    assert_eq!(rig.store.expire().await.expect("a sweep").messages, [under_way]);
    assert_eq!(rig.error_code(under_way).await.as_deref(), Some(MessageError::UNKNOWN_OUTCOME));
    assert_eq!((rig.used().await, rig.usage().await.messages_failed), (2, 1));
    assert_eq!(rig.status(lasting).await, Status::Accepted);
}

/// A message that is claimed while a sweep is under way, at its last moment, is its owner's: the sweep ends the others.
pub async fn a_claim_wins_over_the_sweep(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let other = world.store().await;
    for _ in 0..10 {
        let end = rig.clock().await.plus(Duration::from_millis(60));
        let drafts = (0..200).map(|to| NewMessage { expires_at: Some(end), ..rig.draft(to) }).collect();
        let ids: HashSet<_> = rig.put_all(drafts).await.into_iter().collect();
        let claiming = async {
            let mut claimed = HashSet::new();
            loop {
                let pulled = rig.pull(20).await;
                claimed.extend(pulled.messages.iter().map(|message| message.id));
                if pulled.now > end {
                    return claimed;
                }
            }
        };
        let sweeping = async {
            let mut swept = HashSet::new();
            loop {
                let after = rig.clock().await > end;
                swept.extend(other.expire().await.expect("a sweep").messages);
                if after {
                    return swept;
                }
            }
        };
        let (claimed, swept) = tokio::join!(claiming, sweeping);
        for id in &claimed {
            assert_eq!(rig.status(*id).await, Status::Sending, "claimed by its living owner");
        }
        assert_eq!(claimed.union(&swept).copied().collect::<HashSet<_>>(), ids, "each is claimed or swept");
        assert!(claimed.is_disjoint(&swept));
        for pulled in &claimed {
            let settled = rig.store.settle(rig.settlement(*pulled, 1, Outcome::Sent)).await.expect("an answer");
            assert_eq!(settled, Settled::Done(Status::Sent));
        }
    }
}

/// What waits is counted by user and by session, open and scheduled messages alike, with the age of the oldest.
pub async fn the_backlog_is_counted(world: &dyn World) {
    let store = world.store().await;
    let (rig, other, idle) = (Rig::new(&store).await, Rig::new(&store).await, Rig::new(&store).await);
    let second = rig.another_session("second").await;
    assert_eq!(store.count_backlog().await.expect("a count"), (Backlog::default(), None));
    let oldest = rig.put_all((0..6).map(|to| rig.draft(to)).collect()).await[3];
    rig.put(NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(9) }).await;
    second.send(1).await;
    other.send(1).await;
    let pulled = rig.pull(4).await.messages;
    rig.settle(&pulled[0], Outcome::Sent).await;
    rig.settle(&pulled[1], retry(LONG)).await;
    rig.settle(&pulled[2], in_doubt(LONG)).await;
    // One of six was sent; one waits to be tried again, one is in doubt, one under way, two untouched, one scheduled.
    let (backlog, age) = store.count_backlog().await.expect("a count");
    assert_eq!(backlog, Backlog { total: 8, by_user: [(rig.user, 7), (other.user, 1)].into() });
    let age = age.expect("something waits");
    let since = rig.clock().await.since(rig.message(oldest).await.created_at);
    assert!(age <= since && since - age < Duration::from_secs(20), "{age:?} of {since:?}");
    assert_eq!(world.store().await.backlog().await.expect("a read"), backlog, "as last counted, for every process");
    let queued =
        async |rig: &Rig| store.session(rig.user, &rig.name).await.expect("a read").map(|session| session.waiting);
    assert_eq!((queued(&rig).await, queued(&second).await), (Some(6), Some(1)));
    assert_eq!((queued(&other).await, queued(&idle).await), (Some(1), Some(0)));

    other.attempt(Outcome::Sent).await;
    let (backlog, _) = store.count_backlog().await.expect("a count");
    assert_eq!(backlog, Backlog { total: 7, by_user: [(rig.user, 7)].into() });
    assert_eq!(queued(&other).await, Some(0));
    assert_eq!(store.backlog().await.expect("a read"), backlog);
}

/// A deleted session is drained after a grace and once it is given back: what it had queued is cancelled with the units
/// back, what may have been sent ends as `unknown_outcome`, what was sent stays. Its name is free from the start.
pub async fn a_deleted_session_is_drained(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let doomed = rig.another_session("doomed").await;
    let sent = doomed.send(1).await;
    doomed.attempt(Outcome::Sent).await;
    let doubted = doomed.send(2).await;
    doomed.attempt(in_doubt(LONG)).await;
    let once_doubted = doomed.send(3).await;
    doomed.attempt(in_doubt(Duration::ZERO)).await;
    doomed.attempt(retry(LONG)).await;
    let under_way = doomed.send(4).await;
    assert_eq!(doomed.pull_ids().await, [under_way]);
    let queued = doomed.put_all((5..9).map(|to| doomed.draft(to)).collect()).await;
    let scheduled = doomed.put(NewMessage { send_at: Some(from_now(3_600)), ..doomed.draft(9) }).await;
    let elsewhere = rig.send(1).await;
    let before = rig.clock().await;
    assert!(store.delete_session(rig.user, "doomed", Actor::MACHINE).await.expect("a deletion"));

    let heir = store
        .create_session(rig.user, "doomed", BridgeKind::Simulator, u32::MAX, Actor::MACHINE)
        .await
        .expect("the name is free");
    assert_ne!(heir.id, doomed.session);
    let drain = async || {
        let (swept, removed) = store.drain_deleted().await.expect("a drain");
        (swept.messages, removed)
    };
    // Owned: not before it is given back, whatever the time.
    assert_eq!(drain().await, (vec![], vec![]));
    store.give_back(doomed.worker, &[doomed.session]).await.expect("giving back");
    let mut swept: Vec<MessageId> = Vec::new();
    let removed: Vec<SessionId> = eventually("the session is removed", async || {
        let (chunk, removed) = store.drain_deleted().await.expect("a drain");
        if !chunk.messages.is_empty() || !removed.is_empty() {
            let grace = rig.clock().await.since(before);
            assert!(grace >= DELETE_GRACE, "drained {grace:?} after the deletion");
        }
        swept.extend(chunk.messages);
        (!removed.is_empty()).then_some(removed)
    })
    .await;
    assert_eq!(removed, [doomed.session]);
    let expected: HashSet<MessageId> =
        queued.iter().copied().chain([scheduled, doubted, once_doubted, under_way]).collect();
    assert_eq!(swept.len(), expected.len(), "each once");
    assert_eq!(swept.into_iter().collect::<HashSet<_>>(), expected);
    for id in queued.iter().chain([&scheduled]) {
        assert_eq!(rig.status(*id).await, Status::Cancelled);
    }
    for id in [doubted, once_doubted, under_way] {
        assert_eq!(rig.status(id).await, Status::Failed);
        assert_eq!(rig.error_code(id).await.as_deref(), Some(MessageError::UNKNOWN_OUTCOME));
    }
    let message = rig.message(sent).await;
    assert_eq!((message.status, message.session.as_str()), (Status::Sent, "doomed"), "still to be read");
    assert_eq!((rig.used().await, rig.usage().await.messages_failed), (5, 3));
    assert_eq!(rig.status(elsewhere).await, Status::Accepted);
    assert_eq!(drain().await, (vec![], vec![]));
    let session = store.session(rig.user, "doomed").await.expect("a read").expect("the heir is there");
    assert_eq!(session.id, heir.id);
}

/// What is kept no longer goes: keys by their age, messages by their last change and only if they have ended. Counts stay.
pub async fn what_is_kept_no_longer_goes(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let key = IdempotencyKey { key: unique("key"), hash: [1; 32], batch: false };
    let keyed = request(rig.user, Some(key.clone()), vec![rig.draft(1)]);
    let read = keyed.items[0].1.id;
    rig.store.accept(keyed).await.expect("accepting answers");
    let outgoing = rig.attempt(Outcome::Sent).await;
    rig.receive(vec![receipt(&outgoing.whatsapp_id, Status::Read, from_now(0))]).await;
    let cancelled = rig.send(2).await;
    rig.cancel(cancelled).await;
    let waiting = rig.send(3).await;
    let scheduled = rig.put(NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(4) }).await;
    let usage = rig.usage().await;
    let kept = Retention { messages: Some(LONG), ..keep_all() };
    while rig.store.retire(&kept).await.expect("a retirement") {}
    assert_eq!(rig.list_all(&MessageFilter::default(), 10).await.len(), 4);
    assert!(rig.store.replay(rig.user, &key.key).await.expect("a read").is_some());

    rig.past(rig.clock().await).await;
    let none = Duration::ZERO;
    let for_ever = Retention { events: none, api_logs: none, idempotency_keys: none, ..keep_all() };
    while rig.store.retire(&for_ever).await.expect("a retirement") {}
    assert_eq!(rig.store.replay(rig.user, &key.key).await.expect("a read"), None);
    assert_eq!(rig.list_all(&MessageFilter::default(), 10).await.len(), 4);

    let nothing = Retention { messages: Some(Duration::ZERO), ..for_ever };
    eventually("what has ended goes", || async {
        while rig.store.retire(&nothing).await.expect("a retirement") {}
        let rest = rig.list_all(&MessageFilter::default(), 10).await;
        (rest.len() <= 2).then_some(rest)
    })
    .await;
    assert_eq!(rig.list_all(&MessageFilter::default(), 10).await, [scheduled, waiting]);
    for id in [read, cancelled] {
        assert_eq!(rig.store.message(Scope::All, id).await.expect("a read"), None);
    }
    assert_eq!((rig.usage().await, rig.used().await), (usage, 3));
}

/// A removed session's row goes once none of its messages is left; a message that changed lately is kept, however old.
pub async fn a_removed_session_goes_with_its_last_message(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    let outgoing = rig.attempt(Outcome::Sent).await;
    rig.receive(vec![receipt(&outgoing.whatsapp_id, Status::Read, from_now(0))]).await;
    // Both accepted long ago, and the session drained long ago; the message has changed just now.
    for statement in
        ["UPDATE sessions SET deleting_at = 1, drained_at = 2, owner = NULL", "UPDATE messages SET created_at = 1"]
    {
        world.alter(statement).await;
    }
    let retire = async |keep| {
        let retention = Retention { messages: Some(keep), ..keep_all() };
        // As if it were looked at for the first time.
        world.alter("DELETE FROM sweeps").await;
        while rig.store.retire(&retention).await.expect("a retirement") {}
        let sessions = world.numbers("SELECT count(*) FROM sessions").await;
        (sessions[0], rig.store.message(Scope::All, id).await.expect("a read").is_some())
    };
    rig.past(rig.clock().await.plus(Duration::from_millis(50))).await;
    world.alter("UPDATE messages SET updated_at = updated_at + 1000000").await;
    assert_eq!(retire(Duration::ZERO).await, (1, true), "it has changed lately");
    world.alter("UPDATE messages SET updated_at = updated_at - 1000000").await;
    assert!(retire(Duration::from_secs(3_600)).await.1, "not old enough");
    assert_eq!(retire(Duration::ZERO).await, (0, false));
}

/// What was cancelled or expired goes when it has been kept long enough, by its last change; what was sent stays for ever, and is
/// looked at a few times, not again and again.
pub async fn what_was_never_sent_goes_and_what_stays_is_looked_at_once(world: &dyn World) {
    const DAY: Duration = Duration::from_secs(86_400);
    let rig = Rig::new(&world.store().await).await;
    let at = |days: u32, to: u32| {
        let before = Time::now().0 - i64::from(days) * 86_400_000;
        // A UUIDv7 of that time.
        let bytes = (u128::from(before.unsigned_abs()) << 80 | 7 << 76 | 2 << 62) | u128::from(to);
        NewMessage { id: MessageId(uuid::Uuid::from_u128(bytes)), ..rig.draft(to) }
    };
    // Accepted long ago, by their ids.
    let kept: Vec<MessageId> = rig.put_all((1..=20).map(|to| at(100, to)).collect()).await;
    let cancelled = rig.put(at(100, 21)).await;
    let cancelled_lately = rig.put(at(40, 22)).await;
    let waiting = rig.put(at(100, 23)).await;
    let expired = rig.put(NewMessage { expires_at: Some(from_now(-1)), ..at(100, 24) }).await;
    for outgoing in rig.pull(20).await.messages {
        rig.settle(&outgoing, Outcome::Sent).await;
    }
    for id in [cancelled, cancelled_lately] {
        rig.cancel(id).await;
    }
    rig.store.expire().await.expect("a sweep");
    world.alter("UPDATE messages SET updated_at = updated_at - 2678400000 WHERE status IN (7, 8)").await;
    world.alter("UPDATE messages SET updated_at = updated_at + 1728000000 WHERE recipient = '+15550000022'").await;
    let retire = async |unsent: Duration| {
        let retention = Retention { unsent, ..keep_all() };
        while rig.store.retire(&retention).await.expect("a retirement") {}
        rig.list_all(&MessageFilter::default(), 100).await
    };
    assert_eq!(retire(60 * DAY).await.len(), 24, "nothing is old enough");
    world.alter("DELETE FROM sweeps").await;
    let left = retire(30 * DAY).await;
    assert_eq!(left.len(), 22);
    assert!(!left.contains(&cancelled) && !left.contains(&expired));
    assert!(left.contains(&cancelled_lately) && left.contains(&waiting) && left.contains(&kept[0]));
    // It is looked at again later, until it has surely ended.
    let looked = world.numbers("SELECT count(*) FROM sweeps").await;
    assert!(looked[0] >= 7, "several looks have their own place: {looked:?}");
    // What was looked at isn't read again: not even if it could go now.
    world.alter("UPDATE messages SET status = 8, updated_at = 0 WHERE status = 3").await;
    assert_eq!(retire(30 * DAY).await.len(), 22);
}
