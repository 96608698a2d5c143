//! Streams of events over the store in memory.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use sanasr_shared::ids::{MessageId, UserId};
use sanasr_shared::message::Status;
use sanasr_shared::ports::journal::{Change, Event};
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::settings::{HttpSettings, defaults};
use sanasr_shared::time::Time;
use serde_json::{Value, json};
use tower::Service;

use super::{Api, MESSAGES, text};

const EVENTS: &str = "/api/v1/events";
const PATIENCE: Duration = Duration::from_secs(10);

/// A stream that is read as far as a test asks.
struct Stream {
    body: axum::body::BodyDataStream,
    text: String,
}

impl Stream {
    async fn open(api: &Api, last: Option<i64>) -> Self {
        let mut request = Request::builder().uri(EVENTS).header("x-api-key", api.key.as_str());
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response =
            api.router.clone().call(request.body(Body::empty()).expect("a request")).await.expect("infallible");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event's id and name, and its data; `None` at the end.
    async fn next(&mut self) -> Option<(i64, String, Value)> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                if let (Some(id), Some(event), Some(data)) = (field("id: "), field("event: "), field("data: ")) {
                    return Some((id.parse().expect("a number"), event, serde_json::from_str(&data).expect("JSON")));
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("something comes")?;
            self.text.push_str(std::str::from_utf8(&chunk.expect("infallible")).expect("UTF-8"));
        }
    }

    async fn ids(&mut self, count: usize) -> Vec<i64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(self.next().await.expect("an event").0);
        }
        ids
    }
}

/// Something has happened to a message, under this number.
fn happens(api: &Api, n: i64, message: &str, user: UserId) {
    let message = MessageId(message.parse().expect("an id"));
    let change = Change::Message(message, Status::Sent);
    api.store.data().events.push(Event { n, at: Time::now(), user, change });
    api.signals.publish(Signal::Messages(vec![message]));
}

async fn message(api: &Api) -> String {
    api.post(MESSAGES, text(json!({}))).await.id().to_owned()
}

#[tokio::test]
async fn a_stream_gives_what_happens_with_the_object() {
    let api = Api::new();
    let id = message(&api).await;
    happens(&api, 1, &id, super::USER);
    let mut stream = Stream::open(&api, None).await;
    happens(&api, 2, &id, super::USER);
    let (n, name, data) = stream.next().await.expect("an event");
    assert_eq!((n, name.as_str(), data["id"].as_str()), (2, "message.sent", Some(id.as_str())));
    let shown = api.get(&format!("{MESSAGES}/{id}")).await;
    assert_eq!((&data["status"], &data["status_now"]), (&json!("sent"), &shown.body["data"]["status"]));
    assert_eq!((&data["text"], &data["created_at"]), (&shown.body["data"]["text"], &shown.body["data"]["created_at"]));
}

#[tokio::test]
async fn a_late_number_comes_late_and_once() {
    let api = Api::new();
    let id = message(&api).await;
    let mut stream = Stream::open(&api, None).await;
    happens(&api, 1, &id, super::USER);
    happens(&api, 3, &id, super::USER);
    assert_eq!(stream.ids(2).await, [1, 3]);
    happens(&api, 2, &id, super::USER);
    happens(&api, 4, &id, super::USER);
    let mut rest = stream.ids(2).await;
    rest.sort_unstable();
    assert_eq!(rest, [2, 4]);
}

#[tokio::test]
async fn others_events_and_those_of_what_is_gone_arent_given() {
    let api = Api::new();
    let id = message(&api).await;
    let mut stream = Stream::open(&api, None).await;
    happens(&api, 1, &id, UserId(99));
    happens(&api, 2, &MessageId::generate().to_string(), super::USER);
    happens(&api, 3, &id, super::USER);
    assert_eq!(stream.ids(1).await, [3]);
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_without_a_gap() {
    let api = Api::new();
    let id = message(&api).await;
    for n in 1..=450 {
        happens(&api, n, &id, super::USER);
    }
    let mut stream = Stream::open(&api, Some(7)).await;
    assert_eq!(stream.ids(300).await, (8..=307).collect::<Vec<_>>());
    for n in 451..=500 {
        happens(&api, n, &id, super::USER);
    }
    assert_eq!(stream.ids(193).await, (308..=500).collect::<Vec<_>>());
    happens(&api, 501, &id, super::USER);
    assert_eq!(stream.ids(1).await, [501]);
    // Of the future, as after a restored backup: from now on.
    let mut stream = Stream::open(&api, Some(1_000_000)).await;
    happens(&api, 502, &id, super::USER);
    // What has just happened may come with it.
    while stream.ids(1).await != [502] {}
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_and_has_missed_nothing_after_it_comes_again() {
    let api = Api::new();
    let id = message(&api).await;
    let mut slow = Stream::open(&api, None).await;
    let mut quick = Stream::open(&api, None).await;
    let mut n = 0;
    // The quick one isn't held up by the slow one.
    while n < 1_000 {
        for _ in 0..100 {
            n += 1;
            happens(&api, n, &id, super::USER);
        }
        quick.ids(100).await;
    }
    let mut seen = Vec::new();
    while let Some((n, ..)) = slow.next().await {
        seen.push(n);
    }
    assert!((100..1_000).contains(&seen.len()), "{} were in its buffer", seen.len());
    let mut again = Stream::open(&api, seen.last().copied()).await;
    seen.extend(again.ids(1_000 - seen.len()).await);
    assert_eq!(seen, (1..=1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_ends_with_its_credentials() {
    let api = Api::new();
    let mut stream = Stream::open(&api, None).await;
    let mut resumed = Stream::open(&api, Some(0)).await;
    let start = Instant::now();
    for key in api.store.data().keys.values_mut() {
        key.key_is_active = false;
    }
    assert_eq!(stream.next().await, None);
    assert_eq!(resumed.next().await, None);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_user_has_only_so_many_streams() {
    let api = Api::with(HttpSettings { streams_per_user: 3, ..defaults() });
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(Stream::open(&api, None).await);
    }
    let refused = api.get(EVENTS).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::TOO_MANY_REQUESTS, "rate_limited"));
    assert!(refused.headers.contains_key("retry-after"));
    let other = api.store.add_user(UserId(2));
    let request = Request::get(EVENTS).header("x-api-key", other.as_str()).body(Body::empty()).expect("a request");
    let others = api.router.clone().call(request).await.expect("infallible");
    assert_eq!(others.status(), StatusCode::OK, "another user's streams are their own");
    // A place is free again as soon as a stream ends.
    streams.pop();
    streams.push(Stream::open(&api, None).await);
    assert_eq!(api.get(EVENTS).await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn what_is_no_event_id_is_refused() {
    let api = Api::new();
    for wrong in ["", "x", "-1", "1.5", "99999999999999999999", "1 2"] {
        let answer = api.send(axum::http::Method::GET, EVENTS, None, &[("last-event-id", wrong)]).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "malformed_request"), "{wrong:?}");
    }
    assert_eq!(api.get("/api/v1/events?page=2").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(api.get("/api/v1/events?user_id=2").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn each_request_leaves_a_line_in_the_api_log() {
    let api = Api::new();
    let id = message(&api).await;
    api.get(&format!("{MESSAGES}/{id}/")).await;
    api.get("/api/v1/nothing%00").await;
    api.get("/health/live").await;
    let unknown = Request::builder().method("BREW").uri("/api/v1/usage").body(Body::empty()).expect("a request");
    api.ask(unknown).await;
    let start = Instant::now();
    while api.store.data().api_logs.len() < 4 {
        assert!(start.elapsed() < PATIENCE, "lines are written");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lines = api.store.data().api_logs.clone();
    let seen: Vec<_> =
        lines.iter().map(|l| (l.method.as_str(), l.endpoint.as_str(), l.status, l.user.map(|user| user.0))).collect();
    let user = Some(super::USER.0);
    assert_eq!(
        seen,
        [
            ("POST", MESSAGES, 202, user),
            ("GET", "/api/v1/messages/{id}", 200, user),
            ("GET", "/api/v1/nothing%00", 404, user),
            ("OTHER", "/api/v1/usage", 405, None),
        ]
    );
    assert!(lines.iter().all(|line| line.duration_us > 0 && line.request_id.len() == 32));
}
