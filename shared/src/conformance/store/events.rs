//! Each change of a message's status after its acceptance, and of a session's, is an event, written with it.

use std::time::Duration;

use super::World;
use super::rig::*;
use crate::message::{NewMessage, Status};
use crate::ports::store::*;
use crate::session::SessionStatus;

const OF_MESSAGES: &str = "SELECT CAST(status AS bigint) FROM events WHERE message_id IS NOT NULL ORDER BY n";
const OF_SESSIONS: &str = "SELECT CAST(status AS bigint) FROM events WHERE message_id IS NULL ORDER BY n";

/// What has happened to messages since the last call.
struct Seen<'w> {
    world: &'w dyn World,
    count: usize,
}

impl Seen<'_> {
    async fn next(&mut self) -> Vec<i64> {
        let all = self.world.numbers(OF_MESSAGES).await;
        let new = all[self.count..].to_vec();
        self.count = all.len();
        new
    }
}

fn codes(statuses: &[Status]) -> Vec<i64> {
    statuses.iter().map(|status| *status as i64).collect()
}

/// Claims, ends, retries, receipts, cancellations, promotions and sweeps alike.
pub async fn each_change_of_a_message_is_an_event(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let mut seen = Seen { world, count: 0 };

    rig.send(1).await;
    assert_eq!(seen.next().await, codes(&[]), "acceptance is no event: the message's own row says it");
    let sent = rig.attempt(Outcome::Sent).await;
    let (delivered, read) = (from_now(0), from_now(1));
    rig.receive(vec![receipt(&sent.whatsapp_id, Status::Delivered, delivered)]).await;
    rig.receive(vec![receipt(&sent.whatsapp_id, Status::Read, read)]).await;
    assert_eq!(seen.next().await, codes(&[Status::Sending, Status::Sent, Status::Delivered, Status::Read]));

    rig.send(2).await;
    rig.attempt(retry(Duration::ZERO)).await;
    rig.attempt(failed()).await;
    assert_eq!(seen.next().await, codes(&[Status::Sending, Status::Accepted, Status::Sending, Status::Failed]));

    let cancelled = rig.send(3).await;
    rig.cancel(cancelled).await;
    assert_eq!(seen.next().await, codes(&[Status::Cancelled]));

    let soon = rig.clock().await.plus(Duration::from_millis(5));
    rig.put(NewMessage { send_at: Some(soon), expires_at: Some(soon.plus(Duration::from_millis(5))), ..rig.draft(4) })
        .await;
    rig.past(soon.plus(Duration::from_millis(5))).await;
    rig.store.promote().await.expect("a promotion");
    rig.store.expire().await.expect("a sweep");
    assert_eq!(seen.next().await, codes(&[Status::Accepted, Status::Expired]));

    rig.send(5).await;
    rig.attempt(in_doubt(Duration::ZERO)).await;
    assert_eq!(seen.next().await, codes(&[Status::Sending]), "in doubt it stays what it is");
    let again = rig.attempt(Outcome::Unknown).await;
    assert_eq!(seen.next().await, codes(&[Status::Failed]));
    rig.receive(vec![receipt(&again.whatsapp_id, Status::Delivered, from_now(0))]).await;
    assert_eq!(seen.next().await, codes(&[Status::Delivered]), "lifted by its receipt");
}

/// Refused moves and repeated receipts leave no event.
pub async fn what_changes_nothing_is_no_event(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let mut seen = Seen { world, count: 0 };
    let id = rig.send(1).await;
    let sent = rig.attempt(Outcome::Sent).await;
    rig.receive(vec![receipt(&sent.whatsapp_id, Status::Read, from_now(0))]).await;
    assert_eq!(seen.next().await, codes(&[Status::Sending, Status::Sent, Status::Read]));
    rig.receive(vec![receipt(&sent.whatsapp_id, Status::Read, from_now(0))]).await;
    rig.receive(vec![receipt(&sent.whatsapp_id, Status::Delivered, from_now(0))]).await;
    rig.receive(vec![receipt("3EB000000000000000NONE", Status::Read, from_now(0))]).await;
    rig.settle(&sent, Outcome::Sent).await;
    rig.cancel(id).await;
    rig.pull(10).await;
    assert_eq!(seen.next().await, codes(&[]));
}

/// A session's statuses follow each other in its events.
pub async fn each_change_of_a_session_is_an_event(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let before = world.numbers(OF_SESSIONS).await;
    assert_eq!(before.last(), Some(&(SessionStatus::Connected as i64)));
    rig.report(SessionStatus::Connecting).await;
    rig.report(SessionStatus::Connecting).await;
    rig.report(SessionStatus::Connected).await;
    let new = world.numbers(OF_SESSIONS).await.split_off(before.len());
    assert_eq!(new, [SessionStatus::Connecting as i64, SessionStatus::Connected as i64]);
}
