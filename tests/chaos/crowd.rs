//! Clients that behave badly and remember what they were told: they hang up, stall, close one half of the connection, and repeat, at
//! once and on several connections. In the end each of them insists until it has an answer, so that it is certain what must be there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sanasr_shared::time::Time;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::Message;
use crate::harness::files::{Parts, picture};
use crate::harness::raw::{Raw, RawReply};
use crate::harness::wait::seconds;

/// How long a request may stay without an answer while its server lives.
const ANSWER_MAX: Duration = seconds(60);
/// How long a client insists.
const INSIST_MAX: Duration = seconds(60);
/// Before a client asks again, and between its steps.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that a client leaves open without a word, at most.
const STALLED_MAX: usize = 3;
/// How long a scheduled message waits that goes out while the test runs.
const SOON: Duration = seconds(4);

/// The kind of message that is scheduled and goes out.
const SCHEDULED: usize = 1;

/// What must become of an accepted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes out.
    Sent,
    /// It is taken back before it could go out.
    Cancelled,
    /// It goes out or is taken back, but not both.
    Either,
}

/// A message that a client knows to be accepted.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) message: Message,
    pub(super) fate: Fate,
}

/// A request that is safe to repeat.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    key: Option<String>,
    kind: String,
    body: Vec<u8>,
}

/// What a client does with a request. Numbers are shares of its bytes, or of its answer's, in thousandths.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Sends it and takes the answer.
    Good,
    /// Hangs up within the request.
    HangUp(usize),
    /// Hangs up a while after the request, without a look at the answer.
    Leave(Duration),
    /// Hangs up within the answer, which has more than 200 bytes.
    HalfAnswer(usize),
    /// Sends a part and falls silent.
    Stall(usize),
    /// Sends it, asks for much more, and reads nothing.
    Deaf,
    /// Says after the request that nothing more will come, and listens.
    HalfClose,
    /// Says so within the request, and listens.
    HalfCloseWithin(usize),
}

impl Manner {
    fn any(random: &mut StdRng) -> Self {
        let share = random.random_range(0..1_000);
        match random.random_range(0..12) {
            0..3 => Self::HangUp(share),
            3..6 => Self::Leave(Duration::from_micros(random.random_range(0..8_000))),
            6 => Self::HalfAnswer(share),
            7 => Self::Stall(share),
            8 => Self::Deaf,
            9 => Self::HalfClose,
            10 => Self::HalfCloseWithin(share),
            _ => Self::Good,
        }
    }
}

/// What all clients of a crowd share.
#[derive(Debug)]
struct Shared {
    origins: Mutex<Vec<String>>,
    key: String,
    stop: AtomicBool,
    steps: AtomicUsize,
    tries: AtomicUsize,
    replayed: AtomicUsize,
}

/// A crowd at work.
#[derive(Debug)]
pub(super) struct Crowd {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Known>>>,
}

impl Crowd {
    /// So many clients, which go on until they are stopped. `key` is the API key that all use.
    pub(super) fn start(origins: Vec<String>, key: &str, clients: usize, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            origins: Mutex::new(origins),
            key: key.to_owned(),
            stop: AtomicBool::default(),
            steps: AtomicUsize::default(),
            tries: AtomicUsize::default(),
            replayed: AtomicUsize::default(),
        });
        let client = |(number, seed)| {
            let client = Client {
                shared: Arc::clone(&shared),
                random: StdRng::seed_from_u64(seed),
                number,
                step: 0,
                stalled: Vec::new(),
                told: BTreeMap::new(),
                known: Vec::new(),
            };
            tokio::spawn(client.live())
        };
        // Seeds far apart, so that two runs have no client in common.
        let seeds = std::iter::successors(Some(seed), |seed| {
            Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1))
        });
        Self { clients: (0..clients).zip(seeds).map(client).collect(), shared }
    }

    /// The steps that are done.
    pub(super) fn steps(&self) -> usize {
        self.shared.steps.load(Ordering::Relaxed)
    }

    /// Whether many requests were made badly, and answers told that a request was known by its key.
    pub(super) fn was_bad(&self) -> bool {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let (steps, tries, replayed) = (self.steps(), count(&self.shared.tries), count(&self.shared.replayed));
        println!("{steps} steps, {tries} requests made badly, {replayed} answers to requests that were known");
        tries > steps && replayed > 0
    }

    /// The processes that can be reached from now on.
    pub(super) fn move_to(&self, origins: Vec<String>) {
        *self.shared.origins.lock().unwrap_or_else(PoisonError::into_inner) = origins;
    }

    /// Whether a client has come to its end: one that fails shows it.
    pub(super) fn has_ended(&self) -> bool {
        self.clients.iter().any(JoinHandle::is_finished)
    }

    /// Lets all finish the step that they are in: all that was accepted, each client's in its order.
    pub(super) async fn stop(&mut self) -> Vec<Vec<Known>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = join_all(self.clients.drain(..)).await;
        ended.into_iter().map(|known| known.expect("a client that holds to its promises")).collect()
    }
}

/// One client, with a recipient for each kind of message.
struct Client {
    shared: Arc<Shared>,
    random: StdRng,
    number: usize,
    step: usize,
    /// Connections on which nothing more happens.
    stalled: Vec<Raw>,
    /// The ids that answers named under each key.
    told: BTreeMap<String, Vec<Value>>,
    known: Vec<Known>,
}

impl Client {
    async fn live(mut self) -> Vec<Known> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.random.random_range(0..9) {
                0 => self.send_one().await,
                1 => self.send_slowly().await,
                2 => self.send_batch().await,
                3 => self.schedule_soon().await,
                4 => self.cancel_one().await,
                5 => self.cancel_many().await,
                6 => self.cancel_in_a_race().await,
                7 => self.send_file().await,
                _ => self.send_one().await,
            }
            self.step += 1;
            self.shared.steps.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        self.known
    }

    /// A recipient of this client's own; each kind of message goes to another one, and what is scheduled to one of its step's own, as
    /// its place in the order is that of its time.
    fn to(&self, kind: usize) -> String {
        let step = if kind == SCHEDULED { self.step } else { 0 };
        format!("+1555{kind}{:02}1{step:03}", self.number)
    }

    fn text(&self, kind: usize, n: usize) -> Value {
        super::text("default", &self.to(kind), &format!("client {} step {} text {n}", self.number, self.step))
    }

    fn key(&self) -> String {
        format!("client-{}-step-{}", self.number, self.step)
    }

    /// The reference of this step's messages.
    fn reference(&self) -> String {
        format!("mark-{}-{}", self.number, self.step)
    }

    fn know(&mut self, messages: Vec<Message>, fate: Fate) {
        self.known.extend(messages.into_iter().map(|message| Known { message, fate }));
    }

    // ---- What it wants ----

    async fn send_one(&mut self) {
        let message = self.accepted(self.text(0, 0)).await;
        self.know(vec![message], Fate::Sent);
    }

    /// A message that is on its way for two seconds: a kill may leave it in doubt.
    async fn send_slowly(&mut self) {
        let mut body = self.text(5, 0);
        body["to"] = format!("+1556{:02}{}0003", self.number, self.step % 10).into();
        let message = self.accepted(body).await;
        self.know(vec![message], Fate::Sent);
    }

    async fn send_batch(&mut self) {
        let count = self.random.random_range(2..8);
        let messages = self.accepted_batch((0..count).map(|n| self.text(0, n)).collect()).await;
        self.know(messages, Fate::Sent);
    }

    async fn schedule_soon(&mut self) {
        let mut body = self.text(SCHEDULED, 0);
        body["send_at"] = Time::now().plus(SOON).to_string().into();
        let message = self.accepted(body).await;
        self.know(vec![message], Fate::Sent);
    }

    async fn cancel_one(&mut self) {
        let mut body = self.text(2, 0);
        body["send_at"] = far().into();
        let message = self.accepted(body).await;
        self.ask(&Request::json(format!("/messages/{}/cancel", message.id), None, &json!({})), &[200]).await;
        self.know(vec![message], Fate::Cancelled);
    }

    async fn cancel_many(&mut self) {
        let (count, reference) = (self.random.random_range(2..8), self.reference());
        let body = |n| {
            let mut body = self.text(2, n);
            body["send_at"] = far().into();
            body["reference"] = reference.clone().into();
            body
        };
        let messages = self.accepted_batch((0..count).map(body).collect()).await;
        self.ask(&Request::json("/messages/cancel".to_owned(), None, &json!({ "reference": reference })), &[200]).await;
        self.know(messages, Fate::Cancelled);
    }

    async fn cancel_in_a_race(&mut self) {
        let message = self.accepted(self.text(3, 0)).await;
        self.ask(&Request::json(format!("/messages/{}/cancel", message.id), None, &json!({})), &[200, 409]).await;
        self.know(vec![message], Fate::Either);
    }

    async fn send_file(&mut self) {
        let bytes = picture(self.random.random_range(1_000..60_000), self.random.random_range(0..=255));
        let kind = String::from_utf8_lossy(Parts::TYPE).into_owned();
        let body = Parts::default().file("a.png", &bytes).end();
        let reply = self.ask(&Request { path: "/media".to_owned(), key: None, kind, body }, &[201]).await;
        let body = json!({ "session": "default", "to": self.to(4), "type": "image",
            "media": { "id": reply.body["data"]["id"] }, "caption": self.reference() });
        let message = self.accepted(body).await;
        self.know(vec![message], Fate::Sent);
    }

    /// A message that is accepted in the end, under a key of its own.
    async fn accepted(&mut self, body: Value) -> Message {
        let reply = self.ask(&Request::json("/messages".to_owned(), Some(self.key()), &body), &[202, 422]).await;
        serde_json::from_value(reply.body["data"].clone()).unwrap_or_else(|e| panic!("{e} in {reply:?}"))
    }

    /// A batch of which every item is accepted in the end, under a key of its own.
    async fn accepted_batch(&mut self, bodies: Vec<Value>) -> Vec<Message> {
        let body = json!({ "messages": bodies });
        let reply = self.ask(&Request::json("/messages/batch".to_owned(), Some(self.key()), &body), &[202, 422]).await;
        let items = reply.body["data"].as_array().into_iter().flatten();
        items
            .map(|item| serde_json::from_value(item["message"].clone()).unwrap_or_else(|e| panic!("{e} in {item}")))
            .collect()
    }

    // ---- How it behaves ----

    /// Makes a request badly some times, alone and on several connections at once; then insists until the answer has one of these
    /// statuses.
    async fn ask(&mut self, request: &Request, good: &[u16]) -> RawReply {
        for _ in 0..self.random.random_range(0..3) {
            let at_once = if self.random.random_bool(0.3) { self.random.random_range(2..5) } else { 1 };
            let tries: Vec<_> = (0..at_once).map(|_| (Manner::any(&mut self.random), self.origin())).collect();
            self.shared.tries.fetch_add(tries.len(), Ordering::Relaxed);
            let shared = Arc::clone(&self.shared);
            let ended = join_all(tries.into_iter().map(|(manner, origin)| request.make(&shared.key, origin, manner)));
            for (raw, reply) in ended.await {
                self.stalled.extend(raw);
                if let Some(reply) = reply {
                    self.note(request, &reply, good);
                }
            }
            let over = self.stalled.len().saturating_sub(STALLED_MAX);
            self.stalled.drain(..over);
        }
        let end = Instant::now() + INSIST_MAX;
        loop {
            let origin = self.origin();
            let (_, reply) = request.make(&self.shared.key, origin, Manner::Good).await;
            if let Some(reply) = reply
                && self.note(request, &reply, good)
            {
                return reply;
            }
            assert!(Instant::now() < end, "no good answer within {INSIST_MAX:?}: {} {:?}", request.path, request.key);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Checks an answer, whoever waited for it; whether it is one that its client wanted.
    fn note(&mut self, request: &Request, reply: &RawReply, good: &[u16]) -> bool {
        let data = &reply.body["data"];
        let whole = good.contains(&reply.status) && data.as_array().into_iter().flatten().all(is_accepted);
        if !whole {
            // It comes later, or came too slowly or broken off; never that something went wrong inside.
            let codes: Vec<&str> = match data.as_array() {
                Some(items) => items.iter().filter_map(|item| item["error"]["code"].as_str()).collect(),
                None => vec![reply.code()],
            };
            let excused =
                ["unavailable", "commit_unknown", "overloaded", "request_timeout", "malformed_request", "rate_limited"];
            assert!(codes.iter().all(|code| excused.contains(code)), "{request:?}: {reply:?}");
            return false;
        }
        if reply.head.contains("idempotent-replayed: true") {
            self.shared.replayed.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(key) = &request.key {
            let id = |message: &Value| message["id"].clone();
            let ids = match data.as_array() {
                Some(items) => items.iter().map(|item| id(&item["message"])).collect(),
                None => vec![id(data)],
            };
            let told = self.told.entry(key.clone()).or_insert_with(|| ids.clone());
            assert_eq!(*told, ids, "one key, other messages: {key}");
        }
        true
    }

    fn origin(&mut self) -> String {
        let origins = self.shared.origins.lock().unwrap_or_else(PoisonError::into_inner);
        origins[self.random.random_range(0..origins.len())].clone()
    }
}

fn is_accepted(item: &Value) -> bool {
    item["message"].is_object()
}

/// Far enough away that nothing goes out while the test runs.
fn far() -> String {
    Time::now().plus(seconds(3_600)).to_string()
}

impl Request {
    fn json(path: String, key: Option<String>, body: &Value) -> Self {
        Self { path, key, kind: "application/json".to_owned(), body: body.to_string().into_bytes() }
    }

    /// As it goes over the wire.
    fn bytes(&self, key: &str) -> Vec<u8> {
        let again = self.key.as_ref().map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
        let head = format!(
            "POST /api/v1{} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\n{again}content-type: {}\r\n\
             content-length: {}\r\n\r\n",
            self.path,
            self.kind,
            self.body.len()
        );
        [head.as_bytes(), &self.body].concat()
    }

    /// Makes it in some manner: a connection that is left open, and the answer, if one came.
    async fn make(&self, key: &str, origin: String, manner: Manner) -> (Option<Raw>, Option<RawReply>) {
        let Some(mut raw) = Raw::try_to(&origin).await else { return (None, None) };
        let bytes = self.bytes(key);
        let part = |share: usize| &bytes[..bytes.len() * share / 1_000];
        match manner {
            Manner::Good => {
                raw.send(&bytes).await;
                (None, raw.answer(ANSWER_MAX).await)
            }
            Manner::HangUp(share) => {
                raw.send(part(share)).await;
                (None, None)
            }
            Manner::Leave(after) => {
                raw.send(&bytes).await;
                tokio::time::sleep(after).await;
                (None, None)
            }
            Manner::HalfAnswer(share) => {
                raw.send(&bytes).await;
                raw.take(200 * share / 1_000 + 1, ANSWER_MAX).await;
                (None, None)
            }
            Manner::Stall(share) => {
                raw.send(part(share)).await;
                (Some(raw), None)
            }
            Manner::Deaf => {
                raw.send(&bytes).await;
                raw.send("GET /api/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(20)).await;
                (Some(raw), None)
            }
            Manner::HalfClose => {
                raw.send(&bytes).await;
                raw.half_close().await;
                (None, raw.answer(ANSWER_MAX).await)
            }
            Manner::HalfCloseWithin(share) => {
                raw.send(part(share)).await;
                raw.half_close().await;
                (None, raw.answer(ANSWER_MAX).await)
            }
        }
    }
}
