//! The pull: what it claims, in which order, how far it looks, and what it says about the rest.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;

use super::World;
use super::rig::{LONG, Rig, from_now, in_doubt, recipient, retry};
use crate::ids::MessageId;
use crate::message::{Hold, MessageError, MessageType, NewMessage, Status};
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::{DEFAULT_SESSION, SessionStatus};

/// A claimed message has everything that sending needs, and is `sending` with one attempt more.
pub async fn a_claim_has_all_that_sending_needs(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let answered = rig.draft(1);
    rig.put(answered.clone()).await;
    rig.attempt(Outcome::Sent).await;
    let mut asked = rig.draft(1);
    asked.reply_to = Some(answered.id);
    asked.kind = MessageType::Text;
    rig.put(asked.clone()).await;
    let outgoing = rig.claim_one().await;
    assert_eq!((outgoing.id, outgoing.recipient.clone()), (asked.id, asked.recipient));
    assert_eq!(
        (outgoing.whatsapp_id.clone(), outgoing.quoted.clone()),
        (asked.whatsapp_id, Some(answered.whatsapp_id))
    );
    assert_eq!((outgoing.kind, outgoing.content.clone()), (MessageType::Text, Ok(asked.content)));
    assert_eq!((outgoing.attempt, outgoing.unknown_attempts, outgoing.crashes), (1, 1, 0));
    assert_eq!(outgoing.request_id, asked.request_id);
    let message = rig.message(asked.id).await;
    assert_eq!((message.status, message.attempts), (Status::Sending, 1));
    assert_eq!((message.created_at, message.expires_at), (outgoing.created_at, outgoing.expires_at));

    assert_eq!(rig.settle(&outgoing, retry(Duration::ZERO)).await, Settled::Done(Status::Accepted));
    let again = rig.claim_one().await;
    assert_eq!((again.attempt, again.unknown_attempts), (2, 1));
    assert_eq!((again.whatsapp_id, again.seq), (outgoing.whatsapp_id, outgoing.seq), "the same id, the same place");
}

/// A reply to a message that isn't there is sent without a quotation.
pub async fn an_answer_to_nothing_is_sent(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    rig.put(NewMessage { reply_to: Some(MessageId::generate()), ..rig.draft(1) }).await;
    assert_eq!(rig.claim_one().await.quoted, None);
}

/// To one recipient one message at a time, in order: the next one follows when the earlier has ended, however it did.
pub async fn one_message_at_a_time_to_each_recipient(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let mut first = Vec::new();
    let mut second = Vec::new();
    for _ in 0..5 {
        first.push(rig.send(1).await);
        second.push(rig.send(2).await);
    }
    let pulled = rig.pull(10).await.messages;
    assert_eq!(pulled.iter().map(|m| m.id).collect::<Vec<_>>(), [first[0], second[0]]);
    assert_eq!(rig.pull_ids().await, []);
    // The second recipient's doesn't end meanwhile: it holds up nobody else.
    let ends = [Outcome::Sent, super::rig::failed(), Outcome::Expired, Outcome::Unknown];
    let mut outgoing = pulled[0].clone();
    for (n, end) in ends.into_iter().enumerate() {
        rig.settle(&outgoing, end).await;
        outgoing = rig.claim_one().await;
        assert_eq!(outgoing.id, first[n + 1]);
    }
    rig.settle(&outgoing, retry(LONG)).await;
    assert_eq!(rig.pull_ids().await, []);
    assert!(matches!(rig.cancel(first[4]).await, Moved::Done(_)));
    rig.settle(&pulled[1], in_doubt(LONG)).await;
    assert_eq!(rig.pull_ids().await, [], "a message in doubt holds up its recipient");
    rig.receive(vec![super::rig::receipt(&pulled[1].whatsapp_id, Status::Delivered, from_now(0))]).await;
    assert_eq!(rig.pull_ids().await, [second[1]], "until a receipt shows that it was sent");
}

/// While a message waits for its next attempt, later ones to its recipient wait too, and others don't.
pub async fn a_retry_holds_up_its_recipient_only(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let first = rig.send(1).await;
    rig.attempt(retry(LONG)).await;
    let behind = rig.send(1).await;
    let other = rig.send(2).await;
    assert_eq!(rig.pull_ids().await, [other]);
    assert_eq!((rig.status(first).await, rig.status(behind).await), (Status::Accepted, Status::Accepted));
}

/// No more than the places asked for, the oldest first; the rest is found from `next_seq` on.
pub async fn places_are_filled_oldest_first(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let ids = rig.put_all((0..10).map(|to| rig.draft(to)).collect()).await;
    let mut request = rig.pull_request(4);
    let mut claimed = Vec::new();
    let mut pulls = 0;
    loop {
        let pulled = rig.store.pull(request.clone()).await.expect("a pull answers");
        assert!(pulled.messages.len() <= 4 && pulled.messages.is_sorted_by_key(|message| message.seq));
        claimed.extend(pulled.messages.iter().map(|message| message.id));
        pulls += 1;
        let Some(next) = pulled.next_seq else { break };
        assert!(next > request.from_seq, "every pull gets further");
        request.from_seq = next;
    }
    assert_eq!(claimed, ids);
    assert!(pulls <= 4, "{pulls} pulls for ten messages at four places");
}

/// Without places, or without rows to look at, nothing is claimed, and the clock and readiness are told all the same.
pub async fn a_pull_for_nothing_claims_nothing(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let id = rig.send(1).await;
    for (places, scan) in [(0, 1_000), (1_000, 0), (0, 0)] {
        let pulled = rig.store.pull(PullRequest { places, scan, ..rig.pull_request(1) }).await.expect("a pull answers");
        assert_eq!(pulled.messages, []);
        assert!(pulled.ready);
        assert!(pulled.now > from_now(-3_600) && pulled.now < from_now(3_600), "{:?}", pulled.now);
    }
    assert_eq!(rig.pull_ids().await, [id]);
}

/// Five thousand messages behind one recipient that is held up don't keep a pull from the others: they are found within
/// the number of looks that the backlog takes, and no look examines more than its limit.
pub async fn a_held_up_recipient_doesnt_starve_the_session(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    rig.send(1).await;
    rig.attempt(retry(LONG)).await;
    for _ in 0..5 {
        rig.put_all((0..1_000).map(|_| rig.draft(1)).collect()).await;
    }
    let others = rig.put_all((2..52).map(|to| rig.draft(to)).collect()).await;
    for _ in 0..2 {
        let mut request = rig.pull_request(25);
        let mut claimed = Vec::new();
        let mut pulls = 0;
        while claimed.is_empty() {
            let pulled = rig.store.pull(request.clone()).await.expect("a pull answers");
            claimed = pulled.messages;
            pulls += 1;
            assert!(pulls <= 6, "5,000 rows are looked through in 6 pulls of 1,000");
            request.from_seq = pulled.next_seq.unwrap_or(0);
        }
        assert_eq!(claimed.len(), 25);
        assert!(claimed.iter().all(|message| others.contains(&message.id)));
    }
    let rest = rig.pull(100).await;
    assert_eq!(rest.messages, []);
    assert!(rest.next_seq.is_some(), "a look that ended at its limit says so");
}

/// When the held-up recipient is free again, its messages follow in order.
pub async fn a_held_up_recipient_follows_in_order(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    rig.send(1).await;
    let first = rig.attempt(in_doubt(Duration::ZERO)).await;
    let mut expected = vec![first.id];
    expected.extend(rig.put_all((0..60).map(|_| rig.draft(1)).collect()).await);
    let mut sent = Vec::new();
    while sent.len() < expected.len() {
        sent.push(rig.attempt(Outcome::Sent).await.id);
    }
    assert_eq!(sent, expected);
}

/// The oldest unfinished message of a recipient that the caller names is found wherever it is, with the places for the oldest;
/// it counts once if the look comes upon it, too.
pub async fn a_named_recipient_is_looked_at_wherever_it_is(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let ids = rig.put_all([1, 2, 1, 3, 2, 4].map(|to| rig.draft(to)).into()).await;
    let seqs: Vec<i64> = rig.pull(1_000).await.messages.iter().map(|message| message.seq).collect();
    let (first, rig) = (seqs[0], rig.restarted());
    let named = |numbers: &[u32]| numbers.iter().map(|number| recipient(*number)).collect();
    let pull = async |places, from_seq, scan, numbers: &[u32]| {
        let request = PullRequest { places, from_seq, scan, recipients: named(numbers), ..rig.pull_request(0) };
        let pulled = rig.store.pull(request).await.expect("a pull answers");
        (pulled.messages.iter().map(|message| message.id).collect::<Vec<_>>(), pulled.next_seq)
    };
    // Without a look at rows: nothing is said about them.
    assert_eq!(pull(10, 77, 0, &[2, 9]).await, (vec![ids[1]], Some(77)));
    assert_eq!(pull(10, 77, 0, &[2]).await, (vec![], Some(77)), "it is under way, and holds the next one up");
    // Named and come upon: once. The oldest go first.
    assert_eq!(pull(2, first + 3, 10, &[1, 3, 4]).await, (vec![ids[0], ids[3]], Some(first + 4)));
    // The places are filled before the row to look from: it is still to be looked at.
    let rig = rig.restarted();
    let request = PullRequest { places: 1, from_seq: first + 3, recipients: named(&[1]), ..rig.pull_request(1) };
    let pulled = rig.store.pull(request).await.expect("a pull answers");
    assert_eq!((pulled.messages.len(), pulled.next_seq), (1, Some(first + 3)));
    assert_eq!(pulled.messages[0].id, ids[0]);
    let rest = rig.pull(10).await;
    assert_eq!(rest.messages.iter().map(|message| message.id).collect::<Vec<_>>(), [ids[1], ids[3], ids[5]]);
    assert_eq!(rest.next_seq, None);
}

/// A pull tells the last message it has seen that waits for something else than a place; what it claims, and what is under
/// way, don't count.
pub async fn a_pull_tells_what_waits(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    assert_eq!(rig.pull(10).await.waiting, None);
    rig.send(1).await;
    let first = rig.pull(10).await;
    assert_eq!((first.messages.len(), first.waiting), (1, None), "it is claimed");
    assert_eq!(rig.pull(10).await.waiting, None, "it is under way");
    rig.send(1).await;
    rig.send(2).await;
    let second = rig.pull(10).await;
    let last = second.messages[0].seq;
    assert_eq!(
        (second.messages.len(), second.waiting),
        (1, Some(last - 1)),
        "one waits for the first to its recipient"
    );
    rig.settle(&first.messages[0], Outcome::Sent).await;
    let third = rig.pull(10).await;
    assert_eq!((third.messages.len(), third.waiting), (1, None));
    rig.settle(&third.messages[0], retry(LONG)).await;
    assert_eq!(rig.pull(10).await.waiting, Some(last - 1), "it waits for its time");
    rig.put_all((10..14).map(|to| rig.draft(to)).collect()).await;
    let full = rig.pull(2).await;
    assert_eq!((full.messages.len(), full.waiting), (2, Some(last - 1)), "those beyond the places weren't looked at");
}

/// `first_seq` is the place of the oldest unfinished message; a look that begins there misses nothing.
pub async fn the_lower_bound_misses_nothing(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let ids = rig.put_all((0..6).map(|to| rig.draft(to)).collect()).await;
    let pulled = rig.pull(6).await.messages;
    for outgoing in &pulled[..2] {
        rig.settle(outgoing, Outcome::Sent).await;
    }
    rig.settle(&pulled[2], retry(LONG)).await;
    let behind = rig.send(2).await;
    let fresh = rig.send(77).await;
    let low = rig.pull(0).await.first_seq;
    // A pull without places may look at nothing; one with places looks from the oldest unfinished on.
    assert!(low.is_none_or(|low| low == pulled[2].seq));
    let low = pulled[2].seq;
    let found =
        rig.store.pull(PullRequest { low, from_seq: low, ..rig.pull_request(10) }).await.expect("a pull answers");
    assert_eq!(found.first_seq, Some(low));
    assert_eq!(found.messages.iter().map(|message| message.id).collect::<Vec<_>>(), [fresh]);
    assert_eq!(found.next_seq, None);
    assert_eq!((rig.status(ids[2]).await, rig.status(behind).await), (Status::Accepted, Status::Accepted));
}

/// What waits isn't claimed before it is due, and the pull says when that is; a restricted one is no different.
pub async fn waiting_messages_are_claimed_when_due(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let soon = Duration::from_millis(1_500);
    rig.send(1).await;
    rig.attempt(retry(LONG)).await;
    let waits = rig.send(2).await;
    let before = rig.clock().await;
    let restricted = MessageError::new("restricted", "As the tests have it.", true);
    rig.attempt(Outcome::Retry { error: restricted, after: soon, hold: Hold::Restricted }).await;
    let after = rig.clock().await;
    let pulled = rig.pull(10).await;
    assert_eq!(pulled.messages, []);
    let due = pulled.next_due.expect("something falls due");
    assert!(due >= before.plus(soon) && due <= after.plus(soon), "{due:?} is {soon:?} after {before:?} to {after:?}");
    let claimed = super::rig::eventually("a message that is due is claimed", || async {
        let pulled = rig.pull(10).await;
        pulled.messages.first().cloned().map(|message| (message.id, pulled.now))
    });
    let (id, now) = claimed.await;
    assert_eq!(id, waits);
    assert!(now >= due, "claimed at {now:?}, due at {due:?}");
}

/// What is past its expiry isn't given to a bridge any more.
pub async fn what_expired_isnt_claimed(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let stale = rig.put(NewMessage { expires_at: Some(from_now(-1)), ..rig.draft(1) }).await;
    let other = rig.send(2).await;
    let behind = rig.send(1).await;
    assert_eq!(rig.pull_ids().await, [other]);
    rig.store.expire().await.expect("a sweep");
    assert_eq!(rig.status(stale).await, Status::Expired);
    assert_eq!(rig.pull_ids().await, [behind]);
}

/// A scheduled message isn't sent before its time, and holds nobody up.
pub async fn a_scheduled_message_holds_nobody_up(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let scheduled = rig.put(NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(1) }).await;
    let now = rig.send(1).await;
    assert_eq!(rig.pull_ids().await, [now]);
    assert_eq!(rig.status(scheduled).await, Status::Scheduled);
}

/// Nothing is claimed, and the pull says so, unless the session is the caller's and connected, neither paused nor marked,
/// and its user active.
pub async fn a_session_that_may_not_send_isnt_ready(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let id = rig.send(1).await;
    let refuses = async |why: &str| {
        let pulled = rig.pull(10).await;
        assert!(!pulled.ready && pulled.messages.is_empty(), "{why}: {pulled:?}");
        assert_eq!(rig.status(id).await, Status::Accepted, "{why}");
    };
    let command = async |command| {
        store
            .command(rig.user, DEFAULT_SESSION, command, Actor::MACHINE)
            .await
            .expect("a command")
            .expect("the session is there")
    };

    command(SessionCommand::Pause).await;
    refuses("paused").await;
    command(SessionCommand::Resume).await;
    store.set_active(rig.user, false).await.expect("a change");
    refuses("the user is inactive").await;
    store.set_active(rig.user, true).await.expect("a change");
    for status in SessionStatus::ALL.into_iter().filter(|status| *status != SessionStatus::Connected) {
        rig.report(status).await;
        refuses(status.as_str()).await;
    }
    rig.report(SessionStatus::Connected).await;

    let stranger = Rig { worker: super::rig::new_worker(&store).await, ..rig.clone() };
    let pulled = stranger.pull(10).await;
    assert!(!pulled.ready && pulled.messages.is_empty(), "another worker's session: {pulled:?}");
    let nowhere = Rig { session: crate::ids::SessionId::generate(), ..rig.clone() };
    let pulled = nowhere.pull(10).await;
    assert!(!pulled.ready && pulled.messages.is_empty(), "no session: {pulled:?}");

    let pulled = rig.pull(0).await;
    assert!(pulled.ready);
    assert_eq!(rig.pull_ids().await, [id]);
    let behind = rig.send(2).await;
    store.delete_session(rig.user, DEFAULT_SESSION, Actor::MACHINE).await.expect("a deletion");
    let pulled = rig.pull(10).await;
    assert!(!pulled.ready && pulled.messages.is_empty(), "marked for deletion: {pulled:?}");
    assert_eq!(rig.status(behind).await, Status::Accepted);
}

/// What another actor of the same worker left `sending` is taken at once, as in doubt: whatever its wait.
pub async fn what_another_actor_left_is_in_doubt(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let ids = rig.put_all((0..3).map(|to| rig.draft(to)).collect()).await;
    let pulled = rig.pull(3).await.messages;
    rig.settle(&pulled[1], in_doubt(LONG)).await;
    rig.settle(&pulled[2], Outcome::Sent).await;
    assert_eq!(rig.pull_ids().await, [], "what it claimed itself isn't left");
    let again = rig.restarted().pull(10).await.messages;
    assert_eq!(
        again.iter().map(|m| (m.id, m.attempt, m.unknown_attempts)).collect::<Vec<_>>(),
        [(ids[0], 2, 2), (ids[1], 2, 2)]
    );
    assert_eq!(again[0].whatsapp_id, pulled[0].whatsapp_id, "the same message to WhatsApp");
}

/// What a dead worker left is taken by the next owner, also past its expiry, so that somebody ends it.
pub async fn what_a_dead_worker_left_is_in_doubt(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let end = rig.clock().await.plus(Duration::from_secs(1));
    let stale = rig.put(NewMessage { expires_at: Some(end), ..rig.draft(1) }).await;
    let fresh = rig.send(2).await;
    let waits = rig.send(3).await;
    let pulled = rig.pull(10).await.messages;
    assert_eq!(pulled.len(), 3, "claimed within a second");
    rig.settle(&pulled[2], in_doubt(LONG)).await;
    rig.past(end).await;
    let next = rig.taken_over().await;
    let again = next.pull(10).await.messages;
    let left = again.iter().map(|m| (m.id, m.attempt, m.unknown_attempts)).collect::<Vec<_>>();
    assert_eq!(left, [(stale, 2, 2), (fresh, 2, 2), (waits, 2, 2)]);
    assert_eq!(next.pull_ids().await, []);
}

/// Pulls of one owner at once, through several processes' handles, never claim one message twice, and together claim all.
pub async fn pulls_at_once_claim_each_message_once(world: &dyn World) {
    let handles = [world.store().await, world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    for round in 0..5_u32 {
        let ids = rig.put_all((0..60).map(|to| rig.draft(round * 100 + to)).collect()).await;
        // A second one for each recipient: it must wait.
        rig.put_all((0..60).map(|to| rig.draft(round * 100 + to)).collect()).await;
        let pulls = (0..12_usize).map(|n| {
            let rig = rig.through(&handles[n % 3]);
            async move { rig.pull(20).await.messages }
        });
        let pulled: Vec<Outgoing> = join_all(pulls).await.into_iter().flatten().collect();
        let mut claimed: Vec<MessageId> = pulled.iter().map(|message| message.id).collect();
        assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), claimed.len(), "no message twice");
        claimed.extend(rig.pull_ids().await);
        let claimed: HashSet<MessageId> = claimed.into_iter().collect();
        assert_eq!(claimed, ids.into_iter().collect(), "the heads, all of them and nothing else");
        for outgoing in &pulled {
            assert_eq!(outgoing.attempt, 1);
        }
        drain(&rig.restarted()).await;
    }
}

/// Sessions pulled at once get their own messages only.
pub async fn sessions_pulled_at_once_get_their_own(world: &dyn World) {
    let store = world.store().await;
    let rigs = Rig::several(&store, 20, None).await;
    let mut ids = Vec::new();
    for rig in &rigs {
        ids.push(rig.put_all((0..5).map(|to| rig.draft(to)).collect()).await);
    }
    let pulled = join_all(rigs.iter().map(Rig::pull_ids)).await;
    assert_eq!(pulled, ids);
}

/// Two sessions of a user are apart: a recipient that is held up in one isn't in the other.
pub async fn sessions_of_a_user_are_apart(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let second = rig.another_session("second").await;
    rig.send(1).await;
    rig.attempt(retry(LONG)).await;
    let other = second.send(1).await;
    assert_eq!(rig.pull_ids().await, []);
    assert_eq!(second.pull_ids().await, [other]);
}

/// Messages are pulled, settled and accepted at once through several processes, and every one goes out once, in order per
/// recipient.
pub async fn a_busy_session_sends_each_message_once_and_in_order(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    const ALL: usize = 300;
    let rig = &rig;
    let accepting = async {
        let other = rig.through(&handles[1]);
        let mut ids = Vec::new();
        while ids.len() < ALL {
            let first = u32::try_from(ids.len()).unwrap_or(0);
            ids.extend(other.put_all((0..10).map(|n| rig.draft((first + n) * 7 % 13)).collect()).await);
        }
        ids
    };
    let sending = async {
        let mut sent: Vec<Outgoing> = Vec::new();
        while sent.len() < ALL {
            let pulled = rig.pull(8).await.messages;
            let settled = join_all(pulled.iter().enumerate().map(|(n, outgoing)| async move {
                let end = if (n + outgoing.attempt as usize).is_multiple_of(5) {
                    retry(Duration::ZERO)
                } else {
                    Outcome::Sent
                };
                must_settle(rig, outgoing, end).await
            }));
            let settled = settled.await;
            sent.extend(
                pulled.into_iter().zip(settled).filter(|(_, s)| *s == Status::Sent).map(|(outgoing, _)| outgoing),
            );
        }
        sent
    };
    let (ids, sent) = tokio::join!(accepting, sending);
    assert_eq!(sent.iter().map(|m| m.id).collect::<HashSet<_>>(), ids.iter().copied().collect());
    for to in 0..13 {
        let seqs: Vec<i64> = sent.iter().filter(|m| m.recipient == recipient(to)).map(|m| m.seq).collect();
        assert!(seqs.is_sorted(), "in order to {to}: {seqs:?}");
    }
    assert_eq!(Ok(rig.usage().await.messages_sent), i64::try_from(ALL));
}

async fn must_settle(rig: &Rig, outgoing: &Outgoing, end: Outcome) -> Status {
    match rig.settle(outgoing, end).await {
        Settled::Done(status) => status,
        Settled::Refused => panic!("the owner settles its own attempt: {outgoing:?}"),
    }
}

/// Sends all that the session has.
async fn drain(rig: &Rig) {
    loop {
        let pulled = rig.pull(1_000).await.messages;
        if pulled.is_empty() {
            return;
        }
        join_all(pulled.iter().map(|outgoing| rig.settle(outgoing, Outcome::Sent))).await;
    }
}

/// A message whose counts can't count any further is claimed like the others, and its attempt is settled, however it ends.
pub async fn counts_that_are_at_their_end_hold_up_no_other(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    for to in 0..3 {
        rig.send(to).await;
    }
    world.alter("UPDATE messages SET attempts = 2147483647, unknown_attempts = 2147483647, crashes = 2147483647").await;
    let good = rig.send(3).await;
    let pulled = rig.pull(10).await.messages;
    assert_eq!((pulled.len(), pulled[3].id), (4, good));
    let ends =
        [Outcome::Sent, Outcome::Crashed { called: true, after: Duration::ZERO }, Outcome::Released, Outcome::Sent];
    let now = [Status::Sent, Status::Failed, Status::Accepted, Status::Sent];
    for ((outgoing, end), now) in pulled.iter().zip(ends).zip(now) {
        assert_eq!(rig.settle(outgoing, end).await, Settled::Done(now));
    }
}
