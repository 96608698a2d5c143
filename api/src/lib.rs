//! The HTTP API: routes, validation, the accepting path. In short: what a client sees is decided here, what is
//! true is decided by the store.
//!
//! What must hold: handlers are short and make one call to a port; [`problem`] is the one place that knows HTTP errors;
//! nothing here waits for the broker or for other processes' signals before it answers.
//!
//! A new endpoint: a file of its own beside its like, and a line in the `routes` of its folder.

mod analytics;
mod answer;
mod api_keys;
mod api_logs;
mod audit;
mod auth;
mod backlog;
mod body;
mod connections;
mod cursor;
mod edge;
mod events;
mod fields;
mod health;
mod idempotency;
mod json;
mod keys_used;
mod limits;
mod lines;
mod logins;
mod media;
mod messages;
mod multipart;
mod operations;
mod pace;
mod problem;
mod query;
mod reads;
mod reference;
mod remembered;
mod requests;
mod room;
mod serve;
mod sessions;
mod state;
#[cfg(test)]
mod tests;
mod trail;
mod usage;
mod users;
mod wire;
mod work;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::from_fn_with_state;
use ipnet::IpNet;
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::media::FileStore;
use sanasr_shared::ports::queue::Queue;
use sanasr_shared::ports::signals::Signals;
use sanasr_shared::ports::store::Store;
use sanasr_shared::secret::SecretKey;
use sanasr_shared::settings::{AcceptSettings, HttpSettings, MediaSettings, TokenSettings};
use tower::ServiceBuilder;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;

use crate::answer::Compressible;
pub use crate::connections::Bounds;
use crate::edge::{Edge, Entry};
use crate::health::{Health, Metrics};
use crate::problem::Problem;
pub use crate::serve::serve;
use crate::state::App;
use crate::work::Work;

/// Renders the metrics in Prometheus's text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the API is made of.
pub struct Parts {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The queue; only its health is looked at, as jobs are published by the store's hook.
    pub queue: Arc<dyn Queue>,
    /// Where changes are heard and told.
    pub signals: Arc<dyn Signals>,
    /// Limits of requests.
    pub http: HttpSettings,
    /// Limits of what may wait, and the bridge of new sessions.
    pub accept: AcceptSettings,
    /// Lives of tokens.
    pub tokens: TokenSettings,
    /// Limits of files.
    pub media: MediaSettings,
    /// Where files are.
    pub files: FileStore,
    /// What tokens are signed with.
    pub secret: SecretKey,
    /// What `/metrics` answers.
    pub metrics: RenderMetrics,
    /// This process's shard of the usage stats.
    pub shard: i64,
    /// The owner of long-lived tasks.
    pub watchdog: Watchdog,
}

/// What health and metrics are made of.
pub struct OpsParts {
    /// The database, without which nothing is ready.
    pub store: Arc<dyn Store>,
    /// The broker.
    pub queue: Arc<dyn Queue>,
    /// The signals.
    pub signals: Arc<dyn Signals>,
    /// What `/metrics` answers.
    pub metrics: RenderMetrics,
    /// Which knows whether the parts of the process move.
    pub watchdog: Watchdog,
    /// Networks that may read it; `None` on a listener of the metrics' own, whose address decides that.
    pub metrics_allow: Option<Vec<IpNet>>,
    /// Proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// The whole API. It starts tasks of its own, which end when the router and its clones are dropped: call it within a
/// runtime.
pub fn router(parts: Parts) -> Router {
    let metrics = parts
        .http
        .metrics_listen
        .is_none()
        .then(|| Metrics { render: Arc::clone(&parts.metrics), allow: Some(parts.http.metrics_allow.clone()) });
    let health = Health::new(
        Arc::clone(&parts.store),
        Arc::clone(&parts.queue),
        Arc::clone(&parts.signals),
        parts.watchdog.clone(),
    );
    let app = App::start(parts);
    let api = Router::new()
        .merge(messages::routes())
        .merge(sessions::routes())
        .merge(usage::routes())
        .merge(operations::routes())
        .merge(logins::routes())
        .merge(users::routes())
        .merge(api_keys::routes())
        .merge(events::routes())
        .merge(analytics::routes())
        .merge(audit::routes())
        .merge(media::routes());
    let routes = api.with_state(app.clone()).merge(health::routes(health, metrics)).merge(reference::routes());
    let edge = Edge {
        proxies: app.http.trusted_proxies.as_slice().into(),
        api_logs: app.api_logs.as_ref().map(Arc::clone),
        watch: Some(Arc::clone(&app.watch)),
        work: app.work.clone(),
    };
    let cors = cors(&app.http.cors_origins);
    finish(routes, Some(app), edge, cors)
}

/// Health and metrics alone: for a worker with an address, and for a listener of the metrics' own.
pub fn ops_router(parts: OpsParts) -> Router {
    let health = Health::new(parts.store, parts.queue, parts.signals, parts.watchdog);
    let metrics = Metrics { render: parts.metrics, allow: parts.metrics_allow };
    let edge = Edge { proxies: parts.trusted_proxies.into(), api_logs: None, watch: None, work: Work::new() };
    finish(health::routes(health, Some(metrics)), None, edge, None)
}

/// Lets pages of other origins call the API, if any are listed.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect();
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers(
                ["authorization", "content-type", "idempotency-key", "last-event-id", "x-api-key", "x-request-id"]
                    .map(HeaderName::from_static),
            )
            .expose_headers(
                ["idempotent-replayed", "ratelimit", "ratelimit-policy", "retry-after", "x-request-id"]
                    .map(HeaderName::from_static),
            )
            .max_age(Duration::from_secs(3_600))
    })
}

/// What every answer has in common, around the routes.
fn finish(routes: Router, app: Option<App>, edge: Edge, cors: Option<CorsLayer>) -> Router {
    let (unknown, known) = (app.clone(), app.clone());
    let inner = routes
        .fallback(move |request: Request| {
            let problem = Problem::not_found(edge::no_endpoint(request.uri().path()));
            edge::refuse(unknown.clone(), request, problem)
        })
        .method_not_allowed_fallback(move |request: Request| {
            edge::refuse(known.clone(), request, Problem::method_not_allowed())
        })
        // As one layer: each costs several allocations a request.
        .layer(
            ServiceBuilder::new()
                .layer(from_fn_with_state(edge, edge::edge))
                .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(Compressible)),
        );
    let inner = match cors {
        Some(cors) => inner.layer(cors),
        None => inner,
    };
    // Whatever comes falls through to the entry, as a path must be rewritten before it is routed.
    Router::new().fallback_service(Entry::new(inner, app))
}
