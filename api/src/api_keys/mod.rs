//! API keys, as admins handle them.

pub(crate) mod create;
mod delete;
mod get;
mod list;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::get;
use sanasr_shared::ids::ApiKeyId;
use utoipa::OpenApi;

use crate::auth::Staff;
use crate::problem::Problem;
use crate::state::App;

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(list::list, create::create, get::get, delete::delete))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/api-keys", get(list::list).post(create::create))
        .route("/api/v1/api-keys/{id}", get(get::get).delete(delete::delete))
}

/// The key that an admin's path names. What can't be an id is the id of no key.
pub(crate) struct KeyPath(ApiKeyId);

impl FromRequestParts<App> for KeyPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Staff::from_request_parts(parts, app).await?;
        let Path(id) = Path::<String>::from_request_parts(parts, app).await.map_err(|_| absent())?;
        Ok(Self(ApiKeyId(id.parse().map_err(|_| absent())?)))
    }
}

fn absent() -> Problem {
    Problem::not_found("There is no such API key.")
}
