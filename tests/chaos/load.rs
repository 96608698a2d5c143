//! Client apps that keep sending while something breaks, and remember what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::harness::wait::seconds;
use crate::harness::{Client, Message, eventually};

/// An app that sends texts to one recipient, one after the other.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) client: Client,
    pub(super) session: String,
    pub(super) to: String,
    /// Each message goes under an idempotency key of its own.
    pub(super) keyed: bool,
}

/// What an app was told about a message.
#[derive(Debug)]
pub(super) enum Answer {
    Accepted(Box<Message>),
    /// The status and the problem's code.
    Refused(u16, String),
    /// No answer came.
    Lost,
}

/// One message that an app tried to send.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) app: usize,
    pub(super) body: Value,
    pub(super) key: Option<String>,
    pub(super) answer: Answer,
    pub(super) asked: Instant,
    pub(super) took: Duration,
}

/// Apps at work.
#[derive(Debug)]
pub(super) struct Load {
    counts: Arc<Counts>,
    apps: Vec<JoinHandle<Vec<Attempt>>>,
}

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    accepted: AtomicUsize,
    refused: AtomicUsize,
}

/// Between an app's messages: tests are about what breaks, not about the top rate.
const PAUSE: Duration = Duration::from_millis(20);

impl Load {
    /// Sets the apps to work.
    pub(super) fn start(apps: impl IntoIterator<Item = App>) -> Self {
        let counts = Arc::<Counts>::default();
        let work = |(n, app)| tokio::spawn(work(n, app, Arc::clone(&counts)));
        let apps = apps.into_iter().enumerate().map(work).collect();
        Self { counts, apps }
    }

    /// Waits until so many more messages have been accepted.
    pub(super) async fn accepts(&self, more: usize, limit: Duration) {
        more_of(&self.counts.accepted, more, limit, "accepted").await;
    }

    /// Waits until so many more messages have been refused.
    pub(super) async fn is_refused(&self, more: usize, limit: Duration) {
        more_of(&self.counts.refused, more, limit, "refused").await;
    }

    /// Stops the apps. What they tried, each app's in its order.
    pub(super) async fn stop(self) -> Vec<Attempt> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for app in self.apps {
            all.extend(app.await.expect("no panic"));
        }
        all
    }

    /// Stops the apps. What they sent, of which everything was accepted.
    pub(super) async fn stop_all_accepted(self) -> Vec<Message> {
        let message = |attempt: Attempt| match attempt.answer {
            Answer::Accepted(message) => *message,
            Answer::Refused(..) | Answer::Lost => panic!("not accepted: {attempt:#?}"),
        };
        self.stop().await.into_iter().map(message).collect()
    }
}

async fn more_of(count: &AtomicUsize, more: usize, limit: Duration, what: &str) {
    let wanted = count.load(Ordering::Relaxed) + more;
    eventually(limit, &format!("{more} more are {what}"), async || {
        (count.load(Ordering::Relaxed) >= wanted).then_some(())
    })
    .await;
}

async fn work(n: usize, app: App, counts: Arc<Counts>) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    while !counts.stop.load(Ordering::Relaxed) {
        let name = format!("app-{n}-message-{}", attempts.len());
        let body = super::text(&app.session, &app.to, &name);
        let key = app.keyed.then_some(name);
        let asked = Instant::now();
        let reply = app.client.attempt(Method::POST, "/messages", key.as_deref(), Some(&body)).await;
        let answer = match reply {
            Ok(reply) if reply.status == 202 => {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                Answer::Accepted(Box::new(reply.data()))
            }
            Ok(reply) => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                Answer::Refused(reply.status, reply.code().to_owned())
            }
            Err(_) => Answer::Lost,
        };
        attempts.push(Attempt { app: n, body, key, answer, asked, took: asked.elapsed() });
        tokio::time::sleep(PAUSE).await;
    }
    attempts
}

/// Tries again what wasn't accepted, under its key, until it is.
pub(super) async fn insist(client: &Client, attempt: &Attempt) -> Message {
    let key = attempt.key.as_deref().expect("an attempt with a key");
    eventually(seconds(20), "it is accepted", async || {
        let reply = client.send_once(key, &attempt.body).await;
        (reply.status == 202).then(|| reply.data())
    })
    .await
}
