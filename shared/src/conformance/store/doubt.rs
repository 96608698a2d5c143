//! Attempts that may have been sent: never cancelled, never given back, never sent as something else, until the truth comes.

use std::time::Duration;

use super::World;
use super::rig::{LONG, Rig, failed, from_now, in_doubt, receipt, retry};
use crate::ids::MessageId;
use crate::message::{MAX_CRASHES, MessageError, NewMessage, Status};
use crate::ports::journal::Change;
use crate::ports::store::*;

/// An attempt in doubt stays `sending`, can't be cancelled, and is tried again under the same id when it is due.
pub async fn an_attempt_in_doubt_stays_sending(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    let first = rig.attempt(in_doubt(Duration::ZERO)).await;
    assert_eq!(rig.status(id).await, Status::Sending);
    assert!(matches!(rig.cancel(id).await, Moved::Refused(message) if message.status == Status::Sending));
    let again = rig.attempt(in_doubt(LONG)).await;
    assert_eq!((again.id, again.whatsapp_id, again.unknown_attempts), (id, first.whatsapp_id, 2));
    assert_eq!(rig.pull_ids().await, [], "not before it is due");
    assert_eq!((rig.status(id).await, rig.used().await), (Status::Sending, 1));
}

/// A second attempt's definite "not sent" doesn't wipe the first one's doubt: the message can't be cancelled, and ends as
/// `unknown_outcome` with its unit kept, whichever way it ends.
pub async fn a_later_not_sent_doesnt_wipe_an_earlier_doubt(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let ends = [failed(), Outcome::Expired, Outcome::Unknown];
    for (n, end) in (1..).zip(ends) {
        let id = doubted(&rig, n).await;
        assert_eq!(rig.status(id).await, Status::Accepted);
        let refused = rig.cancel(id).await;
        assert!(matches!(&refused, Moved::Refused(message) if message.status == Status::Accepted), "{refused:?}");
        rig.attempt(end.clone()).await;
        unknown_outcome(&rig, id).await;
        assert_eq!((rig.used().await, rig.usage().await.messages_failed), (i64::from(n), i64::from(n)), "{end:?}");
    }
}

/// The sweep ends such a message as `unknown_outcome`, too.
pub async fn expiry_after_doubt_is_an_unknown_outcome(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let end = rig.clock().await.plus(Duration::from_secs(1));
    let mut ids = Vec::new();
    for to in 0..3 {
        ids.push(rig.put(NewMessage { expires_at: Some(end), ..rig.draft(to) }).await);
    }
    let pulled = rig.pull(3).await.messages;
    assert_eq!(pulled.len(), 3, "claimed within a second");
    // In doubt, then definitely not sent; in doubt and waiting; definitely not sent, without doubt.
    rig.settle(&pulled[0], in_doubt(Duration::ZERO)).await;
    rig.attempt(retry(LONG)).await;
    rig.settle(&pulled[1], in_doubt(LONG)).await;
    rig.settle(&pulled[2], retry(LONG)).await;
    assert_eq!(rig.store.expire().await.expect("a sweep").messages, [], "not before its time");
    rig.past(end).await;
    let mut swept = rig.store.expire().await.expect("a sweep").messages;
    swept.sort();
    assert_eq!(swept, ids);
    unknown_outcome(&rig, ids[0]).await;
    unknown_outcome(&rig, ids[1]).await;
    assert_eq!(rig.status(ids[2]).await, Status::Expired);
    assert_eq!((rig.used().await, rig.usage().await.messages_failed), (2, 2));
}

/// An attempt that was never made takes itself back: after it the message is free as before.
pub async fn a_released_attempt_leaves_no_doubt(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    for _ in 0..3 {
        let outgoing = rig.attempt(Outcome::Released).await;
        assert_eq!((outgoing.attempt, outgoing.unknown_attempts), (1, 1));
        let message = rig.message(id).await;
        assert_eq!((message.status, message.attempts), (Status::Accepted, 0));
    }
    assert!(matches!(rig.cancel(id).await, Moved::Done(_)));
    assert_eq!(rig.used().await, 0);
}

/// A definite "not sent" of every attempt leaves no doubt either.
pub async fn attempts_not_sent_leave_no_doubt(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    for attempt in 1..4 {
        let outgoing = rig.attempt(retry(Duration::ZERO)).await;
        assert_eq!((outgoing.attempt, outgoing.unknown_attempts), (attempt, 1));
        assert_eq!(rig.error_code(id).await.as_deref(), Some("disconnected"));
    }
    assert!(matches!(rig.cancel(id).await, Moved::Done(_)));
    assert_eq!((rig.used().await, rig.message(id).await.attempts), (0, 3));
}

/// A receipt lifts an `unknown_outcome`, whatever it says: the message was sent, and counts so.
pub async fn a_receipt_lifts_an_unknown_outcome(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    for (n, status) in (1..).zip([Status::Sent, Status::Delivered, Status::Read]) {
        let id = doubted(&rig, n).await;
        let outgoing = rig.attempt(failed()).await;
        unknown_outcome(&rig, id).await;
        assert_eq!(rig.usage().await.messages_failed, 1);
        assert_eq!(rig.receive(vec![receipt(&outgoing.whatsapp_id, status, from_now(0))]).await, [id]);
        let message = rig.message(id).await;
        assert_eq!((message.status, message.error, message.sent_at.is_some()), (status, None, true));
        let usage = rig.usage().await;
        assert_eq!((usage.messages_failed, usage.messages_sent, rig.used().await), (0, i64::from(n), i64::from(n)));
    }
}

/// A late acknowledgement of the caller's own attempt lifts it as well, once.
pub async fn a_late_acknowledgement_lifts_an_unknown_outcome(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    let outgoing = rig.attempt(Outcome::Unknown).await;
    unknown_outcome(&rig, id).await;
    assert_eq!(rig.settle(&outgoing, Outcome::Sent).await, Settled::Done(Status::Sent));
    assert_eq!(rig.settle(&outgoing, Outcome::Sent).await, Settled::Refused);
    let (message, usage) = (rig.message(id).await, rig.usage().await);
    assert_eq!((message.error, message.sent_at.is_some()), (None, true));
    assert_eq!((usage.messages_failed, usage.messages_sent, rig.used().await), (0, 1, 1));
}

/// The acknowledgement of an earlier attempt counts while a later one is under way: they are one message to WhatsApp.
pub async fn an_earlier_attempts_acknowledgement_counts(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    let first = rig.attempt(in_doubt(Duration::ZERO)).await;
    let second = rig.claim_one().await;
    assert_eq!(rig.settle(&first, Outcome::Sent).await, Settled::Done(Status::Sent));
    assert_eq!(rig.settle(&second, in_doubt(LONG)).await, Settled::Refused);
    assert_eq!((rig.status(id).await, rig.usage().await.messages_sent), (Status::Sent, 1));
}

/// What definitely failed is an end: neither a receipt nor an acknowledgement lifts it.
pub async fn a_definite_end_has_no_way_out(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let cancelled = rig.draft(9);
    rig.put(cancelled.clone()).await;
    rig.cancel(cancelled.id).await;
    let mut ended = vec![(cancelled.id, cancelled.whatsapp_id)];
    for end in [failed(), Outcome::Expired] {
        rig.send(1).await;
        let outgoing = rig.attempt(end).await;
        assert_eq!(rig.settle(&outgoing, Outcome::Sent).await, Settled::Refused);
        ended.push((outgoing.id, outgoing.whatsapp_id));
    }
    let mut before = Vec::new();
    for (id, _) in &ended {
        before.push(rig.message(*id).await);
    }
    for status in [Status::Sent, Status::Delivered, Status::Read] {
        let receipts = ended.iter().map(|(_, whatsapp_id)| receipt(whatsapp_id, status, from_now(0))).collect();
        assert_eq!(rig.receive(receipts).await, []);
    }
    for (message, (id, _)) in before.iter().zip(&ended) {
        assert_eq!(rig.message(*id).await, *message);
        assert!(matches!(rig.cancel(*id).await, Moved::Refused(_)));
    }
    assert_eq!((rig.used().await, rig.usage().await.messages_sent), (0, 0));
}

/// A message on which its actor crashes again and again before the bridge is called is a dead letter; it was never sent,
/// so its unit is given back.
pub async fn crashes_before_the_call_make_a_dead_letter(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    let behind = rig.send(1).await;
    for crashes in 0..MAX_CRASHES {
        assert_eq!(rig.status(id).await, Status::Accepted);
        let outgoing = rig.attempt(Outcome::Crashed { called: false, after: Duration::ZERO }).await;
        assert_eq!((outgoing.id, outgoing.attempt, outgoing.crashes), (id, 1, crashes));
    }
    let message = rig.message(id).await;
    assert_eq!((message.status, message.attempts), (Status::Failed, 0));
    assert_eq!(message.error.map(|error| error.code).as_deref(), Some(MessageError::INTERNAL));
    assert_eq!((rig.used().await, rig.usage().await.messages_failed), (1, 1), "the one behind it keeps its unit");
    assert_eq!(rig.pull_ids().await, [behind], "a poisoned message never stops its session");
}

/// After the bridge was called each crash is an attempt in doubt, and the last one ends the message as such.
pub async fn crashes_after_the_call_are_in_doubt(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    for attempt in 1..=MAX_CRASHES {
        let outgoing = rig.attempt(Outcome::Crashed { called: true, after: Duration::ZERO }).await;
        assert_eq!((outgoing.id, outgoing.attempt, outgoing.unknown_attempts), (id, attempt, attempt));
        assert!(matches!(rig.cancel(id).await, Moved::Refused(_)));
    }
    unknown_outcome(&rig, id).await;
    assert_eq!(rig.used().await, 1);
}

/// A crash waits as long as it is told before the next attempt.
pub async fn a_crash_waits_before_the_next_attempt(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    for (to, called) in [(1, true), (2, false)] {
        rig.send(to).await;
        rig.attempt(Outcome::Crashed { called, after: LONG }).await;
        assert_eq!(rig.pull_ids().await, []);
    }
}

/// A message whose ends the database refuses, here for a counter that can't count any further, is ended by its own row alone: as one
/// that may have been sent, with its unit kept. It is a dead letter, holds up no other, and a receipt lifts it.
pub async fn an_abandoned_message_holds_up_no_other(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    rig.send(1).await;
    rig.attempt(Outcome::Sent).await;
    world.alter("UPDATE usage_stats SET sent = 9223372036854775807, failed = 9223372036854775807").await;
    let (id, behind) = (rig.send(1).await, rig.send(1).await);
    let outgoing = rig.claim_one().await;
    assert_eq!(outgoing.id, id);
    for outcome in [Outcome::Sent, Outcome::Unknown] {
        let refused = rig.store.settle(rig.settlement(id, outgoing.attempt, outcome.clone())).await;
        assert!(refused.as_ref().is_err_and(|error| !error.is_transient()), "{outcome:?}: {refused:?}");
    }
    assert_eq!((rig.status(id).await, rig.pull_ids().await), (Status::Sending, vec![]));
    assert!(abandon(&rig, id).await);
    assert!(!abandon(&rig, id).await, "once");
    unknown_outcome(&rig, id).await;
    assert!(rig.store.dead_letter(id).await.expect("an answer").is_some());
    assert_eq!(rig.pull_ids().await, [behind]);
    world.alter("UPDATE usage_stats SET sent = 1, failed = 0 WHERE sent > 1").await;
    assert_eq!((rig.used().await, rig.usage().await.messages_failed), (3, 1));
    let events = rig.store.events_after(Scope::User(rig.user), 0, 100).await.expect("events");
    let failed = Change::Message(id, Status::Failed);
    assert!(events.iter().any(|event| event.change == failed), "{events:?}");

    assert_eq!(rig.receive(vec![receipt(&outgoing.whatsapp_id, Status::Read, from_now(0))]).await, [id]);
    assert_eq!((rig.status(id).await, rig.usage().await.messages_failed), (Status::Read, 0));
}

/// Only what is under way under the caller's own claim is abandoned.
pub async fn only_what_is_under_way_is_abandoned(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let accepted = rig.send(1).await;
    let scheduled = rig.put(NewMessage { send_at: Some(rig.clock().await.plus(LONG)), ..rig.draft(2) }).await;
    let mut ids = vec![accepted, scheduled];
    for end in [Outcome::Sent, failed(), Outcome::Expired, retry(LONG)] {
        let id = rig.send(u32::try_from(ids.len()).expect("a small number") + 1).await;
        let pulled = rig.pull(10).await;
        let outgoing = pulled.messages.iter().find(|message| message.id == id).expect("it is claimed");
        rig.settle(outgoing, end).await;
        ids.push(id);
    }
    // The first one was claimed along with the others.
    ids.remove(0);
    for id in ids {
        let before = rig.message(id).await;
        assert!(!abandon(&rig, id).await, "{before:?}");
        assert_eq!(rig.message(id).await, before);
    }
    assert!(!abandon(&rig.restarted(), accepted).await, "another claim's");
    assert!(!abandon(&rig, MessageId::generate()).await);
    assert!(abandon(&rig, accepted).await);
}

async fn abandon(rig: &Rig, id: MessageId) -> bool {
    rig.store.abandon(rig.worker, rig.claim, id).await.expect("an answer")
}

/// An accepted message to that recipient whose first attempt may have been sent and whose second wasn't.
async fn doubted(rig: &Rig, to: u32) -> MessageId {
    let id = rig.send(to).await;
    rig.attempt(in_doubt(Duration::ZERO)).await;
    rig.attempt(retry(Duration::ZERO)).await;
    id
}

async fn unknown_outcome(rig: &Rig, id: MessageId) {
    let message = rig.message(id).await;
    assert_eq!(message.status, Status::Failed);
    let error = message.error.expect("a failed message says why");
    assert_eq!((error.code.as_str(), error.retryable), (MessageError::UNKNOWN_OUTCOME, false));
}
