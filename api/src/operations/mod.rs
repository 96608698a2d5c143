//! What operators look at and do, over all users: workers, queues, dead letters.

mod dead_letters;
mod queues;
mod replay;
mod workers;

use axum::Router;
use axum::routing::{get, post};
use utoipa::OpenApi;

use crate::state::App;

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(workers::workers, queues::queues, dead_letters::dead_letters, replay::replay))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/workers", get(workers::workers))
        .route("/api/v1/queues", get(queues::queues))
        .route("/api/v1/dead-letters", get(dead_letters::dead_letters))
        .route("/api/v1/dead-letters/{id}/replay", post(replay::replay))
}
