//! `POST /users/{id}/activate` and `/deactivate`. Doing it again is fine.

use axum::extract::State;
use sanasr_shared::ports::store::Moved;
use sanasr_shared::user::{User, UserChange};

use super::{UserPath, absent, last_admin};
use crate::answer::Data;
use crate::body::EmptyBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn activate(
    State(app): State<App>,
    path: UserPath,
    _: NoQuery,
    _: EmptyBody,
) -> Result<Data<User>, Problem> {
    set(&app, &path, true).await
}

pub(crate) async fn deactivate(
    State(app): State<App>,
    path: UserPath,
    _: NoQuery,
    _: EmptyBody,
) -> Result<Data<User>, Problem> {
    set(&app, &path, false).await
}

async fn set(app: &App, path: &UserPath, active: bool) -> Result<Data<User>, Problem> {
    let change = UserChange { is_active: Some(active), ..UserChange::default() };
    match app.store.change_user(path.id, &change, None).await? {
        Moved::Done(user) => {
            app.standing_changed(user.id);
            Ok(Data::ok(user))
        }
        Moved::Refused(_) => Err(last_admin()),
        Moved::Absent => Err(absent()),
    }
}
