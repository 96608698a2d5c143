//! `DELETE /media/{id}`: removes a file before its time.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use sanasr_shared::ids::MediaId;
use sanasr_shared::ports::store::Moved;
use uuid::Uuid;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{self, OfUser};
use crate::state::App;

/// Remove a file
///
/// Its bytes don't count in its user's limit any more. A file that a message needs which still waits can't be removed: cancel the
/// message first.
#[utoipa::path(
    delete, path = "/api/v1/media/{id}", tag = "Media", operation_id = "delete_media",
    params(params::MediaId, OfUser),
    responses(
        (status = 204, description = "Removed."),
        (status = 409, description = "A message that waits needs it."),
    ),
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let absent = || Problem::not_found("There is no such file.");
    let id = Uuid::try_parse(&id).map(MediaId).map_err(|_| Problem::no_uuid())?;
    match app.store.remove_file(caller.reach(), id, caller.actor()).await? {
        Moved::Done(_) => {}
        Moved::Refused(_) => {
            return Err(Problem::conflict("A message that waits needs this file. Cancel the message first."));
        }
        Moved::Absent => return Err(absent()),
    }
    // The bytes now, or by the next sweep if that fails: until then they count.
    match app.files.remove(id).await {
        Ok(()) => app.store.forget_files(&[id]).await?,
        Err(error) => tracing::debug!(%error, file = %id, "a removed file's bytes are left to the sweep"),
    }
    Ok(StatusCode::NO_CONTENT)
}
