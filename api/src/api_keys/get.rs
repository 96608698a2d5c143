//! `GET /api-keys/{id}`.

use axum::extract::State;
use sanasr_shared::user::ApiKey;

use super::{KeyPath, absent};
use crate::answer::Data;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn get(State(app): State<App>, KeyPath(id): KeyPath, _: NoQuery) -> Result<Data<ApiKey>, Problem> {
    app.store.api_key(id).await?.map(Data::ok).ok_or_else(absent)
}
