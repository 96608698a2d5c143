//! Signals between processes, over Redis: one channel for a deployment.
//!
//! A process hears its own signals at once and not a second time through Redis. What is lost (Redis away, too many at
//! once) isn't repeated: whoever may have missed something hears [`Signal::Missed`] and looks again.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::LISTENER_CAPACITY;
use crate::lifecycle::{Backoff, Presence, Watchdog};
use crate::ports::signals::{Signal, Signals};

/// Signals that wait to be published, at most.
const WAITING_MAX: usize = 10_000;
/// Messages and signals in one publication, at most (but for one signal that alone has more).
const TOGETHER_MAX: usize = 500;
/// How long connecting may take, and Redis to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Between looks whether a silent connection still answers.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long closing may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// A connection that lasted this long was sound: the next pause is the first one again.
const SOUND: Duration = Duration::from_secs(5);

/// Signals over Redis.
pub struct RedisSignals {
    listeners: broadcast::Sender<Arc<Signal>>,
    outgoing: mpsc::Sender<Signal>,
    up: Arc<Up>,
    /// Ends the publisher when it has sent what waits.
    closing: CancellationToken,
    stop: CancellationToken,
    publisher: Mutex<Option<JoinHandle<()>>>,
    _stop_when_dropped: DropGuard,
}

/// What works at present.
#[derive(Debug, Default)]
struct Up {
    publishing: AtomicBool,
    hearing: AtomicBool,
    /// Signals were dropped since the last publication.
    lost: AtomicBool,
}

/// What goes over the wire.
#[derive(Serialize, Deserialize)]
struct Envelope {
    /// The process that sends it, to be left out there.
    from: Uuid,
    signals: Vec<Signal>,
}

impl RedisSignals {
    /// Begins to connect, in tasks of the current Tokio runtime, and goes on for ever.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn start(url: &str, deployment: &str, watchdog: &Watchdog) -> Result<Arc<Self>, String> {
        // The library's error may hold parts of the URL, and so a password.
        let unfit = |e: redis::RedisError| format!("not redis://host or rediss://host ({:?})", e.kind());
        let server = url.into_connection_info().map_err(unfit)?;
        // Small messages go out at once.
        let server = server.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(server).map_err(unfit)?;
        let channel = format!("{deployment}.signals");
        let process = Uuid::now_v7();
        let (listeners, up) = (broadcast::Sender::new(LISTENER_CAPACITY), Arc::<Up>::default());
        let (stop, closing) = (CancellationToken::new(), CancellationToken::new());
        let (outgoing, waiting) = mpsc::channel(WAITING_MAX);
        let wire = Wire { client, channel, process, up: Arc::clone(&up) };
        let publisher = Publisher { wire: wire.clone(), waiting, unsent: None };
        let (owner, heard, ended) = (watchdog.clone(), listeners.clone(), stop.clone());
        tokio::spawn(async move { owner.keep("hearing signals", |_| hear(&wire, &heard, &ended)).await });
        let (owner, told, ended) = (watchdog.clone(), closing.clone(), stop.clone());
        let publisher = tokio::spawn(async move {
            let publisher = tokio::sync::Mutex::new(publisher);
            owner.keep("publishing signals", async |_| publisher.lock().await.run(&told, &ended).await).await;
        });
        Ok(Arc::new(Self {
            listeners,
            outgoing,
            up,
            closing,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
            publisher: Mutex::new(Some(publisher)),
        }))
    }
}

#[async_trait]
impl Signals for RedisSignals {
    fn publish(&self, signal: Signal) {
        if self.outgoing.try_send(signal.clone()).is_err() {
            self.up.lost.store(true, Ordering::Relaxed);
            metrics::counter!("sanasr_signals_dropped_total").increment(1);
        }
        // An error means that nobody listens here.
        let _ = self.listeners.send(Arc::new(signal));
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Signal>> {
        self.listeners.subscribe()
    }

    fn is_connected(&self) -> bool {
        self.up.publishing.load(Ordering::Relaxed) && self.up.hearing.load(Ordering::Relaxed)
    }

    async fn close(&self) {
        self.closing.cancel();
        let publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut publisher) = publisher
            && tokio::time::timeout(CLOSE_LIMIT, &mut publisher).await.is_err()
        {
            publisher.abort();
        }
        self.stop.cancel();
        self.up.publishing.store(false, Ordering::Relaxed);
        self.up.hearing.store(false, Ordering::Relaxed);
    }
}

/// What both tasks need.
#[derive(Clone)]
struct Wire {
    client: Client,
    channel: String,
    process: Uuid,
    up: Arc<Up>,
}

impl Wire {
    fn presence(&self, purpose: &str) -> Presence {
        Presence::new(format!("Redis at {} ({purpose})", self.client.get_connection_info().addr()))
    }
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("no answer within {} s", ANSWER_LIMIT.as_secs())]
    Late,
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    #[error("the connection was closed")]
    Closed,
}

async fn within<T>(call: impl Future<Output = redis::RedisResult<T>>) -> Result<T, Fault> {
    Ok(tokio::time::timeout(ANSWER_LIMIT, call).await.map_err(|_| Fault::Late)??)
}

const fn reconnecting() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}

fn pings() -> tokio::time::Interval {
    let mut pings = tokio::time::interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

// ---- Publishing ----

struct Publisher {
    wire: Wire,
    waiting: mpsc::Receiver<Signal>,
    /// Taken from `waiting`, and not known to have gone out.
    unsent: Option<Vec<Signal>>,
}

impl Publisher {
    async fn run(&mut self, closing: &CancellationToken, stop: &CancellationToken) {
        self.wire.up.publishing.store(false, Ordering::Relaxed);
        if self.unsent.take().is_some() {
            // It panicked over these; whoever would have heard them looks again instead.
            self.wire.up.lost.store(true, Ordering::Relaxed);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep(closing) => {}
        }
    }

    async fn keep(&mut self, closing: &CancellationToken) {
        let mut presence = self.wire.presence("publishing");
        let mut backoff = reconnecting();
        loop {
            let since = Instant::now();
            let ended = match self.connect().await {
                Ok(mut connection) => {
                    presence.here();
                    self.wire.up.publishing.store(true, Ordering::Relaxed);
                    let ended = self.publish_all(&mut connection, closing).await;
                    self.wire.up.publishing.store(false, Ordering::Relaxed);
                    ended
                }
                Err(fault) => Err(fault),
            };
            let Err(fault) = ended else { return };
            presence.away(&fault);
            if since.elapsed() > SOUND {
                backoff.reset();
            }
            tokio::select! {
                // Without Redis there is nobody to tell.
                () = closing.cancelled() => return,
                () = tokio::time::sleep(backoff.pause()) => {}
            }
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Fault> {
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT));
        within(self.wire.client.get_multiplexed_async_connection_with_config(&limits)).await
    }

    /// Publishes until the closing, and then what still waits.
    async fn publish_all(
        &mut self,
        connection: &mut MultiplexedConnection,
        closing: &CancellationToken,
    ) -> Result<(), Fault> {
        let mut pings = pings();
        loop {
            if self.unsent.is_none() {
                let first = tokio::select! {
                    biased;
                    first = self.waiting.recv() => first,
                    () = closing.cancelled() => None,
                    _ = pings.tick() => {
                        within(redis::cmd("PING").exec_async(connection)).await?;
                        continue;
                    }
                };
                let Some(first) = first else { return Ok(()) };
                let mut signals = gather(first, || self.waiting.try_recv().ok());
                if self.wire.up.lost.swap(false, Ordering::Relaxed) {
                    signals.push(Signal::Missed);
                }
                self.unsent = Some(signals);
            }
            if let Some(signals) = &self.unsent {
                // After a fault they go out again: twice is allowed.
                self.publish(connection, signals).await?;
                self.unsent = None;
            }
        }
    }

    async fn publish(&self, connection: &mut MultiplexedConnection, signals: &[Signal]) -> Result<(), Fault> {
        let envelope = Envelope { from: self.wire.process, signals: signals.to_vec() };
        let Ok(text) = serde_json::to_vec(&envelope) else { return Ok(()) };
        within(redis::cmd("PUBLISH").arg(&self.wire.channel).arg(text).exec_async(connection)).await
    }
}

/// Folds a signal and those that wait behind it into few: all messages into one list, everything else once.
fn gather(first: Signal, mut next: impl FnMut() -> Option<Signal>) -> Vec<Signal> {
    let mut messages = Vec::new();
    let mut others = Vec::new();
    let mut signal = Some(first);
    let mut taken = 0;
    while let Some(one) = signal {
        match one {
            Signal::Messages(ids) => {
                taken += ids.len().max(1);
                messages.extend(ids);
            }
            other @ (Signal::Session(_) | Signal::SessionFree | Signal::User(_) | Signal::Missed) => {
                taken += 1;
                if !others.contains(&other) {
                    others.push(other);
                }
            }
        }
        signal = if taken < TOGETHER_MAX { next() } else { None };
    }
    if !messages.is_empty() {
        let mut seen = HashSet::with_capacity(messages.len());
        messages.retain(|id| seen.insert(*id));
        others.push(Signal::Messages(messages));
    }
    others
}

// ---- Hearing ----

async fn hear(wire: &Wire, listeners: &broadcast::Sender<Arc<Signal>>, stop: &CancellationToken) {
    wire.up.hearing.store(false, Ordering::Relaxed);
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep_hearing(wire, listeners) => {}
    }
}

async fn keep_hearing(wire: &Wire, listeners: &broadcast::Sender<Arc<Signal>>) {
    let mut presence = wire.presence("hearing");
    let mut backoff = reconnecting();
    loop {
        let since = Instant::now();
        let fault = match subscribe(wire).await {
            Ok((mut sink, stream)) => {
                presence.here();
                wire.up.hearing.store(true, Ordering::Relaxed);
                let _ = listeners.send(Arc::new(Signal::Missed));
                let fault = listen(wire, listeners, &mut sink, stream).await;
                wire.up.hearing.store(false, Ordering::Relaxed);
                fault
            }
            Err(fault) => fault,
        };
        presence.away(&fault);
        if since.elapsed() > SOUND {
            backoff.reset();
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn subscribe(wire: &Wire) -> Result<(PubSubSink, PubSubStream), Fault> {
    let (mut sink, stream) = within(wire.client.get_async_pubsub()).await?.split();
    within(sink.subscribe(&wire.channel)).await?;
    Ok((sink, stream))
}

async fn listen(
    wire: &Wire,
    listeners: &broadcast::Sender<Arc<Signal>>,
    sink: &mut PubSubSink,
    mut stream: PubSubStream,
) -> Fault {
    let mut pings = pings();
    loop {
        tokio::select! {
            message = stream.next() => match message {
                Some(message) => {
                    for signal in read(message.get_payload_bytes(), wire.process) {
                        let _ = listeners.send(Arc::new(signal));
                    }
                }
                None => return Fault::Closed,
            },
            _ = pings.tick() => {
                if let Err(fault) = within(sink.ping::<redis::Value>()).await {
                    return fault;
                }
            }
        }
    }
}

/// The signals that a publication brings to this process. What can't be read, such as a later version's, is a reason to
/// look again.
fn read(payload: &[u8], process: Uuid) -> Vec<Signal> {
    match serde_json::from_slice::<Envelope>(payload) {
        Ok(envelope) if envelope.from == process => Vec::new(),
        Ok(envelope) => envelope.signals,
        Err(error) => {
            tracing::debug!(%error, "a signal of an unknown form");
            vec![Signal::Missed]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MessageId, SessionId, UserId};

    fn gathered(signals: Vec<Signal>) -> (Vec<Signal>, usize) {
        let mut waiting = signals.into_iter();
        let first = waiting.next().expect("one at least");
        let folded = gather(first, || waiting.next());
        (folded, waiting.len())
    }

    #[test]
    fn signals_are_folded() {
        let ids: Vec<_> = (0..3).map(|_| MessageId::generate()).collect();
        let session = SessionId::generate();
        let (folded, left) = gathered(vec![
            Signal::Messages(vec![ids[0]]),
            Signal::Session(session),
            Signal::Messages(vec![ids[1], ids[0]]),
            Signal::SessionFree,
            Signal::Session(session),
            Signal::User(UserId(1)),
            Signal::Messages(vec![ids[2]]),
            Signal::SessionFree,
        ]);
        let expected = [Signal::Session(session), Signal::SessionFree, Signal::User(UserId(1)), Signal::Messages(ids)];
        assert_eq!((folded.as_slice(), left), (&expected[..], 0));
    }

    #[test]
    fn a_publication_is_bounded() {
        let list = |n| Signal::Messages((0..n).map(|_| MessageId::generate()).collect());
        let (folded, left) = gathered((0..TOGETHER_MAX + 20).map(|_| list(1)).collect());
        assert!(matches!(&folded[..], [Signal::Messages(ids)] if ids.len() == TOGETHER_MAX), "{}", folded.len());
        assert_eq!(left, 20);
        // One signal stays whole.
        let (folded, left) = gathered(vec![list(TOGETHER_MAX * 2), list(1)]);
        assert!(matches!(&folded[..], [Signal::Messages(ids)] if ids.len() == TOGETHER_MAX * 2));
        assert_eq!(left, 1);
    }

    #[test]
    fn own_signals_are_left_out_and_unknown_ones_mean_look_again() {
        let (me, other) = (Uuid::now_v7(), Uuid::now_v7());
        let text = |from| serde_json::to_vec(&Envelope { from, signals: vec![Signal::SessionFree] }).expect("JSON");
        assert_eq!(read(&text(me), me), []);
        assert_eq!(read(&text(other), me), [Signal::SessionFree]);
        for odd in [
            &b""[..],
            b"hello",
            br#"{"from":"x"}"#,
            br#"{"from":"00000000-0000-0000-0000-000000000000","signals":["new"]}"#,
        ] {
            assert_eq!(read(odd, me), [Signal::Missed]);
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_its_password() {
        for wrong in ["", "host", "http://:hunter2@host", "redis://:hunter2@host:port"] {
            let error = RedisSignals::start(wrong, "d", &Watchdog::default()).err().expect(wrong);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
