//! Users, as admins handle them.

mod activate;
pub(crate) mod body;
mod change;
mod create;
mod delete;
mod get;
mod list;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::{get, post};
use sanasr_shared::ids::UserId;
use utoipa::OpenApi;

use crate::auth::{Asker, Staff};
use crate::problem::Problem;
use crate::state::App;

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(
    list::list,
    create::create,
    get::get,
    change::change,
    change::put,
    delete::delete,
    activate::activate,
    activate::deactivate
))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/users", get(list::list).post(create::create))
        .route("/api/v1/users/{id}", get(get::get).put(change::put).patch(change::change).delete(delete::delete))
        .route("/api/v1/users/{id}/activate", post(activate::activate))
        .route("/api/v1/users/{id}/deactivate", post(activate::deactivate))
}

/// The user that an admin's path names. What can't be an id is the id of no user.
pub(crate) struct UserPath {
    asker: Asker,
    id: UserId,
}

impl FromRequestParts<App> for UserPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Staff(asker) = Staff::from_request_parts(parts, app).await?;
        let Path(id) = Path::<String>::from_request_parts(parts, app).await.map_err(|_| absent())?;
        let id = id.parse().map_err(|_| absent())?;
        Ok(Self { asker, id: UserId(id) })
    }
}

fn absent() -> Problem {
    Problem::not_found("There is no such user.")
}

fn last_admin() -> Problem {
    Problem::conflict("This is the last active admin: make another one first.")
}
