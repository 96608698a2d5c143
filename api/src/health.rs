//! Health and metrics: no login, at the root.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sanasr_shared::ports::queue::Queue;
use sanasr_shared::ports::signals::Signals;
use sanasr_shared::ports::store::Store;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::RenderMetrics;
use crate::answer::json;

/// How long the database may take to answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long its last answer serves whoever asks next: nobody needs a login to ask.
const REMEMBERED: Duration = Duration::from_millis(250);

/// What is looked at.
pub(crate) struct Health {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    signals: Arc<dyn Signals>,
    database: Mutex<Option<(Instant, bool)>>,
}

#[derive(Serialize)]
struct Ready {
    status: &'static str,
    checks: Checks,
}

#[derive(Serialize)]
struct Checks {
    database: &'static str,
    broker: &'static str,
    signals: &'static str,
}

impl Health {
    pub(crate) fn new(store: Arc<dyn Store>, queue: Arc<dyn Queue>, signals: Arc<dyn Signals>) -> Arc<Self> {
        Arc::new(Self { store, queue, signals, database: Mutex::default() })
    }

    async fn database(&self) -> bool {
        let mut last = self.database.lock().await;
        match *last {
            Some((at, answers)) if at.elapsed() < REMEMBERED => answers,
            _ => {
                let ping = tokio::time::timeout(DATABASE_TIMEOUT, self.store.ping()).await;
                let answers = matches!(ping, Ok(Ok(())));
                *last = Some((Instant::now(), answers));
                answers
            }
        }
    }
}

pub(crate) fn routes(health: Arc<Health>, metrics: Option<RenderMetrics>) -> Router {
    let mut routes = Router::new().route("/health/live", get(live)).route("/health/ready", get(ready));
    if let Some(render) = metrics {
        routes = routes.route("/metrics", get(async move || rendered(&render)));
    }
    routes.with_state(health)
}

/// The process runs.
async fn live() -> Response {
    json(StatusCode::OK, &serde_json::json!({"status": "ok"}))
}

/// The process can do its work: not without the database, and slower without the others.
async fn ready(State(health): State<Arc<Health>>) -> Response {
    let (database, broker, signals) =
        (health.database().await, health.queue.is_connected(), health.signals.is_connected());
    let word = |up| if up { "ok" } else { "unavailable" };
    let checks = Checks { database: word(database), broker: word(broker), signals: word(signals) };
    let (status, said) = match (database, broker && signals) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (true, false) => (StatusCode::OK, "degraded"),
        (true, true) => (StatusCode::OK, "ok"),
    };
    json(status, &Ready { status: said, checks })
}

fn rendered(render: &RenderMetrics) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render()).into_response()
}
