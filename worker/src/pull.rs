//! Where to look next for messages that can be sent: pure logic, one for each session's actor.
//!
//! A look is one pull. It scans from a place in the order, [`SCAN`] rows at most, or asks for the next message to some
//! recipients, or both:
//!
//! - the *front*: beyond it nothing has been looked at. New messages are there, so a ring is answered by a scan from there.
//! - the *freed*: recipients whose message of this actor has ended, or falls due again. Only the messages to the same recipient
//!   may have become free by that, and the next of them is found by an index, wherever it is.
//! - the *round*: a scan of everything from the lower bound to the front. It finds what the others can't know of (a message
//!   that was cancelled, or released by somebody else, or that committed late) every few seconds. A round over a long backlog
//!   takes a part of the time only, and leaves the rest to the others: 250,000 messages that are held up cost the session's
//!   other recipients next to nothing.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use sanasr_shared::ports::store::Pulled;
use sanasr_shared::recipient::Recipient;
use tokio::time::{Duration, Instant};

use crate::trail::Trail;

/// Rows that a look examines, at most.
pub(crate) const SCAN: u32 = 1_000;
/// Freed recipients that a look asks for, at most.
const FREED_MAX: usize = 256;
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
    freed: Vec<(Recipient, Cause)>,
    /// What is scanned, if anything.
    part: Option<Part>,
    begun: Instant,
}

impl Look {
    /// Rows to scan, at most.
    pub(crate) const fn scan(&self) -> u32 {
        if self.part.is_some() { SCAN } else { 0 }
    }

    /// The recipients to ask for.
    pub(crate) fn recipients(&self) -> Vec<Recipient> {
        self.freed.iter().map(|(recipient, _)| recipient.clone()).collect()
    }
}

#[derive(Debug)]
enum Part {
    Front,
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
    /// Recipients whose next message may be free.
    freed: HashMap<Recipient, Cause>,
    /// Beyond this place, and behind the front, nothing waits for an earlier message: what ends there frees nobody.
    waiting: i64,
    /// Messages that have ended while a look is under way, whose answer may know of others behind them.
    meanwhile: Option<Vec<(Recipient, i64)>>,
    round: Option<Round>,
    round_after: Instant,
    /// Recipients whose next message waits, and until when.
    due: BinaryHeap<Reverse<(Instant, Recipient)>>,
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
            freed: HashMap::new(),
            waiting: 0,
            meanwhile: None,
            round: None,
            round_after: now,
            due: BinaryHeap::new(),
            due_unknown: None,
            barred: false,
        }
    }

    /// A job rang.
    pub(crate) fn ring(&mut self) {
        self.fresh.get_or_insert(Cause::Ring);
    }

    /// The message at `seq` to that recipient has ended: the next one may be free.
    pub(crate) fn ended(&mut self, recipient: &Recipient, seq: i64) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.push((recipient.clone(), seq));
        } else if seq < self.waiting {
            self.freed.entry(recipient.clone()).or_insert(Cause::Place);
        }
    }

    /// A message to that recipient can be claimed again.
    pub(crate) fn released(&mut self, recipient: Recipient) {
        self.freed.entry(recipient).or_insert(Cause::Place);
    }

    /// A message to that recipient waits until then, and the later ones with it.
    pub(crate) fn waits(&mut self, recipient: Recipient, until: Instant) {
        if self.due.len() < DUE_MAX {
            self.due.push(Reverse((until, recipient)));
        } else {
            self.falls_due(until);
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
        !self.barred && (self.round_is_due(now) || self.fresh.is_some() || !self.freed.is_empty())
    }

    /// The look to take now, if any. It must be answered by [`Self::done`], [`Self::refused`] or [`Self::failed`] before
    /// the next one.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Look> {
        if !self.wants(now) {
            return None;
        }
        let low = self.trail.low();
        let asked: Vec<_> = self.freed.keys().take(FREED_MAX).cloned().collect();
        let freed: Vec<_> = asked.iter().filter_map(|recipient| self.freed.remove_entry(recipient)).collect();
        let cause = freed.first().map(|(_, cause)| *cause);
        let look = |from_seq: i64, cause, part| Look { from_seq, low, cause, freed, part, begun: now };
        self.meanwhile = Some(Vec::new());
        if self.round_is_due(now)
            && let Some(round) = &mut self.round
        {
            round.begun = true;
            let part = Part::Round(self.fresh.take());
            return Some(look(round.at.unwrap_or(low).max(low), round.cause, Some(part)));
        }
        if let Some(cause) = self.fresh.take() {
            return Some(look(self.front.max(low), cause, Some(Part::Front)));
        }
        cause.map(|cause| look(low, cause, None))
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

    /// The look found this, with `places` to fill. `true` if it left places free, and nothing is left to look for now.
    pub(crate) fn done(&mut self, mut look: Look, pulled: &Pulled, places: u32, now: Instant) -> bool {
        let filled = pulled.messages.len() >= places as usize;
        if let Some(at) = pulled.next_due {
            let at = now + at.since(pulled.now) + Duration::from_millis(1);
            if self.due.peek().is_none_or(|Reverse((known, ..))| at + SAME < *known) {
                self.falls_due(at);
            }
        }
        if filled {
            // Whoever wasn't reached is asked for again.
            let reached: HashSet<_> = pulled.messages.iter().map(|message| &message.recipient).collect();
            self.freed.extend(look.freed.drain(..).filter(|(recipient, _)| !reached.contains(recipient)));
        }
        if let Some(part) = look.part.take() {
            self.scanned(&look, part, pulled, now);
        }
        self.answered();
        !filled && self.fresh.is_none() && self.freed.is_empty()
    }

    /// The answer of the look under way is here.
    fn answered(&mut self) {
        for (recipient, seq) in self.meanwhile.take().unwrap_or_default() {
            self.ended(&recipient, seq);
        }
    }

    fn scanned(&mut self, look: &Look, part: Part, pulled: &Pulled, now: Instant) {
        let seen = pulled.waiting.unwrap_or(0);
        self.waiting = match pulled.next_seq {
            None => seen.max(self.waiting.min(look.from_seq - 1)),
            Some(_) => seen.max(self.waiting),
        };
        // What was scanned without a break up to here is behind the front now.
        let last = pulled.messages.iter().map(|message| message.seq).max();
        let reached = pulled.next_seq.unwrap_or_else(|| last.max(pulled.waiting).map_or(0, |seq| seq + 1));
        let met_front = look.from_seq <= self.front && (pulled.next_seq.is_none() || reached >= self.front);
        if look.from_seq <= self.front {
            self.front = self.front.max(reached);
        }
        match part {
            Part::Front => {
                if pulled.next_seq.is_some() {
                    self.fresh.get_or_insert(look.cause);
                }
            }
            Part::Round(fresh) => {
                if pulled.next_seq.is_some() {
                    self.fresh = self.fresh.or(fresh);
                }
                self.round_done(look.low, look.from_seq, look.begun, pulled, met_front, now);
            }
        }
    }

    /// The store says that nothing may be claimed for the session now.
    pub(crate) fn refused(&mut self, look: Look) {
        self.failed(look);
        self.barred = true;
    }

    /// The look came to nothing: it must be taken again.
    pub(crate) fn failed(&mut self, look: Look) {
        self.freed.extend(look.freed);
        match look.part {
            None => {}
            Some(Part::Front) => {
                self.fresh.get_or_insert(look.cause);
            }
            Some(Part::Round(fresh)) => self.fresh = self.fresh.or(fresh),
        }
        self.answered();
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
        while let Some(Reverse((at, _))) = self.due.peek()
            && *at <= now
            && let Some(Reverse((_, recipient))) = self.due.pop()
        {
            self.freed.insert(recipient, Cause::Due);
        }
        if self.due_unknown.is_some_and(|at| at <= now) {
            self.due_unknown = None;
            self.begin_round(Cause::Due);
        }
    }
}

#[cfg(test)]
mod tests;
