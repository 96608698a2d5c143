//! Sessions: making, pairing, pausing, deleting. QR images and pair codes have their place here.

mod change;
mod command;
mod create;
mod delete;
mod get;
mod list;
pub(crate) mod resolve;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::{get, post};
use sanasr_shared::ports::store::SessionCommand;
use sanasr_shared::session::DEFAULT_SESSION;

use crate::problem::Problem;
use crate::state::App;

pub(crate) fn routes() -> Router<App> {
    use SessionCommand::{Connect, Disconnect, Logout, Pause, Resume};
    Router::new()
        .route("/api/v1/sessions", get(list::list).post(create::create))
        .route("/api/v1/sessions/{name}", get(get::get).patch(change::change).delete(delete::delete))
        .route("/api/v1/sessions/{name}/connect", post(command::named(Connect)))
        .route("/api/v1/sessions/{name}/disconnect", post(command::named(Disconnect)))
        .route("/api/v1/sessions/{name}/logout", post(command::named(Logout)))
        .route("/api/v1/sessions/{name}/pause", post(command::named(Pause)))
        .route("/api/v1/sessions/{name}/resume", post(command::named(Resume)))
        // The short forms: they act on the session `default`.
        .route("/api/v1/sessions/status", get(get::default))
        .route("/api/v1/sessions/init", post(command::default(Connect)))
        .route("/api/v1/sessions/disconnect", post(command::default(Disconnect)))
}

/// The name of a session in a path. What can't be a name is the name of no session.
pub(crate) struct SessionPath(String);

impl SessionPath {
    fn default_session() -> Self {
        Self(DEFAULT_SESSION.to_owned())
    }
}

impl FromRequestParts<App> for SessionPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, app).await.map_err(|_| absent())?;
        if resolve::may_exist(&name) { Ok(Self(name)) } else { Err(absent()) }
    }
}

/// Unknown, or another user's: which of the two isn't told.
fn absent() -> Problem {
    Problem::not_found("There is no such session.")
}
