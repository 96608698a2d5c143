//! `DELETE /api-keys/{id}`: revokes a key. It stays listed; revoking it again is fine.

use axum::extract::State;
use axum::http::StatusCode;

use super::{KeyPath, absent};
use crate::body::EmptyBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn delete(
    State(app): State<App>,
    KeyPath(id): KeyPath,
    _: NoQuery,
    _: EmptyBody,
) -> Result<StatusCode, Problem> {
    let key = app.store.api_key(id).await?.ok_or_else(absent)?;
    if !app.store.revoke_api_key(id).await? {
        return Err(absent());
    }
    app.standing_changed(key.user_id);
    Ok(StatusCode::NO_CONTENT)
}
