//! One owned session: its link to WhatsApp, its doorbell, its pulls, its sends, its receipts.
//!
//! A single task that reacts: whatever happens is noted first, then [`Actor::steer`] begins what can be begun. No write is
//! awaited here, so that a slow database holds up nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sanasr_shared::lifecycle::Backoff;
use sanasr_shared::ports::bridge::{Bridge, BridgeEvent, Link, LinkRequest};
use sanasr_shared::ports::queue::Doorbell;
use sanasr_shared::ports::store::{OwnedSession, PullRequest, Pulled, StoreError};
use sanasr_shared::session::{Pace, SessionStatus};
use sanasr_shared::time::Time;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::life::{Life, Unwritten};
use crate::pull::{Look, Puller};
use crate::receipts::Receipts;
use crate::send::{Delivery, Ended, Finished};
use crate::session::board::Board;
use crate::session::pacing::Pacing;
use crate::session::supervisor::Reins;
use crate::session::tick;
use crate::slot::Slot;

/// Events of a link that wait to be looked at, at most; then the link waits.
const EVENTS_MAX: usize = 256;
/// Messages awaiting receipts that a new link is told of, at most.
const AWAITING_MAX: u32 = 10_000;
/// How long a link may take to disconnect, a doorbell to close, or a session to be unlinked.
const CLOSE_MAX: Duration = Duration::from_secs(3);
/// How long it may take to unlink a session that must be connected for that first.
const UNLINK_MAX: Duration = Duration::from_secs(10);
/// A wait for the pace that is shorter isn't told.
const PACING_TOLD: Duration = Duration::from_secs(1);

struct Connection {
    link: Arc<dyn Link>,
    events: mpsc::Receiver<BridgeEvent>,
    /// What it was opened with.
    way: Way,
}

/// What a connection depends on from its beginning: if that changes, it must be opened anew.
#[derive(PartialEq, Eq)]
struct Way {
    proxy: Option<Vec<u8>>,
    /// The number to pair it with by a code.
    pair_phone: Option<String>,
}

impl Way {
    fn of(session: &OwnedSession) -> Self {
        Self { proxy: session.proxy.clone(), pair_phone: session.pair_phone.clone().filter(|_| !session.paired) }
    }
}

/// A pull and its answer.
struct Answer {
    look: Look,
    places: u32,
    asked: Instant,
    pulled: Result<Pulled, StoreError>,
}

/// What drives a session.
pub(crate) struct Actor<'a> {
    life: Arc<Life>,
    bridge: Arc<dyn Bridge>,
    updates: &'a mut watch::Receiver<OwnedSession>,
    stop: CancellationToken,
    load: Arc<AtomicU32>,
    session: OwnedSession,
    /// What this actor claims under.
    claim: i64,
    board: Board,
    receipts: Receipts,

    connection: Option<Connection>,
    opening: Slot<Option<Connection>>,
    reopen: Backoff,
    open_at: Instant,
    /// It has no pairing any more, or its user must act: nothing is left to do.
    ended: bool,

    doorbell: Option<(u16, Box<dyn Doorbell>)>,
    puller: Puller,
    pulling: Slot<Answer>,
    pull_at: Instant,
    pull_pause: Backoff,
    /// A pull may have claimed messages that we don't know of: once all others are done, a new claim number makes them
    /// messages in doubt.
    claim_unsure: bool,
    suspended: bool,
    next_tick: Instant,

    /// The pace that holds, as far as has been told.
    pace: Pace,
    pacing: Pacing,
    pacing_told: Option<Instant>,
    telling: Slot<()>,
    sends: JoinSet<Finished>,
}

impl<'a> Actor<'a> {
    pub(crate) fn new(life: Arc<Life>, bridge: Arc<dyn Bridge>, reins: &'a mut Reins) -> Self {
        let session = reins.session.borrow_and_update().clone();
        let now = Instant::now();
        Self {
            board: Board::new(Arc::clone(&life), session.id, session.name.clone(), session.status),
            receipts: Receipts::new(Arc::clone(&life), session.id),
            claim: Life::next_claim(),
            connection: None,
            opening: Slot::empty(),
            reopen: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            open_at: now + ban_left(&session),
            ended: false,
            doorbell: None,
            puller: Puller::new(now),
            pulling: Slot::empty(),
            pull_at: now,
            pull_pause: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            claim_unsure: false,
            suspended: false,
            next_tick: tick::next(session.id, now),
            pace: effective(&session),
            pacing: Pacing::new(effective(&session)),
            pacing_told: None,
            telling: Slot::empty(),
            sends: JoinSet::new(),
            updates: &mut reins.session,
            stop: reins.stop.clone(),
            load: Arc::clone(&reins.load),
            life,
            bridge,
            session,
        }
    }

    /// Drives the session until it is asked to stop or isn't ours any more; then finishes what is in flight.
    pub(crate) async fn run(mut self) {
        let sleep = tokio::time::sleep_until(self.next_tick);
        tokio::pin!(sleep);
        loop {
            self.steer().await;
            if self.ended && self.board.has_ended() {
                break; // if it is wanted again, somebody takes it again
            }
            let wake = self.wake_at();
            if sleep.deadline() != wake {
                sleep.as_mut().reset(wake);
            }
            let listen = self.receipts.has_room();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Ok(()) = self.updates.changed() => self.updated(),
                Some(sent) = self.sends.join_next() => {
                    self.finished(sent);
                    // Those settled in the same transaction are as good as here: one pull for all of them.
                    tokio::task::yield_now().await;
                    while let Some(sent) = self.sends.try_join_next() {
                        self.finished(sent);
                    }
                }
                answer = self.pulling.next() => self.pulled(answer),
                ours = self.board.advance() => if !ours { break },
                () = self.receipts.advance() => {}
                event = event(&mut self.connection), if listen => self.event(event),
                connection = self.opening.next() => self.opened(connection),
                () = ring(&mut self.doorbell) => self.puller.ring(),
                () = self.life.lease.held(), if self.suspended => self.suspended = false,
                () = self.telling.next() => {}
                () = &mut sleep => {}
            }
        }
        self.finish().await;
    }

    /// Begins whatever can be begun now.
    async fn steer(&mut self) {
        let now = Instant::now();
        self.board.expire(now);
        if now >= self.next_tick {
            self.next_tick = tick::next(self.session.id, now);
            self.puller.interval();
            self.mind_pace(now);
        }
        if self.session.logout && !self.ended {
            return self.unlink().await;
        }
        self.open(now);
        self.mind_doorbell().await;
        self.pull(now);
        let in_flight = u32::try_from(self.sends.len()).unwrap_or(u32::MAX);
        let connected = self.board.status() == SessionStatus::Connected;
        self.load.store(if connected { in_flight.saturating_add(1) } else { 0 }, Ordering::Relaxed);
    }

    /// When to steer again if nothing happens.
    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let mut wake = self.next_tick;
        let mut by = |at: Instant| wake = wake.min(at);
        if let Some(at) = self.board.wake_at() {
            by(at);
        }
        if self.connection.is_none() && self.opening.is_free() && self.open_at > now {
            by(self.open_at);
        }
        if self.pull_at > now {
            by(self.pull_at);
        } else if self.may_pull() {
            // What is past already waits for a pace or a place, or has been acted on.
            self.puller.wake_at().filter(|at| *at > now).into_iter().for_each(&mut by);
            let next = self.pacing.next_at(now);
            if next > now {
                by(next);
            }
        }
        wake
    }

    // ---- The link ----

    fn is_wanted(&self) -> bool {
        self.session.wanted && !self.session.deleting && !self.ended
    }

    fn open(&mut self, now: Instant) {
        if self.connection.is_some() || !self.opening.is_free() || now < self.open_at || !self.is_wanted() {
            return;
        }
        self.board.show(SessionStatus::Connecting, None);
        self.opening.put(connect(Arc::clone(&self.life), Arc::clone(&self.bridge), self.session.clone()));
    }

    fn opened(&mut self, connection: Option<Connection>) {
        self.connection = connection;
        self.open_at = Instant::now() + self.reopen.pause();
        self.mind_way();
    }

    /// Gives the connection up if the session must be reached another way by now: the next one goes that way. What came to be
    /// paired meanwhile stays connected.
    fn mind_way(&mut self) {
        let wanted = Way::of(&self.session);
        if let Some(Connection { way, .. }) = &self.connection
            && (way.proxy != wanted.proxy || wanted.pair_phone.is_some() && way.pair_phone != wanted.pair_phone)
        {
            self.connection = None;
            self.open_at = Instant::now();
        }
    }

    fn event(&mut self, event: Option<BridgeEvent>) {
        match event {
            Some(BridgeEvent::Receipts(receipts)) => self.receipts.add(receipts),
            Some(BridgeEvent::Connecting) => self.board.show(SessionStatus::Connecting, None),
            Some(BridgeEvent::QrCode { code, expires_at }) => self.board.show_qr(code, expires_at),
            Some(BridgeEvent::PairCode { code, expires_at }) => self.board.show_pair_code(code, expires_at),
            Some(BridgeEvent::Paired { phone_number }) => self.board.pair(phone_number),
            Some(BridgeEvent::Connected) => {
                self.reopen.reset();
                self.puller.look_again();
                self.board.show(SessionStatus::Connected, None);
            }
            Some(BridgeEvent::Disconnected { reason }) => self.board.show(SessionStatus::Connecting, Some(reason)),
            Some(BridgeEvent::Halted { reason }) => {
                self.connection = None;
                self.ended = true;
                self.board.halt(reason);
            }
            Some(BridgeEvent::Banned { reason, until }) => {
                self.connection = None;
                self.open_at = Instant::now() + until.since(Time::now());
                self.board.ban(reason, until);
            }
            Some(BridgeEvent::LoggedOut { reason }) => {
                self.connection = None;
                self.ended = true;
                self.board.unlink(Some(reason));
            }
            None => {
                tracing::warn!(session = %self.session.id, name = self.session.name, "the bridge gave the session up; opening it again");
                self.connection = None;
                self.open_at = Instant::now() + self.reopen.pause();
                self.board.show(SessionStatus::Connecting, Some("connection_lost".to_owned()));
            }
        }
    }

    /// The user wants it unlinked: from the phone's list of devices, too, if that can be reached.
    async fn unlink(&mut self) {
        self.ended = true;
        let opened = async {
            if self.connection.is_none() {
                let opening = connect(Arc::clone(&self.life), Arc::clone(&self.bridge), self.session.clone());
                self.connection = if self.opening.is_free() { opening.await } else { self.opening.next().await };
            }
            if let Some(connection) = &self.connection {
                connection.link.logout().await;
            }
        };
        if tokio::time::timeout(UNLINK_MAX, opened).await.is_err() {
            tracing::warn!(session = %self.session.id, name = self.session.name, "unlinking took too long; forgotten on this side only");
        }
        self.connection = None;
        self.board.unlink(None);
    }

    // ---- What the user wants ----

    fn updated(&mut self) {
        let now = Instant::now();
        let new = self.updates.borrow_and_update().clone();
        let could = self.may_send();
        if new.pair_phone.is_some() && new.pair_phone != self.session.pair_phone && !new.paired {
            self.open_at = now; // its user waits for a code
        }
        if self.board.status() == SessionStatus::Banned && new.connects > self.session.connects {
            self.open_at = now; // its user wants to try before the end of the ban
        }
        self.session = new;
        self.mind_way();
        self.mind_pace(now);
        if let Some(until) = self.pacing_told
            && until > now
            && self.pacing.next_at(now) <= now
        {
            self.tell_pacing(None);
        }
        if !could && self.may_send() {
            self.puller.look_again();
        }
    }

    /// The pace that holds may have changed: by its user, or as a new link grows older.
    fn mind_pace(&mut self, now: Instant) {
        let pace = effective(&self.session);
        if pace == self.pace {
            return;
        }
        self.pace = pace;
        self.pacing.set(pace, now);
        if let Some(Connection { link, .. }) = &self.connection {
            link.set_pace(pace);
        }
    }

    const fn may_send(&self) -> bool {
        self.session.user_active && !self.session.paused && !self.session.deleting && !self.session.logout
    }

    /// The doorbell is open while a ring would lead to something.
    async fn mind_doorbell(&mut self) {
        let wanted = (self.board.is_live() && self.may_send()).then(|| self.pacing.prefetch());
        if self.doorbell.as_ref().map(|(prefetch, _)| *prefetch) == wanted {
            return;
        }
        if let Some((_, doorbell)) = self.doorbell.take() {
            let closing = tokio::time::timeout(CLOSE_MAX, doorbell.close());
            if wanted.is_some() {
                let _ = closing.await; // the next one must not meet this one
            } else {
                tokio::spawn(closing);
            }
        }
        if let Some(prefetch) = wanted {
            self.doorbell = Some((prefetch, self.life.queue.consume(self.session.id, prefetch).await));
        }
    }

    // ---- Pulling ----

    fn may_pull(&self) -> bool {
        self.pulling.is_free()
            && self.connection.is_some()
            && self.board.is_live()
            && self.may_send()
            && !self.suspended
            && self.free_places() > 0
    }

    fn free_places(&self) -> u32 {
        self.life.settings.session_places.saturating_sub(u32::try_from(self.sends.len()).unwrap_or(u32::MAX))
    }

    fn pull(&mut self, now: Instant) {
        if self.claim_unsure && self.pulling.is_free() && self.sends.is_empty() {
            self.claim_unsure = false;
            self.claim = Life::next_claim();
            self.puller = Puller::new(now);
        }
        if self.claim_unsure || !self.may_pull() || now < self.pull_at {
            return;
        }
        if !self.life.lease.holds() {
            self.suspended = true;
            return;
        }
        if !self.puller.wants(now) {
            return;
        }
        let places = self.pacing.places(self.free_places(), now);
        if places == 0 {
            return self.paced(now);
        }
        let Some(look) = self.puller.next(now) else { return };
        metrics::counter!("sanasr_pulls_total", "cause" => look.cause.as_str()).increment(1);
        let request = PullRequest {
            worker: self.life.id,
            session: self.session.id,
            claim: self.claim,
            places,
            from_seq: look.from_seq,
            low: look.low,
            scan: look.scan(),
            recipients: look.recipients(),
        };
        let store = Arc::clone(&self.life.store);
        self.pulling.put(async move { Answer { look, places, asked: now, pulled: store.pull(request).await } });
    }

    fn pulled(&mut self, answer: Answer) {
        let now = Instant::now();
        let Answer { look, places, asked, pulled } = answer;
        let pulled = match pulled {
            Ok(pulled) => pulled,
            Err(StoreError::Fenced) => return self.life.fenced(),
            Err(error) => {
                if !error.is_transient() {
                    tracing::error!(%error, session = %self.session.id, name = self.session.name, "couldn't pull");
                }
                self.claim_unsure |= !matches!(error, StoreError::Unavailable(_) | StoreError::Overloaded);
                self.puller.failed(look);
                self.pull_at = now + self.pull_pause.pause();
                return;
            }
        };
        self.pull_pause.reset();
        if !pulled.ready && pulled.messages.is_empty() {
            return self.puller.refused(look);
        }
        self.pacing.take(u32::try_from(pulled.messages.len()).unwrap_or(u32::MAX), now);
        let idle = self.puller.done(look, &pulled, places, now);
        if idle && let Some((_, doorbell)) = &mut self.doorbell {
            doorbell.idle();
        }
        // What was claimed while the session stopped or lost its connection is given back unsent.
        let usable = self.board.status() == SessionStatus::Connected && self.may_send() && !self.stop.is_cancelled();
        let link = self.connection.as_ref().filter(|_| usable).map(|c| Arc::clone(&c.link));
        for message in pulled.messages {
            let delivery = Delivery {
                life: Arc::clone(&self.life),
                session: self.session.id,
                user: self.session.user_id,
                claim: self.claim,
                link: link.clone(),
                repeats: self.bridge.repeats_under_same_id(),
                clock: (pulled.now, asked),
                stop: self.stop.clone(),
            };
            metrics::gauge!("sanasr_sends_in_flight").increment(1);
            let in_flight = InFlight;
            self.sends.spawn(async move {
                let _in_flight = in_flight;
                delivery.run(message).await
            });
        }
    }

    fn finished(&mut self, sent: Result<Finished, JoinError>) {
        let Finished { seq, recipient, end, restricted, held } = match sent {
            Ok(finished) => finished,
            Err(error) => {
                // Nobody knows which message it was: under another claim number it is found as one in doubt.
                tracing::error!(%error, session = %self.session.id, "a send crashed while being written down");
                self.claim_unsure = true;
                return;
            }
        };
        match end {
            Ended::Closed => {
                self.puller.ended(&recipient, seq);
                if self.puller.is_behind()
                    && let Some((_, doorbell)) = &mut self.doorbell
                {
                    doorbell.finished();
                }
            }
            Ended::Waits(until) => self.puller.waits(recipient, until),
            Ended::Released => self.puller.released(recipient),
            // Its row can't be written: its place is free, and nothing is done for it.
            Ended::Abandoned => self.puller.ended(&recipient, seq),
            Ended::Lost => {}
        }
        if held {
            self.pacing.put_back(1);
        }
        if restricted {
            self.board.restricted(Instant::now());
        }
    }

    // ---- Pacing ----

    /// Something would be looked for if the pace allowed it.
    fn paced(&mut self, now: Instant) {
        let until = self.pacing.next_at(now);
        let told = self.pacing_told.is_some_and(|told| told + PACING_TOLD >= until);
        if until > now + PACING_TOLD && !told {
            self.tell_pacing(Some(until));
        }
    }

    fn tell_pacing(&mut self, until: Option<Instant>) {
        if !self.telling.is_free() {
            return; // said with the next wait
        }
        self.pacing_told = until;
        // The store's reader compares it with the database's clock: near enough for a word of explanation.
        let until = until.map(|at| Time::now().plus(at.saturating_duration_since(Instant::now())));
        let (life, session) = (Arc::clone(&self.life), self.session.id);
        self.telling.put(async move {
            match life.store.report_pacing(life.id, session, until).await {
                Ok(()) => {}
                Err(StoreError::Fenced) => life.fenced(),
                Err(error) => tracing::debug!(%error, %session, "couldn't say that the session paces"),
            }
        });
    }

    // ---- The end ----

    /// Finishes what is in flight, for a bounded time: nothing new is claimed. Then the session may be given back.
    async fn finish(mut self) {
        let deadline = tokio::time::sleep(self.life.drain);
        tokio::pin!(deadline);
        if let Some((_, doorbell)) = self.doorbell.take() {
            self.telling = Slot::empty();
            self.telling.put(async move {
                let _ = tokio::time::timeout(CLOSE_MAX, doorbell.close()).await;
            });
        }
        while !(self.sends.is_empty()
            && self.pulling.is_free()
            && self.telling.is_free()
            && self.receipts.is_idle()
            && self.board.is_idle())
        {
            let listen = self.receipts.has_room();
            tokio::select! {
                answer = self.pulling.next() => self.pulled(answer),
                Some(sent) = self.sends.join_next() => self.finished(sent),
                () = self.receipts.advance() => {}
                ours = self.board.advance() => if !ours { break },
                () = self.telling.next() => {}
                Some(arrived) = event(&mut self.connection), if listen => {
                    if let BridgeEvent::Receipts(receipts) = arrived {
                        self.receipts.add(receipts);
                    }
                }
                () = &mut deadline => {
                    if !self.sends.is_empty() {
                        tracing::warn!(session = %self.session.id, name = self.session.name, sends = self.sends.len(), "left in doubt: not acknowledged in time");
                    }
                    break;
                }
            }
        }
        self.sends.shutdown().await;
        if let Some(Connection { link, .. }) = self.connection.take() {
            // A session that is deleted leaves no device behind on its phone.
            let deleting = self.updates.borrow().deleting;
            let closed = async { if deleting { link.logout().await } else { link.disconnect().await } };
            let _ = tokio::time::timeout(CLOSE_MAX, closed).await;
        }
    }
}

/// The gauge of sends in flight, right whatever becomes of the task.
struct InFlight;

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!("sanasr_sends_in_flight").decrement(1);
    }
}

/// The pace that holds now.
fn effective(session: &OwnedSession) -> Pace {
    session.paired_at.map_or(session.pace, |at| session.pace.after(Time::now().since(at)))
}

/// How long the session's ban still lasts.
fn ban_left(session: &OwnedSession) -> Duration {
    let until = session.blocked_until.filter(|_| session.status == SessionStatus::Banned);
    until.map_or(Duration::ZERO, |until| until.since(Time::now()))
}

async fn connect(life: Arc<Life>, bridge: Arc<dyn Bridge>, session: OwnedSession) -> Option<Connection> {
    let awaiting = if bridge.wants_awaiting() {
        let read = life.persist("a session's open receipts", || life.store.awaiting_receipts(session.id, AWAITING_MAX));
        match read.await {
            Ok(awaiting) => awaiting,
            Err(Unwritten::Lost) => return None,
            // A row that can't be read must not keep the session closed.
            Err(Unwritten::Refused(_)) => Vec::new(),
        }
    } else {
        Vec::new()
    };
    let way = Way::of(&session);
    let request = LinkRequest {
        session: session.id,
        owner: life.owner(),
        pace: effective(&session),
        proxy: session.proxy,
        awaiting,
        paired: session.phone_number.filter(|_| session.paired),
        pair_phone: session.pair_phone.filter(|_| !session.paired),
    };
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let link = bridge.open(request, sender).await;
    Some(Connection { link, events, way })
}

/// The connection's next event, `None` when there will be none; waits for ever without a connection. Cancel-safe.
async fn event(connection: &mut Option<Connection>) -> Option<BridgeEvent> {
    match connection {
        Some(connection) => connection.events.recv().await,
        None => std::future::pending().await,
    }
}

/// The doorbell's next ring; waits for ever without a doorbell. Cancel-safe.
async fn ring(doorbell: &mut Option<(u16, Box<dyn Doorbell>)>) {
    match doorbell {
        Some((_, doorbell)) => doorbell.ring().await,
        None => std::future::pending().await,
    }
}
