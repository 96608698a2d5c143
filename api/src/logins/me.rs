//! `GET /auth/me`: who is asking.

use axum::extract::State;
use sanasr_shared::user::User;

use crate::answer::{Data, Success};
use crate::auth::Asker;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

/// Who am I?
#[utoipa::path(
    get, path = "/api/v1/auth/me", tag = "Auth", operation_id = "get_me",
    responses((status = 200, description = "The user who asks.", body = Success<User>)),
)]
pub(crate) async fn me(State(app): State<App>, asker: Asker, _: NoQuery) -> Result<Data<User>, Problem> {
    app.store.user(asker.user).await?.map(Data::ok).ok_or_else(Problem::unauthenticated)
}
