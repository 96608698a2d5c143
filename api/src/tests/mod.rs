//! The router as a whole, over a store in memory.

mod events;
pub(crate) mod fake;
mod journal;
mod strangers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use sanasr_shared::ids::{MessageId, UserId};
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::media::FileStore;
use sanasr_shared::message::Status;
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::queue::Queue;
use sanasr_shared::ports::signals::{Signal, Signals};
use sanasr_shared::ports::store::{Backlog, Store};
use sanasr_shared::secret::SecretKey;
use sanasr_shared::session::BridgeKind;
use sanasr_shared::settings::{AcceptSettings, HttpSettings, defaults};
use sanasr_shared::user::RawApiKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;
use uuid::Uuid;

use self::fake::{FakeStore, FakeWires, LIMIT, USER};
use crate::{Bounds, Parts, router, serve};

struct Api {
    store: Arc<FakeStore>,
    wires: Arc<FakeWires>,
    signals: Arc<dyn Signals>,
    router: Router,
    key: RawApiKey,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    fn fields(&self) -> Vec<&str> {
        self.body["errors"].as_array().into_iter().flatten().filter_map(|e| e["field"].as_str()).collect()
    }

    fn id(&self) -> &str {
        self.body["data"]["id"].as_str().expect("an id")
    }
}

impl Api {
    fn new() -> Self {
        Self::with(HttpSettings {
            body_limit: 8_192,
            batch_body_limit: 1 << 20,
            metrics_allow: vec!["0.0.0.0/0".parse().expect("a network")],
            ..defaults()
        })
    }

    fn with(http: HttpSettings) -> Self {
        let (store, wires) = (Arc::new(FakeStore::default()), FakeWires::new());
        let key = store.add_user(USER);
        let router = router(Parts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            queue: Arc::clone(&wires) as Arc<dyn Queue>,
            signals: Arc::clone(&wires) as Arc<dyn Signals>,
            http,
            accept: AcceptSettings { backlog_limit: 1_000, backlog_user_percent: 50, ..defaults() },
            tokens: defaults(),
            media: defaults(),
            files: FileStore::open(&defaults(), &std::env::temp_dir().join("sanasr-api-tests")).expect("a folder"),
            secret: SecretKey::new("a secret of tests, never of anything else"),
            metrics: Arc::new(|| "metrics\n".to_owned()),
            shard: 1,
            watchdog: Watchdog::default(),
        });
        let signals = Arc::clone(&wires) as Arc<dyn Signals>;
        Self { store, wires, signals, router, key }
    }

    async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().call(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("x-api-key", self.key.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        self.ask(request.expect("a request")).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, &[]).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body), &[]).await
    }
}

fn text(more: Value) -> Value {
    let mut body = json!({"to": "+15551234567", "type": "text", "text": "hi"});
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    body
}

const MESSAGES: &str = "/api/v1/messages";

#[tokio::test]
async fn a_message_is_accepted_and_found_again() {
    let api = Api::new();
    let sent = api.post(MESSAGES, text(json!({"reference": "r"}))).await;
    assert_eq!(sent.status, StatusCode::ACCEPTED);
    assert_eq!(sent.body["success"], true);
    assert_eq!(sent.body["data"]["status"], "accepted");
    assert_eq!(sent.body["data"]["session"], "default");
    let found = api.get(&format!("{MESSAGES}/{}", sent.id())).await;
    assert_eq!(found.status, StatusCode::OK);
    assert_eq!(found.body, sent.body);
    let later = sanasr_shared::time::Time::now().plus(Duration::from_secs(60)).to_string();
    let scheduled = api.post(MESSAGES, text(json!({"send_at": later}))).await;
    assert_eq!(scheduled.body["data"]["status"], "scheduled");
    assert_eq!(scheduled.body["data"]["blocked_by"], "scheduled");
    assert_eq!(
        api.post("/api/v1/messages/send-text/", json!({"recipient": "+15551234567", "content": "x"})).await.status,
        202
    );
    let media = json!({"recipient": "+15551234567", "media_url": "https://a/b", "media_type": "image"});
    assert_eq!(api.post("/api/v1/messages/send-media", media).await.status, 202);
}

#[tokio::test]
async fn a_message_that_has_to_wait_says_so_at_once() {
    let api = Api::new();
    for (path, blocked_by) in [("disconnect", "session_not_connected"), ("pause", "session_paused")] {
        let name = format!("to-{path}");
        assert_eq!(api.post("/api/v1/sessions", json!({"name": name})).await.status, StatusCode::CREATED);
        api.post(&format!("/api/v1/sessions/{name}/{path}"), json!({})).await;
        let sent = api.post(MESSAGES, text(json!({"session": name}))).await;
        assert_eq!(sent.body["data"]["blocked_by"], blocked_by, "{path}");
    }
    assert_eq!(api.post(MESSAGES, text(json!({}))).await.body["data"]["blocked_by"], Value::Null);
}

#[tokio::test]
async fn what_was_meant_is_named() {
    let api = Api::new();
    let sent = api.post(MESSAGES, text(json!({"sendAt": "2030-01-01T00:00:00Z", "session": "defualt"}))).await;
    let details: Vec<_> = sent.body["errors"].as_array().expect("errors").iter().map(|e| &e["detail"]).collect();
    assert!(details.iter().any(|detail| detail.to_string().contains("Did you mean send_at?")), "{details:?}");
    assert!(details.iter().any(|detail| detail.to_string().contains("Did you mean default?")), "{details:?}");
    // A name that is taken is told as any other field.
    let taken = api.post("/api/v1/sessions", json!({"name": "default"})).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    assert_eq!(
        (&taken.body["errors"][0]["field"], &taken.body["errors"][0]["code"]),
        (&json!("name"), &json!("taken"))
    );
    for (path, meant) in [
        ("/api/messages", "/api/v1/messages"),
        ("/messages/batch", "/api/v1/messages/batch"),
        ("/api/v1/mesages?limit=1", "/api/v1/messages"),
        ("/v1/session/default", "/api/v1/sessions/default"),
    ] {
        let lost = api.get(path).await;
        let said = format!("Did you mean {meant}?");
        assert_eq!(lost.status, StatusCode::NOT_FOUND);
        assert!(lost.body["detail"].as_str().is_some_and(|detail| detail.ends_with(&said)), "{}", lost.body);
    }
    assert!(!api.get("/api/v1/messages/no/such").await.body["detail"].to_string().contains("mean"));
    let refused = api.send(Method::DELETE, MESSAGES, None, &[]).await;
    assert!(refused.body["detail"].as_str().is_some_and(|said| said.contains("GET, HEAD, POST")), "{}", refused.body);
}

#[tokio::test]
async fn every_bad_field_is_named_at_once_also_those_that_are_looked_up() {
    let api = Api::new();
    let body = text(json!({"to": 5, "session": "nobody", "reply_to": Uuid::now_v7(), "smoke": 1}));
    let answer = api.post(MESSAGES, body).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::UNPROCESSABLE_ENTITY, "validation_failed"));
    assert_eq!(answer.fields(), ["to", "smoke", "reply_to", "session"]);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.body["request_id"], answer.headers["x-request-id"].to_str().expect("ASCII"));
    assert!(api.store.data().messages.is_empty());
}

#[tokio::test]
async fn bodies_that_are_none_are_refused() {
    let api = Api::new();
    let request = |kind: &'static str, body: Vec<u8>| {
        Request::post(MESSAGES)
            .header("x-api-key", api.key.as_str())
            .header("content-type", kind)
            .body(Body::from(body))
            .expect("a request")
    };
    for (kind, body, status, code) in [
        ("application/json", b"{".to_vec(), 400, "malformed_request"),
        ("application/json", b"\"\xff\"".to_vec(), 400, "malformed_request"),
        ("application/json", b"[".repeat(5_000), 400, "malformed_request"),
        ("application/json", b"[]".to_vec(), 422, "validation_failed"),
        ("application/json", b"null".to_vec(), 422, "validation_failed"),
        ("text/plain", b"{}".to_vec(), 415, "unsupported_media_type"),
        ("multipart/form-data; boundary=x", b"{}".to_vec(), 415, "unsupported_media_type"),
        ("application/json", vec![b' '; 8_193], 413, "payload_too_large"),
    ] {
        let answer = api.ask(request(kind, body)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code));
        assert_eq!(answer.body["success"], false);
    }
    let absent = api.send(Method::POST, MESSAGES, None, &[]).await;
    assert_eq!(absent.fields(), ["to", "type"]);
}

#[tokio::test]
async fn credentials_are_needed_and_the_refusal_says_no_more_than_they_show() {
    let api = Api::new();
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = Request::get(MESSAGES);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        api.ask(request.body(Body::empty()).expect("a request")).await
    };
    let key = api.key.as_str();
    assert_eq!(ask(&[("authorization", &format!("ApiKey {key}"))]).await.status, StatusCode::OK);
    let other = RawApiKey::generate();
    let mut said = Vec::new();
    for headers in [&[][..], &[("x-api-key", "x")], &[("authorization", "Bearer x")], &[("authorization", "Basic x")]] {
        let answer = ask(headers).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert!(answer.headers.contains_key("www-authenticate"));
        let mut body = answer.body;
        body["request_id"] = Value::Null;
        said.push(body);
    }
    assert!(said.iter().all(|body| *body == said[0] && body["code"] == "unauthenticated"));
    // A key that doesn't exist, and one whose secret is wrong: the same for both, so that nobody learns which keys exist.
    let lookup = |key: &str| RawApiKey::parse(key).expect("a key's form").0.to_owned();
    let forged = format!("sanasr_{}_{}", lookup(key), "a".repeat(43));
    for wrong in [other.as_str(), &forged, &format!("{key}x")] {
        let answer = ask(&[("x-api-key", wrong)]).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::UNAUTHORIZED, "invalid_api_key"));
        let shown = format!("sanasr_{}_", lookup(wrong));
        let detail = answer.body["detail"].to_string();
        assert!(detail.contains(&shown) && !detail.contains(&wrong[shown.len()..]), "{detail}");
    }
    // A key as a token.
    let answer = ask(&[("authorization", &format!("Bearer {key}"))]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.body["detail"].as_str().is_some_and(|said| said.contains("X-Api-Key")), "{}", answer.body);
    // Whoever holds a good key learns what became of its user.
    api.store.data().keys.values_mut().for_each(|key| key.user_is_active = false);
    api.signals.publish(Signal::User(USER));
    let start = std::time::Instant::now();
    while ask(&[("x-api-key", key)]).await.code() != "user_inactive" {
        assert!(start.elapsed() < Duration::from_secs(10), "it is told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_key_is_read_once_and_forgotten_when_its_user_changes() {
    let api = Api::new();
    for _ in 0..10 {
        api.get(MESSAGES).await;
    }
    assert_eq!(api.store.key_reads.load(Ordering::Relaxed), 1);
    api.store.data().keys.values_mut().for_each(|key| key.user_is_active = false);
    api.signals.publish(Signal::User(USER));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(api.get(MESSAGES).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_revocation_holds_within_a_second_without_any_signal() {
    let api = Api::new();
    let until = Instant::now() + Duration::from_millis(600);
    while Instant::now() < until {
        assert_eq!(api.get(MESSAGES).await.status, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    api.store.data().keys.values_mut().for_each(|key| key.key_is_active = false);
    tokio::time::sleep(Duration::from_millis(950)).await;
    assert_eq!(api.get(MESSAGES).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_key_makes_repeating_safe() {
    let api = Api::new();
    let send =
        async |key: &str, body: Value| api.send(Method::POST, MESSAGES, Some(body), &[("idempotency-key", key)]).await;
    let first = send("k", text(json!({}))).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    // Also when nothing new would be accepted any more.
    api.store.data().used = LIMIT;
    let again = send("k", text(json!({}))).await;
    assert_eq!((again.status, again.id()), (StatusCode::ACCEPTED, first.id()));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let other = send("k", text(json!({"text": "other"}))).await;
    assert_eq!((other.status.as_u16(), other.code()), (422, "idempotency_key_reused"));
    assert_eq!(send(&"k".repeat(256), text(json!({}))).await.code(), "malformed_request");
    let over = send("new", text(json!({}))).await;
    assert_eq!((over.status.as_u16(), over.code()), (429, "quota_exceeded"));
    assert_eq!(over.body["limit"], LIMIT);
    assert!(over.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn each_item_of_a_batch_stands_for_itself() {
    let api = Api::new();
    let batch = json!({"messages": [text(json!({})), 5, text(json!({"to": "x"})), text(json!({"session": "nobody"}))]});
    let headers = [("idempotency-key", "b")];
    let path = "/api/v1/messages/batch";
    let answer = api.send(Method::POST, path, Some(batch.clone()), &headers).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let items = answer.body["data"].as_array().expect("items");
    assert_eq!(items[0]["message"]["status"], "accepted");
    for (n, field) in [(1, "messages[1]"), (2, "messages[2].to"), (3, "messages[3].session")] {
        assert_eq!(items[n]["error"]["code"], "validation_failed");
        assert_eq!(items[n]["error"]["errors"][0]["field"], field);
    }
    api.store.create_session_for_test("nobody").await;
    let again = api.send(Method::POST, path, Some(batch), &headers).await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.body["data"][0], items[0]);
    assert_eq!(again.body["data"][3]["message"]["session"], "nobody");
    for (body, field) in [
        (json!({}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": {}}), "messages"),
        (json!({"messages": vec![1; 1_001]}), "messages"),
        (json!({"messages": [text(json!({}))], "more": 1}), "more"),
    ] {
        let answer = api.post(path, body).await;
        assert_eq!((answer.status.as_u16(), answer.fields()), (422, vec![field]));
    }
}

impl FakeStore {
    async fn create_session_for_test(&self, name: &str) {
        use sanasr_shared::ports::store::Sessions;
        self.create_session(USER, name, BridgeKind::Simulator, u32::MAX, Actor::MACHINE).await.expect("a free name");
    }
}

#[tokio::test]
async fn a_session_that_was_made_anew_is_found_at_once() {
    let api = Api::new();
    assert_eq!(api.post("/api/v1/sessions", json!({"name": "s"})).await.status, StatusCode::CREATED);
    let send = || api.post(MESSAGES, text(json!({"session": "s"})));
    assert_eq!(send().await.status, StatusCode::ACCEPTED);
    // Behind the API's back: what it remembers of the name is wrong now.
    api.store.data().sessions.retain(|s| s.name != "s");
    api.store.create_session_for_test("s").await;
    assert_eq!(send().await.status, StatusCode::ACCEPTED);
    api.store.data().sessions.retain(|s| s.name != "s");
    let gone = send().await;
    assert_eq!((gone.status.as_u16(), gone.fields()), (422, vec!["session"]));
}

#[tokio::test]
async fn past_the_backlogs_limit_sends_are_refused() {
    let api = Api::new();
    api.store.data().backlog = Backlog { total: 1_000, by_user: [(UserId(9), 1_000)].into() };
    let full = api.post(MESSAGES, text(json!({}))).await;
    assert_eq!((full.status.as_u16(), full.code()), (503, "overloaded"));
    assert!(full.headers.contains_key("retry-after"));
    let api = Api::new();
    api.store.data().backlog = Backlog { total: 500, by_user: [(USER, 499)].into() };
    assert_eq!(api.post(MESSAGES, text(json!({}))).await.status, StatusCode::ACCEPTED);
    assert_eq!(api.post(MESSAGES, text(json!({}))).await.code(), "overloaded");
}

#[tokio::test]
async fn without_the_database_the_answer_is_honest() {
    let api = Api::new();
    api.store.away.store(true, Ordering::Relaxed);
    let answer = api.post(MESSAGES, text(json!({}))).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (503, "unavailable"));
    assert!(answer.headers.contains_key("retry-after"));
    let ready = api.get("/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.body["status"]), (503, &json!("unavailable")));
    assert_eq!(api.get("/health/live").await.status, StatusCode::OK);
    let api = Api::new();
    assert_eq!(api.get("/health/ready").await.body["status"], "ok");
    api.wires.broker.store(false, Ordering::Relaxed);
    let ready = api.get("/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.body["status"]), (200, &json!("degraded")));
    assert_eq!(
        ready.body["checks"],
        json!({"database": "ok", "broker": "unavailable", "signals": "ok", "parts": "ok"})
    );
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let api = Api::new();
    for _ in 0..5 {
        api.post(MESSAGES, text(json!({}))).await;
    }
    let first = api.get("/api/v1/messages/list/?limit=2&status=accepted").await;
    assert_eq!(first.body["pagination"]["limit"], 2);
    let mut seen = first.body["data"].as_array().expect("rows").len();
    let mut next = first.body["pagination"]["next"].clone();
    while let Some(cursor) = next.as_str() {
        let page = api.get(&format!("{MESSAGES}?limit=2&cursor={cursor}")).await;
        seen += page.body["data"].as_array().expect("rows").len();
        next = page.body["pagination"]["next"].clone();
    }
    assert_eq!(seen, 5);
    for wrong in [
        "page=2",
        "cursor=x",
        "limit=0",
        "status=x",
        "type=x",
        "to=x",
        "from=x",
        "until=2030-01-32",
        "reference=%00",
        "session=",
    ] {
        let answer = api.get(&format!("{MESSAGES}?{wrong}")).await;
        let expected = if wrong == "cursor=x" { (400, "malformed_request") } else { (422, "validation_failed") };
        assert_eq!((answer.status.as_u16(), answer.code()), expected, "{wrong}");
    }
    assert_eq!(api.get(&format!("{MESSAGES}?user_id=2")).await.code(), "forbidden");
    assert_eq!(api.send(Method::POST, "/api/v1/messages?x=1", Some(text(json!({}))), &[]).await.status, 422);
}

#[tokio::test]
async fn a_message_is_cancelled_once_and_only_by_its_user() {
    let api = Api::new();
    let sent = api.post(MESSAGES, text(json!({}))).await;
    let path = format!("{MESSAGES}/{}/cancel", sent.id());
    let stranger = api.store.add_user(UserId(2));
    let request = Request::post(&path).header("x-api-key", stranger.as_str()).body(Body::empty()).expect("a request");
    assert_eq!(api.ask(request).await.code(), "not_found");
    assert_eq!(api.send(Method::POST, &path, None, &[]).await.body["data"]["status"], "cancelled");
    assert_eq!(api.send(Method::POST, &path, None, &[]).await.status, StatusCode::OK);
    api.store.data().messages[0].status = Status::Read;
    assert_eq!(api.send(Method::POST, &path, None, &[]).await.code(), "conflict");
    assert_eq!(api.get("/api/v1/messages/x").await.code(), "validation_failed");
    assert_eq!(api.get(&format!("{MESSAGES}/{}", Uuid::now_v7())).await.code(), "not_found");
}

#[tokio::test]
async fn a_poll_ends_when_the_status_changes() {
    let api = Arc::new(Api::new());
    let sent = api.post(MESSAGES, text(json!({}))).await;
    let id = MessageId(sent.id().parse().expect("a UUID"));
    let path = format!("{MESSAGES}/{id}");
    // It differs already.
    assert_eq!(api.get(&format!("{path}?wait=60&known=sent")).await.body["data"]["status"], "accepted");
    let poll = tokio::spawn({
        let (api, path) = (Arc::clone(&api), path.clone());
        async move { api.get(&format!("{path}?wait=60&known=accepted")).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!poll.is_finished());
    api.store.data().messages[0].status = Status::Sent;
    api.signals.publish(Signal::Messages(vec![id]));
    let started = Instant::now();
    assert_eq!(poll.await.expect("an answer").body["data"]["status"], "sent");
    assert!(started.elapsed() < Duration::from_secs(1));
    // Nothing changes.
    let started = Instant::now();
    assert_eq!(api.get(&format!("{path}?wait=1")).await.body["data"]["status"], "sent");
    assert!(started.elapsed() >= Duration::from_millis(950));
    // It has ended.
    api.store.data().messages[0].status = Status::Read;
    assert_eq!(api.get(&format!("{path}?wait=60&known=read")).await.body["data"]["status"], "read");
    for wrong in ["wait=0", "wait=61", "wait=x", "known=accepted", "wait=1&known=x"] {
        assert_eq!(api.get(&format!("{path}?{wrong}")).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
}

#[tokio::test]
async fn a_lost_signal_only_delays() {
    let api = Arc::new(Api::new());
    let sent = api.post(MESSAGES, text(json!({}))).await;
    let path = format!("{MESSAGES}/{}?wait=60&known=accepted", sent.id());
    let poll = tokio::spawn({
        let api = Arc::clone(&api);
        async move { api.get(&path).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    api.store.data().messages[0].status = Status::Sent;
    let answer = tokio::time::timeout(Duration::from_secs(5), poll).await.expect("in time").expect("an answer");
    assert_eq!(answer.body["data"]["status"], "sent");
}

#[tokio::test]
async fn sessions_are_made_commanded_changed_and_deleted() {
    let api = Api::new();
    let mut heard = api.signals.subscribe();
    let path = "/api/v1/sessions";
    let made = api.post(path, json!({"name": "shop", "bridge": "simulator"})).await;
    assert_eq!((made.status, &made.body["data"]["name"]), (StatusCode::CREATED, &json!("shop")));
    assert_eq!(api.post(path, json!({"name": "shop"})).await.code(), "conflict");
    assert_eq!(api.post(path, json!({"name": "status", "bridge": "pigeon"})).await.fields(), ["name", "bridge"]);
    for (command, status, key, value) in [
        ("connect", 202, "status", json!("connecting")),
        ("disconnect", 202, "status", json!("disconnected")),
        ("unlink", 202, "status", json!("logged_out")),
        ("logout", 202, "status", json!("logged_out")),
        ("pause", 200, "paused", json!(true)),
        ("resume", 200, "paused", json!(false)),
    ] {
        let answer = api.send(Method::POST, &format!("{path}/shop/{command}"), None, &[]).await;
        assert_eq!((answer.status.as_u16(), &answer.body["data"][key]), (status, &value), "{command}");
    }
    let change = json!({"pace": {"per_minute": 5}, "paused": true});
    let changed = api.send(Method::PATCH, &format!("{path}/shop"), Some(change), &[]).await;
    assert_eq!(changed.body["data"]["pace"]["per_minute"], 5);
    assert_eq!(changed.body["data"]["paused"], true);
    assert_eq!(api.get(path).await.body["data"].as_array().expect("rows").len(), 2);
    let deleted = api.send(Method::DELETE, &format!("{path}/shop"), None, &[]).await;
    assert_eq!((deleted.status, deleted.body), (StatusCode::NO_CONTENT, Value::Null));
    assert_eq!(api.get(&format!("{path}/shop")).await.code(), "not_found");
    assert_eq!(api.get(&format!("{path}/a%00b")).await.code(), "not_found");
    assert_eq!(api.send(Method::DELETE, &format!("{path}/default"), None, &[]).await.code(), "conflict");
    assert_eq!(api.send(Method::POST, &format!("{path}/init"), None, &[]).await.status, StatusCode::ACCEPTED);
    assert_eq!(api.get(&format!("{path}/status")).await.body["data"]["status"], "connecting");
    assert_eq!(api.post(&format!("{path}/disconnect"), json!({})).await.status, StatusCode::ACCEPTED);
    assert_eq!(api.post(&format!("{path}/disconnect"), json!({"x": 1})).await.fields(), ["x"]);
    let mut free = 0;
    while let Ok(signal) = heard.try_recv() {
        free += usize::from(*signal == Signal::SessionFree);
    }
    assert_eq!(free, 2);
}

#[tokio::test]
async fn what_isnt_there_is_said_in_the_same_form() {
    let api = Api::new();
    let ids = [("x-request-id", "mine")];
    let unknown = api.send(Method::GET, "/nowhere", None, &ids).await;
    assert_eq!((unknown.status.as_u16(), unknown.code()), (404, "not_found"));
    assert_eq!(
        (unknown.headers["x-request-id"].as_bytes(), &unknown.body["request_id"]),
        (&b"mine"[..], &json!("mine"))
    );
    assert_eq!(unknown.headers["x-content-type-options"], "nosniff");
    let method = api.send(Method::DELETE, MESSAGES, None, &[]).await;
    assert_eq!((method.status.as_u16(), method.code()), (405, "method_not_allowed"));
    assert_eq!(method.headers["allow"], "GET,HEAD,POST");
    assert_eq!(api.get("/metrics").await.status, StatusCode::OK);
    let usage = api.get("/api/v1/usage").await;
    assert_eq!(usage.body["data"]["quota"]["limit"], LIMIT);
}

/// The API behind a socket.
async fn listening(api: &Api) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let bounds = Bounds { connections: 2, trusted: Vec::new() };
    let served = tokio::spawn(serve(listener, api.router.clone(), bounds, stop.clone(), Duration::from_secs(5)));
    (at, stop, served)
}

async fn read_some(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 65_536];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
    let read = read.expect("in time").expect("an answer");
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test]
async fn a_stop_ends_polls_at_once_and_counts_what_was_asked() {
    let api = Api::new();
    let sent = api.post(MESSAGES, text(json!({}))).await;
    let (at, stop, served) = listening(&api).await;
    let mut stream = TcpStream::connect(at).await.expect("a connection");
    let key = api.key.as_str();
    let poll = format!("GET {MESSAGES}/{}?wait=60 HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n", sent.id());
    stream.write_all(poll.as_bytes()).await.expect("a request");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    stop.cancel();
    let answer = read_some(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    served.await.expect("no panic");
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(api.store.data().requests[&USER], 2);
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_and_health_is_answered() {
    let api = Api::new();
    let sent = api.post(MESSAGES, text(json!({}))).await;
    let (at, stop, served) = listening(&api).await;
    let ask = async |request: String| {
        let mut stream = TcpStream::connect(at).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("a request");
        stream
    };
    // One of the two places is for health.
    let key = api.key.as_str();
    let poll = format!("GET {MESSAGES}/{}?wait=60 HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n", sent.id());
    let busy = ask(poll).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for (path, status) in [("/health/live", 200), (MESSAGES, 503), ("/health/ready", 200), ("/health/live", 200)] {
        let mut stream = ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n")).await;
        let answer = read_some(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        if status == 503 {
            assert!(answer.contains("\"overloaded\"") && answer.contains("retry-after"), "{answer}");
        }
    }
    drop(busy);
    let give_up = Instant::now() + Duration::from_secs(5);
    loop {
        let mut stream = ask(format!("GET {MESSAGES} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n")).await;
        if read_some(&mut stream).await.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(Instant::now() < give_up, "the place isn't free again");
    }
    stop.cancel();
    served.await.expect("no panic");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let api = Api::new();
    let (at, stop, served) = listening(&api).await;
    let mut stream = TcpStream::connect(at).await.expect("a connection");
    let key = api.key.as_str();
    let head = format!(
        "POST {MESSAGES} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("a request");
    let answer = read_some(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    stop.cancel();
    served.await.expect("no panic");
}
