//! What users did, for admins: usage by day, and the API log.

mod api_logs;
mod usage_stats;

use axum::Router;
use axum::routing::get;
use utoipa::OpenApi;

use crate::state::App;

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(usage_stats::usage_stats, api_logs::api_logs))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/analytics/usage-stats", get(usage_stats::usage_stats))
        .route("/api/v1/analytics/api-logs", get(api_logs::api_logs))
}
