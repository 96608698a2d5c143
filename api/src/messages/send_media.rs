//! `POST /messages/send-media`: a file in its simplest form. The form with an upload (multipart) has its place here.

use axum::extract::State;
use axum::http::HeaderMap;

use super::accept::{Sent, send_one};
use super::draft::Form;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::edge::RequestId;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

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
