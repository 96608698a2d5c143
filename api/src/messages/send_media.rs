//! `POST /messages/send-media`: a file in its simplest form, by its address or as an upload.

use axum::extract::{FromRequest, Request, State};
use sanasr_shared::message::Message;

use super::accept::{Sent, Submission, send_one};
use super::bodies::{SendMedia, SendMediaUpload};
use super::draft::Form;
use crate::answer::Success;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::edge::RequestId;
use crate::multipart::{Multipart, is_multipart};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{Idempotency, OfUser};
use crate::state::App;

/// Send a file
///
/// The simplest form of `POST /messages` with a file: by its address, or, as multipart, the file itself.
#[utoipa::path(
    post, path = "/api/v1/messages/send-media", tag = "Messages", operation_id = "send_media",
    params(OfUser, Idempotency),
    request_body(content(
        (SendMedia = "application/json", example = json!({
            "recipient": "+15551234567", "media_url": "https://example.org/receipt.pdf", "media_type": "document"
        })),
        (SendMediaUpload = "multipart/form-data", example = json!({
            "recipient": "+15551234567", "media_type": "document", "caption": "Your receipt", "file": "@receipt.pdf"
        })),
    )),
    responses((status = 202, description = "Accepted.", body = Success<Message>)),
)]
pub(crate) async fn send_media(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    request_id: RequestId,
    request: Request,
) -> Result<Sent, Problem> {
    let headers = request.headers().clone();
    let submission = if is_multipart(&headers) {
        let Multipart { fields, file } = Multipart::read(&app, request).await?;
        let form = if file.is_none() && fields.contains_key("media_url") { Form::Media } else { Form::Upload };
        Submission { fields, form, file }
    } else {
        let JsonBody(fields) = JsonBody::from_request(request, &app).await?;
        Submission { fields, form: Form::Media, file: None }
    };
    send_one(&app, caller, &request_id, &headers, submission, "POST /messages/send-media").await
}
