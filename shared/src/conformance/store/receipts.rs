//! Receipts come in any order, more than once, early, late and for strangers: a status only goes forward.

use super::World;
use super::rig::{LONG, Rig, eventually, from_now, in_doubt, new_worker, receipt, recipient};
use crate::message::{MessageType, NewMessage, Status};
use crate::ports::store::*;
use crate::time::Time;

/// `delivered` and then `read`, each with its time.
pub async fn receipts_follow_the_acknowledgement(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    let sent = rig.attempt(Outcome::Sent).await;
    let acknowledged = rig.message(id).await.sent_at;
    assert!(acknowledged.is_some());
    let (delivered, read) = (from_now(5), from_now(9));
    assert_eq!(rig.receive(vec![receipt(&sent.whatsapp_id, Status::Delivered, delivered)]).await, [id]);
    let message = rig.message(id).await;
    assert_eq!((message.status, message.delivered_at, message.read_at), (Status::Delivered, Some(delivered), None));
    assert_eq!(rig.receive(vec![receipt(&sent.whatsapp_id, Status::Read, read)]).await, [id]);
    let message = rig.message(id).await;
    assert_eq!((message.status, message.sent_at), (Status::Read, acknowledged));
    assert_eq!((message.delivered_at, message.read_at), (Some(delivered), Some(read)));
    assert_eq!(rig.usage().await.messages_sent, 1);
}

/// `read` before `delivered`: the earlier times are filled with it, and what comes later changes nothing.
pub async fn a_status_never_moves_backwards(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    let sent = rig.attempt(Outcome::Sent).await;
    let read = from_now(5);
    rig.receive(vec![receipt(&sent.whatsapp_id, Status::Read, read)]).await;
    let message = rig.message(id).await;
    assert_eq!((message.status, message.delivered_at, message.read_at), (Status::Read, Some(read), Some(read)));
    for status in [Status::Sent, Status::Delivered, Status::Read] {
        assert_eq!(rig.receive(vec![receipt(&sent.whatsapp_id, status, from_now(60))]).await, []);
    }
    assert_eq!(rig.message(id).await, message);
}

/// Receipts of one message in one batch, in whatever order and twice, are one change, with each kind's earliest time.
pub async fn a_batch_is_folded_by_message(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let times = [from_now(3), from_now(6), from_now(9)];
    let kinds = [Status::Sent, Status::Delivered, Status::Read];
    for (to, order) in (0..).zip([[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]]) {
        let id = rig.send(to).await;
        let whatsapp_id = rig.claim_one().await.whatsapp_id;
        let late = kinds.map(|kind| receipt(&whatsapp_id, kind, from_now(50)));
        let mut receipts = order.map(|n| receipt(&whatsapp_id, kinds[n], times[n])).to_vec();
        receipts.splice(to as usize % 3..to as usize % 3, late);
        assert_eq!(rig.receive(receipts).await, [id], "order {order:?}");
        let message = rig.message(id).await;
        assert_eq!(message.status, Status::Read);
        assert_eq!([message.sent_at, message.delivered_at, message.read_at], times.map(Some), "order {order:?}");
    }
    assert_eq!(rig.usage().await.messages_sent, 4);
}

/// A receipt that comes before the acknowledgement is written proves the sending; the late acknowledgement takes nothing
/// away and counts nothing twice. Meanwhile the recipient's next message goes out.
pub async fn a_receipt_before_the_acknowledgement_counts(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    for (n, status) in (1..).zip([Status::Sent, Status::Delivered, Status::Read]) {
        let id = rig.send(1).await;
        let next = rig.send(1).await;
        let outgoing = rig.claim_one().await;
        assert_eq!(rig.receive(vec![receipt(&outgoing.whatsapp_id, status, from_now(0))]).await, [id]);
        assert_eq!(rig.status(id).await, status);
        let following = rig.claim_one().await;
        assert_eq!(following.id, next);
        rig.settle(&outgoing, Outcome::Sent).await;
        assert_eq!(rig.settle(&outgoing, in_doubt(LONG)).await, Settled::Refused);
        let message = rig.message(id).await;
        assert_eq!((message.status, message.error, message.sent_at.is_some()), (status, None, true));
        rig.settle(&following, Outcome::Sent).await;
        assert_eq!((rig.usage().await.messages_sent, rig.usage().await.messages_failed), (2 * n, 0));
    }
}

/// A receipt for a message that isn't `sending` any more, as its attempt was thought not to have been sent, still counts.
pub async fn a_receipt_counts_from_accepted_on(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    let outgoing = rig.attempt(super::rig::retry(LONG)).await;
    assert_eq!(rig.receive(vec![receipt(&outgoing.whatsapp_id, Status::Delivered, from_now(0))]).await, [id]);
    assert_eq!(rig.status(id).await, Status::Delivered);
    assert_eq!(rig.pull_ids().await, []);
    assert!(matches!(rig.cancel(id).await, Moved::Refused(_)));
}

/// Ids that nobody knows, and messages that aren't on their way, are left alone; the others in the batch aren't.
pub async fn strange_receipts_change_nothing(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let scheduled = NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(1) };
    rig.put(scheduled.clone()).await;
    let good = rig.send(2).await;
    let sent = rig.attempt(Outcome::Sent).await;
    let batch = vec![
        receipt("3EB0NOBODY", Status::Read, from_now(0)),
        receipt(&scheduled.whatsapp_id, Status::Read, from_now(0)),
        receipt(&sent.whatsapp_id, Status::Read, from_now(0)),
        receipt("", Status::Delivered, from_now(0)),
    ];
    assert_eq!(rig.receive(batch).await, [good]);
    assert_eq!(rig.status(scheduled.id).await, Status::Scheduled);
    assert_eq!(rig.receive(vec![]).await, []);
}

/// Receipts are matched by session and id: another session's message isn't touched, nor one by a worker that doesn't own
/// the session.
pub async fn receipts_of_another_session_change_nothing(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let second = rig.another_session("second").await;
    // Two sessions may well have the same id.
    let twin = NewMessage { whatsapp_id: "3EB0TWIN".to_owned(), ..rig.draft(1) };
    rig.put(twin.clone()).await;
    second.put(NewMessage { whatsapp_id: "3EB0TWIN".to_owned(), ..second.draft(1) }).await;
    let sent = rig.attempt(Outcome::Sent).await;
    let other = second.attempt(Outcome::Sent).await;
    let read = || vec![receipt("3EB0TWIN", Status::Read, from_now(0))];
    assert_eq!(second.receive(read()).await, [other.id]);
    assert_eq!(rig.status(sent.id).await, Status::Sent);
    let stranger = Rig { worker: new_worker(&store).await, ..rig.clone() };
    assert_eq!(stranger.receive(read()).await, []);
    assert_eq!(rig.status(sent.id).await, Status::Sent);
    assert_eq!(rig.receive(read()).await, [sent.id]);
}

/// The new owner's receipts count for what the old one sent.
pub async fn receipts_reach_messages_of_the_former_owner(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    let sent = rig.attempt(Outcome::Sent).await;
    let next = rig.taken_over().await;
    assert_eq!(next.receive(vec![receipt(&sent.whatsapp_id, Status::Read, from_now(0))]).await, [id]);
}

/// Files that were sent are counted, once, whoever tells of it first.
pub async fn sent_files_are_counted_once(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    for (n, kind) in (1..).zip([MessageType::Image, MessageType::Sticker, MessageType::Document]) {
        rig.put(NewMessage { kind, ..rig.draft(1) }).await;
        let outgoing = rig.claim_one().await;
        if n % 2 == 0 {
            rig.settle(&outgoing, Outcome::Sent).await;
        }
        rig.receive(vec![receipt(&outgoing.whatsapp_id, Status::Delivered, from_now(0))]).await;
        rig.settle(&outgoing, Outcome::Sent).await;
        rig.receive(vec![receipt(&outgoing.whatsapp_id, Status::Read, from_now(0))]).await;
        let usage = rig.usage().await;
        assert_eq!((usage.media_sent, usage.messages_sent), (n, n));
    }
    for kind in [MessageType::Text, MessageType::Location, MessageType::Contact] {
        rig.put(NewMessage { kind, ..rig.draft(1) }).await;
        rig.attempt(Outcome::Sent).await;
    }
    let usage = rig.usage().await;
    assert_eq!((usage.media_sent, usage.messages_sent), (3, 6));
}

/// What may have been sent and isn't read awaits a receipt: the newest of a session, the oldest of them first.
pub async fn what_awaits_receipts_is_known(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let second = rig.another_session("second").await;
    second.send(1).await;
    second.attempt(Outcome::Sent).await;
    let mut expected = Vec::new();
    let ends: [(Outcome, Option<Status>, bool); 6] = [
        (Outcome::Sent, None, true),
        (Outcome::Sent, Some(Status::Delivered), true),
        (Outcome::Sent, Some(Status::Read), false),
        (in_doubt(LONG), None, true),
        (super::rig::failed(), None, false),
        (Outcome::Unknown, None, true),
    ];
    for (to, (end, seen, awaits)) in (0..).zip(ends) {
        rig.send(to).await;
        let outgoing = rig.attempt(end).await;
        if let Some(seen) = seen {
            rig.receive(vec![receipt(&outgoing.whatsapp_id, seen, from_now(0))]).await;
        }
        if awaits {
            let message = rig.message(outgoing.id).await;
            let (status, expires_at) = (message.status, message.expires_at);
            expected.push(Awaiting { whatsapp_id: outgoing.whatsapp_id, recipient: recipient(to), status, expires_at });
        }
    }
    rig.send(50).await;
    let awaiting = rig.store.awaiting_receipts(rig.session, 100).await.expect("a read");
    assert_eq!(awaiting, expected);
    let newest = rig.store.awaiting_receipts(rig.session, 2).await.expect("a read");
    assert_eq!(newest, expected[2..]);
}

/// A session shows when it sent last.
pub async fn a_session_shows_when_it_sent_last(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let session = async || rig.store.session(rig.user, &rig.name).await.expect("a read").expect("the session is there");
    assert_eq!(session().await.last_active_at, None);
    rig.send(1).await;
    rig.attempt(Outcome::Sent).await;
    // It may be written with the worker's next renewal.
    let renewed = || async {
        rig.store.renew(rig.worker, LONG).await.expect("a renewal");
        session().await.last_active_at
    };
    let shown = eventually("the session shows it", renewed).await;
    assert!(shown > Time(0) && shown <= rig.clock().await);
}

/// WhatsApp's clock isn't ours: whatever it says, a message was accepted, sent, delivered and read in this order.
pub async fn times_are_in_order_whatever_the_clocks_say(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let (early, late) = (from_now(-3_600), from_now(3_600));
    for (to, (delivered, read)) in (0..).zip([(early, early), (late, early), (early, late), (late, late)]) {
        let id = rig.send(to).await;
        let sent = rig.attempt(Outcome::Sent).await;
        rig.receive(vec![receipt(&sent.whatsapp_id, Status::Delivered, delivered)]).await;
        rig.receive(vec![receipt(&sent.whatsapp_id, Status::Read, read)]).await;
        let message = rig.message(id).await;
        let times = [Some(message.created_at), message.sent_at, message.delivered_at, message.read_at];
        assert!(times.iter().all(Option::is_some) && times.is_sorted(), "{times:?}");
    }
    let id = rig.send(9).await;
    let early_bird = rig.claim_one().await;
    rig.receive(vec![receipt(&early_bird.whatsapp_id, Status::Read, early)]).await;
    let message = rig.message(id).await;
    let times = [Some(message.created_at), message.sent_at, message.delivered_at, message.read_at];
    assert!(times.iter().all(Option::is_some) && times.is_sorted(), "before its acknowledgement: {times:?}");
}
