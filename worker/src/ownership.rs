//! Which sessions are ours: the lease and its renewal, taking free sessions, giving them back.
//!
//! A renewal answers what every owned session's actor must know, and how many sessions are a fair share. It is made every
//! third of the lease, and at once when something has changed that may concern us.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sanasr_shared::ids::SessionId;
use sanasr_shared::lifecycle::Backoff;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::ports::store::{OwnedSession, Renewed, StoreError};
use tokio::sync::{broadcast, watch};
use tokio::task::{self, AbortHandle, JoinError, JoinSet};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::lease::boottime;
use crate::life::{Life, Unwritten};
use crate::session::supervisor::{Reins, supervise};
use crate::slot::Slot;

/// Sessions taken at once, at most: starting them costs the services something, too.
const TAKE_MAX: usize = 100;
/// Sessions given back at once since others have room, at most: each is offline for a moment.
const GIVE_MAX: usize = 50;
/// Renewals out of turn: no closer than this, and a tenth of the time at most.
const GAP_MIN: Duration = Duration::from_millis(20);
const GAP_MAX: Duration = Duration::from_secs(1);
/// How long actors may take beyond their own limit on a stop; and then, the last write of a life.
const STOP_GRACE: Duration = Duration::from_millis(800);
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// How a life ended.
pub(crate) enum End {
    /// As was asked for.
    Stopped,
    /// The worker's row was gone.
    Fenced,
}

/// Owns sessions until `stop`, or until the worker's row is found gone.
pub(crate) async fn own(life: &Arc<Life>, stop: &CancellationToken) -> End {
    let owner = Owner {
        life: Arc::clone(life),
        actors: HashMap::new(),
        tasks: JoinSet::new(),
        stopped: HashSet::new(),
        stopping: false,
        beating: Slot::empty(),
        next_beat: Instant::now(),
        hurried: false,
        gap: GAP_MIN,
        beaten_at: Instant::now(),
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
        failing: false,
    };
    owner.run(stop).await
}

/// A running actor, as its owner sees it.
struct Handle {
    name: String,
    session: watch::Sender<OwnedSession>,
    stop: CancellationToken,
    load: Arc<AtomicU32>,
    abort: AbortHandle,
}

impl Handle {
    fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// What came of a renewal and what goes with it.
struct Beat {
    renewed: Result<Renewed, StoreError>,
    gave: Vec<SessionId>,
    taken: Vec<OwnedSession>,
    /// Something that goes with it failed.
    incomplete: bool,
    begun: Instant,
}

struct Owner {
    life: Arc<Life>,
    actors: HashMap<SessionId, Handle>,
    tasks: JoinSet<SessionId>,
    /// Sessions whose actors have stopped, to be given back.
    stopped: HashSet<SessionId>,
    stopping: bool,
    beating: Slot<Beat>,
    next_beat: Instant,
    /// Another renewal is wanted as soon as the one under way is done.
    hurried: bool,
    gap: Duration,
    beaten_at: Instant,
    backoff: Backoff,
    failing: bool,
}

impl Owner {
    async fn run(mut self, stop: &CancellationToken) -> End {
        let mut signals = Some(self.life.signals.subscribe());
        let deadline = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(deadline);
        loop {
            if self.stopping && self.actors.is_empty() {
                break;
            }
            if self.beating.is_free() && self.next_beat <= Instant::now() {
                self.beat();
            }
            tokio::select! {
                biased;
                () = self.life.over.cancelled() => {
                    // Links and doorbells go with their actors, at once.
                    self.tasks.shutdown().await;
                    metrics::gauge!("sanasr_sessions_owned").set(0);
                    return End::Fenced;
                }
                () = stop.cancelled(), if !self.stopping => {
                    self.stopping = true;
                    self.actors.values().for_each(|actor| actor.stop.cancel());
                    // Actors bound themselves by the same time; a little more is for closing, and for what hangs.
                    deadline.as_mut().reset(Instant::now() + self.life.drain + STOP_GRACE);
                }
                () = &mut deadline, if self.stopping => {
                    tracing::warn!(sessions = self.actors.len(), "stopping without waiting any longer");
                    self.tasks.shutdown().await;
                    break;
                }
                beat = self.beating.next() => self.beaten(beat),
                Some(ended) = self.tasks.join_next_with_id() => match ended {
                    Ok((task, session)) => self.ended(session, task),
                    Err(error) => self.broken(&error),
                },
                () = self.life.hurry.notified() => self.hurry(),
                signal = hear(&mut signals) => {
                    if self.concerns(signal) {
                        self.hurry();
                    }
                }
                () = tokio::time::sleep_until(self.next_beat), if self.beating.is_free() => {}
            }
        }
        self.leave().await;
        End::Stopped
    }

    async fn leave(self) {
        let life = self.life;
        let left = life.persist("that the worker leaves", || life.store.leave(life.id));
        if !matches!(tokio::time::timeout(LEAVE_MAX, left).await, Ok(Ok(()) | Err(Unwritten::Lost))) {
            tracing::warn!("couldn't say that the worker leaves: its sessions are free when its lease is over");
        }
        metrics::gauge!("sanasr_sessions_owned").set(0);
        life.signals.publish(Signal::SessionFree);
    }

    // ---- Renewal ----

    /// Whether a signal may be about something that a renewal would tell us.
    fn concerns(&self, signal: Result<Arc<Signal>, broadcast::error::RecvError>) -> bool {
        match signal.as_deref() {
            Ok(Signal::Session(session)) => !self.life.is_echo(*session),
            Ok(Signal::SessionFree | Signal::User(_) | Signal::Missed) => true,
            Ok(Signal::Messages(_)) => false,
            Err(broadcast::error::RecvError::Lagged(_)) => true,
            Err(broadcast::error::RecvError::Closed) => false,
        }
    }

    fn hurry(&mut self) {
        if self.stopping {
            return;
        }
        if self.beating.is_free() {
            self.next_beat = self.next_beat.min(self.beaten_at + self.gap);
        } else {
            self.hurried = true;
        }
    }

    fn beat(&mut self) {
        let life = Arc::clone(&self.life);
        let give: Vec<_> = self.stopped.iter().copied().collect();
        let take = !self.stopping;
        let begun = Instant::now();
        life.renewal.begin();
        self.beating.put(async move {
            let asked = boottime();
            let lease = life.settings.lease;
            let renewed = match tokio::time::timeout(lease, life.store.renew(life.id, lease)).await {
                Ok(renewed) => renewed,
                Err(_) => Err(StoreError::Unavailable("no answer within the lease".to_owned())),
            };
            let mut beat = Beat { renewed, gave: Vec::new(), taken: Vec::new(), incomplete: false, begun };
            let Ok(renewed) = &mut beat.renewed else { return beat };
            life.lease.renewed(asked, lease);
            life.contact.succeeded(asked, lease);
            if !give.is_empty() {
                beat.incomplete |= !give_back(&life, give, &mut beat.gave).await;
                renewed.sessions.retain(|session| !beat.gave.contains(&session.id));
            }
            // One that was given back because others have room isn't taken again: the share says so.
            let room = renewed.share.saturating_sub(renewed.sessions.len()).min(TAKE_MAX);
            if take && room > 0 && (renewed.free > 0 || !beat.gave.is_empty()) {
                match life.store.take(life.id, room).await {
                    Ok(taken) => beat.taken = taken,
                    Err(error) => {
                        tracing::warn!(%error, "couldn't take sessions yet");
                        beat.incomplete = true;
                    }
                }
            }
            beat
        });
    }

    fn beaten(&mut self, beat: Beat) {
        let now = Instant::now();
        self.beaten_at = now;
        self.gap = ((now - beat.begun) * 10).clamp(GAP_MIN, GAP_MAX);
        let renewed = match beat.renewed {
            Ok(renewed) => renewed,
            Err(StoreError::Fenced) => return self.life.fenced(),
            Err(error) => {
                self.life.contact.failed();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "couldn't renew the lease; trying again");
                }
                self.next_beat = now + self.backoff.pause();
                return;
            }
        };
        self.life.renewal.idle();
        if std::mem::take(&mut self.failing) {
            tracing::info!("the lease is renewed again");
        }
        if beat.incomplete {
            self.gap = self.backoff.pause();
        } else {
            self.backoff.reset();
        }
        if std::mem::take(&mut self.hurried) {
            self.next_beat = now + self.gap;
        } else {
            self.life.forget_echoes();
            self.next_beat = now + self.life.settings.lease / 3;
        }
        if !beat.gave.is_empty() {
            tracing::info!(sessions = beat.gave.len(), "gave sessions back");
            for session in &beat.gave {
                self.stopped.remove(session);
                self.life.announce(*session);
            }
            self.life.signals.publish(Signal::SessionFree);
        }
        if !beat.taken.is_empty() {
            tracing::info!(sessions = beat.taken.len(), "took sessions");
            self.hurry(); // there may be more
        }
        self.reconcile(renewed, beat.taken);
    }

    /// Brings the actors in line with what the store says is ours.
    fn reconcile(&mut self, renewed: Renewed, taken: Vec<OwnedSession>) {
        let share = renewed.share;
        let ours: HashSet<_> = renewed.sessions.iter().chain(&taken).map(|session| session.id).collect();
        self.stopped.retain(|session| ours.contains(session));
        self.actors.retain(|session, actor| {
            let keep = ours.contains(session);
            if !keep {
                tracing::warn!(%session, name = actor.name, "the session isn't ours any more");
                actor.abort.abort();
            }
            keep
        });
        for session in renewed.sessions.into_iter().chain(taken) {
            let serve = (session.wanted || session.logout) && !session.deleting;
            match self.actors.get(&session.id) {
                Some(actor) if serve => {
                    actor.session.send_if_modified(|known| {
                        let changed = *known != session;
                        *known = session;
                        changed
                    });
                }
                Some(actor) => {
                    actor.session.send_replace(session); // it closes another way if the session is deleted
                    actor.stop.cancel();
                }
                None if self.stopped.contains(&session.id) => {}
                None if serve && !self.stopping => self.start(session),
                None => {
                    self.stopped.insert(session.id);
                }
            }
        }
        self.shed(share);
        if !self.stopped.is_empty() {
            self.hurry();
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 sessions don't exist")]
        metrics::gauge!("sanasr_sessions_owned").set(self.actors.len() as f64);
    }

    /// Stops what is above the share, so that another worker may take it: those first that have least to do.
    fn shed(&self, share: usize) {
        let mut busy: Vec<_> = self.actors.values().filter(|actor| !actor.is_stopping()).collect();
        let surplus = busy.len().saturating_sub(share).min(GIVE_MAX);
        if surplus == 0 || self.stopping {
            return;
        }
        tracing::info!(sessions = surplus, share, "giving up sessions: others have room");
        busy.sort_by_key(|actor| actor.load.load(Ordering::Relaxed));
        busy.iter().take(surplus).for_each(|actor| actor.stop.cancel());
    }

    fn start(&mut self, session: OwnedSession) {
        tracing::debug!(session = %session.id, name = session.name, "owned");
        let (id, name) = (session.id, session.name.clone());
        let (sender, receiver) = watch::channel(session);
        let stop = CancellationToken::new();
        let load = Arc::new(AtomicU32::new(0));
        let reins = Reins { session: receiver, stop: stop.clone(), load: Arc::clone(&load) };
        let life = Arc::clone(&self.life);
        let abort = self.tasks.spawn(async move {
            supervise(life, reins).await;
            id
        });
        self.actors.insert(id, Handle { name, session: sender, stop, load, abort });
    }

    /// An actor's task has ended without an answer. One that was aborted is forgotten already; one that panicked outside of its
    /// supervisor's care leaves its session to be given back.
    fn broken(&mut self, error: &JoinError) {
        let task = error.id();
        let session = self.actors.iter().find(|(_, actor)| actor.abort.id() == task).map(|(session, _)| *session);
        if let Some(session) = session {
            tracing::error!(%error, %session, "a session's supervisor crashed; the session is given back");
            self.ended(session, task);
        }
    }

    /// An actor has stopped: its session may be given back.
    fn ended(&mut self, session: SessionId, task: task::Id) {
        // It may be owned again already, by another actor.
        if self.actors.get(&session).is_some_and(|actor| actor.abort.id() == task) {
            self.actors.remove(&session);
            self.stopped.insert(session);
            if !self.stopping {
                self.hurry();
            }
        }
    }
}

/// Gives sessions back, and says which; `false` if some are left for the next renewal. One that the database refuses must not
/// keep the others.
async fn give_back(life: &Life, sessions: Vec<SessionId>, gave: &mut Vec<SessionId>) -> bool {
    let mut complete = true;
    let mut parts = vec![sessions];
    while let Some(part) = parts.pop() {
        match life.store.give_back(life.id, &part).await {
            Ok(()) => gave.extend(part),
            Err(error) if error.is_transient() || part.len() == 1 => {
                tracing::warn!(%error, sessions = part.len(), "couldn't give sessions back yet");
                complete = false;
            }
            Err(_) => parts.extend(part.into_iter().map(|session| vec![session])),
        }
    }
    complete
}

/// The next signal; waits for ever when there will be none.
async fn hear(
    signals: &mut Option<broadcast::Receiver<Arc<Signal>>>,
) -> Result<Arc<Signal>, broadcast::error::RecvError> {
    let Some(receiver) = signals else { return std::future::pending().await };
    let heard = receiver.recv().await;
    if matches!(heard, Err(broadcast::error::RecvError::Closed)) {
        *signals = None;
    }
    heard
}
