//! `POST /messages`: one message, of any type.

use axum::extract::State;
use axum::http::HeaderMap;

use super::accept::{Sent, Submission, send_one};
use super::draft::Form;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::edge::RequestId;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

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
