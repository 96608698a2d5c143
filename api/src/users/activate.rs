//! `POST /users/{id}/activate` and `/deactivate`. Doing it again is fine.

use axum::extract::State;
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::store::Moved;
use sanasr_shared::user::{User, UserChange};

use super::{UserPath, absent, last_admin};
use crate::answer::{Data, Success};
use crate::body::EmptyBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::UserId;
use crate::state::App;
use crate::trail::OnTrail;

/// Activate a user
///
/// What was queued goes on. Doing it again is fine.
#[utoipa::path(
    post, path = "/api/v1/users/{id}/activate", tag = "Users", operation_id = "activate_user",
    security(("bearer" = [])), params(UserId),
    responses((status = 200, description = "The user as it is now.", body = Success<User>)),
)]
pub(crate) async fn activate(
    State(app): State<App>,
    path: UserPath,
    OnTrail(trail): OnTrail,
    _: NoQuery,
    _: EmptyBody,
) -> Result<Data<User>, Problem> {
    set(&app, &path, true, trail.actor()).await
}

/// Deactivate a user
///
/// The user's logins end, and with them and the keys whatever is open, within a second. The queue is kept, and nothing of it is
/// sent until the user is activated again; then the keys work again, too. Doing it again is fine.
#[utoipa::path(
    post, path = "/api/v1/users/{id}/deactivate", tag = "Users", operation_id = "deactivate_user",
    security(("bearer" = [])), params(UserId),
    responses(
        (status = 200, description = "The user as it is now.", body = Success<User>),
        (status = 409, description = "This is the last active admin."),
    ),
)]
pub(crate) async fn deactivate(
    State(app): State<App>,
    path: UserPath,
    OnTrail(trail): OnTrail,
    _: NoQuery,
    _: EmptyBody,
) -> Result<Data<User>, Problem> {
    set(&app, &path, false, trail.actor()).await
}

async fn set(app: &App, path: &UserPath, active: bool, by: Actor) -> Result<Data<User>, Problem> {
    let change = UserChange { is_active: Some(active), ..UserChange::default() };
    match app.store.change_user(path.id, &change, None, by).await? {
        Moved::Done(user) => {
            app.standing_changed(user.id);
            Ok(Data::ok(user))
        }
        Moved::Refused(_) => Err(last_admin()),
        Moved::Absent => Err(absent()),
    }
}
