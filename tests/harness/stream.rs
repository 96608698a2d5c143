//! A stream of events, as a client app reads it.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;

/// An open stream of events.
pub(crate) struct Events {
    chunks: Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<Bytes>> + Send>>,
    text: Vec<u8>,
    /// The last event's id.
    pub(crate) last: Option<i64>,
    /// Comments that came.
    pub(crate) comments: usize,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: i64,
    /// Such as `message.sent`.
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Event {
    /// The id of the message or session that it is about.
    pub(crate) fn about(&self) -> &str {
        self.data["id"].as_str().unwrap_or_else(|| panic!("no id: {self:?}"))
    }
}

impl Events {
    pub(crate) fn new(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { chunks: Box::pin(response.bytes_stream()), text: Vec::new(), last: None, comments: 0 }
    }

    /// The next event; `None` if the stream has ended or was cut. Fails if nothing comes in time.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<Event> {
        let next = tokio::time::timeout(limit, self.read()).await;
        next.unwrap_or_else(|_| panic!("an event, or the end, within {limit:?}; the last was {:?}", self.last))
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(event) = self.parse(std::str::from_utf8(&block).expect("UTF-8")) {
                    return Some(event);
                }
            }
            self.text.extend(self.chunks.next().await?.ok()?);
        }
    }

    fn parse(&mut self, block: &str) -> Option<Event> {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        self.comments += block.lines().filter(|line| line.starts_with(':')).count();
        let (id, name, data) = (field("id: ")?, field("event: ")?, field("data: ")?);
        let id = id.parse().unwrap_or_else(|e| panic!("{e}: {block}"));
        self.last = Some(id);
        let data: Value = serde_json::from_str(&data).unwrap_or_else(|e| panic!("{e}: {block}"));
        // What an event tells is what its name says, whatever has happened since.
        let status = name.split_once('.').map(|(_, status)| status);
        assert_eq!(data["status"].as_str(), status, "{block}");
        assert!(data["status_now"].is_string(), "{block}");
        Some(Event { id, name, data })
    }

    /// Reads until so many different things have had an event of this name; all that came.
    pub(crate) async fn until(&mut self, name: &str, count: usize, limit: Duration) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let end = std::time::Instant::now() + limit;
        while seen.len() < count {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let event =
                self.next(left).await.unwrap_or_else(|| panic!("the stream ended after {} events", events.len()));
            if event.name == name {
                seen.insert(event.about().to_owned());
            }
            events.push(event);
        }
        events
    }
}
