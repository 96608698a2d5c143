//! Files: uploaded here, named by messages.

mod delete;
mod get;
mod upload;

use axum::Router;
use axum::routing::{get, post};
use utoipa::OpenApi;

use crate::state::App;

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(upload::upload, get::get, delete::delete))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/media", post(upload::upload))
        .route("/api/v1/media/{id}", get(get::get).delete(delete::delete))
}
