//! One stream: what was missed, read from the store, and then what happens, as the hub hands it out.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sanasr_shared::ids::UserId;
use sanasr_shared::ports::journal::UNDER_WAY_MAX;
use sanasr_shared::ports::store::{Scope, Store, StoreError};

use super::frame::{Frame, render};
use super::hub::Listener;
use crate::reads::Reads;

/// Events of the past that are read at once.
const PAGE: u32 = 100;

/// A stream's source.
pub(super) struct Reader {
    listener: Listener,
    /// `None` for a stream that has missed nothing, or not any more.
    past: Option<Box<Past>>,
}

/// What was missed.
struct Past {
    reads: Arc<Reads>,
    /// Who listens: reading takes a place of theirs.
    user: UserId,
    scope: Scope,
    /// Read up to here.
    from: i64,
    stage: Stage,
    ready: VecDeque<Frame>,
    sent: Sent,
}

#[derive(PartialEq)]
enum Stage {
    /// Reading what is there. The hub gives nothing: its buffer would be full before this has come to the end.
    Reading,
    /// The hub collects what happens. What was committed until it began, late numbers too, is read once more.
    Joined,
    /// All is read; what the hub gives twice is left out until then.
    Overlapping(Instant),
}

/// Numbers that are remembered, at most: of an admin's stream of everybody's events. What is forgotten may come twice.
const REMEMBERED_MAX: usize = 100_000;

/// The hub may be behind us, and give what has been read from the store; for so long at most.
const OVERLAP: Duration = Duration::from_secs(30);

impl Reader {
    /// Hears what happens from now on.
    pub(super) fn live(listener: Listener) -> Self {
        Self { listener, past: None }
    }

    /// Begins with what happened after the event of that number, and whatever a transaction that was under way then
    /// committed since.
    pub(super) async fn resume(
        listener: Listener,
        reads: Arc<Reads>,
        user: UserId,
        scope: Scope,
        n: i64,
    ) -> Result<Self, StoreError> {
        let back = async move |store: Arc<dyn Store>| {
            // A number of the future, as after a restored backup, stands for now.
            let newest = store.newest_events().await?.last;
            store.events_back(scope, n.min(newest)).await
        };
        let from = reads.run(user, back).await?;
        // The event itself has been seen.
        let sent = Sent { order: VecDeque::new(), numbers: HashSet::from([n]) };
        let past = Past { reads, user, scope, from, stage: Stage::Reading, ready: VecDeque::new(), sent };
        Ok(Self { listener, past: Some(Box::new(past)) })
    }

    /// What comes next; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some(past) = &mut self.past else { return Some(self.listener.next().await?.bytes) };
            if let Some(frame) = past.ready.pop_front() {
                return Some(frame.bytes);
            }
            if let Stage::Overlapping(until) = past.stage {
                let frame = self.listener.next().await?;
                let fresh = frame == Frame::heartbeat() || !past.sent.numbers.contains(&frame.n);
                if Instant::now() >= until {
                    self.past = None;
                }
                if fresh {
                    return Some(frame.bytes);
                }
                continue;
            }
            if self.listener.is_cut_off() {
                return None;
            }
            if let Err(error) = past.read(&self.listener).await {
                tracing::debug!(%error, "a stream of events ends early: its past can't be read");
                return None;
            }
        }
    }
}

impl Past {
    /// Reads a page, or goes on to the next stage after the last one.
    async fn read(&mut self, listener: &Listener) -> Result<(), StoreError> {
        let (user, scope, from) = (self.user, self.scope, self.from);
        let events = self.reads.run(user, async move |store| store.events_after(scope, from, PAGE).await).await?;
        self.from = events.last().map_or(self.from, |event| event.n);
        let new: Vec<_> = events.iter().filter(|event| self.sent.note(event.n, event.at.0)).copied().collect();
        let vault = listener.vault();
        let frames = self.reads.run(user, async move |store| render(&store, &vault, &new).await).await?;
        self.ready.extend(frames.into_iter().map(|(_, frame)| frame));
        if u32::try_from(events.len()).is_ok_and(|count| count >= PAGE) {
            return Ok(());
        }
        if self.stage == Stage::Reading {
            listener.go_live();
            let from = self.from;
            self.from = self.reads.run(user, async move |store| store.events_back(scope, from).await).await?;
            self.stage = Stage::Joined;
        } else {
            self.stage = Stage::Overlapping(Instant::now() + OVERLAP);
        }
        Ok(())
    }
}

/// The numbers that were sent lately: as far back as something may be read twice.
struct Sent {
    /// With their times.
    order: VecDeque<(i64, i64)>,
    numbers: HashSet<i64>,
}

impl Sent {
    /// Notes a number; `false` if it was sent before.
    fn note(&mut self, n: i64, at: i64) -> bool {
        let new = self.numbers.insert(n);
        if new {
            self.order.push_back((n, at));
            // Times don't follow the numbers quite: twice as long is far enough.
            let oldest = at.saturating_sub(sanasr_shared::time::millis(2 * UNDER_WAY_MAX));
            while let Some((n, _)) = self.order.pop_front_if(|(_, at)| *at < oldest) {
                self.numbers.remove(&n);
            }
            if self.order.len() > REMEMBERED_MAX
                && let Some((n, _)) = self.order.pop_front()
            {
                self.numbers.remove(&n);
            }
        }
        new
    }
}
