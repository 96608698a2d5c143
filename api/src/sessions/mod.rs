//! Sessions: making, pairing, pausing, deleting.

pub(crate) mod change;
mod command;
pub(crate) mod create;
mod delete;
mod get;
mod list;
pub(crate) mod pair_code;
mod qr;
pub(crate) mod resolve;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::{get, post};
use sanasr_shared::ids::{SessionId, UserId};
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::session::DEFAULT_SESSION;
use utoipa::OpenApi;
use uuid::Uuid;

use crate::auth::{Asker, Caller};
use crate::problem::Problem;
use crate::state::App;

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(
    list::list,
    create::create,
    get::get,
    change::change,
    delete::delete,
    command::connect,
    qr::qr,
    pair_code::pair_code,
    command::disconnect,
    command::unlink,
    command::logout,
    command::pause,
    command::resume,
    get::default,
    command::connect_default,
    command::disconnect_default
))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/sessions", get(list::list).post(create::create))
        .route("/api/v1/sessions/{name}", get(get::get).patch(change::change).delete(delete::delete))
        .route("/api/v1/sessions/{name}/qr", get(qr::qr))
        .route("/api/v1/sessions/{name}/pair-code", post(pair_code::pair_code))
        .route("/api/v1/sessions/{name}/connect", post(command::connect))
        .route("/api/v1/sessions/{name}/disconnect", post(command::disconnect))
        .route("/api/v1/sessions/{name}/unlink", post(command::unlink))
        .route("/api/v1/sessions/{name}/logout", post(command::logout))
        .route("/api/v1/sessions/{name}/pause", post(command::pause))
        .route("/api/v1/sessions/{name}/resume", post(command::resume))
        // The short forms: they act on the session `default`.
        .route("/api/v1/sessions/status", get(get::default))
        .route("/api/v1/sessions/init", post(command::connect_default))
        .route("/api/v1/sessions/disconnect", post(command::disconnect_default))
}

/// The session that a path names: by its name among the caller's, or, for admins, by its id. What can't be a name is the
/// name of no session.
pub(crate) struct SessionPath {
    user: UserId,
    name: String,
    /// Who asks.
    asker: Asker,
    by: Actor,
}

impl SessionPath {
    /// A caller's session `default`.
    fn default_of(caller: Caller) -> Result<Self, Problem> {
        Ok(Self { user: caller.user()?, name: DEFAULT_SESSION.to_owned(), asker: caller.asker, by: caller.actor() })
    }
}

impl FromRequestParts<App> for SessionPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let Path(name) = Path::<String>::from_request_parts(parts, app).await.map_err(|_| absent())?;
        if caller.asker.staff
            && let Ok(id) = Uuid::try_parse(&name)
            && let Some((user, name)) = app.store.session_name(caller.reach(), SessionId(id)).await?
        {
            return Ok(Self { user, name, asker: caller.asker, by: caller.actor() });
        }
        if resolve::may_exist(&name) {
            Ok(Self { user: caller.user()?, name, asker: caller.asker, by: caller.actor() })
        } else {
            Err(absent())
        }
    }
}

/// Unknown, or another user's: which of the two isn't told.
fn absent() -> Problem {
    Problem::not_found("There is no such session.")
}
