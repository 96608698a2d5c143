//! `GET /users/{id}`.

use axum::extract::State;
use sanasr_shared::user::User;

use super::{UserPath, absent};
use crate::answer::{Data, Success};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::UserId;
use crate::state::App;

/// Get a user
#[utoipa::path(
    get, path = "/api/v1/users/{id}", tag = "Users", operation_id = "get_user",
    security(("bearer" = [])), params(UserId),
    responses((status = 200, description = "The user.", body = Success<User>)),
)]
pub(crate) async fn get(
    State(app): State<App>,
    UserPath { id, .. }: UserPath,
    _: NoQuery,
) -> Result<Data<User>, Problem> {
    app.store.user(id).await?.map(Data::ok).ok_or_else(absent)
}
