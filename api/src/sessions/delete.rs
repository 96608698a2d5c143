//! `DELETE /sessions/{name}`: marks a session for deletion; what it has queued is cancelled in the background.

use axum::extract::State;
use axum::http::StatusCode;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::session::DEFAULT_SESSION;

use super::{SessionPath, absent, resolve};
use crate::body::EmptyBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{OfUser, SessionName};
use crate::state::App;

/// Delete a session
///
/// Cancels what it has queued, in the background, and gives the units of the quota back; what may have been sent ends as
/// `unknown_outcome`. That begins within seconds, takes about a second for some thousand messages, and until then they show as
/// they were. Its name is free at once.
#[utoipa::path(
    delete, path = "/api/v1/sessions/{name}", tag = "Sessions", operation_id = "delete_session",
    params(SessionName, OfUser),
    responses(
        (status = 204, description = "Deleted."),
        (status = 409, description = "The session `default` can't be deleted."),
    ),
)]
pub(crate) async fn delete(
    State(app): State<App>,
    SessionPath { user, name, by, .. }: SessionPath,
    _: NoQuery,
    _: EmptyBody,
) -> Result<StatusCode, Problem> {
    if name == DEFAULT_SESSION {
        return Err(Problem::conflict("The session default can't be deleted."));
    }
    // Its id is asked for first: afterwards the name means nothing any more.
    let session = app.store.session(user, &name).await?.ok_or_else(absent)?;
    if !app.store.delete_session(user, &name, by).await? {
        return Err(absent());
    }
    resolve::forget(&app, user, &name);
    app.signals.publish(Signal::Session(session.id));
    Ok(StatusCode::NO_CONTENT)
}
