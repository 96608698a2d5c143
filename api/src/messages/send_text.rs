//! `POST /messages/send-text`: a text in its simplest form.

use axum::extract::State;
use axum::http::HeaderMap;
use sanasr_shared::message::Message;

use super::accept::{Sent, Submission, send_one};
use super::bodies::SendText;
use super::draft::Form;
use crate::answer::Success;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::edge::RequestId;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{Idempotency, OfUser};
use crate::state::App;

/// Send a text
///
/// The simplest form of `POST /messages`.
#[utoipa::path(
    post, path = "/api/v1/messages/send-text", tag = "Messages", operation_id = "send_text",
    params(OfUser, Idempotency),
    request_body(content = SendText, example = json!({
        "recipient": "+15551234567", "content": "Your order has been shipped."
    })),
    responses((status = 202, description = "Accepted.", body = Success<Message>)),
)]
pub(crate) async fn send_text(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    request_id: RequestId,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Sent, Problem> {
    send_one(&app, caller, &request_id, &headers, Submission::json(body, Form::Text), "POST /messages/send-text").await
}
