//! `GET /media/{id}`: what is known of a file.

use axum::extract::{Path, State};
use sanasr_shared::ids::MediaId;
use sanasr_shared::ports::files::StoredFile;
use uuid::Uuid;

use crate::answer::Data;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<Data<StoredFile>, Problem> {
    let absent = || Problem::not_found("There is no such file.");
    let id = Uuid::try_parse(&id).map(MediaId).map_err(|_| absent())?;
    app.store.file(caller.reach(), id).await?.map(Data::ok).ok_or_else(absent)
}
