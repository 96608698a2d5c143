//! Where to look next for messages that can be sent: pure logic, one for each session's actor.
//!
//! A look is one pull from a place in the order, of [`SCAN`] rows at most. Three kinds of looks share the work:
//!
//! - the *front*: beyond it nothing has been looked at. New messages are there, so a ring is answered there.
//! - the *gaps*: where a message of this actor has finished, or falls due again. Only the messages to the same recipient,
//!   which come after it, may have become free by that; they are looked for from there on, without the recipients known to
//!   wait. If nobody waits, such a look goes on over the front, so that in steady work one look does both.
//! - the *round*: everything from the lower bound to the front. It finds what the others can't know of (a message that was
//!   cancelled, or released by somebody else, or that committed late) every few seconds, and what a look at a gap was too
//!   short for. A round over a long backlog takes a part of the time only, and leaves the rest to the others: 250,000
//!   messages that are held up cost the session's other recipients next to nothing.
//!
//! Nobody is left out at the front and in a round: a recipient may be free before its time, by a cancellation, and what the
//! front has passed is looked at again only for a cause.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use sanasr_shared::ports::store::Pulled;
use sanasr_shared::recipient::Recipient;
use tokio::time::{Duration, Instant};

use crate::trail::Trail;

/// Rows that a look examines, at most.
pub(crate) const SCAN: u32 = 1_000;
/// Recipients that are left out of looks, at most.
const HELD_MAX: usize = 256;
/// Messages whose due time is remembered, at most; what is more is found by rounds.
const DUE_MAX: usize = 10_000;
/// A round that finds nothing rests between its looks for so many times the duration of the last one.
const ROUND_REST: u32 = 2;
const ROUND_REST_MAX: Duration = Duration::from_millis(250);
/// Due times closer than this are the same: the database's clock and ours tick apart.
const SAME: Duration = Duration::from_millis(50);

/// Why a look is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The actor is new.
    TakeOver,
    /// A job rang.
    Ring,
    /// A place got free.
    Place,
    /// A message fell due.
    Due,
    /// Time has passed.
    Interval,
}

impl Cause {
    /// The metric's word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::TakeOver => "take_over",
            Self::Ring => "ring",
            Self::Place => "free_place",
            Self::Due => "due",
            Self::Interval => "interval",
        }
    }
}

/// A pull to be made.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) from_seq: i64,
    pub(crate) low: i64,
    pub(crate) cause: Cause,
    /// Recipients to leave out.
    pub(crate) held: Vec<Recipient>,
    kind: Kind,
    begun: Instant,
}

#[derive(Debug)]
enum Kind {
    Front,
    /// The gaps that this look is for, and the ring that it may answer, too.
    Gaps(BTreeMap<i64, Cause>, Option<Cause>),
    /// The ring that it answers, too, if it comes to the end.
    Round(Option<Cause>),
}

/// A round under way: where it goes on (`None`: at the lower bound), and why another is needed afterwards.
#[derive(Debug)]
struct Round {
    at: Option<i64>,
    cause: Cause,
    begun: bool,
    again: Option<Cause>,
}

impl Round {
    const fn new(cause: Cause) -> Self {
        Self { at: None, cause, begun: false, again: None }
    }
}

/// What an actor knows of its session's messages.
#[derive(Debug)]
pub(crate) struct Puller {
    trail: Trail,
    front: i64,
    /// Something is beyond the front, or may be.
    fresh: Option<Cause>,
    /// Messages that have finished: those behind them may be free.
    gaps: BTreeMap<i64, Cause>,
    /// Beyond this place, and behind the front, nothing waits for an earlier message: what has ended there left no gap.
    waiting: i64,
    gaps_last: bool,
    round: Option<Round>,
    round_after: Instant,
    /// Recipients whose next message waits, until when.
    held: HashMap<Recipient, Instant>,
    due: BinaryHeap<Reverse<(Instant, i64, Recipient)>>,
    /// When a message falls due that isn't remembered above.
    due_unknown: Option<Instant>,
    /// Nothing may be claimed, as the store says.
    barred: bool,
}

impl Puller {
    /// Nothing has been looked at.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            trail: Trail::new(now),
            front: 0,
            fresh: Some(Cause::TakeOver),
            gaps: BTreeMap::new(),
            waiting: 0,
            gaps_last: false,
            round: None,
            round_after: now,
            held: HashMap::new(),
            due: BinaryHeap::new(),
            due_unknown: None,
            barred: false,
        }
    }

    /// A job rang.
    pub(crate) fn ring(&mut self) {
        self.fresh.get_or_insert(Cause::Ring);
    }

    /// The message at `seq` has ended: the next one to its recipient may be free.
    pub(crate) fn ended(&mut self, seq: i64) {
        if seq < self.waiting {
            self.gaps.entry(seq).or_insert(Cause::Place);
        }
    }

    /// The message at `seq` can be claimed again.
    pub(crate) fn released(&mut self, seq: i64) {
        self.gaps.entry(seq - 1).or_insert(Cause::Place);
    }

    /// The message at `seq` waits until then, and the later ones to its recipient with it.
    pub(crate) fn waits(&mut self, recipient: &Recipient, seq: i64, until: Instant) {
        if self.due.len() >= DUE_MAX {
            self.falls_due(until);
            return;
        }
        self.due.push(Reverse((until, seq, recipient.clone())));
        if self.held.len() < HELD_MAX {
            self.held.insert(recipient.clone(), until);
        }
    }

    /// Time has passed: look at everything once.
    pub(crate) fn interval(&mut self) {
        self.barred = false;
        self.fresh.get_or_insert(Cause::Interval);
        if self.round.is_none() {
            self.begin_round(Cause::Interval);
        }
    }

    /// The session may send again, or something else has changed: look at once, and at everything.
    pub(crate) fn look_again(&mut self) {
        self.barred = false;
        self.fresh.get_or_insert(Cause::Interval);
        self.begin_round(Cause::Interval);
    }

    /// Messages wait beyond the front, as far as is known.
    pub(crate) const fn is_behind(&self) -> bool {
        self.fresh.is_some()
    }

    /// Whether there is anything to look for now.
    pub(crate) fn wants(&mut self, now: Instant) -> bool {
        self.expire_waits(now);
        !self.barred && (self.round_is_due(now) || self.fresh.is_some() || !self.gaps.is_empty())
    }

    /// The look to take now, if any. It must be answered by [`Self::done`], [`Self::refused`] or [`Self::failed`] before
    /// the next one.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Look> {
        if !self.wants(now) {
            return None;
        }
        let low = self.trail.low();
        if self.round_is_due(now)
            && let Some(round) = &mut self.round
        {
            round.begun = true;
            let from_seq = round.at.unwrap_or(low).max(low);
            let kind = Kind::Round(self.fresh.take());
            return Some(Look { from_seq, low, cause: round.cause, held: Vec::new(), kind, begun: now });
        }
        if let Some(cause) = self.fresh
            && (self.gaps.is_empty() || self.gaps_last)
        {
            self.gaps_last = false;
            self.fresh = None;
            let from_seq = self.front.max(low);
            return Some(Look { from_seq, low, cause, held: Vec::new(), kind: Kind::Front, begun: now });
        }
        let (&first, &cause) = self.gaps.first_key_value()?;
        self.gaps_last = true;
        let from_seq = first.saturating_add(1).max(low);
        let held: Vec<_> = self.held.keys().cloned().collect();
        let fresh = if held.is_empty() { self.fresh.take() } else { None };
        let kind = Kind::Gaps(std::mem::take(&mut self.gaps), fresh);
        Some(Look { from_seq, low, cause, held, kind, begun: now })
    }

    /// When to ask for a look again, if nothing happens meanwhile.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        if self.barred {
            return None;
        }
        let round = self.round.as_ref().map(|_| self.round_after);
        let due = self.due.peek().map(|Reverse((at, ..))| *at);
        [round, due, self.due_unknown].into_iter().flatten().min()
    }

    /// The look found this, with `places` to fill. `true` if it came to the end and left places free: nothing more waits
    /// that could go now.
    pub(crate) fn done(&mut self, look: Look, pulled: &Pulled, places: u32, now: Instant) -> bool {
        let filled = pulled.messages.len() >= places as usize;
        if let Some(at) = pulled.next_due {
            let at = now + at.since(pulled.now) + Duration::from_millis(1);
            if self.due.peek().is_none_or(|Reverse((known, ..))| at + SAME < *known) {
                self.falls_due(at);
            }
        }
        self.note_waiting(&look, pulled);
        // What was looked at without a break up to here is behind the front now.
        let reached = pulled.next_seq.or_else(|| pulled.messages.iter().map(|m| m.seq + 1).max()).unwrap_or(0);
        let met_front = look.from_seq <= self.front && (pulled.next_seq.is_none() || reached >= self.front);
        if look.from_seq <= self.front && look.held.is_empty() {
            self.front = self.front.max(reached);
        }
        for message in &pulled.messages {
            self.held.remove(&message.recipient);
        }
        match look.kind {
            Kind::Front => {
                if pulled.next_seq.is_some() {
                    self.fresh.get_or_insert(look.cause);
                }
            }
            Kind::Gaps(gaps, fresh) => {
                if let Some(next) = pulled.next_seq {
                    for (seq, cause) in gaps {
                        if seq >= next {
                            self.gaps.entry(seq).or_insert(cause);
                        }
                    }
                    if met_front {
                        self.fresh.get_or_insert(fresh.unwrap_or(look.cause));
                    } else {
                        self.fresh = self.fresh.or(fresh);
                        if filled {
                            self.gaps.entry(next - 1).or_insert(look.cause);
                        } else {
                            self.begin_round(look.cause);
                        }
                    }
                }
            }
            Kind::Round(fresh) => {
                if pulled.next_seq.is_some() {
                    self.fresh = self.fresh.or(fresh);
                }
                self.round_done(look.low, look.from_seq, look.begun, pulled, met_front, now);
            }
        }
        pulled.next_seq.is_none() && !filled
    }

    /// The store says that nothing may be claimed for the session now.
    pub(crate) fn refused(&mut self, look: Look) {
        self.failed(look);
        self.barred = true;
    }

    /// The look came to nothing: it must be taken again.
    pub(crate) fn failed(&mut self, look: Look) {
        match look.kind {
            Kind::Front => {
                self.fresh.get_or_insert(look.cause);
            }
            Kind::Gaps(gaps, fresh) => {
                for (seq, cause) in gaps {
                    self.gaps.entry(seq).or_insert(cause);
                }
                self.fresh = self.fresh.or(fresh);
            }
            Kind::Round(fresh) => self.fresh = self.fresh.or(fresh),
        }
    }

    /// What a look has seen of messages that wait for others. One that left recipients out says nothing of theirs.
    fn note_waiting(&mut self, look: &Look, pulled: &Pulled) {
        let seen = pulled.waiting.unwrap_or(0);
        let all = look.held.is_empty() && pulled.next_seq.is_none();
        self.waiting = if all { seen.max(self.waiting.min(look.from_seq - 1)) } else { seen.max(self.waiting) };
    }

    fn round_done(&mut self, low: i64, from: i64, begun: Instant, pulled: &Pulled, met_front: bool, now: Instant) {
        if from == low {
            // With nothing unfinished at all, all that was ever seen has finished.
            let oldest = pulled.first_seq.unwrap_or(self.front);
            self.trail.observe(oldest, now);
        }
        let Some(round) = &mut self.round else { return };
        match pulled.next_seq {
            Some(next) if !met_front => round.at = Some(next),
            next => {
                if next.is_some() {
                    self.fresh.get_or_insert(Cause::Place);
                }
                match round.again.take() {
                    Some(cause) => *round = Round::new(cause),
                    None => self.round = None,
                }
            }
        }
        let rest = if pulled.messages.is_empty() {
            (now.duration_since(begun) * ROUND_REST).clamp(Duration::from_millis(1), ROUND_REST_MAX)
        } else {
            Duration::ZERO
        };
        self.round_after = now + rest;
    }

    fn begin_round(&mut self, cause: Cause) {
        match &mut self.round {
            None => self.round = Some(Round::new(cause)),
            Some(round) if round.begun => {
                round.again.get_or_insert(cause);
            }
            Some(_) => {}
        }
    }

    fn round_is_due(&self, now: Instant) -> bool {
        self.round.is_some() && self.round_after <= now
    }

    fn falls_due(&mut self, at: Instant) {
        self.due_unknown = Some(self.due_unknown.map_or(at, |known| known.min(at)));
    }

    /// Whoever has waited long enough is looked for.
    fn expire_waits(&mut self, now: Instant) {
        while let Some(Reverse((at, ..))) = self.due.peek()
            && *at <= now
            && let Some(Reverse((_, seq, recipient))) = self.due.pop()
        {
            self.gaps.insert(seq - 1, Cause::Due);
            if self.held.get(&recipient).is_some_and(|until| *until <= now) {
                self.held.remove(&recipient);
            }
        }
        if self.due_unknown.is_some_and(|at| at <= now) {
            self.due_unknown = None;
            self.begin_round(Cause::Due);
        }
    }
}

#[cfg(test)]
mod tests;
