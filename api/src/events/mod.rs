//! `GET /events`: a stream of what happens to the user's messages and sessions (server-sent events).

mod frame;
mod hub;
mod position;
mod reader;
pub(crate) mod tasks;

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use utoipa::{IntoParams, OpenApi};

pub(crate) use self::hub::Hub;
use self::hub::Listener;
use self::reader::Reader;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::OfUser;
use crate::serve::Hangup;
use crate::state::App;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a stream begins with: how soon to come again, in milliseconds.
const FIRST: Bytes = Bytes::from_static(b"retry: 1000\n\n");

/// The endpoint in the reference.
#[derive(OpenApi)]
#[openapi(paths(events))]
pub(crate) struct Reference;

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
struct Resume {
    /// The id of the last event that you have seen: the stream goes on after it, without a gap, for 24 hours. The last few
    /// may come again, with the same id.
    #[param(rename = "Last-Event-ID", pattern = "^[0-9]{1,18}$")]
    last_event_id: Option<String>,
}

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/api/v1/events", get(events))
}

/// Stream what happens
///
/// Server-sent events: `event: message.<status>` or `session.<status>`, and in `data` the object, in which `status`, `updated_at`
/// and the times are the event's; `status_now` is what it is by now. A message's events begin with its first change after
/// acceptance, so that `message.accepted` and `message.scheduled` don't tell of one that was just sent; `message.delivered` may be
/// left out where the message was read at once. Between events come comments, so that a dead connection is noticed. Who
/// reads too slowly is cut off, and resumes by `Last-Event-ID`, as `EventSource` does by itself.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "Events", operation_id = "stream_events",
    params(Resume, OfUser),
    responses((
        status = 200, description = "The stream; it doesn't end by itself.", body = String, content_type = "text/event-stream",
        example = json!("retry: 1000\n\nid: 1042\nevent: message.delivered\ndata: {\"id\":\"019ac3f2-6b1e-7c39-a6b0-3f5d1c2e4a77\",\"status\":\"delivered\", … \"status_now\":\"read\"}\n\n"),
    )),
)]
async fn events(
    State(app): State<App>,
    caller: Caller,
    hangup: Hangup,
    headers: HeaderMap,
    _: NoQuery,
) -> Result<Response, Problem> {
    let last = last_event_id(&headers)?;
    let scope = caller.scope();
    let listener: Listener = app.events.join(caller.asker.user, scope, hangup.0, last.is_none()).await?;
    let reader = match last {
        None => Reader::live(listener),
        Some(n) => Reader::resume(listener, Arc::clone(&app.reads), caller.asker.user, scope, n).await?,
    };
    let rest = stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) });
    let body = Body::from_stream(stream::once(ready(FIRST)).chain(rest).map(Ok::<_, Infallible>));
    let mut response = Response::new(body);
    for (name, value) in [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store"), (X_ACCEL_BUFFERING, "no")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// The event after which a stream is to go on.
fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let n = digits.and_then(|text| text.parse().ok());
    n.map(Some).ok_or_else(|| Problem::malformed("Last-Event-ID: Must be the id of an event of this stream."))
}
