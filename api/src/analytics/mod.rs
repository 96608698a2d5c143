//! What users did, for admins: usage by day, and the API log.

mod api_logs;
mod usage_stats;

use axum::Router;
use axum::routing::get;

use crate::state::App;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/analytics/usage-stats", get(usage_stats::usage_stats))
        .route("/api/v1/analytics/api-logs", get(api_logs::api_logs))
}
