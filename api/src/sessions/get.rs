//! `GET /sessions/{name}` and `GET /sessions/status`.

use axum::extract::State;
use sanasr_shared::session::Session;

use super::{SessionPath, absent};
use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{OfUser, SessionName};
use crate::state::App;

/// Get a session
#[utoipa::path(
    get, path = "/api/v1/sessions/{name}", tag = "Sessions", operation_id = "get_session",
    params(SessionName, OfUser),
    responses((status = 200, description = "The session as it is now.", body = Success<Session>)),
)]
pub(crate) async fn get(
    State(app): State<App>,
    SessionPath { user, name, .. }: SessionPath,
    _: NoQuery,
) -> Result<Data<Session>, Problem> {
    let session = app.store.session(user, &name).await?.ok_or_else(absent)?;
    Ok(Data::ok(session.opened(&app.vault)))
}

/// Get the session `default`
///
/// The same as `GET /sessions/default`.
#[utoipa::path(
    get, path = "/api/v1/sessions/status", tag = "Sessions", operation_id = "get_default_session",
    params(OfUser),
    responses((status = 200, description = "The session as it is now.", body = Success<Session>)),
)]
pub(crate) async fn default(app: State<App>, caller: Caller, query: NoQuery) -> Result<Data<Session>, Problem> {
    get(app, SessionPath::default_of(caller)?, query).await
}
