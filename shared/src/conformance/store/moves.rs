//! The table of moves: every operation on a message in every state. What the table of [`Status::origins`] doesn't name is
//! refused, and changes nothing.

use futures_util::future::join_all;
use proptest::prelude::*;

use super::World;
use super::model::{Due, End};
use super::rig::{Rig, property};
use super::walk::{Op, Plan, Walk, When};
use crate::message::{Message, Status};
use crate::ports::store::Store;
use crate::time::Time;

/// A state of a message: what it is called, how it is accepted, and what then happens to it.
type State = (&'static str, When, Vec<Op>);

const SENT: End = End::Sent;
const WAIT: End = End::Retry(Due::Later);
const AGAIN: End = End::Retry(Due::Now);
const DOUBT: End = End::InDoubt(Due::Now);
const DOUBT_WAITS: End = End::InDoubt(Due::Later);
const CRASH: End = End::Crashed { called: false };
const CRASH_CALLED: End = End::Crashed { called: true };

/// Every state that a message can be in while its time isn't over.
fn states() -> Vec<State> {
    use When::*;
    let seen = |status| Op::Receipts(vec![(0, status)]);
    let then = |mut ops: Vec<Op>, last: Op| {
        ops.push(last);
        ops
    };
    vec![
        ("scheduled", Later, vec![]),
        ("scheduled, due", Due(9), vec![]),
        ("accepted", Now, vec![]),
        ("accepted, too late", Stale, vec![]),
        ("accepted, waiting for the next attempt", Now, attempts(&[WAIT])),
        ("accepted, to be tried again", Now, attempts(&[AGAIN])),
        ("accepted, released", Now, attempts(&[End::Released])),
        ("accepted, may have been sent", Now, attempts(&[DOUBT, AGAIN])),
        ("accepted, may have been sent, released", Now, attempts(&[DOUBT, End::Released])),
        ("accepted, crashed twice", Now, attempts(&[CRASH, CRASH])),
        ("sending", Now, attempts_and_claim(&[])),
        ("sending again", Now, attempts_and_claim(&[AGAIN])),
        ("sending again after doubt", Now, attempts_and_claim(&[DOUBT])),
        ("sending, crashed twice", Now, attempts_and_claim(&[CRASH_CALLED, CRASH_CALLED])),
        ("sending, crashed twice before the bridge was called", Now, attempts_and_claim(&[CRASH, CRASH])),
        ("sending, in doubt and due", Now, attempts(&[DOUBT])),
        ("sending, in doubt and waiting", Now, attempts(&[DOUBT_WAITS])),
        ("sending, left by another actor", Now, then(attempts_and_claim(&[]), Op::Restart)),
        ("sending, left in doubt and waiting", Now, then(attempts(&[DOUBT_WAITS]), Op::Restart)),
        ("sent", Now, attempts(&[SENT])),
        ("sent, by receipt", Now, then(attempts_and_claim(&[]), seen(Status::Sent))),
        ("delivered", Now, then(attempts(&[SENT]), seen(Status::Delivered))),
        ("delivered before it was acknowledged", Now, then(attempts_and_claim(&[]), seen(Status::Delivered))),
        ("read", Now, then(attempts(&[SENT]), seen(Status::Read))),
        ("read before it was acknowledged", Now, then(attempts_and_claim(&[]), seen(Status::Read))),
        ("failed", Now, attempts(&[End::Failed])),
        ("failed, unknown outcome", Now, attempts(&[End::Unknown])),
        ("failed, may have been sent before", Now, attempts(&[DOUBT, End::Failed])),
        ("failed, unknown outcome of another actor", Now, then(attempts(&[End::Unknown]), Op::Restart)),
        ("failed, dead letter", Now, attempts(&[CRASH, CRASH, CRASH])),
        ("failed, dead letter that may have been sent", Now, attempts(&[CRASH_CALLED, CRASH_CALLED, CRASH_CALLED])),
        ("expired", Now, attempts(&[End::Expired])),
        ("expired, may have been sent", Now, attempts(&[DOUBT, End::Expired])),
        ("cancelled", Now, vec![Op::Cancel(0)]),
    ]
}

/// Every state of a message that was claimed in time and whose time is over since.
fn stale_states(end: Time) -> Vec<State> {
    let until = When::Until(end);
    let mut left = attempts_and_claim(&[]);
    left.push(Op::Restart);
    vec![
        ("accepted, too late for the next attempt", until, attempts(&[AGAIN])),
        ("accepted, may have been sent, too late", until, attempts(&[DOUBT, AGAIN])),
        ("sending, too late", until, attempts_and_claim(&[])),
        ("sending, in doubt and due, too late", until, attempts(&[DOUBT])),
        ("sending, in doubt and waiting, too late", until, attempts(&[DOUBT_WAITS])),
        ("sending, left by another actor, too late", until, left),
    ]
}

/// Attempts that end so.
fn attempts(ends: &[End]) -> Vec<Op> {
    ends.iter().flat_map(|end| [Op::Pull(1), Op::settle(0, *end)]).collect()
}

/// Attempts that end so, and one that is under way.
fn attempts_and_claim(ends: &[End]) -> Vec<Op> {
    let mut ops = attempts(ends);
    ops.push(Op::Pull(1));
    ops
}

/// What a user, the owner or WhatsApp does to one message.
fn operations() -> Vec<Op> {
    let settlements = End::ALL.into_iter().map(|end| Op::settle(0, end));
    let receipts = [Status::Sent, Status::Delivered, Status::Read].map(|status| Op::Receipts(vec![(0, status)]));
    settlements.chain(receipts).chain([Op::Cancel(0), Op::Pull(1)]).collect()
}

/// Every operation on every state does what the table of moves allows, or nothing.
pub async fn every_operation_on_every_state(world: &dyn World) {
    let store = world.store().await;
    let operations = operations();
    let states = states();
    let cells: Vec<(State, Op)> =
        states.iter().flat_map(|state| operations.iter().map(|op| (state.clone(), op.clone()))).collect();
    let walks = prepare(&store, cells.iter().map(|(state, _)| state.clone()).collect()).await;
    for (chunk, cells) in chunks(walks, 32).into_iter().zip(cells.chunks(32)) {
        join_all(chunk.into_iter().zip(cells).map(|(walk, (state, op))| try_operation(walk, state.0, op))).await;
    }
}

/// The same for messages whose time ended while they were being sent.
pub async fn every_operation_on_every_stale_state(world: &dyn World) {
    let store = world.store().await;
    let operations = operations();
    let walks = prepare_stale(&store, operations.len()).await;
    join_all(walks.into_iter().enumerate().map(|(n, (walk, state))| {
        let op = operations[n % operations.len()].clone();
        async move { try_operation(walk, state, &op).await }
    }))
    .await;
}

/// Promotion makes what is scheduled and due `accepted`, and touches nothing else.
pub async fn promotion_on_every_state(world: &dyn World) {
    let store = world.store().await;
    let states = states();
    let mut walks = prepare(&store, states.clone()).await;
    let before = rows(&walks).await;
    while store.promote().await.expect("a promotion").1 {}
    walks.iter_mut().for_each(Walk::promoted);
    for ((walk, before), (state, _, _)) in walks.iter().zip(before).zip(states) {
        check_move(walk, state, &"promotion", &before).await;
    }
}

/// The sweep ends what is past its time, but what its living owner is sending, and touches nothing else.
pub async fn expiry_on_every_state(world: &dyn World) {
    let store = world.store().await;
    let states = states();
    let mut walks: Vec<(Walk, &str)> =
        prepare(&store, states.clone()).await.into_iter().zip(states.iter().map(|state| state.0)).collect();
    walks.extend(prepare_stale(&store, 1).await);
    let (mut walks, states): (Vec<Walk>, Vec<&str>) = walks.into_iter().unzip();
    let before = rows(&walks).await;
    while store.expire().await.expect("a sweep").more {}
    walks.iter_mut().for_each(Walk::expired);
    for ((walk, before), state) in walks.iter().zip(before).zip(states) {
        check_move(walk, state, &"expiry", &before).await;
    }
}

/// Whatever happens to a session's messages, in any order, every answer, status, time, counter and quota unit is what the
/// model says; also while other sessions and users are busy.
pub async fn random_walks_agree_with_the_model(world: &dyn World) {
    let store = world.store().await;
    const SESSIONS: usize = 3;
    let rounds = prop::collection::vec(prop::collection::vec(prop::collection::vec(Op::any(), 0..12), SESSIONS), 1..5);
    property(24, &rounds, |rounds| async {
        let mut walks: Vec<Walk> = Rig::several(&store, SESSIONS, None).await.into_iter().map(Walk::new).collect();
        for round in rounds {
            join_all(walks.iter_mut().zip(&round).map(|(walk, ops)| async move {
                for op in ops {
                    walk.apply(op).await;
                }
            }))
            .await;
            while store.promote().await.expect("a promotion").1 {}
            walks.iter_mut().for_each(Walk::promoted);
            while store.expire().await.expect("a sweep").more {}
            walks.iter_mut().for_each(Walk::expired);
            join_all(walks.iter().map(Walk::check)).await;
        }
    });
}

/// A message of a user of its own in each of these states.
async fn prepare(store: &std::sync::Arc<dyn Store>, states: Vec<State>) -> Vec<Walk> {
    let rigs = Rig::several(store, states.len(), None).await;
    let mut ready = Vec::new();
    for work in chunks(rigs.into_iter().zip(states).collect(), 32) {
        let walks = work.into_iter().map(|(rig, (_, when, ops))| async move {
            let mut walk = Walk::new(rig);
            walk.apply(&Op::Accept(vec![Plan { when, to: 1, media: false }])).await;
            for op in &ops {
                walk.apply(op).await;
            }
            walk
        });
        ready.extend(join_all(walks).await);
    }
    ready
}

/// So many messages in each of the states that need time to pass, one state after the other.
async fn prepare_stale(store: &std::sync::Arc<dyn Store>, each: usize) -> Vec<(Walk, &'static str)> {
    let clock = Rig::new(store).await;
    let rigs = Rig::several(store, stale_states(Time(0)).len() * each, None).await;
    // Long enough for this machine to bring all into their states; else the model fails, as they expire too early.
    let end = clock.clock().await.plus(std::time::Duration::from_secs(6));
    let states: Vec<State> = stale_states(end).into_iter().flat_map(|state| vec![state; each]).collect();
    let names: Vec<&str> = states.iter().map(|state| state.0).collect();
    let walks = rigs.into_iter().zip(states).map(|(rig, (_, when, ops))| async move {
        let mut walk = Walk::new(rig);
        walk.apply(&Op::Accept(vec![Plan { when, to: 1, media: false }])).await;
        for op in &ops {
            walk.apply(op).await;
        }
        walk
    });
    let mut walks = join_all(walks).await;
    clock.past(end).await;
    walks.iter_mut().for_each(Walk::grow_stale);
    walks.into_iter().zip(names).collect()
}

async fn try_operation(mut walk: Walk, state: &str, op: &Op) {
    let before = walk.first().await;
    walk.apply(op).await;
    check_move(&walk, state, op, &before).await;
}

/// The rows are as the model says, the table of moves allows what happened, and what wasn't allowed changed nothing.
async fn check_move(walk: &Walk, state: &str, op: &dyn std::fmt::Debug, before: &Message) {
    walk.check().await;
    let after = walk.first().await;
    if after.status != before.status {
        let allowed = after.status.origins().contains(&before.status);
        assert!(allowed, "{op:?} of a message that is {state}: {:?} to {:?}", before.status, after.status);
    } else if after.attempts == before.attempts && after.error == before.error && after.updated_at != before.updated_at
    {
        // The same status with new times: an attempt that stays in doubt, nothing else.
        assert_eq!(after.status, Status::Sending, "{op:?} of a message that is {state} changed its row: {after:?}");
    }
}

async fn rows(walks: &[Walk]) -> Vec<Message> {
    join_all(walks.iter().map(Walk::first)).await
}

fn chunks<T>(mut items: Vec<T>, size: usize) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    while !items.is_empty() {
        let rest = items.split_off(size.min(items.len()));
        chunks.push(std::mem::replace(&mut items, rest));
    }
    chunks
}
