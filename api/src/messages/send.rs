//! `POST /messages`: one message, of any type.

use axum::extract::State;
use axum::http::HeaderMap;
use sanasr_shared::message::Message;

use super::accept::{Sent, Submission, send_one};
use super::bodies::SendMessage;
use super::draft::Form;
use crate::answer::Success;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::edge::RequestId;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{Idempotency, OfUser};
use crate::state::App;

/// Send a message
///
/// Takes one message of any type. The answer is 202 as soon as the message is safely stored and its unit of the quota
/// taken; sending follows. Follow it by `GET /messages/{id}` or `GET /events`.
#[utoipa::path(
    post, path = "/api/v1/messages", tag = "Messages", operation_id = "send_message",
    params(OfUser, Idempotency),
    request_body(content = SendMessage, examples(
        ("1-text" = (summary = "A text", value = json!({
            "to": "+15551234567", "text": "Your order has been shipped.", "reference": "order-1042"
        }))),
        ("2-image" = (summary = "An image from the web", value = json!({
            "to": "+15551234567", "type": "image", "media": {"url": "https://example.org/parcel.jpg"},
            "caption": "Your parcel"
        }))),
        ("3-location" = (summary = "A place", value = json!({
            "to": "+15551234567", "type": "location",
            "location": {"latitude": 48.137, "longitude": 11.575, "name": "Our shop"}
        }))),
        ("4-contact" = (summary = "A contact card", value = json!({
            "to": "+15551234567", "type": "contact", "contact": {"name": "Support", "phone_number": "+15557654321"}
        }))),
    )),
    responses((status = 202, description = "Accepted.", body = Success<Message>)),
)]
pub(crate) async fn send(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    request_id: RequestId,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Sent, Problem> {
    send_one(&app, caller, &request_id, &headers, Submission::json(body, Form::Full), "POST /messages").await
}
