//! The puller against a model of the store.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::{Content, MessageType};
use sanasr_shared::ports::store::Outgoing;
use sanasr_shared::time::Time;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Waiting(Instant),
    Sending,
    Ended,
}

#[derive(Debug, Clone)]
struct Row {
    recipient: u32,
    state: State,
}

/// What the store would do with a pull, and a clock.
struct Model {
    rows: Vec<Row>,
    now: Instant,
    start: Instant,
    scan: usize,
}

impl Model {
    fn new(scan: usize) -> Self {
        let start = Instant::now();
        Self { rows: Vec::new(), now: start, start, scan }
    }

    fn accept(&mut self, recipient: u32) {
        self.rows.push(Row { recipient, state: State::Waiting(self.start) });
    }

    fn time(&self, at: Instant) -> Time {
        Time(i64::try_from(at.duration_since(self.start).as_millis()).expect("small"))
    }

    fn claimable(&self, at: usize) -> bool {
        let row = &self.rows[at];
        matches!(row.state, State::Waiting(due) if due <= self.now)
            && self.rows[..at].iter().all(|r| r.recipient != row.recipient || r.state == State::Ended)
    }

    fn pull(&mut self, look: &Look, places: u32) -> Pulled {
        let mut pulled = Pulled { now: self.time(self.now), ready: true, ..Pulled::default() };
        let seq = |at: usize| i64::try_from(at).expect("small") + 1;
        let limit = self.scan.min(look.scan() as usize);
        let open = |at: &usize| self.rows[*at].state != State::Ended;
        let from = usize::try_from(look.from_seq - 1).unwrap_or(0);
        let mut scanned: Vec<usize> = (from..self.rows.len()).filter(open).collect();
        assert!(scanned.iter().all(|at| look.scan() == 0 || seq(*at) >= look.low), "an unfinished row below the bound");
        if scanned.len() >= limit {
            scanned.truncate(limit);
            pulled.next_seq = Some(scanned.last().map_or(look.from_seq, |at| seq(*at) + 1));
        }
        let heads = look
            .recipients()
            .into_iter()
            .filter_map(|freed| (0..self.rows.len()).filter(open).find(|at| name(self.rows[*at].recipient) == freed));
        let picked: BTreeSet<usize> = heads.chain(scanned.iter().copied()).filter(|at| self.claimable(*at)).collect();
        let picked: BTreeSet<usize> = picked.into_iter().take(places as usize).collect();
        if picked.len() == places as usize {
            let last = picked.last().map_or(0, |at| seq(*at));
            scanned.retain(|at| seq(*at) <= last);
            let next = look.from_seq.max(last + 1);
            pulled.next_seq = Some(pulled.next_seq.map_or(next, |limit| limit.min(next)));
        }
        for at in scanned {
            let row = &self.rows[at];
            pulled.first_seq.get_or_insert(seq(at));
            if let State::Waiting(due) = row.state {
                if due > self.now {
                    let due = self.time(due);
                    pulled.next_due = Some(pulled.next_due.map_or(due, |t| t.min(due)));
                }
                if !picked.contains(&at) {
                    pulled.waiting = Some(seq(at));
                }
            }
        }
        for at in picked {
            self.rows[at].state = State::Sending;
            pulled.messages.push(outgoing(seq(at), self.rows[at].recipient));
        }
        assert!(
            self.rows[..usize::try_from(look.low - 1).unwrap_or(0).min(self.rows.len())]
                .iter()
                .all(|r| r.state == State::Ended),
            "nothing unfinished is below the bound"
        );
        pulled
    }
}

fn name(recipient: u32) -> Recipient {
    Recipient::parse(&format!("+1555{recipient:07}")).expect("a number")
}

fn outgoing(seq: i64, recipient: u32) -> Outgoing {
    Outgoing {
        id: MessageId(uuid::Uuid::from_u128(u128::try_from(seq).expect("positive"))),
        seq,
        recipient: name(recipient),
        whatsapp_id: String::new(),
        kind: MessageType::Text,
        content: Ok(Content::default()),
        quoted: None,
        attempt: 1,
        unknown_attempts: 1,
        crashes: 0,
        created_at: Time(0),
        expires_at: Time(i64::MAX),
        request_id: String::new(),
    }
}

/// An actor without the rest: places, and messages on their way.
struct Actor {
    model: Model,
    puller: Puller,
    places: u32,
    sending: Vec<Outgoing>,
    /// A look whose answer is on its way.
    asked: Option<(Look, Pulled, u32)>,
    pulls: usize,
}

impl Actor {
    fn new(scan: usize, places: u32) -> Self {
        let model = Model::new(scan);
        let puller = Puller::new(model.now);
        Self { model, puller, places, sending: Vec::new(), asked: None, pulls: 0 }
    }

    fn free(&self) -> u32 {
        self.places - u32::try_from(self.sending.len()).expect("small")
    }

    /// Takes one look, if one is wanted or under way.
    fn look(&mut self) -> bool {
        self.ask();
        self.answer()
    }

    /// Begins a look, if one is wanted and none is under way: what it finds is as things stand now.
    fn ask(&mut self) {
        if self.asked.is_some() || self.free() == 0 {
            return;
        }
        let Some(look) = self.puller.next(self.model.now) else { return };
        self.pulls += 1;
        let places = self.free();
        let pulled = self.model.pull(&look, places);
        self.asked = Some((look, pulled, places));
    }

    /// Hears of the look under way.
    fn answer(&mut self) -> bool {
        let Some((look, pulled, places)) = self.asked.take() else { return false };
        self.puller.done(look, &pulled, places, self.model.now);
        self.sending.extend(pulled.messages);
        true
    }

    /// Looks, and lets time pass for rounds that rest, until nothing is wanted without a new cause.
    fn settle_down(&mut self) {
        let rounds = 2_000;
        for _ in 0..rounds {
            if self.look() {
                continue;
            }
            if self.free() == 0 || self.puller.round.is_none() {
                return;
            }
            self.model.now = self.model.now.max(self.puller.round_after);
        }
        panic!("it never comes to rest");
    }

    fn end(&mut self, at: usize) {
        let message = self.sending.swap_remove(at);
        self.model.rows[usize::try_from(message.seq).expect("positive") - 1].state = State::Ended;
        self.puller.ended(&message.recipient, message.seq);
    }

    fn wait(&mut self, at: usize, pause: Duration) {
        let message = self.sending.swap_remove(at);
        let until = self.model.now + pause;
        self.model.rows[usize::try_from(message.seq).expect("positive") - 1].state = State::Waiting(until);
        self.puller.waits(message.recipient, until);
    }

    fn claimable(&self) -> usize {
        (0..self.model.rows.len()).filter(|at| self.model.claimable(*at)).count()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Accept {
        recipient: u32,
        count: u32,
        heard: bool,
    },
    End(prop::sample::Index),
    Wait(prop::sample::Index, u64),
    /// Somebody cancels a waiting message; nobody tells the actor.
    Cancel(prop::sample::Index),
    Look,
    /// What comes before the next look happens while this one is under way.
    Ask,
    Pass(u64),
    Interval,
}

fn any_step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (0_u32..12, 1_u32..9, prop::bool::weighted(0.8)).prop_map(|(recipient, count, heard)| Step::Accept { recipient, count, heard }),
        4 => index().prop_map(Step::End),
        2 => (index(), 1_u64..5_000).prop_map(|(at, ms)| Step::Wait(at, ms)),
        1 => index().prop_map(Step::Cancel),
        6 => Just(Step::Look),
        4 => Just(Step::Ask),
        2 => (1_u64..40_000).prop_map(Step::Pass),
        1 => Just(Step::Interval),
    ]
}

proptest! {
    /// Whatever happens: after two intervals (a round may be under way, and past its place) all that can be claimed is
    /// claimed, in order for each recipient, and the puller comes to rest; with everything sent in the end.
    #[test]
    fn everything_is_found(scan in 1_usize..12, places in 1_u32..6, steps in prop::collection::vec(any_step(), 1..120)) {
        let mut actor = Actor::new(scan, places);
        for step in steps {
            match step {
                Step::Accept { recipient, count, heard } => {
                    (0..count).for_each(|_| actor.model.accept(recipient));
                    if heard {
                        actor.puller.ring();
                    }
                }
                Step::End(at) if !actor.sending.is_empty() => actor.end(at.index(actor.sending.len())),
                Step::Wait(at, ms) if !actor.sending.is_empty() => {
                    actor.wait(at.index(actor.sending.len()), Duration::from_millis(ms));
                }
                Step::Cancel(at) if !actor.model.rows.is_empty() => {
                    let at = at.index(actor.model.rows.len());
                    if matches!(actor.model.rows[at].state, State::Waiting(_)) {
                        actor.model.rows[at].state = State::Ended;
                    }
                }
                Step::Look => {
                    actor.look();
                }
                Step::Ask => actor.ask(),
                Step::Pass(ms) => actor.model.now += Duration::from_millis(ms),
                Step::Interval => actor.puller.interval(),
                Step::End(_) | Step::Wait(..) | Step::Cancel(_) => {}
            }
        }
        for _ in 0..10_000 {
            for _ in 0..2 {
                actor.puller.interval();
                actor.settle_down();
            }
            prop_assert!(actor.free() == 0 || actor.claimable() == 0, "{} left", actor.claimable());
            if actor.sending.is_empty() {
                let Some(next) = actor.model.rows.iter().filter_map(|r| match r.state {
                    State::Waiting(due) => Some(due),
                    State::Sending | State::Ended => None,
                }).min() else { return Ok(()) };
                actor.model.now = actor.model.now.max(next);
            } else {
                actor.end(0);
            }
        }
        prop_assert!(false, "never done");
    }

    /// Without any interval: rings and ends alone find everything, as long as nobody else interferes.
    #[test]
    fn rings_and_ends_suffice(scan in 1_usize..12, places in 1_u32..6, recipients in prop::collection::vec(0_u32..6, 1..150), ends_meanwhile: bool) {
        let mut actor = Actor::new(scan, places);
        let count = recipients.len();
        for chunk in recipients.chunks(7) {
            chunk.iter().for_each(|r| actor.model.accept(*r));
            actor.puller.ring();
            actor.ask();
            if ends_meanwhile && !actor.sending.is_empty() {
                actor.end(0);
            }
            actor.answer();
        }
        for _ in 0..=count {
            actor.settle_down();
            prop_assert!(actor.free() == 0 || actor.claimable() == 0);
            if actor.sending.is_empty() {
                break;
            }
            actor.end(0);
        }
        prop_assert!(actor.model.rows.iter().all(|r| r.state == State::Ended));
    }
}

/// 5,000 messages behind one recipient that waits: the others don't notice.
#[test]
fn those_held_up_cost_the_others_nothing() {
    let mut actor = Actor::new(SCAN as usize, 8);
    (0..5_000).for_each(|_| actor.model.accept(9));
    actor.puller.ring();
    actor.settle_down();
    assert_eq!(actor.sending.len(), 1);
    actor.wait(0, Duration::from_secs(60));
    actor.settle_down();
    for other in 100..200 {
        actor.model.accept(other);
        actor.puller.ring();
        let before = actor.pulls;
        // The first look may come to its limit just before the new message.
        let _ = actor.look() && actor.sending.is_empty() && actor.look();
        assert_eq!(actor.sending.len(), 1, "recipient {other} goes out with the first look or the second");
        actor.end(0);
        actor.settle_down();
        assert!(actor.pulls - before <= 2, "{} pulls for one message", actor.pulls - before);
    }
    // When it clears, they follow in order, with one look for each.
    actor.model.now += Duration::from_secs(61);
    for seq in 1..=50 {
        let before = actor.pulls;
        while actor.sending.is_empty() {
            assert!(actor.look(), "a look is due while {seq} waits");
        }
        assert_eq!(actor.pulls - before, 1, "one look for each");
        assert_eq!(actor.sending[0].seq, seq);
        actor.end(0);
    }
}

/// Somebody cancels the message that a recipient waits for: the next interval finds those behind it, also beyond the front,
/// where the round leaves off.
#[test]
fn a_wait_ends_with_its_message() {
    let mut actor = Actor::new(4, 2);
    actor.model.accept(1);
    actor.settle_down();
    actor.wait(0, Duration::from_secs(60));
    actor.settle_down();
    actor.model.rows[0].state = State::Ended;
    (0..4).for_each(|_| actor.model.accept(2));
    actor.model.accept(1);
    actor.puller.interval();
    actor.settle_down();
    assert_eq!(actor.sending.iter().map(|m| m.seq).collect::<Vec<_>>(), [2, 6]);
}

/// The end of a message behind which nobody waits is no cause to look.
#[test]
fn an_end_that_frees_nobody_costs_nothing() {
    let mut actor = Actor::new(10, 8);
    actor.settle_down();
    for recipient in 0..20 {
        actor.model.accept(recipient);
        actor.puller.ring();
        actor.settle_down();
        let pulls = actor.pulls;
        actor.end(0);
        actor.settle_down();
        assert_eq!(actor.pulls, pulls);
    }
    (0..2).for_each(|_| actor.model.accept(1));
    actor.puller.ring();
    actor.settle_down();
    actor.end(0);
    actor.settle_down();
    assert_eq!(actor.sending.len(), 1, "the second follows the first without a ring");
}

/// A round over a long backlog leaves time to the others.
#[test]
fn a_round_rests_between_looks() {
    let mut actor = Actor::new(10, 8);
    (0..1_000).for_each(|_| actor.model.accept(9));
    actor.puller.ring();
    actor.settle_down();
    actor.puller.interval();
    let mut rested = 0;
    while actor.puller.round.is_some() {
        if !actor.look() {
            rested += 1;
            actor.model.now = actor.puller.wake_at().expect("it goes on");
        }
    }
    assert!(rested > 50);
}

/// What isn't remembered here (another worker's retry) is found when it falls due.
#[test]
fn anothers_retry_is_found_when_due() {
    let mut actor = Actor::new(10, 8);
    actor.model.accept(1);
    actor.model.rows[0].state = State::Waiting(actor.model.now + Duration::from_secs(3));
    actor.settle_down();
    assert!(actor.sending.is_empty());
    let wake = actor.puller.wake_at().expect("it wakes for it");
    assert!(wake.duration_since(actor.model.now) <= Duration::from_millis(3_002));
    actor.model.now = wake;
    actor.settle_down();
    assert_eq!(actor.sending.len(), 1);
}

/// What the store refuses isn't asked for again until something changes.
#[test]
fn a_barred_session_is_left_alone() {
    let mut actor = Actor::new(10, 8);
    actor.model.accept(1);
    let look = actor.puller.next(actor.model.now).expect("a first look");
    actor.puller.refused(look);
    actor.puller.ring();
    assert!(!actor.puller.wants(actor.model.now));
    actor.puller.look_again();
    actor.settle_down();
    assert_eq!(actor.sending.len(), 1);
}
