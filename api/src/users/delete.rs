//! `DELETE /users/{id}`: nothing personal of the user is kept; messages, usage and logs stay under the id.

use axum::extract::State;
use axum::http::StatusCode;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::ports::store::Moved;

use super::{UserPath, absent, last_admin};
use crate::body::EmptyBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::UserId;
use crate::state::App;
use crate::trail::OnTrail;

/// Delete a user
///
/// Nothing personal of the user is kept: not the name, the logins, the keys or the sessions; what is queued is cancelled. The
/// books are kept: messages, usage and logs stay under the user's id, which nobody gets again.
#[utoipa::path(
    delete, path = "/api/v1/users/{id}", tag = "Users", operation_id = "delete_user",
    security(("bearer" = [])), params(UserId),
    responses(
        (status = 204, description = "Deleted."),
        (status = 409, description = "This is the last active admin."),
    ),
)]
pub(crate) async fn delete(
    State(app): State<App>,
    UserPath { id, .. }: UserPath,
    OnTrail(trail): OnTrail,
    _: NoQuery,
    _: EmptyBody,
) -> Result<StatusCode, Problem> {
    match app.store.delete_user(id, trail.actor()).await? {
        Moved::Done(sessions) => {
            app.standing_changed(id);
            for session in sessions {
                app.signals.publish(Signal::Session(session));
            }
            Ok(StatusCode::NO_CONTENT)
        }
        Moved::Refused(_) => Err(last_admin()),
        Moved::Absent => Err(absent()),
    }
}
