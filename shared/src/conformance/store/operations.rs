//! What operators look at, and taking back much at once.

use std::time::Duration;

use futures_util::future::join_all;

use super::World;
use super::rig::{LONG, Rig, from_now, in_doubt, new_worker, recipient, report};
use crate::ids::MessageId;
use crate::message::{MessageError, NewMessage, Status};
use crate::ports::audit::Actor;
use crate::ports::operations::CancelFilter;
use crate::ports::store::*;
use crate::session::SessionStatus;

/// Each living worker is listed with its sessions, page by page, the latest started first.
pub async fn workers_are_listed_with_what_they_drive(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let second = rig.another_session("second").await;
    let idle = new_worker(&store).await;
    assert!(store.lead(rig.worker, LONG).await.expect("an answer"));
    let page = store.list_workers(None, 1).await.expect("a page");
    assert_eq!(page.items.len(), 1);
    let rest = store.list_workers(page.next.map(crate::ids::WorkerId), 10).await.expect("a page");
    assert_eq!(rest.next, None);
    let all: Vec<_> = page.items.into_iter().chain(rest.items).collect();
    assert!(all.is_sorted_by_key(|worker| std::cmp::Reverse(worker.id)));
    let driving = all.iter().find(|worker| worker.id == rig.worker).expect("the rig's worker");
    assert_eq!((driving.sessions, driving.is_housekeeper), (2, true), "{second_name}", second_name = second.name);
    assert!(driving.lease_until > driving.started_at);
    let other = all.iter().find(|worker| worker.id == idle).expect("the idle worker");
    assert_eq!((other.sessions, other.is_housekeeper), (0, false));
}

/// Each session's queue shows how much waits, since when, and who drives it.
pub async fn queues_show_depth_age_and_owner(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    for to in 0..3 {
        rig.send(to).await;
    }
    rig.put(NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(9) }).await;
    store.count_backlog().await.expect("a count");
    let of = async |scope| store.list_queues(scope, None, 200).await.expect("a page").items;
    let mine = of(Scope::User(rig.user)).await;
    let queue = mine.iter().find(|queue| queue.session_id == rig.session).expect("the session's queue");
    assert_eq!((queue.waiting, queue.worker_id, queue.status), (4, Some(rig.worker), SessionStatus::Connected));
    let age = queue.oldest_age_ms.expect("something waits");
    assert!((0..60_000).contains(&age), "{age} ms");
    assert!(of(Scope::All).await.iter().any(|queue| queue.session_id == rig.session));
    let nobody = crate::ids::UserId(rig.user.0 + 1_000_000);
    assert!(of(Scope::User(nobody)).await.is_empty());
    for sent in rig.pull(10).await.messages {
        rig.settle(&sent, Outcome::Sent).await;
    }
    store.count_backlog().await.expect("a count");
    let mine = of(Scope::User(rig.user)).await;
    let queue = mine.iter().find(|queue| queue.session_id == rig.session).expect("the session's queue");
    assert_eq!((queue.waiting, queue.oldest_age_ms), (1, None), "a scheduled message isn't old");
}

/// What crashed too often, and what couldn't be read, is a dead letter; other failures aren't, nor is one that a receipt
/// disproved.
pub async fn dead_letters_are_what_could_not_be_processed(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let crashing = rig.send(1).await;
    for _ in 0..3 {
        rig.attempt(Outcome::Crashed { called: false, after: Duration::ZERO }).await;
    }
    let unreadable = rig.send(2).await;
    rig.attempt(Outcome::Failed { error: MessageError::internal("can't be read") }).await;
    let refused = rig.send(3).await;
    rig.attempt(Outcome::Failed { error: MessageError::new("not_on_whatsapp", "isn't", false) }).await;
    let once = rig.send(4).await;
    rig.attempt(Outcome::Crashed { called: false, after: Duration::ZERO }).await;
    rig.attempt(Outcome::Failed { error: MessageError::new("not_on_whatsapp", "isn't", false) }).await;
    assert_eq!(rig.error_code(unreadable).await.as_deref(), Some(MessageError::INTERNAL));
    assert_eq!(rig.message(unreadable).await.error.map(|e| e.detail).as_deref(), Some("can't be read"));

    let mut letters = Vec::new();
    let mut after = None;
    loop {
        let page = store.list_dead_letters(Scope::User(rig.user), after, 1).await.expect("a page");
        letters.extend(page.items.iter().map(|message| message.id));
        match page.next {
            Some(next) => after = Some(MessageId(next)),
            None => break,
        }
    }
    assert_eq!(letters, [unreadable, crashing], "newest first; not {refused}, not {once}");
    assert!(store.dead_letter(crashing).await.expect("an answer").is_some());
    for other in [refused, once, MessageId::generate()] {
        assert!(store.dead_letter(other).await.expect("an answer").is_none());
    }
    world.alter("UPDATE messages SET content = 'not json' WHERE crashes >= 3").await;
    let letter = store.dead_letter(unreadable).await.expect("an answer").expect("still shown");
    assert_eq!(letter.text, None);
}

/// All that waits and matches is cancelled, with its units back, in chunks, once each however many ask at once; what may
/// have been sent, and what doesn't match, stays.
pub async fn what_waits_and_matches_is_cancelled_at_once(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let second = rig.another_session("second").await;
    let doubtful = rig.send(1).await;
    rig.attempt(in_doubt(LONG)).await;
    let under_way = rig.send(2).await;
    rig.claim_one().await;
    let scheduled = rig.put(NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(3) }).await;
    let marked = rig.put(NewMessage { reference: Some("march".to_owned()), ..rig.draft(3) }).await;
    let elsewhere = second.send(3).await;
    let all = async |filter: &CancelFilter| {
        let (mut ids, mut until) = (Vec::new(), None);
        loop {
            let (swept, now) =
                handles[0].cancel_waiting(rig.user, filter, until, Actor::MACHINE).await.expect("a sweep");
            until = Some(now);
            ids.extend(swept.messages);
            if !swept.more {
                return ids;
            }
        }
    };
    let nothing = CancelFilter { reference: Some("april".to_owned()), ..CancelFilter::default() };
    assert!(all(&nothing).await.is_empty());
    let by_reference = CancelFilter { reference: Some("march".to_owned()), ..CancelFilter::default() };
    assert_eq!(all(&by_reference).await, [marked]);
    let by_both = CancelFilter { session: Some(rig.name.clone()), to: Some(recipient(3)), ..CancelFilter::default() };
    assert_eq!(all(&by_both).await, [scheduled]);
    assert_eq!(rig.used().await, 3);

    let many = usize::try_from(SWEEP_CHUNK).unwrap_or(0) + 200;
    rig.put_all((0..many).map(|n| rig.draft(100 + u32::try_from(n).unwrap_or(0))).collect()).await;
    let everything = CancelFilter::default();
    let asked = (0..4_usize).map(|n| {
        let (store, filter, user) = (&handles[n % 2], &everything, rig.user);
        async move {
            let mut count = 0;
            loop {
                let (swept, _) = store.cancel_waiting(user, filter, None, Actor::MACHINE).await.expect("a sweep");
                count += swept.messages.len();
                if !swept.more {
                    return count;
                }
            }
        }
    });
    let cancelled: usize = join_all(asked).await.into_iter().sum();
    assert!(all(&everything).await.is_empty(), "none has ended before all was cancelled");
    assert_eq!(cancelled, many + 1, "each once, with the one of the other session");
    assert_eq!(rig.status(elsewhere).await, Status::Cancelled);
    assert_eq!((rig.status(doubtful).await, rig.status(under_way).await), (Status::Sending, Status::Sending));
    assert_eq!(rig.used().await, 2, "what may have been sent keeps its unit");
    let other = Rig::new(&handles[0]).await;
    let theirs = other.send(1).await;
    assert!(all(&everything).await.is_empty());
    assert_eq!(other.status(theirs).await, Status::Accepted);
}

/// A cancel of all that waits ends with what was accepted before it began: what is accepted while it runs stays.
pub async fn a_cancel_of_all_ends_with_what_was_there(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let scheduled = |to| NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(to) };
    let before = rig.put_all((0..40).map(|to| if to % 2 == 0 { rig.draft(to) } else { scheduled(to) }).collect()).await;
    rig.past(rig.clock().await).await;
    let filter = CancelFilter::default();
    let (first, until) = handles[0].cancel_waiting(rig.user, &filter, None, Actor::MACHINE).await.expect("a sweep");
    let mut cancelled = first.messages;
    rig.past(until).await;
    let after = rig.put_all((40..80).map(|to| if to % 2 == 0 { rig.draft(to) } else { scheduled(to) }).collect()).await;
    loop {
        let (swept, same) =
            handles[1].cancel_waiting(rig.user, &filter, Some(until), Actor::MACHINE).await.expect("a sweep");
        assert_eq!(same, until);
        cancelled.extend(swept.messages);
        if !swept.more {
            break;
        }
    }
    cancelled.sort_unstable();
    let mut before = before;
    before.sort_unstable();
    assert_eq!(cancelled, before);
    for id in after {
        assert!(matches!(rig.status(id).await, Status::Accepted | Status::Scheduled));
    }
}

/// A session that isn't paired shows its owner which phone to pair it with, and its user the code; a paired one refuses.
pub async fn a_pair_code_goes_from_the_owner_to_the_user(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let phone = "+15550001234";
    let refused = store.request_pair_code(rig.user, &rig.name, phone, Actor::MACHINE).await.expect("an answer");
    assert!(matches!(refused, Moved::Refused(_)), "{refused:?}");
    assert_eq!(
        store.request_pair_code(rig.user, "nobody", phone, Actor::MACHINE).await.expect("an answer"),
        Moved::Absent
    );

    let unlinked = SessionReport { pairing: Some(Pairing::Unlinked), ..report(SessionStatus::LoggedOut) };
    store.report(rig.worker, rig.session, &unlinked).await.expect("a report");
    let asked = store.request_pair_code(rig.user, &rig.name, phone, Actor::MACHINE).await.expect("an answer");
    assert!(matches!(&asked, Moved::Done(session) if session.status == SessionStatus::Connecting), "{asked:?}");
    assert_eq!(store.pair_code(rig.session).await.expect("an answer"), None);
    let owned = async || {
        let sessions = store.renew(rig.worker, LONG).await.expect("a renewal").sessions;
        sessions.into_iter().find(|session| session.id == rig.session).expect("the session")
    };
    let seen = owned().await;
    assert_eq!((seen.pair_phone.as_deref(), seen.wanted, seen.paired), (Some(phone), true, false));

    let code = ("ABCD-1234".to_owned(), from_now(60));
    let shown = SessionReport { pair_code: Some(code.clone()), pairing: None, ..report(SessionStatus::WaitingForScan) };
    store.report(rig.worker, rig.session, &shown).await.expect("a report");
    assert_eq!(store.pair_code(rig.session).await.expect("an answer"), Some(code.clone()));
    store.request_pair_code(rig.user, &rig.name, phone, Actor::MACHINE).await.expect("an answer");
    assert_eq!(store.pair_code(rig.session).await.expect("an answer"), Some(code), "the same phone, the same code");
    store.request_pair_code(rig.user, &rig.name, "+15550009999", Actor::MACHINE).await.expect("an answer");
    assert_eq!(store.pair_code(rig.session).await.expect("an answer"), None, "another phone needs another code");

    let paired = SessionReport {
        pairing: Some(Pairing::Paired("+15550009999".to_owned())),
        ..report(SessionStatus::Connecting)
    };
    store.report(rig.worker, rig.session, &paired).await.expect("a report");
    assert_eq!(owned().await.pair_phone, None);
    let old = SessionReport {
        pair_code: Some(("OLDC-ODES".to_owned(), from_now(-1))),
        ..report(SessionStatus::WaitingForScan)
    };
    store.report(rig.worker, rig.session, &old).await.expect("a report");
    assert_eq!(store.pair_code(rig.session).await.expect("an answer"), None, "its time is over");
}
