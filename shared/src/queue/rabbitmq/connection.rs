//! Connections to RabbitMQ that come back.
//!
//! Reconnecting is ours: the client's own recovery hides the break, and what hangs on it. A *line* is one connection that a
//! task keeps up for ever; whoever uses it learns from its state that the connection is a new one, and begins anew.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::lifecycle::{Backoff, Presence, Watchdog};

/// How long a call to the broker may take. None of the client's calls has a limit of its own.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long closing may take.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long connecting may take: RabbitMQ itself gives a handshake 10 s. An attempt given up keeps its thread until its
/// socket breaks, so this isn't shorter.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Seconds between heartbeats: a dead peer is noticed after two.
const HEARTBEAT_SECS: u16 = 5;
/// Buffers follow the frame size: 0.12 MiB for a connection so, 7.6 MiB with the default of 128 KiB.
const FRAME_BYTES_MAX: u32 = 8192;
/// What lasted this long was sound: the next pause is the first one again.
pub(super) const SOUND: Duration = Duration::from_secs(5);
/// Channels that are being set up at once on a line: thousands of consumers that start together on full queues drown each
/// other in deliveries.
const SET_UPS_AT_ONCE: usize = 16;

/// What went wrong with the broker.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{what}: no answer within {} s", limit.as_secs())]
    Late { what: &'static str, limit: Duration },
    #[error("{0}")]
    Amqp(#[from] lapin::Error),
    #[error("{0}")]
    Lost(&'static str),
}

impl Fault {
    /// A queue of this name is there, with other arguments.
    pub(super) fn is_precondition_failed(&self) -> bool {
        self.is_soft(&AMQPSoftError::PRECONDITIONFAILED)
    }

    /// There is no such queue.
    pub(super) fn is_not_found(&self) -> bool {
        self.is_soft(&AMQPSoftError::NOTFOUND)
    }

    fn is_soft(&self, wanted: &AMQPSoftError) -> bool {
        let Self::Amqp(error) = self else { return false };
        let ErrorKind::ProtocolError(error) = error.kind() else { return false };
        matches!(error.kind(), AMQPErrorKind::Soft(kind) if kind == wanted)
    }
}

/// Gives a call to the broker a time limit.
pub(super) async fn within<T>(
    limit: Duration,
    what: &'static str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Fault::Late { what, limit }),
    }
}

/// Reads a broker's URL, and sets what the connections need.
///
/// # Errors
/// What is wrong with it, without its password.
pub(super) fn read_url(url: &str) -> Result<AMQPUri, String> {
    // The parser's error may hold the whole URL, and so the password.
    let mut uri: AMQPUri = url.parse().map_err(|_| "not of the form amqp://user:password@host/vhost".to_owned())?;
    let host = uri.authority.host.as_str();
    // The parser takes an IPv6 address for no host, and that for localhost.
    if host.is_empty() || url.contains("@[") || url.contains("//[") {
        return Err("the host must be a name or an IPv4 address".to_owned());
    }
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    uri.query.frame_max.get_or_insert(FRAME_BYTES_MAX);
    // Without heartbeats a dead peer would never be noticed.
    uri.query.heartbeat = Some(uri.query.heartbeat.filter(|secs| (1..=60).contains(secs)).unwrap_or(HEARTBEAT_SECS));
    Ok(uri)
}

#[derive(Debug, Clone)]
enum State {
    /// The first attempt is under way.
    Starting,
    Away,
    Up(Arc<Connection>),
    /// Connected, but an alarm of the broker holds up everything that is written.
    Blocked(Arc<Connection>),
}

/// One connection that is made again for ever, until the line is dropped or stopped.
pub(super) struct Line {
    state: watch::Receiver<State>,
    /// Room for those who set up a channel.
    pub(super) set_up: Semaphore,
    places: AtomicUsize,
    _stop: DropGuard,
}

impl Line {
    /// Begins to connect. `purpose` shows in logs and in the broker's list of connections.
    pub(super) fn start(
        uri: &AMQPUri,
        purpose: &'static str,
        watchdog: &Watchdog,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let (sender, state) = watch::channel(State::Starting);
        let stop = stop.child_token();
        let (uri, ended, watchdog) = (uri.clone(), stop.clone(), watchdog.clone());
        tokio::spawn(async move {
            watchdog.keep("a connection to RabbitMQ", |_| keep(&uri, purpose, &sender, &ended)).await;
        });
        Arc::new(Self {
            state,
            set_up: Semaphore::new(SET_UPS_AT_ONCE),
            places: AtomicUsize::new(0),
            _stop: stop.drop_guard(),
        })
    }

    /// Waits until it is connected and nothing holds it up; `None` if it is stopped.
    pub(super) async fn connection(&self) -> Option<Arc<Connection>> {
        let mut state = self.state.clone();
        let state = state.wait_for(|state| matches!(state, State::Up(_))).await.ok()?;
        match &*state {
            State::Up(connection) => Some(Arc::clone(connection)),
            State::Starting | State::Away | State::Blocked(_) => None,
        }
    }

    /// The connection if there is one; waits for the first attempt only, `limit` at most.
    pub(super) async fn connection_now(&self, limit: Duration) -> Option<Arc<Connection>> {
        let mut state = self.state.clone();
        let attempted = state.wait_for(|state| !matches!(state, State::Starting));
        let state = tokio::time::timeout(limit, attempted).await.ok()?.ok()?;
        match &*state {
            State::Up(connection) => Some(Arc::clone(connection)),
            State::Starting | State::Away | State::Blocked(_) => None,
        }
    }

    /// Waits until this connection is gone.
    pub(super) async fn gone(&self, connection: &Arc<Connection>) {
        let same = |state: &State| match state {
            State::Up(current) | State::Blocked(current) => Arc::ptr_eq(current, connection),
            State::Starting | State::Away => false,
        };
        // An error means that the line is stopped: gone, too.
        let _ = self.state.clone().wait_for(|state| !same(state)).await;
    }

    /// Whether the broker can be reached.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_) | State::Blocked(_))
    }

    /// Waits until it has closed, after its stop.
    pub(super) async fn closed(&self) {
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }

    /// Takes a place for a channel that lasts, if fewer than `most` are taken.
    pub(super) fn try_take_place(self: &Arc<Self>, most: usize) -> Option<Place> {
        let taken = self.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        taken.ok().map(|_| Place(Arc::clone(self)))
    }

    /// Nobody has a place.
    pub(super) fn is_empty(&self) -> bool {
        self.places.load(Ordering::Relaxed) == 0
    }
}

/// A place for one lasting channel on a line.
pub(super) struct Place(Arc<Line>);

impl Place {
    pub(super) fn line(&self) -> &Line {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn keep(uri: &AMQPUri, purpose: &'static str, state: &watch::Sender<State>, stop: &CancellationToken) {
    let name = format!("RabbitMQ at {}:{} ({purpose})", uri.authority.host, uri.authority.port);
    let mut presence = Presence::new(name.clone());
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let attempt = tokio::select! {
            () = stop.cancelled() => return,
            attempt = connect(uri, purpose) => attempt,
        };
        match attempt {
            Ok(connection) => {
                presence.here();
                let since = Instant::now();
                let ended = watch_over(Arc::new(connection), &name, state, stop).await;
                state.send_replace(State::Away);
                let Some(fault) = ended else { return };
                presence.away(&fault);
                if since.elapsed() > SOUND {
                    backoff.reset();
                }
            }
            Err(fault) => {
                presence.away(&fault);
                state.send_if_modified(|state| {
                    let first = matches!(state, State::Starting);
                    *state = State::Away;
                    first
                });
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
}

async fn connect(uri: &AMQPUri, purpose: &str) -> Result<Connection, Fault> {
    let properties = ConnectionProperties::default().with_connection_name(format!("sanasr {purpose}").into());
    within(CONNECT_LIMIT, "connecting", Connection::connect_uri(uri.clone(), properties)).await
}

/// Tells what a connection does until it breaks; `None` if it was closed because of the stop.
async fn watch_over(
    connection: Arc<Connection>,
    name: &str,
    state: &watch::Sender<State>,
    stop: &CancellationToken,
) -> Option<Fault> {
    // Also looked at by the clock: what broke before there was a listener made no event.
    let mut look = tokio::time::interval(Duration::from_secs(1));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut events = pin!(connection.events_listener());
    state.send_replace(State::Up(Arc::clone(&connection)));
    let mut fault = Fault::Lost("the connection was closed");
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                state.send_replace(State::Away);
                let closing = connection.close(200, "OK".into());
                if let Err(fault) = within(CLOSE_LIMIT, "closing the connection", closing).await {
                    tracing::debug!(%fault, "{name}");
                }
                return None;
            }
            _ = look.tick() => {}
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "{name} takes nothing for now");
                    state.send_replace(State::Blocked(Arc::clone(&connection)));
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!("{name} takes jobs again");
                    state.send_replace(State::Up(Arc::clone(&connection)));
                }
                // A channel's errors come here, too.
                Some(Event::Error(error)) => fault = error.into(),
                Some(_) => {}
                None => return Some(fault),
            }
        }
        if !connection.status().connected() {
            return Some(fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gets_what_the_connections_need() {
        let uri = read_url("amqp://u:p@mq:5673/").expect("a good URL");
        assert_eq!((uri.vhost.as_str(), uri.authority.port), ("/", 5673));
        assert_eq!((uri.query.heartbeat, uri.query.frame_max), (Some(HEARTBEAT_SECS), Some(FRAME_BYTES_MAX)));
        let uri = read_url("amqps://mq/v?heartbeat=20&frame_max=131072").expect("a good URL");
        assert_eq!((uri.query.heartbeat, uri.query.frame_max), (Some(20), Some(131_072)));
        assert_eq!(read_url("amqp://mq?heartbeat=0").expect("a good URL").query.heartbeat, Some(HEARTBEAT_SECS));
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_its_password() {
        for wrong in ["", "mq", "http://u:hunter2@mq", "amqp:u:hunter2", "amqp://u:hunter2@[::1]/v", "amqp://mq:99999"]
        {
            let error = read_url(wrong).expect_err(wrong);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
