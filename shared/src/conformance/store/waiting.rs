//! A message that waits says what it waits for.

use super::World;
use super::rig::{LONG, Rig, from_now, in_doubt, report, retry};
use crate::ids::MessageId;
use crate::message::{BlockedBy, Hold, MessageError, NewMessage, Status};
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::{DEFAULT_SESSION, SessionStatus};

/// Each reason by itself, on a session that is ready to send.
pub async fn each_reason_is_told(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let scheduled = rig.put(NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(1) }).await;
    let retried = rig.send(2).await;
    rig.attempt(retry(LONG)).await;
    let doubted = rig.send(3).await;
    rig.attempt(in_doubt(LONG)).await;
    let restricted = rig.send(4).await;
    let error = MessageError::new("restricted", "As the tests have it.", true);
    rig.attempt(Outcome::Retry { error, after: LONG, hold: Hold::Restricted }).await;
    let held = rig.send(7).await;
    rig.attempt(Outcome::Held { after: LONG, hold: Hold::Pacing }).await;
    assert_eq!(rig.message(held).await.attempts, 0, "it was never tried");
    let behind_retried = rig.send(2).await;
    let behind_doubted = rig.send(3).await;
    let under_way = rig.send(5).await;
    assert_eq!(rig.pull_ids().await, [under_way]);
    let behind_under_way = rig.send(5).await;
    let fresh = rig.send(6).await;
    let expected = [
        (scheduled, Some(BlockedBy::Scheduled)),
        (retried, Some(BlockedBy::Retry)),
        (doubted, Some(BlockedBy::Retry)),
        (restricted, Some(BlockedBy::Restricted)),
        (held, Some(BlockedBy::Pacing)),
        (behind_retried, Some(BlockedBy::EarlierMessage)),
        (behind_doubted, Some(BlockedBy::EarlierMessage)),
        (behind_under_way, Some(BlockedBy::EarlierMessage)),
        (under_way, None),
        (fresh, None),
    ];
    for (id, reason) in expected {
        assert_eq!(blocked_by(&rig, id).await, reason);
    }
    // Read in one go or as a list, the answer is the same.
    let ids = expected.map(|(id, _)| id);
    let read = rig.store.messages(Scope::All, &ids).await.expect("a read");
    let listed =
        rig.store.list_messages(Scope::User(rig.user), &MessageFilter::default(), None, 50).await.expect("a page");
    for (id, reason) in expected {
        for messages in [&read, &listed.items] {
            let message = messages.iter().find(|message| message.id == id).expect("the message is there");
            assert_eq!(message.blocked_by, reason);
        }
    }
}

/// Of several reasons the first is told, in the order of [`BlockedBy`].
pub async fn the_first_reason_is_told(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let scheduled = rig.put(NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(1) }).await;
    let first = rig.send(1).await;
    rig.attempt(retry(LONG)).await;
    let behind = rig.send(1).await;
    let fresh = rig.send(2).await;
    let command = async |command| {
        store
            .command(rig.user, DEFAULT_SESSION, command, Actor::MACHINE)
            .await
            .expect("a command")
            .expect("the session is there")
    };
    let all = async |reason: BlockedBy| {
        for id in [first, behind, fresh] {
            assert_eq!(blocked_by(&rig, id).await, Some(reason));
        }
        assert_eq!(blocked_by(&rig, scheduled).await, Some(BlockedBy::Scheduled));
    };
    let pace = async |until| store.report_pacing(rig.worker, rig.session, until).await.expect("a report");

    pace(Some(from_now(3_600))).await;
    rig.report(SessionStatus::Connecting).await;
    command(SessionCommand::Pause).await;
    assert!(store.set_active(rig.user, false).await.expect("a change"));
    all(BlockedBy::UserInactive).await;
    assert!(store.set_active(rig.user, true).await.expect("a change"));
    all(BlockedBy::SessionPaused).await;
    command(SessionCommand::Resume).await;
    all(BlockedBy::SessionNotConnected).await;
    rig.report(SessionStatus::Connected).await;
    pace(Some(from_now(3_600))).await;
    assert_eq!(blocked_by(&rig, first).await, Some(BlockedBy::Retry));
    assert_eq!(blocked_by(&rig, behind).await, Some(BlockedBy::EarlierMessage));
    assert_eq!(blocked_by(&rig, fresh).await, Some(BlockedBy::Pacing));
    pace(Some(from_now(-3_600))).await;
    assert_eq!(blocked_by(&rig, fresh).await, None, "it paced, and doesn't any more");
    pace(Some(from_now(3_600))).await;
    pace(None).await;
    assert_eq!(blocked_by(&rig, fresh).await, None);
    assert!(matches!(rig.cancel(first).await, Moved::Done(_)));
    assert_eq!(blocked_by(&rig, behind).await, None, "the earlier one is out of the way");
}

/// What has ended, or is on its recipient's phone, waits for nothing.
pub async fn an_ended_message_waits_for_nothing(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let cancelled = rig.send(1).await;
    let Moved::Done(message) = rig.cancel(cancelled).await else { panic!("a cancel in time") };
    assert_eq!((message.status, message.blocked_by), (Status::Cancelled, None));
    let mut ids = vec![cancelled];
    for (to, end) in (2..).zip([Outcome::Sent, super::rig::failed(), Outcome::Expired, Outcome::Unknown]) {
        ids.push(rig.send(to).await);
        rig.attempt(end).await;
    }
    let paused =
        rig.store.command(rig.user, DEFAULT_SESSION, SessionCommand::Pause, Actor::MACHINE).await.expect("a command");
    assert!(paused.is_some_and(|session| session.paused));
    assert!(rig.store.report(rig.worker, rig.session, &report(SessionStatus::Connecting)).await.expect("a report"));
    for id in ids {
        assert_eq!(blocked_by(&rig, id).await, None);
    }
}

async fn blocked_by(rig: &Rig, id: MessageId) -> Option<BlockedBy> {
    rig.message(id).await.blocked_by
}
