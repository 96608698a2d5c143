//! Health and metrics: no login, at the root.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ipnet::IpNet;
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::ports::queue::Queue;
use sanasr_shared::ports::signals::Signals;
use sanasr_shared::ports::store::Store;
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::{OpenApi, ToSchema};

use crate::RenderMetrics;
use crate::answer::json;
use crate::problem::Problem;
use crate::trail;

/// How long the database may take to answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long its last answer serves whoever asks next: nobody needs a login to ask.
const REMEMBERED: Duration = Duration::from_millis(250);

/// What is looked at.
pub(crate) struct Health {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    signals: Arc<dyn Signals>,
    watchdog: Watchdog,
    database: Mutex<Option<(Instant, bool)>>,
}

/// The process runs.
#[derive(Serialize, ToSchema)]
struct Live {
    /// Always `ok`.
    #[schema(examples("ok"))]
    status: &'static str,
}

/// Whether the process can do its work.
#[derive(Serialize, ToSchema)]
struct Ready {
    /// `ok`; `degraded` without the broker or the signals, as accepting goes on; `unavailable` without the database.
    #[schema(examples("ok"))]
    status: &'static str,
    checks: Checks,
}

/// Each dependency: `ok` or `unavailable`.
#[derive(Serialize, ToSchema)]
struct Checks {
    #[schema(examples("ok"))]
    database: &'static str,
    #[schema(examples("ok"))]
    broker: &'static str,
    #[schema(examples("ok"))]
    signals: &'static str,
    /// The parts of the process itself: `unavailable` if one has work and makes no progress for 10 s, or crashes again and
    /// again.
    #[schema(examples("ok"))]
    parts: &'static str,
}

impl Health {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        queue: Arc<dyn Queue>,
        signals: Arc<dyn Signals>,
        watchdog: Watchdog,
    ) -> Arc<Self> {
        Arc::new(Self { store, queue, signals, watchdog, database: Mutex::default() })
    }

    async fn database(&self) -> bool {
        let mut last = self.database.lock().await;
        match *last {
            Some((at, answers)) if at.elapsed() < REMEMBERED => answers,
            _ => {
                let ping = tokio::time::timeout(DATABASE_TIMEOUT, self.store.ping()).await;
                let moves = self.store.moves();
                if let Err(error) = &moves {
                    tracing::warn!(%error, "not ready");
                }
                let answers = matches!(ping, Ok(Ok(()))) && moves.is_ok();
                *last = Some((Instant::now(), answers));
                answers
            }
        }
    }
}

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(live, ready, rendered))]
pub(crate) struct Reference;

/// What `/metrics` answers, and to whom.
pub(crate) struct Metrics {
    pub(crate) render: RenderMetrics,
    /// Networks that may read it; `None` on a listener of its own, whose address decides that.
    pub(crate) allow: Option<Vec<IpNet>>,
}

pub(crate) fn routes(health: Arc<Health>, metrics: Option<Metrics>) -> Router {
    let mut routes = Router::new().route("/health/live", get(live)).route("/health/ready", get(ready));
    if let Some(metrics) = metrics {
        let metrics = Arc::new(metrics);
        routes = routes.route("/metrics", get(async move |request: Request| rendered(&metrics, &request)));
    }
    routes.with_state(health)
}

/// Is the process alive?
#[utoipa::path(
    get, path = "/health/live", tag = "Health", operation_id = "get_liveness", security(()),
    responses((status = 200, description = "It is.", body = Live)),
)]
async fn live() -> Response {
    json(StatusCode::OK, &Live { status: "ok" })
}

/// Can the process do its work?
///
/// Not without the database, nor while nothing can be written (for 10 s), and more slowly without the others.
#[utoipa::path(
    get, path = "/health/ready", tag = "Health", operation_id = "get_readiness", security(()),
    responses(
        (status = 200, description = "It can.", body = Ready),
        (status = 503, description = "The database can't be reached, or takes no writes.", body = Ready),
    ),
)]
async fn ready(State(health): State<Arc<Health>>) -> Response {
    let (database, broker, signals) =
        (health.database().await, health.queue.is_connected(), health.signals.is_connected());
    let troubles = health.watchdog.troubles();
    for trouble in &troubles {
        tracing::warn!("not ready: {trouble}");
    }
    let parts = troubles.is_empty();
    let word = |up| if up { "ok" } else { "unavailable" };
    let checks = Checks { database: word(database), broker: word(broker), signals: word(signals), parts: word(parts) };
    let (status, said) = match (database && parts, broker && signals) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (true, false) => (StatusCode::OK, "degraded"),
        (true, true) => (StatusCode::OK, "ok"),
    };
    json(status, &Ready { status: said, checks })
}

/// Metrics
///
/// In Prometheus's text format; on a listener of its own if `SANASR_METRICS_LISTEN` is set, and then not here. Otherwise only
/// for addresses in `SANASR_METRICS_ALLOW`: loopback, unless set. What a proxy brings that isn't trusted is refused.
#[utoipa::path(
    get, path = "/metrics", tag = "Health", operation_id = "get_metrics", security(()),
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
        (status = 403, description = "They aren't for this address."),
    ),
)]
fn rendered(metrics: &Metrics, request: &Request) -> Result<Response, Problem> {
    if let Some(allow) = &metrics.allow {
        let trail = trail::of(request.extensions())?;
        let known = !trail.by_a_strange_proxy;
        if !(known && allow.iter().any(|network| network.contains(&trail.address))) {
            return Err(Problem::forbidden(
                "The metrics aren't for this address: SANASR_METRICS_ALLOW names those that may read them.",
            ));
        }
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (metrics.render)()).into_response())
}
