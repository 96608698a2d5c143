//! `POST /messages/send-media`: a file in its simplest form. The form with an upload (multipart) has its place here.

use axum::extract::State;
use axum::http::HeaderMap;
use sanasr_shared::message::Message;

use super::accept::{Sent, send_one};
use super::bodies::SendMedia;
use super::draft::Form;
use crate::answer::Success;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::edge::RequestId;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{Idempotency, OfUser};
use crate::state::App;

/// Send a file
///
/// The simplest form of `POST /messages` with a file.
#[utoipa::path(
    post, path = "/api/v1/messages/send-media", tag = "Messages", operation_id = "send_media",
    params(OfUser, Idempotency),
    request_body(content = SendMedia, example = json!({
        "recipient": "+15551234567", "media_url": "https://example.org/receipt.pdf", "media_type": "document",
        "caption": "Your receipt"
    })),
    responses((status = 202, description = "Accepted.", body = Success<Message>)),
)]
pub(crate) async fn send_media(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    request_id: RequestId,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Sent, Problem> {
    send_one(&app, caller, &request_id, &headers, body, Form::Media, "POST /messages/send-media").await
}
