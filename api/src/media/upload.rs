//! `POST /media`: a file for messages to come.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use sanasr_shared::ids::MediaId;
use sanasr_shared::media::identify;
use sanasr_shared::ports::files::{FILE_KEPT, NewFile, StoredFile};
use utoipa::ToSchema;

use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::fields::{FieldErrors, Fields};
use crate::multipart::{Multipart, Upload};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::OfUser;
use crate::state::App;

/// A file to be kept.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read as a stream")]
pub(crate) struct MediaUpload {
    /// The file; of its name the last part is kept.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Upload a file
///
/// For messages to come, which name it in `media.id`. Up to 16 MiB unless set otherwise. A user's files have a limit together, which
/// `GET /usage` shows: past it the answer is 429 `quota_exceeded` until one has gone. A file is removed a day after its upload, or
/// after the end of the last message that refers to it. It is what the part's `Content-Type` says, unless its content is certainly
/// another.
#[utoipa::path(
    post, path = "/api/v1/media", tag = "Media", operation_id = "upload_media",
    params(OfUser),
    request_body(content = MediaUpload, content_type = "multipart/form-data", example = json!({"file": "@receipt.pdf"})),
    responses(
        (status = 201, description = "Kept.", body = Success<StoredFile>),
        (status = 429, description = "The user's files have reached their limit (`quota_exceeded`), or too many requests."),
        (status = 503, description = "The disk is nearly full, or the service can't now."),
    ),
)]
pub(crate) async fn upload(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    request: Request,
) -> Result<Data<StoredFile>, Problem> {
    let user = caller.user()?;
    let Multipart { fields, file } = Multipart::read(&app, request).await?;
    let mut errors = FieldErrors::default();
    if file.is_none() {
        errors.add("file", "required", "This part is needed.");
    }
    Fields::new(fields, "", &mut errors).finish();
    let Some(Upload { file, head, filename, declared, .. }) = file.filter(|_| errors.is_empty()) else {
        return Err(Problem::validation(errors));
    };
    let mime_type = identify(&head, declared.as_deref());
    let new = NewFile { id: MediaId::generate(), mime_type, size: file.size(), filename };
    let id = new.id;
    let limit = app.media.media_user_limit;
    let stored = app.store.add_files(user, &[new], FILE_KEPT, limit, caller.actor()).await?.pop();
    if let Err(error) = app.files.keep(id, file).await {
        // If this fails, too, it goes when its day is over.
        let _ = app.store.discard_files(&[id]).await;
        return Err(error.into());
    }
    let stored = stored.ok_or_else(|| Problem::internal("the store answered nothing about a file"))?;
    Ok(Data(StatusCode::CREATED, stored))
}
