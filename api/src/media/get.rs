//! `GET /media/{id}`: what is known of a file.

use axum::extract::{Path, State};
use sanasr_shared::ids::MediaId;
use sanasr_shared::ports::files::StoredFile;
use uuid::Uuid;

use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{self, OfUser};
use crate::state::App;

/// Get what is known of a file
#[utoipa::path(
    get, path = "/api/v1/media/{id}", tag = "Media", operation_id = "get_media",
    params(params::MediaId, OfUser),
    responses((status = 200, description = "The file's type, size and life.", body = Success<StoredFile>)),
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<Data<StoredFile>, Problem> {
    let absent = || Problem::not_found("There is no such file.");
    let id = Uuid::try_parse(&id).map(MediaId).map_err(|_| Problem::no_uuid())?;
    app.store.file(caller.reach(), id).await?.map(Data::ok).ok_or_else(absent)
}
