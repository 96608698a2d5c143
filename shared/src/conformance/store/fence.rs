//! The fence: a worker that was declared dead, or isn't a session's owner any more, writes nothing.

use std::time::Duration;

use futures_util::future::join_all;

use super::World;
use super::rig::{LONG, Rig, bury, failed, in_doubt, new_worker, receipt, report, retry, take_all};
use crate::ids::WorkerId;
use crate::message::Status;
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::{DEFAULT_SESSION, SessionStatus};
use crate::time::Time;

/// A worker that was declared dead can write nothing, also before a new owner has touched anything.
pub async fn a_buried_worker_writes_nothing(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let sending = rig.send(1).await;
    let outgoing = rig.claim_one().await;
    let waiting = rig.send(2).await;
    bury(&store, rig.worker).await;
    let before = (rig.message(sending).await, rig.message(waiting).await, session(&rig).await);

    let fenced = |result: Result<String>| assert!(matches!(result, Err(StoreError::Fenced)), "{result:?}");
    fenced(store.pull(rig.pull_request(10)).await.map(|pulled| format!("{pulled:?}")));
    for outcome in [Outcome::Sent, retry(Duration::ZERO), failed(), in_doubt(LONG), Outcome::Unknown, Outcome::Released]
    {
        let settlement = rig.settlement(sending, outgoing.attempt, outcome);
        fenced(store.settle(settlement).await.map(|settled| format!("{settled:?}")));
    }
    fenced(store.abandon(rig.worker, rig.claim, sending).await.map(|ended| ended.to_string()));
    let receipts = vec![receipt(&outgoing.whatsapp_id, Status::Read, Time::now())];
    let batch = ReceiptBatch { worker: rig.worker, session: rig.session, shard: 1, receipts };
    fenced(store.receipts(batch).await.map(|changed| format!("{changed:?}")));
    let pairing = SessionReport { pairing: Some(Pairing::Unlinked), ..report(SessionStatus::LoggedOut) };
    // A report may be fenced, or told that the session isn't the caller's; what counts is that it isn't written.
    let reported = store.report(rig.worker, rig.session, &pairing).await;
    assert!(matches!(reported, Err(StoreError::Fenced) | Ok(false)), "{reported:?}");
    fenced(store.renew(rig.worker, LONG).await.map(|renewed| format!("{renewed:?}")));
    fenced(store.take(rig.worker, 10).await.map(|taken| format!("{taken:?}")));
    let paced = store.report_pacing(rig.worker, rig.session, Some(Time::now().plus(LONG))).await;
    assert!(matches!(paced, Err(StoreError::Fenced) | Ok(())), "{paced:?}");
    let given = store.give_back(rig.worker, &[rig.session]).await;
    assert!(matches!(given, Err(StoreError::Fenced) | Ok(())), "{given:?}");

    let after = (rig.message(sending).await, rig.message(waiting).await, session(&rig).await);
    assert_eq!(after, before);
    let next = new_worker(&store).await;
    take_all(&store, next, [rig.session]).await;
}

/// A worker that never registered writes nothing either.
pub async fn an_unknown_worker_writes_nothing(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    rig.send(1).await;
    let stranger = Rig { worker: WorkerId::generate(), ..rig.clone() };
    assert!(matches!(store.pull(stranger.pull_request(10)).await, Err(StoreError::Fenced)));
    assert!(matches!(store.renew(stranger.worker, LONG).await, Err(StoreError::Fenced)));
    assert!(matches!(store.take(stranger.worker, 1).await, Err(StoreError::Fenced)));
    assert_eq!(rig.pull_ids().await.len(), 1);
}

/// One caller's fence is nobody else's: in a group of pulls and settlements the living are served.
pub async fn a_fence_holds_only_its_worker(world: &dyn World) {
    let store = world.store().await;
    let dead = Rig::new(&store).await;
    let alive = Rig::several(&store, 6, None).await;
    dead.send(1).await;
    let outgoing = dead.claim_one().await;
    for rig in &alive {
        rig.send(1).await;
    }
    bury(&store, dead.worker).await;
    let fenced = || async {
        let settlement = dead.settlement(outgoing.id, outgoing.attempt, Outcome::Sent);
        assert!(matches!(store.settle(settlement).await, Err(StoreError::Fenced)));
        assert!(matches!(store.pull(dead.pull_request(1)).await, Err(StoreError::Fenced)));
    };
    let living = join_all(alive.iter().map(|rig| async move {
        rig.attempt(Outcome::Sent).await;
    }));
    tokio::join!(fenced(), living, fenced(), fenced());
}

/// A worker that gave a session back can't pull for it, and once the new owner has taken what it left, can't settle it.
pub async fn a_session_given_back_is_closed_to_its_giver(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let id = rig.send(1).await;
    let outgoing = rig.claim_one().await;
    let behind = rig.send(2).await;
    store.give_back(rig.worker, &[rig.session]).await.expect("giving back");
    let pulled = rig.pull(10).await;
    assert!(!pulled.ready && pulled.messages.is_empty(), "{pulled:?}");
    assert!(!store.report(rig.worker, rig.session, &report(SessionStatus::Connected)).await.expect("a report"));
    assert_eq!(rig.receive(vec![receipt(&outgoing.whatsapp_id, Status::Read, Time::now())]).await, []);

    let worker = new_worker(&store).await;
    take_all(&store, worker, [rig.session]).await;
    // The same actor's number, and yet another claim.
    let next = Rig { worker, ..rig.clone() };
    next.report(SessionStatus::Connected).await;
    assert!(!rig.pull(10).await.ready);
    let again = next.pull(10).await.messages;
    assert_eq!(again.iter().map(|m| (m.id, m.attempt)).collect::<Vec<_>>(), [(id, 2), (behind, 1)]);
    let before = rig.message(id).await;
    for attempt in [1, 2] {
        for outcome in [Outcome::Sent, retry(LONG), failed(), Outcome::Released] {
            let settlement = rig.settlement(id, attempt, outcome);
            assert_eq!(store.settle(settlement).await.expect("a settlement answers"), Settled::Refused);
        }
    }
    assert_eq!(rig.message(id).await, before);
    assert_eq!(next.settle(&again[0], Outcome::Sent).await, Settled::Done(Status::Sent));
}

/// A settlement under another claim, or of another attempt than the last, is refused and changes nothing.
pub async fn another_claim_or_attempt_is_refused(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    rig.attempt(retry(Duration::ZERO)).await;
    let outgoing = rig.claim_one().await;
    let before = rig.message(id).await;
    let ends = [retry(LONG), failed(), Outcome::Expired, in_doubt(LONG), Outcome::Unknown, Outcome::Released];
    for outcome in ends {
        for (claim, attempt) in [(rig.claim, 1), (rig.claim, 3), (rig.claim, 0), (rig.claim + 1, 2), (rig.claim - 1, 2)]
        {
            let settlement = Settlement { claim, ..rig.settlement(id, attempt, outcome.clone()) };
            let settled = rig.store.settle(settlement).await.expect("a settlement answers");
            assert_eq!(settled, Settled::Refused, "claim {claim}, attempt {attempt}, {outcome:?}");
        }
    }
    let settlement = Settlement { claim: rig.claim + 1, ..rig.settlement(id, 2, Outcome::Sent) };
    assert_eq!(rig.store.settle(settlement).await.expect("a settlement answers"), Settled::Refused);
    let unknown = rig.settlement(crate::ids::MessageId::generate(), 1, Outcome::Sent);
    assert_eq!(rig.store.settle(unknown).await.expect("a settlement answers"), Settled::Refused);
    assert_eq!(rig.message(id).await, before);
    assert_eq!(rig.settle(&outgoing, Outcome::Sent).await, Settled::Done(Status::Sent));
    assert_eq!(rig.settle(&outgoing, Outcome::Sent).await, Settled::Refused, "an attempt ends once");
}

/// However settlements race with the burial of their worker: once it is declared dead, nothing of its changes any more.
pub async fn settlements_racing_with_a_burial_are_in_time_or_fenced(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let undertaker = new_worker(&handles[1]).await;
    for round in 0..12_u64 {
        let rig = Rig::new(&handles[0]).await;
        let ids = rig.put_all((0..30).map(|to| rig.draft(to)).collect()).await;
        let claimed = rig.pull(30).await.messages;
        let rest = rig.put_all((100..110).map(|to| rig.draft(to)).collect()).await;
        handles[0].renew(rig.worker, Duration::ZERO).await.expect("a renewal");
        let settle = join_all(claimed.iter().enumerate().map(|(n, outgoing)| {
            let rig = &rig;
            async move {
                tokio::time::sleep(Duration::from_micros(n as u64 * 150)).await;
                let end = if n % 2 == 0 { Outcome::Sent } else { retry(Duration::ZERO) };
                let settlement = rig.settlement(outgoing.id, outgoing.attempt, end);
                let pulled = rig.store.pull(rig.pull_request(1)).await;
                (rig.store.settle(settlement).await, pulled)
            }
        }));
        let buried = async {
            tokio::time::sleep(Duration::from_micros(round * 400)).await;
            let buried = || async {
                let dead = handles[1].bury(undertaker, true).await.expect("a burial");
                dead.contains(&rig.worker).then_some(())
            };
            super::rig::eventually("a worker whose lease is over is declared dead", buried).await;
            statuses(&rig.through(&handles[1]), &[&ids[..], &rest[..]].concat()).await
        };
        let (settled, at_burial) = tokio::join!(settle, buried);
        assert_eq!(
            statuses(&rig, &[&ids[..], &rest[..]].concat()).await,
            at_burial,
            "nothing changes after the burial"
        );
        for (n, (settled, _)) in settled.iter().enumerate() {
            let status = rig.status(ids[n]).await;
            match settled {
                Ok(Settled::Done(_)) => assert_ne!(status, Status::Scheduled),
                Err(StoreError::Fenced) => assert_eq!(status, Status::Sending),
                other => panic!("in time or fenced, not {other:?}"),
            }
        }
        // The next round's worker is to find its own session free, and no other.
        let ended = handles[0].command(rig.user, &rig.name, SessionCommand::Disconnect, Actor::MACHINE).await;
        ended.expect("a command").expect("the session is there");
    }
}

async fn session(rig: &Rig) -> crate::session::Session {
    rig.store.session(rig.user, DEFAULT_SESSION).await.expect("a read").expect("the session is there")
}

async fn statuses(rig: &Rig, ids: &[crate::ids::MessageId]) -> Vec<(crate::ids::MessageId, Status, i32)> {
    let mut rows: Vec<_> = rig
        .store
        .messages(Scope::User(rig.user), ids)
        .await
        .expect("a read")
        .into_iter()
        .map(|m| (m.id, m.status, m.attempts))
        .collect();
    rows.sort();
    rows
}
