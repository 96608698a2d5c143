//! `GET /events`: a stream of what happens to the user's messages and sessions (server-sent events).

mod frame;
mod hub;
mod position;
mod reader;
pub(crate) mod tasks;

use std::convert::Infallible;
use std::future::ready;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

pub(crate) use self::hub::Hub;
use self::hub::Listener;
use self::reader::Reader;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::serve::Hangup;
use crate::state::App;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a stream begins with: how soon to come again, in milliseconds.
const FIRST: Bytes = Bytes::from_static(b"retry: 1000\n\n");

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/api/v1/events", get(events))
}

async fn events(
    State(app): State<App>,
    caller: Caller,
    hangup: Hangup,
    headers: HeaderMap,
    _: NoQuery,
) -> Result<Response, Problem> {
    let last = last_event_id(&headers)?;
    let scope = caller.scope();
    let listener: Listener = app.events.join(caller.asker, scope, hangup.0, last.is_none()).await?;
    let reader = match last {
        None => Reader::live(listener),
        Some(n) => Reader::resume(listener, scope, n).await?,
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
