//! Idempotency keys: the same request makes the same messages, however often and wherever it comes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;

use super::World;
use super::rig::{Rig, request, unique};
use crate::ids::MessageId;
use crate::message::NewMessage;
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::DEFAULT_SESSION;

/// The same request many times at once through several processes, with ids of its own each time, makes one message.
pub async fn a_repeated_request_makes_one_message(world: &dyn World) {
    let handles = [world.store().await, world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    for _ in 0..10 {
        let key = single(1);
        let requests = (0..12).map(|n| {
            let rig = rig.through(&handles[n % 3]);
            let key = key.clone();
            async move {
                let draft = rig.draft(1);
                let id = draft.id;
                (id, one(&rig, key, draft).await)
            }
        });
        let outcomes = join_all(requests).await;
        let made: Vec<MessageId> =
            outcomes.iter().filter(|(_, o)| matches!(o, AcceptOutcome::Accepted { .. })).map(|(id, _)| *id).collect();
        assert_eq!(made.len(), 1, "{outcomes:?}");
        for (id, outcome) in outcomes {
            assert!(id == made[0] || outcome == AcceptOutcome::Replayed(made[0]), "{outcome:?} instead of {made:?}");
        }
        let kept = rig.store.replay(rig.user, &key.key).await.expect("a read");
        assert_eq!(kept, Some((key.hash.to_vec(), vec![(0, made[0])])));
    }
    assert_eq!((rig.used().await, rig.usage().await.messages_accepted), (10, 10));
    assert_eq!(rig.list_all(&MessageFilter::default(), 50).await.len(), 10);
}

/// Another body under a key is refused and leaves no trace; the key stays its first request's.
pub async fn another_body_under_a_key_is_refused(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let key = single(1);
    let first = rig.draft(1);
    let id = first.id;
    assert!(matches!(one(&rig, key.clone(), first).await, AcceptOutcome::Accepted { .. }));
    let other = IdempotencyKey { hash: [2; 32], ..key.clone() };
    let draft = rig.draft(1);
    let refused = draft.id;
    assert_eq!(one(&rig, other.clone(), draft).await, AcceptOutcome::KeyReused);
    assert_eq!(rig.store.message(Scope::All, refused).await.expect("a read"), None);
    // A batch under a single message's key is another request, too: every item of it is refused.
    let batch = IdempotencyKey { batch: true, ..other };
    assert_eq!(
        all(&rig, batch, vec![rig.draft(1), rig.draft(2)]).await,
        [AcceptOutcome::KeyReused, AcceptOutcome::KeyReused]
    );
    assert_eq!(one(&rig, key, rig.draft(1)).await, AcceptOutcome::Replayed(id));
    assert_eq!(rig.used().await, 1);
}

/// A single message under a batch's key is refused.
pub async fn a_single_message_under_a_batches_key_is_refused(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let key = batch(1);
    let outcomes = all(&rig, key.clone(), vec![rig.draft(1), rig.draft(2)]).await;
    assert!(outcomes.iter().all(|o| matches!(o, AcceptOutcome::Accepted { .. })), "{outcomes:?}");
    let other = IdempotencyKey { hash: [2; 32], batch: false, ..key };
    assert_eq!(one(&rig, other, rig.draft(1)).await, AcceptOutcome::KeyReused);
    assert_eq!(rig.used().await, 2);
}

/// Different bodies under one key at once, single and batch, through several processes: one of them wins whole.
pub async fn of_two_bodies_under_a_key_one_wins(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    for round in 0..10_i64 {
        let key = unique("key");
        let requests = (0..8_u8).map(|n| {
            let rig = rig.through(&handles[usize::from(n) % 2]);
            let key = IdempotencyKey { key: key.clone(), hash: [n % 4; 32], batch: n % 4 > 1 };
            async move { all(&rig, key, vec![rig.draft(1)]).await.swap_remove(0) }
        });
        let outcomes = join_all(requests).await;
        let accepted = outcomes.iter().filter(|o| matches!(o, AcceptOutcome::Accepted { .. })).count();
        let replayed = outcomes.iter().filter(|o| matches!(o, AcceptOutcome::Replayed(_))).count();
        let reused = outcomes.iter().filter(|o| **o == AcceptOutcome::KeyReused).count();
        assert_eq!((accepted, replayed, reused), (1, 1, 6), "{outcomes:?}");
        assert_eq!(rig.used().await, round + 1);
    }
}

/// A batch repeated answers with the messages accepted before and tries the refused ones again, item by item.
pub async fn a_repeated_batch_tries_refused_items_again(world: &dyn World) {
    let rig = Rig::limited(&world.store().await, Some(3)).await;
    let key = batch(1);
    // The items 1 and 3 of the request were invalid: the store never sees them.
    let items = |rig: &Rig| [0, 2, 4, 5].into_iter().map(|n| (n, rig.draft(n))).collect::<Vec<_>>();
    let again =
        |items| rig.store.accept(AcceptRequest { user: rig.user, key: Some(key.clone()), items, by: Actor::MACHINE });

    let first = items(&rig);
    let ids: Vec<MessageId> = first.iter().map(|(_, draft)| draft.id).collect();
    let outcomes = again(first).await.expect("accepting answers");
    assert!(outcomes[..3].iter().all(|o| matches!(o, AcceptOutcome::Accepted { .. })), "{outcomes:?}");
    assert!(matches!(outcomes[3], AcceptOutcome::QuotaExceeded(_)), "{outcomes:?}");

    let outcomes = again(items(&rig)).await.expect("accepting answers");
    let replayed = ids[..3].iter().map(|id| AcceptOutcome::Replayed(*id)).collect::<Vec<_>>();
    assert_eq!(outcomes[..3], replayed);
    assert!(matches!(outcomes[3], AcceptOutcome::QuotaExceeded(_)), "{outcomes:?}");

    rig.store.set_limit(rig.user, Some(4)).await.expect("a change");
    let third = items(&rig);
    let last = third[3].1.id;
    let outcomes = again(third).await.expect("accepting answers");
    assert_eq!(outcomes[..3], replayed);
    assert!(matches!(outcomes[3], AcceptOutcome::Accepted { .. }), "{outcomes:?}");

    let (hash, mut kept) = rig.store.replay(rig.user, &key.key).await.expect("a read").expect("the key is kept");
    kept.sort();
    assert_eq!((hash, kept), (key.hash.to_vec(), vec![(1, ids[0]), (3, ids[1]), (5, ids[2]), (6, last)]));
    assert_eq!(rig.used().await, 4);
}

/// One batch at once through several processes: each item is one message.
pub async fn a_batch_at_once_makes_each_item_once(world: &dyn World) {
    let handles = [world.store().await, world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let key = batch(1);
    let requests = (0..9).map(|n| {
        let rig = rig.through(&handles[n % 3]);
        let key = key.clone();
        async move {
            let drafts: Vec<NewMessage> = (0..20).map(|to| rig.draft(to)).collect();
            let ids: Vec<MessageId> = drafts.iter().map(|draft| draft.id).collect();
            let outcomes = all(&rig, key, drafts).await;
            ids.into_iter().zip(outcomes).map(|(id, outcome)| message_of(id, &outcome)).collect::<Vec<_>>()
        }
    });
    let answers: HashSet<Vec<MessageId>> = join_all(requests).await.into_iter().collect();
    assert_eq!(answers.len(), 1, "every caller is answered with the same messages");
    assert_eq!(rig.used().await, 20);
}

/// Two users may use the same key.
pub async fn keys_belong_to_users(world: &dyn World) {
    let store = world.store().await;
    let (one_rig, other_rig) = (Rig::new(&store).await, Rig::new(&store).await);
    let key = single(1);
    for rig in [&one_rig, &other_rig] {
        let draft = rig.draft(1);
        let id = draft.id;
        assert!(matches!(one(rig, key.clone(), draft).await, AcceptOutcome::Accepted { .. }));
        assert_eq!(one(rig, key.clone(), rig.draft(1)).await, AcceptOutcome::Replayed(id));
    }
}

/// A refused request leaves no trace: its key is free for another one.
pub async fn a_refused_request_leaves_its_key_free(world: &dyn World) {
    let rig = Rig::limited(&world.store().await, Some(0)).await;
    let (alone, many) = (single(1), batch(1));
    assert!(matches!(one(&rig, alone.clone(), rig.draft(1)).await, AcceptOutcome::QuotaExceeded(_)));
    let outcomes = all(&rig, many.clone(), vec![rig.draft(1), rig.draft(2)]).await;
    assert!(outcomes.iter().all(|o| matches!(o, AcceptOutcome::QuotaExceeded(_))), "{outcomes:?}");
    for key in [&alone, &many] {
        assert_eq!(rig.store.replay(rig.user, &key.key).await.expect("a read"), None);
    }
    rig.store.set_limit(rig.user, None).await.expect("a change");
    let other = |key: IdempotencyKey| IdempotencyKey { hash: [9; 32], ..key };
    assert!(matches!(one(&rig, other(alone), rig.draft(1)).await, AcceptOutcome::Accepted { .. }));
    let outcomes = all(&rig, other(many), vec![rig.draft(1)]).await;
    assert!(matches!(outcomes[..], [AcceptOutcome::Accepted { .. }]), "{outcomes:?}");
}

/// A key is looked at before anything else: what was accepted is answered so, whatever has become of quota, user and
/// session since.
pub async fn a_replay_needs_nothing_else(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::limited(&store, Some(1)).await;
    let key = single(1);
    let draft = rig.draft(1);
    let replayed = AcceptOutcome::Replayed(draft.id);
    assert!(matches!(one(&rig, key.clone(), draft).await, AcceptOutcome::Accepted { .. }));
    assert_eq!(one(&rig, key.clone(), rig.draft(1)).await, replayed, "with the quota used up");
    store.delete_session(rig.user, DEFAULT_SESSION, Actor::MACHINE).await.expect("a deletion");
    assert_eq!(one(&rig, key.clone(), rig.draft(1)).await, replayed, "with the session marked");
    store.set_active(rig.user, false).await.expect("a change");
    assert_eq!(one(&rig, key.clone(), rig.draft(1)).await, replayed, "with the user deactivated");
    store.set_active(rig.user, true).await.expect("a change");
    rig.cancel(rig.list_all(&MessageFilter::default(), 1).await[0]).await;
    assert_eq!(one(&rig, key, rig.draft(1)).await, replayed, "with the message cancelled");
}

/// A request of unknown outcome is run again with the same ids: its messages are there once and take no quota again.
pub async fn the_same_ids_again_take_nothing(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::limited(&handles[0], Some(8)).await;
    for key in [None, Some(batch(1))] {
        let before = rig.used().await;
        let drafts: Vec<NewMessage> = (0..4).map(|to| rig.draft(to)).collect();
        let asked = request(rig.user, key, drafts);
        let again = (0..6).map(|n| handles[n % 2].accept(asked.clone()));
        let first = handles[0].accept(asked.clone()).await.expect("accepting answers");
        for outcomes in join_all(again).await {
            let outcomes = outcomes.expect("accepting answers");
            for (n, outcome) in outcomes.iter().enumerate() {
                let same = *outcome == first[n] || *outcome == AcceptOutcome::Replayed(asked.items[n].1.id);
                assert!(same, "{outcome:?} instead of {:?}", first[n]);
            }
        }
        assert_eq!(rig.used().await, before + 4);
    }
    assert_eq!(rig.usage().await.messages_accepted, 8);
    assert_eq!(rig.list_all(&MessageFilter::default(), 100).await.len(), 8);
}

/// A batch of which a part was stored (as when only some of its chunks were) is completed by running it again.
pub async fn known_and_new_ids_mix(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let drafts: Vec<NewMessage> = (0..6).map(|to| rig.draft(to)).collect();
    rig.put_all(drafts.iter().step_by(2).cloned().collect()).await;
    rig.put_all(drafts).await;
    assert_eq!((rig.used().await, rig.pull_ids().await.len()), (6, 6));
}

/// Several processes share users and keys in opposite orders, with a poisoned item in each request: no deadlock reaches a
/// caller, every good item is accepted, each key once.
pub async fn opposite_orders_never_fail(world: &dyn World) {
    let handles = [world.store().await, world.store().await, world.store().await];
    let rigs = Rig::several(&handles[0], 4, None).await;
    for rig in &rigs {
        rig.put(NewMessage { whatsapp_id: "3EB0TAKEN".to_owned(), ..rig.draft(0) }).await;
    }
    const KEYS: usize = 8;
    for round in 0..6 {
        let calls = (0..handles.len() * rigs.len() * KEYS).map(|n| {
            let handle = n % handles.len();
            let (user, key) = ((n / handles.len()) % rigs.len(), n / handles.len() / rigs.len());
            // Every other process goes through the users and keys backwards.
            let (user, key) = if handle % 2 == 0 { (user, key) } else { (rigs.len() - 1 - user, KEYS - 1 - key) };
            let rig = rigs[user].through(&handles[handle]);
            async move {
                let key = IdempotencyKey { key: format!("round-{round}-{key}"), hash: [1; 32], batch: true };
                let mut drafts: Vec<NewMessage> = (0..4).map(|to| rig.draft(to)).collect();
                drafts[1].whatsapp_id = "3EB0TAKEN".to_owned();
                let ids: Vec<MessageId> = drafts.iter().map(|draft| draft.id).collect();
                let outcomes = all(&rig, key.clone(), drafts).await;
                assert!(matches!(outcomes[1], AcceptOutcome::Invalid(_)), "{outcomes:?}");
                let good = [0, 2, 3].map(|n| message_of(ids[n], &outcomes[n]));
                ((user, key.key), good)
            }
        });
        let mut made: HashMap<(usize, String), [MessageId; 3]> = HashMap::new();
        for (key, good) in join_all(calls).await {
            assert_eq!(*made.entry(key.clone()).or_insert(good), good, "{key:?} makes its messages once");
        }
        assert_eq!(made.len(), rigs.len() * KEYS);
    }
    for rig in &rigs {
        assert_eq!(rig.used().await, 6 * 8 * 3 + 1);
    }
}

fn single(body: u8) -> IdempotencyKey {
    IdempotencyKey { key: unique("key"), hash: [body; 32], batch: false }
}

fn batch(body: u8) -> IdempotencyKey {
    IdempotencyKey { batch: true, ..single(body) }
}

async fn one(rig: &Rig, key: IdempotencyKey, draft: NewMessage) -> AcceptOutcome {
    all(rig, key, vec![draft]).await.swap_remove(0)
}

async fn all(rig: &Rig, key: IdempotencyKey, drafts: Vec<NewMessage>) -> Vec<AcceptOutcome> {
    let store = Arc::clone(&rig.store);
    store.accept(request(rig.user, Some(key), drafts)).await.expect("accepting answers")
}

/// The message that an item became, now or before.
fn message_of(id: MessageId, outcome: &AcceptOutcome) -> MessageId {
    match outcome {
        AcceptOutcome::Accepted { .. } => id,
        AcceptOutcome::Replayed(before) => *before,
        refused => panic!("a good item is accepted: {refused:?}"),
    }
}

/// An id that another request's message has is none of this one's: it isn't answered as if it were accepted.
pub async fn a_row_is_taken_for_ones_own_only_if_it_is(world: &dyn World) {
    let store = world.store().await;
    let (rig, other) = (Rig::new(&store).await, Rig::new(&store).await);
    let second = rig.another_session("second").await;
    let draft = rig.draft(1);
    rig.put(draft.clone()).await;
    rig.put(draft.clone()).await;
    for (user, twin) in [
        (rig.user, NewMessage { request_id: "another".to_owned(), ..draft.clone() }),
        (rig.user, NewMessage { session: second.session, ..draft.clone() }),
        (other.user, NewMessage { session: other.session, ..draft.clone() }),
    ] {
        let answer = store.accept(request(user, None, vec![twin])).await;
        assert!(matches!(answer, Err(StoreError::Internal(_))), "{answer:?}");
    }
    assert_eq!(rig.used().await, 1);
    assert_eq!(other.used().await, 0);
}
