//! Who listens to events in this process, and handing out what happens.
//!
//! What must hold: a listener holds the others up for a moment at most. Each has a bounded buffer; one whose buffer stays full
//! is cut off, reads what it still has, and comes again with its last event's id.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sanasr_shared::ids::UserId;
use sanasr_shared::ports::journal::Event;
use sanasr_shared::ports::store::{Scope, Store, StoreError};
use sanasr_shared::vault::Vault;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, render};
use super::position::Position;
use crate::problem::Problem;

/// Events that wait for a listener to read them, at most.
const BUFFER: usize = 256;
/// Events that are given to a listener at once: it must have time to read them before the next.
const SLICE: usize = 64;
/// How long a listener without room for a slice is waited for: many events at once make nobody slow.
const ROOM_WAITS: u32 = 20;
const ROOM_WAIT: Duration = Duration::from_millis(5);
/// Events that are read at once.
const BATCH: u32 = 1_000;
/// Each listener hears a sign of life this often, in seconds. They take turns.
const HEARTBEAT_S: u64 = 15;
/// How long a listener that was cut off may take to read what it still has before its connection is closed.
const GRACE: Duration = Duration::from_secs(5);

/// The listeners of this process, and how far events have been read for them.
pub(crate) struct Hub {
    pub(super) store: Arc<dyn Store>,
    /// Listeners that one user may have here.
    per_user: u32,
    pub(super) vault: Arc<Vault>,
    state: Mutex<State>,
    /// Something may have changed.
    pub(super) news: Notify,
}

#[derive(Default)]
struct State {
    members: HashMap<u64, Member>,
    /// How many there are by who asked for them.
    askers: HashMap<UserId, u32>,
    /// The live ones by whose events they hear; under `None`, those who hear everybody's.
    hearing: HashMap<Option<UserId>, HashSet<u64>>,
    /// `None` while nobody listens.
    position: Option<Position>,
    /// Who was cut off and may have a connection still.
    leaving: Vec<Leaving>,
    last_id: u64,
    closed: bool,
}

struct Member {
    /// Who asked for it.
    user: UserId,
    scope: Scope,
    frames: mpsc::Sender<Frame>,
    hangup: CancellationToken,
    alive: Weak<()>,
}

struct Leaving {
    until: Instant,
    hangup: CancellationToken,
    alive: Weak<()>,
}

/// One who listens; no more when dropped.
pub(super) struct Listener {
    hub: Arc<Hub>,
    id: u64,
    frames: mpsc::Receiver<Frame>,
    _alive: Arc<()>,
}

impl Hub {
    /// A hub in which each user has `per_user` listeners at most; it opens the codes that sessions show.
    pub(crate) fn new(store: Arc<dyn Store>, vault: Arc<Vault>, per_user: u32) -> Arc<Self> {
        Arc::new(Self { store, per_user, vault, state: Mutex::default(), news: Notify::new() })
    }

    /// Something may have changed: look at once.
    pub(crate) fn ring(&self) {
        self.news.notify_one();
    }

    /// Enters a listener. A `live` one hears whatever is committed from now on; another hears nothing until it goes live.
    ///
    /// # Errors
    /// Its user has as many as may be, the store is away, or this process stops.
    pub(super) async fn join(
        self: &Arc<Self>,
        user: UserId,
        scope: Scope,
        hangup: CancellationToken,
        live: bool,
    ) -> Result<Listener, Problem> {
        loop {
            let known = self.lock().position.is_some();
            let newest = if known { None } else { Some(self.store.newest_events().await?) };
            let mut state = self.lock();
            if state.closed {
                return Err(StoreError::Unavailable("this process stops".to_owned()).into());
            }
            if state.askers.get(&user).is_some_and(|open| *open >= self.per_user) {
                return Err(Problem::at_limit(format!(
                    "The user has {} event streams open here, which is the limit. Close one first.",
                    self.per_user
                )));
            }
            if let Some(newest) = newest {
                state.position.get_or_insert_with(|| Position::new(newest, Instant::now()));
            } else if state.position.is_none() {
                // The last listener has left meanwhile.
                continue;
            }
            let (sender, frames) = mpsc::channel(BUFFER);
            let alive = Arc::new(());
            state.last_id += 1;
            let id = state.last_id;
            let member = Member { user, scope, frames: sender, hangup, alive: Arc::downgrade(&alive) };
            state.members.insert(id, member);
            *state.askers.entry(user).or_default() += 1;
            metrics::gauge!("sanasr_event_listeners").set(count(state.members.len()));
            if live {
                state.hear(id);
            }
            return Ok(Listener { hub: Arc::clone(self), id, frames, _alive: alive });
        }
    }

    /// Reads what is new and hands it out; whether there may be more. After an error the same is read again.
    pub(super) async fn advance(&self) -> Result<bool, StoreError> {
        let Some(mut position) = self.lock().position.clone() else { return Ok(false) };
        let started = Instant::now();
        let missing = position.missing();
        let late = if missing.is_empty() { Vec::new() } else { self.store.events_numbered(&missing).await? };
        let new = self.store.events_after(Scope::All, position.last(), BATCH).await?;
        position.take(&late, &new, started);
        let more = u32::try_from(new.len()).is_ok_and(|count| count >= BATCH);
        let heard = self.heard(late.into_iter().chain(new));
        let frames = render(&self.store, &self.vault, &heard).await?;
        let mut waits = ROOM_WAITS;
        for slice in frames.chunks(SLICE) {
            while waits > 0 && !self.lock().has_room() {
                waits -= 1;
                tokio::time::sleep(ROOM_WAIT).await;
            }
            self.lock().hand_out(slice);
            tokio::task::yield_now().await;
        }
        let mut state = self.lock();
        state.position = (!state.members.is_empty()).then_some(position);
        Ok(more)
    }

    /// Those events that somebody listens to.
    fn heard(&self, events: impl Iterator<Item = Event>) -> Vec<Event> {
        let state = self.lock();
        let all = state.hearing.contains_key(&None);
        events.filter(|event| all || state.hearing.contains_key(&Some(event.user))).collect()
    }

    /// Gives the listeners whose turn it is a sign of life, and closes the connections of those who don't read theirs.
    pub(super) fn beat(&self, second: u64) {
        let mut state = self.lock();
        let turn: Vec<u64> =
            state.hearing.values().flatten().copied().filter(|id| id % HEARTBEAT_S == second % HEARTBEAT_S).collect();
        for id in turn {
            state.give(id, Frame::heartbeat());
        }
        let now = Instant::now();
        state.leaving.retain(|leaving| {
            let gone = leaving.alive.strong_count() == 0;
            if !gone && leaving.until <= now {
                leaving.hangup.cancel();
            }
            !gone && leaving.until > now
        });
    }

    /// Ends all streams, and lets no new ones begin: the process stops.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.members.clear();
        state.askers.clear();
        state.hearing.clear();
        state.position = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hear(&mut self, id: u64) {
        if let Some(member) = self.members.get(&id) {
            self.hearing.entry(member.scope.user()).or_default().insert(id);
        }
    }

    /// Whether every listener has room for a slice.
    fn has_room(&self) -> bool {
        let mut hearing = self.hearing.values().flatten().filter_map(|id| self.members.get(id));
        hearing.all(|member| member.frames.capacity() >= SLICE)
    }

    fn hand_out(&mut self, frames: &[(UserId, Frame)]) {
        for (user, frame) in frames {
            let hearing = [Some(*user), None].into_iter().filter_map(|whose| self.hearing.get(&whose));
            for id in hearing.flatten().copied().collect::<Vec<_>>() {
                self.give(id, frame.clone());
            }
        }
    }

    fn give(&mut self, id: u64, frame: Frame) {
        if let Some(member) = self.members.get(&id)
            && member.frames.try_send(frame).is_err()
        {
            metrics::counter!("sanasr_event_listeners_cut_off_total").increment(1);
            self.cut(id);
        }
    }

    /// Its stream ends after what is in its buffer.
    fn cut(&mut self, id: u64) {
        if let Some(Member { hangup, alive, .. }) = self.remove(id) {
            self.leaving.push(Leaving { until: Instant::now() + GRACE, hangup, alive });
        }
    }

    fn remove(&mut self, id: u64) -> Option<Member> {
        let member = self.members.remove(&id)?;
        if let Entry::Occupied(mut open) = self.askers.entry(member.user) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
        let whose = member.scope.user();
        if let Some(hearing) = self.hearing.get_mut(&whose) {
            hearing.remove(&id);
            if hearing.is_empty() {
                self.hearing.remove(&whose);
            }
        }
        metrics::gauge!("sanasr_event_listeners").set(count(self.members.len()));
        Some(member)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 listeners don't fit a machine")]
fn count(listeners: usize) -> f64 {
    listeners as f64
}

impl Listener {
    /// Opens the codes that sessions show.
    pub(super) fn vault(&self) -> Arc<Vault> {
        Arc::clone(&self.hub.vault)
    }

    /// Hears whatever is committed from now on.
    pub(super) fn go_live(&self) {
        self.hub.lock().hear(self.id);
    }

    /// The next frame; `None` when the stream is to end.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }

    /// Nothing comes any more but what is in the buffer.
    pub(super) fn is_cut_off(&self) -> bool {
        self.frames.is_closed()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.lock().remove(self.id);
    }
}
