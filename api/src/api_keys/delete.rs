//! `DELETE /api-keys/{id}`: revokes a key. It stays listed; revoking it again is fine.

use axum::extract::State;
use axum::http::StatusCode;

use super::{KeyPath, absent};
use crate::body::EmptyBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::KeyId;
use crate::state::App;
use crate::trail::OnTrail;

/// Revoke an API key
///
/// It stops working within a second, and stays listed. Revoking it again is fine.
#[utoipa::path(
    delete, path = "/api/v1/api-keys/{id}", tag = "API keys", operation_id = "revoke_api_key",
    security(("bearer" = [])), params(KeyId),
    responses((status = 204, description = "Revoked.")),
)]
pub(crate) async fn delete(
    State(app): State<App>,
    KeyPath(id): KeyPath,
    OnTrail(trail): OnTrail,
    _: NoQuery,
    _: EmptyBody,
) -> Result<StatusCode, Problem> {
    let key = app.store.api_key(id).await?.ok_or_else(absent)?;
    if !app.store.revoke_api_key(id, trail.actor()).await? {
        return Err(absent());
    }
    app.standing_changed(key.user_id);
    Ok(StatusCode::NO_CONTENT)
}
