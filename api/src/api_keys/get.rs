//! `GET /api-keys/{id}`.

use axum::extract::State;
use sanasr_shared::user::ApiKey;

use super::{KeyPath, absent};
use crate::answer::{Data, Success};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::KeyId;
use crate::state::App;

/// Get an API key
#[utoipa::path(
    get, path = "/api/v1/api-keys/{id}", tag = "API keys", operation_id = "get_api_key",
    security(("bearer" = [])), params(KeyId),
    responses((status = 200, description = "The key, without its secret.", body = Success<ApiKey>)),
)]
pub(crate) async fn get(State(app): State<App>, KeyPath(id): KeyPath, _: NoQuery) -> Result<Data<ApiKey>, Problem> {
    app.store.api_key(id).await?.map(Data::ok).ok_or_else(absent)
}
