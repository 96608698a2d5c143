//! A client app: the API as its users see it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName};
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::{BlockedBy, MessageError, Status};
use sanasr_shared::session::SessionStatus;
use sanasr_shared::time::Time;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::stream::Events;
use super::wait::{eventually, seconds};

/// A client app with its key, at one API process.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
    /// An access token, which goes before the key.
    token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// `Null` if there is none; a string if it isn't JSON.
    pub(crate) body: Value,
}

/// A message, as far as tests look at it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Message {
    pub(crate) id: MessageId,
    pub(crate) session: String,
    pub(crate) to: String,
    pub(crate) text: Option<String>,
    pub(crate) status: Status,
    pub(crate) error: Option<MessageError>,
    pub(crate) blocked_by: Option<BlockedBy>,
    pub(crate) attempts: i32,
    pub(crate) whatsapp_id: String,
    pub(crate) created_at: Time,
    pub(crate) expires_at: Time,
    pub(crate) sent_at: Option<Time>,
    pub(crate) delivered_at: Option<Time>,
    pub(crate) read_at: Option<Time>,
}

/// A session, as far as tests look at it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) status: SessionStatus,
    pub(crate) paused: bool,
}

/// A user's quota today.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Quota {
    pub(crate) limit: Option<i64>,
    pub(crate) used: i64,
    pub(crate) remaining: Option<i64>,
}

/// An item of a batch's answer.
pub(crate) type Item = Result<Message, Value>;

impl Reply {
    /// Itself, if its status is this one.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "unexpected answer: {}", self.body);
        self
    }

    /// What a success says.
    pub(crate) fn data<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.body["success"], true, "not a success: {} {}", self.status, self.body);
        serde_json::from_value(self.body["data"].clone()).unwrap_or_else(|e| panic!("{e} in {}", self.body))
    }

    /// The stable word of a problem.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_else(|| panic!("no code: {} {}", self.status, self.body))
    }

    /// The fields that a problem names.
    pub(crate) fn fields(&self) -> Vec<&str> {
        fields(&self.body)
    }

    /// A header's text, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// Whether it is the answer to a request made before.
    pub(crate) fn is_replayed(&self) -> bool {
        self.header("idempotent-replayed") == "true"
    }
}

/// The fields that a problem document names.
pub(crate) fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().into_iter().flatten().filter_map(|e| e["field"].as_str()).collect()
}

/// A client for HTTP.
pub(crate) fn http() -> reqwest::Client {
    sanasr_shared::tls::install();
    reqwest::Client::builder().timeout(seconds(90)).build().expect("an HTTP client")
}

impl Client {
    /// At `origin`, such as `http://127.0.0.1:8080`.
    pub(crate) fn new(origin: &str, key: &str) -> Self {
        Self { http: http(), base: origin.to_owned(), key: key.to_owned(), token: None }
    }

    /// The same app with other credentials.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), token: None, ..self.clone() }
    }

    /// The same app with an access token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Logs in, whatever comes of it.
    pub(crate) async fn log_in(&self, username: &str, password: &str) -> Reply {
        self.with_key("").post("/auth/login", &json!({ "username": username, "password": password })).await
    }

    /// The same app at another address.
    pub(crate) fn at(&self, origin: &str) -> Self {
        Self { base: origin.to_owned(), ..self.clone() }
    }

    /// A stream of events, after the event of that id or from now on.
    pub(crate) async fn events(&self, last: Option<i64>) -> Events {
        self.stream("/events", last).await
    }

    /// A stream of events below `/api/v1`.
    pub(crate) async fn stream(&self, path: &str, last: Option<i64>) -> Events {
        let mut request = self.http.get(format!("{}/api/v1{path}", self.base));
        request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request.header("x-api-key", &self.key),
        };
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        Events::new(request.send().await.expect("a stream of events"))
    }

    /// Its access token, if it has one.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Its key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// A request below `/api/v1`, with whatever body and headers. An error if no answer came.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &[u8])],
        body: Vec<u8>,
    ) -> Result<Reply, reqwest::Error> {
        let mut request = self.http.request(method, format!("{}/api/v1{path}", self.base)).body(body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        } else if !self.key.is_empty() {
            request = request.header("x-api-key", &self.key);
        }
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).expect("a header's name");
            request = request.header(name, *value);
        }
        read(request.send().await?).await
    }

    /// A request below `/api/v1`, with JSON or without a body. An error if no answer came: the outcome is unknown then.
    pub(crate) async fn attempt(
        &self,
        method: Method,
        path: &str,
        idempotency_key: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Reply, reqwest::Error> {
        let mut headers = Vec::new();
        if body.is_some() {
            headers.push(("content-type", b"application/json".as_slice()));
        }
        if let Some(key) = idempotency_key {
            headers.push(("idempotency-key", key.as_bytes()));
        }
        self.raw(method, path, &headers, body.map(|b| b.to_string().into_bytes()).unwrap_or_default()).await
    }

    /// A GET below `/api/v1` that is answered.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.attempt(Method::GET, path, None, None).await.unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    /// A POST below `/api/v1` that is answered.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.attempt(Method::POST, path, None, Some(body)).await.unwrap_or_else(|e| panic!("POST {path}: {e}"))
    }

    /// A PATCH below `/api/v1` that is answered.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.attempt(Method::PATCH, path, None, Some(body)).await.unwrap_or_else(|e| panic!("PATCH {path}: {e}"))
    }

    /// A DELETE below `/api/v1` that is answered.
    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.attempt(Method::DELETE, path, None, None).await.unwrap_or_else(|e| panic!("DELETE {path}: {e}"))
    }

    /// A page at the root, such as `/health/ready` or `/metrics`.
    pub(crate) async fn root(&self, path: &str) -> Result<Reply, reqwest::Error> {
        read(self.http.get(format!("{}{path}", self.base)).send().await?).await
    }

    // ---- messages ----

    /// Posts a message.
    pub(crate) async fn send(&self, message: &Value) -> Reply {
        self.post("/messages", message).await
    }

    /// Posts a message under an idempotency key.
    pub(crate) async fn send_once(&self, key: &str, message: &Value) -> Reply {
        self.attempt(Method::POST, "/messages", Some(key), Some(message)).await.expect("an answer")
    }

    /// Posts a text that is accepted.
    pub(crate) async fn text(&self, session: &str, to: &str, text: &str) -> Message {
        self.send(&json!({ "session": session, "to": to, "type": "text", "text": text })).await.expect(202).data()
    }

    /// Posts a batch whose answer is 202, under a key if there is one. One result per item.
    pub(crate) async fn batch(&self, key: Option<&str>, messages: &[Value]) -> Vec<Item> {
        let body = json!({ "messages": messages });
        let reply = self.attempt(Method::POST, "/messages/batch", key, Some(&body)).await.expect("an answer");
        let items: Vec<Value> = serde_json::from_value(reply.body["data"].clone()).expect("items");
        let accepted = items.iter().any(|item| item["message"].is_object());
        assert_eq!(reply.status, if accepted { 202 } else { 422 }, "{}", reply.body);
        assert_eq!(items.len(), messages.len(), "one result per item");
        items.into_iter().map(item).collect()
    }

    /// A message as it is now.
    pub(crate) async fn message(&self, id: MessageId) -> Message {
        self.get(&format!("/messages/{id}")).await.expect(200).data()
    }

    /// Waits, by long polls, until a message has this status. A status that it can't leave any more ends the wait.
    pub(crate) async fn wait_status(&self, id: MessageId, wanted: Status, limit: Duration) -> Message {
        let end = Instant::now() + limit;
        let mut message = self.message(id).await;
        while message.status != wanted {
            let stuck = message.status.is_final() && !wanted.origins().contains(&message.status);
            assert!(!stuck && Instant::now() < end, "not {wanted:?} within {limit:?}: {message:#?}");
            let known = message.status.as_str();
            message = self.get(&format!("/messages/{id}?wait=1&known={known}")).await.expect(200).data();
            if message.status.as_str() == known && message.status.is_final() {
                // A final status is answered at once; what is awaited is its disproof.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        message
    }

    /// All messages that match a query such as `session=a&status=read`, newest first, page by page.
    pub(crate) async fn list(&self, query: &str) -> Vec<Message> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let reply = self.get(&format!("/messages?limit=200&{query}{cursor}")).await.expect(200);
            all.extend(reply.data::<Vec<Message>>());
            match reply.body["pagination"]["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }

    /// Waits until these messages and no others match a query that ends in their statuses: so many have this status.
    pub(crate) async fn wait_count(&self, query: &str, status: Status, count: usize, limit: Duration) -> Vec<Message> {
        let mut counts = BTreeMap::new();
        let what = format!("{count} messages are {status:?}");
        eventually(limit, &what, async || {
            let all = self.list(query).await;
            counts.clear();
            for message in &all {
                *counts.entry(message.status).or_insert(0_usize) += 1;
            }
            (counts.get(&status) == Some(&count)).then_some(all)
        })
        .await
    }

    /// Tries to cancel a message.
    pub(crate) async fn cancel(&self, id: MessageId) -> Reply {
        self.post(&format!("/messages/{id}/cancel"), &json!({})).await
    }

    /// Today's quota.
    pub(crate) async fn quota(&self) -> Quota {
        let usage: Value = self.get("/usage").await.expect(200).data();
        serde_json::from_value(usage["quota"].clone()).unwrap_or_else(|e| panic!("{e} in {usage}"))
    }

    // ---- sessions ----

    /// A session as it is now.
    pub(crate) async fn session(&self, name: &str) -> Session {
        self.get(&format!("/sessions/{name}")).await.expect(200).data()
    }

    /// Makes a session and connects it.
    pub(crate) async fn new_session(&self, name: &str) -> Session {
        self.post("/sessions", &json!({ "name": name })).await.expect(201);
        self.connect(name).await
    }

    /// Connects a session and waits until it is.
    pub(crate) async fn connect(&self, name: &str) -> Session {
        self.post(&format!("/sessions/{name}/connect"), &json!({})).await.expect(202);
        self.wait_session(name, SessionStatus::Connected, seconds(30)).await
    }

    /// Waits until a session has this status.
    pub(crate) async fn wait_session(&self, name: &str, wanted: SessionStatus, limit: Duration) -> Session {
        let what = format!("session {name} is {wanted:?}");
        eventually(limit, &what, async || {
            let session = self.session(name).await;
            (session.status == wanted).then_some(session)
        })
        .await
    }

    /// Pauses a session.
    pub(crate) async fn pause(&self, name: &str) {
        let session: Session = self.post(&format!("/sessions/{name}/pause"), &json!({})).await.expect(200).data();
        assert!(session.paused, "a paused session says so");
    }

    /// Lets a session go on.
    pub(crate) async fn resume(&self, name: &str) {
        let session: Session = self.post(&format!("/sessions/{name}/resume"), &json!({})).await.expect(200).data();
        assert!(!session.paused, "a session that goes on says so");
    }
}

async fn read(response: reqwest::Response) -> Result<Reply, reqwest::Error> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await?;
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
    Ok(Reply { status, headers, body })
}

fn item(item: Value) -> Item {
    match (item.get("message"), item.get("error")) {
        (Some(message), None) => {
            Ok(serde_json::from_value(message.clone()).unwrap_or_else(|e| panic!("{e} in {message}")))
        }
        (None, Some(problem)) => Err(problem.clone()),
        _ => panic!("neither a message nor an error: {item}"),
    }
}
