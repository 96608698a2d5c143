//! `POST /sessions/{name}/connect`, `/disconnect`, `/unlink`, `/pause`, `/resume`, and the short forms for `default`:
//! idempotent, whatever the session's state.

use axum::extract::State;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::ports::store::SessionCommand;
use sanasr_shared::session::Session;

use super::{SessionPath, absent};
use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::body::EmptyBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{OfUser, SessionName};
use crate::state::App;

type Answer = Result<Data<Session>, Problem>;

/// Connect a session
///
/// Pairs and connects it. Idempotent, whatever its state: `GET /sessions/{name}` shows how far it is, and the QR code to scan.
#[utoipa::path(
    post, path = "/api/v1/sessions/{name}/connect", tag = "Sessions", operation_id = "connect_session",
    params(SessionName, OfUser),
    responses((status = 202, description = "On its way.", body = Success<Session>)),
)]
pub(crate) async fn connect(State(app): State<App>, session: SessionPath, _: NoQuery, _: EmptyBody) -> Answer {
    give(app, session, SessionCommand::Connect).await
}

/// Disconnect a session
///
/// Keeps the pairing. Idempotent.
#[utoipa::path(
    post, path = "/api/v1/sessions/{name}/disconnect", tag = "Sessions", operation_id = "disconnect_session",
    params(SessionName, OfUser),
    responses((status = 202, description = "On its way.", body = Success<Session>)),
)]
pub(crate) async fn disconnect(State(app): State<App>, session: SessionPath, _: NoQuery, _: EmptyBody) -> Answer {
    give(app, session, SessionCommand::Disconnect).await
}

/// Unlink a session
///
/// Ends the pairing: the next `connect` begins with a QR code. Idempotent.
#[utoipa::path(
    post, path = "/api/v1/sessions/{name}/unlink", tag = "Sessions", operation_id = "unlink_session",
    params(SessionName, OfUser),
    responses((status = 202, description = "On its way.", body = Success<Session>)),
)]
pub(crate) async fn unlink(State(app): State<App>, session: SessionPath, _: NoQuery, _: EmptyBody) -> Answer {
    give(app, session, SessionCommand::Logout).await
}

/// Unlink a session (synonym)
///
/// The same as `POST /sessions/{name}/unlink`.
#[utoipa::path(
    post, path = "/api/v1/sessions/{name}/logout", tag = "Sessions", operation_id = "log_out_session",
    params(SessionName, OfUser),
    responses((status = 202, description = "On its way.", body = Success<Session>)),
)]
pub(crate) async fn logout(app: State<App>, session: SessionPath, query: NoQuery, body: EmptyBody) -> Answer {
    unlink(app, session, query, body).await
}

/// Pause a session
///
/// It stays connected and sends nothing until resumed. Idempotent.
#[utoipa::path(
    post, path = "/api/v1/sessions/{name}/pause", tag = "Sessions", operation_id = "pause_session",
    params(SessionName, OfUser),
    responses((status = 200, description = "The session as it is now.", body = Success<Session>)),
)]
pub(crate) async fn pause(State(app): State<App>, session: SessionPath, _: NoQuery, _: EmptyBody) -> Answer {
    give(app, session, SessionCommand::Pause).await
}

/// Resume a session
///
/// Idempotent.
#[utoipa::path(
    post, path = "/api/v1/sessions/{name}/resume", tag = "Sessions", operation_id = "resume_session",
    params(SessionName, OfUser),
    responses((status = 200, description = "The session as it is now.", body = Success<Session>)),
)]
pub(crate) async fn resume(State(app): State<App>, session: SessionPath, _: NoQuery, _: EmptyBody) -> Answer {
    give(app, session, SessionCommand::Resume).await
}

/// Connect the session `default`
///
/// The same as `POST /sessions/default/connect`.
#[utoipa::path(
    post, path = "/api/v1/sessions/init", tag = "Sessions", operation_id = "connect_default_session",
    params(OfUser),
    responses((status = 202, description = "On its way.", body = Success<Session>)),
)]
pub(crate) async fn connect_default(State(app): State<App>, caller: Caller, _: NoQuery, _: EmptyBody) -> Answer {
    give(app, SessionPath::default_of(caller)?, SessionCommand::Connect).await
}

/// Disconnect the session `default`
///
/// The same as `POST /sessions/default/disconnect`.
#[utoipa::path(
    post, path = "/api/v1/sessions/disconnect", tag = "Sessions", operation_id = "disconnect_default_session",
    params(OfUser),
    responses((status = 202, description = "On its way.", body = Success<Session>)),
)]
pub(crate) async fn disconnect_default(State(app): State<App>, caller: Caller, _: NoQuery, _: EmptyBody) -> Answer {
    give(app, SessionPath::default_of(caller)?, SessionCommand::Disconnect).await
}

async fn give(app: App, SessionPath { user, name, by, .. }: SessionPath, command: SessionCommand) -> Answer {
    let session = app.store.command(user, &name, command, by).await?.ok_or_else(absent)?.opened(&app.vault);
    app.signals.publish(Signal::Session(session.id));
    if command == SessionCommand::Connect {
        app.signals.publish(Signal::SessionFree);
    }
    match command {
        // The worker that drives it carries these out.
        SessionCommand::Connect | SessionCommand::Disconnect | SessionCommand::Logout => Ok(Data::accepted(session)),
        SessionCommand::Pause | SessionCommand::Resume => Ok(Data::ok(session)),
    }
}
