//! `GET /users/{id}`.

use axum::extract::State;
use sanasr_shared::user::User;

use super::{UserPath, absent};
use crate::answer::Data;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn get(
    State(app): State<App>,
    UserPath { id, .. }: UserPath,
    _: NoQuery,
) -> Result<Data<User>, Problem> {
    app.store.user(id).await?.map(Data::ok).ok_or_else(absent)
}
