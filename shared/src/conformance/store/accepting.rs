//! Accepting: what is stored, in which order, who is refused, and who is told.

use std::time::Duration;

use futures_util::future::join_all;

use super::World;
use super::rig::{Rig, draft, eventually, from_now, new_user, request, unique};
use crate::ids::{MessageId, SessionId, UserId};
use crate::message::{Contact, Content, DEFAULT_LIFE, Location, Media, MessageType, NewMessage, Status};
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::BridgeKind;
use crate::time::Time;

/// A message is stored as it was asked for, and the answer names its time of acceptance.
pub async fn a_message_is_stored_as_asked(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let answered = rig.send(1).await;
    for kind in MessageType::ALL {
        let mut asked = rig.draft(2);
        asked.kind = kind;
        asked.content = content_of(kind);
        asked.reply_to = Some(answered);
        asked.replayed_from = Some(answered);
        asked.reference = Some("Auftrag № 7 \"'; -- 🎈".to_owned());
        asked.expires_at = Some(from_now(500));
        let [AcceptOutcome::Accepted { created_at }] = rig.accept(vec![asked.clone()]).await[..] else {
            panic!("a {kind:?} is accepted");
        };
        let message = rig.message(asked.id).await;
        assert_eq!(message.id, asked.id);
        assert_eq!(message.user_id, rig.user);
        assert_eq!(message.session, rig.name);
        assert_eq!(message.bridge, BridgeKind::Simulator);
        assert_eq!(message.to, asked.recipient);
        assert_eq!(message.kind, kind);
        let content = Content {
            text: message.text,
            media: message.media,
            location: message.location,
            contact: message.contact,
            caption: message.caption,
        };
        assert_eq!(content, asked.content);
        assert_eq!(message.reply_to, Some(answered));
        assert_eq!(message.replayed_from, Some(answered));
        assert_eq!(message.reference, asked.reference);
        assert_eq!(message.whatsapp_id, asked.whatsapp_id);
        assert_eq!(message.status, Status::Accepted);
        assert_eq!((message.attempts, message.error), (0, None));
        assert_eq!((message.created_at, message.updated_at), (created_at, created_at));
        assert_eq!((message.send_at, Some(message.expires_at)), (None, asked.expires_at));
        assert_eq!((message.sent_at, message.delivered_at, message.read_at), (None, None, None));
    }
}

/// Without an end of its own a message has the default life, from its acceptance or from when it is to be sent.
pub async fn a_message_ends_a_default_life_after_it_falls_due(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let now = rig.message(rig.send(1).await).await;
    assert_eq!(now.expires_at, now.created_at.plus(DEFAULT_LIFE));

    let send_at = from_now(7_200);
    let later = rig.put(NewMessage { send_at: Some(send_at), ..rig.draft(1) }).await;
    let later = rig.message(later).await;
    assert_eq!(later.status, Status::Scheduled);
    assert_eq!((later.send_at, later.expires_at), (Some(send_at), send_at.plus(DEFAULT_LIFE)));
    let age = Time::now().since(later.created_at);
    assert!(age < Duration::from_secs(3_600), "accepted just now, not {age:?} ago");
}

/// Messages go out in the order of acceptance: by position within a request, and a request that began after another was
/// answered comes after it, through whichever process.
pub async fn the_order_is_that_of_acceptance(world: &dyn World) {
    let handles = [world.store().await, world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let mut accepted = Vec::new();
    for n in 0..12_u32 {
        let drafts = (0..10).map(|item| rig.draft(n * 10 + item)).collect();
        accepted.extend(rig.through(&handles[n as usize % 3]).put_all(drafts).await);
    }
    assert_eq!(rig.pull_ids().await, accepted);
}

/// While several processes accept for one user, each caller's own messages keep their order.
pub async fn concurrent_callers_keep_their_order(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let callers = (0..8_u32).map(|caller| {
        let rig = rig.through(&handles[caller as usize % 2]);
        async move {
            let mut mine = Vec::new();
            for n in 0..10_u32 {
                let drafts = vec![rig.draft(caller * 1_000 + n * 2), rig.draft(caller * 1_000 + n * 2 + 1)];
                mine.extend(rig.put_all(drafts).await);
            }
            mine
        }
    });
    let callers = join_all(callers).await;
    let pulled = rig.pull(1_000).await.messages;
    assert!(pulled.windows(2).all(|pair| pair[0].seq < pair[1].seq), "every message has a place of its own");
    for mine in callers {
        let order: Vec<MessageId> = pulled.iter().map(|m| m.id).filter(|id| mine.contains(id)).collect();
        assert_eq!(order, mine);
    }
}

/// Each newly accepted message that is to be sent at once is told to the queue, once and in order; nothing else is.
pub async fn accepted_messages_ring_once_and_in_order(world: &dyn World) {
    let rig = Rig::limited(&world.store().await, Some(7)).await;
    let key = IdempotencyKey { key: unique("key"), hash: [1; 32], batch: true };
    let drafts = |count: u32| (0..count).map(|n| rig.draft(n)).collect::<Vec<_>>();
    let first = request(rig.user, Some(key.clone()), drafts(4));
    let mut expected: Vec<MessageId> = first.items.iter().map(|(_, draft)| draft.id).collect();
    rig.store.accept(first).await.expect("accepting answers");
    // Replayed, scheduled, of a foreign session, beyond the quota: no job for any of them.
    rig.store.accept(request(rig.user, Some(key), drafts(4))).await.expect("accepting answers");
    rig.put(NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(9) }).await;
    rig.accept(vec![draft(SessionId::generate(), 9)]).await;
    let end = rig.draft(10);
    expected.push(end.id);
    rig.put(NewMessage { request_id: "req-end".to_owned(), expires_at: Some(from_now(600)), ..end }).await;
    let over = rig.accept(drafts(3)).await;
    assert!(matches!(over[0], AcceptOutcome::Accepted { .. }) && over[1..].iter().all(is_over), "{over:?}");

    let jobs = || async { Some(world.accepted_jobs()).filter(|jobs| jobs.len() > expected.len()) };
    let jobs = eventually("every accepted message rings", jobs).await;
    let ids: Vec<MessageId> = jobs.iter().map(|job| job.message).collect();
    assert_eq!(ids[..expected.len()], expected);
    assert_eq!(ids.len(), expected.len() + 1, "and one of the last request");
    assert!(jobs.iter().all(|job| job.session == rig.session));
    let ended = &jobs[expected.len() - 1];
    assert_eq!(ended.request_id, "req-end");
    assert!(ended.life <= Duration::from_secs(600) && ended.life > Duration::from_secs(500), "{:?}", ended.life);
    assert_eq!(jobs[0].life, DEFAULT_LIFE);
}

/// Each item stands for itself: a refused one leaves no trace, and the others are accepted in their order.
pub async fn each_item_stands_for_itself(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let other = Rig::new(&store).await;
    let marked = rig.another_session("marked").await;
    assert!(store.delete_session(rig.user, "marked", Actor::MACHINE).await.expect("a deletion"));
    let drafts = vec![
        rig.draft(1),
        draft(SessionId::generate(), 2),
        rig.draft(3),
        other.draft(4),
        marked.draft(5),
        rig.draft(6),
    ];
    let ids: Vec<MessageId> = drafts.iter().map(|draft| draft.id).collect();
    let outcomes = rig.accept(drafts).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        let good = [0, 2, 5].contains(&n);
        assert_eq!(matches!(outcome, AcceptOutcome::Accepted { .. }), good, "item {n}: {outcome:?}");
        assert!(good || *outcome == AcceptOutcome::SessionGone, "item {n}: {outcome:?}");
        assert_eq!(store.message(Scope::All, ids[n]).await.expect("a read").is_some(), good);
    }
    assert_eq!(outcomes.len(), 6);
    assert_eq!((rig.used().await, other.used().await), (3, 0));
    assert_eq!(rig.pull_ids().await, [ids[0], ids[2], ids[5]]);
}

/// A deactivated user, or one who doesn't exist, is accepted nothing from; an activated one is again.
pub async fn an_inactive_user_is_refused(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    assert!(store.set_active(rig.user, false).await.expect("a change"));
    let refused = rig.accept(vec![rig.draft(1), rig.draft(2)]).await;
    assert_eq!(refused, [AcceptOutcome::UserInactive, AcceptOutcome::UserInactive]);
    assert_eq!(rig.used().await, 0);
    assert!(store.set_active(rig.user, true).await.expect("a change"));
    rig.send(1).await;

    let nobody = request(UserId(i64::from(i32::MAX)), None, vec![rig.draft(1)]);
    let refused = store.accept(nobody).await.expect("accepting answers");
    assert!(matches!(refused[..], [AcceptOutcome::UserInactive | AcceptOutcome::SessionGone]), "{refused:?}");
}

/// A message that the database can't store fails alone: beside it, in its request and in others, good ones are accepted.
pub async fn a_poisoned_item_fails_alone(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let first = rig.draft(0);
    let taken = first.whatsapp_id.clone();
    rig.put(first).await;
    let requests = (0..12_u32).map(|n| {
        let rig = rig.through(&handles[n as usize % 2]);
        let taken = taken.clone();
        async move {
            let mut drafts: Vec<NewMessage> = (0..6).map(|item| rig.draft(n * 10 + item)).collect();
            let nul = Some("before\0after".to_owned());
            // PostgreSQL has no text with a NUL; SQLite may keep it, but then whole.
            drafts[2].reference = nul.clone();
            // An id at WhatsApp is given once in a session.
            drafts[4].whatsapp_id = taken;
            let ids: Vec<MessageId> = drafts.iter().map(|draft| draft.id).collect();
            let outcomes = rig.accept(drafts).await;
            let mut accepted = 0;
            for (item, outcome) in outcomes.iter().enumerate() {
                let stored = rig.store.message(Scope::All, ids[item]).await.expect("a read");
                let good = matches!(outcome, AcceptOutcome::Accepted { .. });
                assert!(good || matches!(outcome, AcceptOutcome::Invalid(_)), "item {item}: {outcome:?}");
                assert_eq!(stored.is_some(), good, "item {item}: {outcome:?}");
                match item {
                    2 => assert!(stored.is_none_or(|message| message.reference == nul), "kept whole or not at all"),
                    4 => assert!(!good, "one id at WhatsApp for two messages"),
                    _ => assert!(good, "item {item}: {outcome:?}"),
                }
                accepted += i64::from(good);
            }
            accepted
        }
    });
    let accepted: i64 = join_all(requests).await.into_iter().sum();
    assert!(accepted >= 48, "four of six in each request are good");
    assert_eq!(rig.used().await, accepted + 1);
    assert_eq!(rig.usage().await.messages_accepted, accepted + 1);
}

/// Text of any script and any length comes back as it was; NUL either does too, or is refused.
pub async fn text_comes_back_as_it_was(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let texts =
        ["a\tb\r\nc", "שלום ‎🇺🇳👩‍👩‍👧‍👦", "\\u0000 \\x00 ''\"\" %s $1 ?", "\u{1}\u{7f}\u{fffd}", &"ß".repeat(4_096), "a\0b"];
    for text in texts {
        let mut draft = rig.draft(1);
        draft.content.text = Some(text.to_owned());
        draft.request_id = text.chars().take(100).filter(|c| *c != '\0').collect();
        let (id, request_id) = (draft.id, draft.request_id.clone());
        let outcome = rig.accept(vec![draft]).await.swap_remove(0);
        if !matches!(outcome, AcceptOutcome::Accepted { .. }) {
            assert!(text.contains('\0') && matches!(outcome, AcceptOutcome::Invalid(_)), "{text:?}: {outcome:?}");
            continue;
        }
        assert_eq!(rig.message(id).await.text.as_deref(), Some(text));
        let outgoing = rig.attempt(Outcome::Sent).await;
        assert_eq!(outgoing.content.expect("readable").text.as_deref(), Some(text));
        assert_eq!(outgoing.request_id, request_id);
    }
}

/// A request without items is answered with nothing, and harms nobody.
pub async fn an_empty_request_is_harmless(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let user = new_user(&store, Some(0)).await;
    let (empty, good, none) = tokio::join!(
        store.accept(request(user, None, Vec::new())),
        store.accept(request(rig.user, None, vec![rig.draft(1)])),
        store.messages(Scope::All, &[]),
    );
    assert_eq!(empty.expect("accepting answers"), []);
    assert!(matches!(good.expect("accepting answers")[..], [AcceptOutcome::Accepted { .. }]));
    assert_eq!(none.expect("a read"), []);
}

fn is_over(outcome: &AcceptOutcome) -> bool {
    matches!(outcome, AcceptOutcome::QuotaExceeded(_))
}

fn content_of(kind: MessageType) -> Content {
    let text = |text: &str| Some(text.to_owned());
    match kind {
        MessageType::Text => Content { text: text("Zeile 1\nZeile 2\t🎉"), ..Content::default() },
        MessageType::Location => Content {
            location: Some(Location { latitude: -33.25, longitude: 151.5, name: text("Büro"), address: None }),
            ..Content::default()
        },
        MessageType::Contact => Content {
            contact: Some(Contact { name: text("Ada"), phone_number: text("+15550000001"), vcard: None }),
            ..Content::default()
        },
        MessageType::Image | MessageType::Video | MessageType::Audio | MessageType::Document | MessageType::Sticker => {
            let media = Media { url: text("https://example.org/a?b=c"), filename: text("a.bin"), ..Media::default() };
            Content { media: Some(media), caption: text("Schau"), ..Content::default() }
        }
    }
}
