//! JSON bodies, within bounds: of size, of time, and of memory over all requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fields::{FieldErrors, Fields};
use crate::json::{self, Fault, Listed};
use crate::problem::Problem;
use crate::state::App;
use crate::trail;

/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);
/// Bodies up to this size need no place in the room for large ones.
const SMALL_BYTES: usize = 64 << 10;
/// Memory for large bodies, over all requests, in KiB.
const ROOM_KIB: usize = 256 << 10;
/// How much of a body that is too large is read and thrown away, so that its sender, who writes before it reads, sees the
/// answer; and for how long.
const LINGER_BYTES: usize = 64 << 20;
const LINGER: Duration = Duration::from_secs(1);

/// Memory for large bodies: who finds none waits.
pub(crate) struct BodyRoom(Arc<Semaphore>);

impl BodyRoom {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB)))
    }
}

/// The body of an ordinary request: an object. An absent body is an empty one.
pub(crate) struct JsonBody(pub(crate) Map<String, Value>);

/// The body of a batch, which may be larger; it keeps its place in the room for large bodies.
pub(crate) struct BatchBody {
    pub(crate) map: Map<String, Value>,
    /// The items of `messages` that can't be read.
    pub(crate) faults: BTreeMap<u32, Fault>,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// A body that may be absent, and has no fields if it isn't.
pub(crate) struct EmptyBody;

impl FromRequest<App> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        Ok(Self(read(app, request, app.http.body_limit, object).await?.map))
    }
}

impl FromRequest<App> for BatchBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        read(app, request, app.http.batch_body_limit, batch).await
    }
}

impl FromRequest<App> for EmptyBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let JsonBody(map) = JsonBody::from_request(request, app).await?;
        let mut errors = FieldErrors::default();
        Fields::new(map, "", &mut errors).finish();
        if errors.is_empty() { Ok(Self) } else { Err(Problem::validation(errors)) }
    }
}

/// Makes an object of a body's bytes.
type Parse = fn(&[u8]) -> Result<Listed, Fault>;

fn object(bytes: &[u8]) -> Result<Listed, Fault> {
    json::parse_object(bytes).map(|map| Listed { map, faults: BTreeMap::new() })
}

fn batch(bytes: &[u8]) -> Result<Listed, Fault> {
    json::parse_listed(bytes, "messages")
}

/// Reads a body for as long as the credentials that it came with are good.
async fn read(app: &App, request: Request, limit: usize, parse: Parse) -> Result<BatchBody, Problem> {
    match trail::of(request.extensions())?.asker() {
        Some(asker) => app.watch.hold(asker, arrive(app, request, limit, parse)).await,
        None => arrive(app, request, limit, parse).await,
    }
}

async fn arrive(app: &App, request: Request, limit: usize, parse: Parse) -> Result<BatchBody, Problem> {
    let (parts, mut body) = request.into_parts();
    if body.is_end_stream() {
        return Ok(BatchBody { map: Map::new(), faults: BTreeMap::new(), room: None });
    }
    let typed = check_type(&parts.headers)?;
    let announced = announced(&parts.headers);
    if announced.is_some_and(|length| length > limit) {
        // Who asked before sending needs no lingering: it won't send.
        if !parts.headers.contains_key(EXPECT) {
            linger(&mut body).await;
        }
        return Err(Problem::payload_too_large(limit));
    }
    let arrival = async {
        let room = room_for(app, announced.unwrap_or(limit)).await;
        collect(&mut body, limit).await.map(|bytes| (bytes, room))
    };
    let (bytes, room) = match tokio::time::timeout(ARRIVAL, arrival).await {
        Err(_) => return Err(Problem::malformed("The body didn't arrive in time.")),
        Ok(Err(Unread::Broken)) => return Err(Problem::malformed("The body broke off.")),
        Ok(Err(Unread::TooLarge)) => {
            linger(&mut body).await;
            return Err(Problem::payload_too_large(limit));
        }
        Ok(Ok(arrived)) => arrived,
    };
    if bytes.is_empty() {
        return Ok(BatchBody { map: Map::new(), faults: BTreeMap::new(), room: None });
    }
    if !typed {
        return Err(Problem::unsupported_media_type(WANTED_TYPE));
    }
    let Listed { map, faults } = parse(&bytes)?;
    Ok(BatchBody { map, faults, room })
}

const WANTED_TYPE: &str = "The body must be JSON in UTF-8, with Content-Type: application/json.";

/// Whether a type is given; an error if it is another one than JSON.
fn check_type(headers: &HeaderMap) -> Result<bool, Problem> {
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Problem::unsupported_media_type("The body must come without a Content-Encoding."));
    }
    match headers.get(CONTENT_TYPE) {
        None => Ok(false),
        Some(value) if is_json(value) => Ok(true),
        Some(_) => Err(Problem::unsupported_media_type(WANTED_TYPE)),
    }
}

fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    let utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, set)) if name.trim().eq_ignore_ascii_case("charset") => is_utf8(set),
        _ => true,
    });
    json && utf8
}

/// Whether a character set's name, in whatever spelling, is UTF-8's, or that of its first half.
fn is_utf8(set: &str) -> bool {
    let name: String = set.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    matches!(name.as_str(), "utf8" | "utf8mb4" | "unicode11utf8" | "usascii" | "ascii")
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn room_for(app: &App, bytes: usize) -> Option<OwnedSemaphorePermit> {
    if bytes <= SMALL_BYTES {
        return None;
    }
    let kib = u32::try_from((bytes >> 10).clamp(1, ROOM_KIB)).unwrap_or(1);
    Arc::clone(&app.bodies.0).acquire_many_owned(kib).await.ok()
}

enum Unread {
    Broken,
    TooLarge,
}

async fn collect(body: &mut Body, limit: usize) -> Result<Bytes, Unread> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if first.len() + all.len() + data.len() > limit {
            return Err(Unread::TooLarge);
        }
        // Most bodies are one frame, which needs no copy.
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Reads on for a while what is thrown away, so that the sender sees the answer.
pub(crate) async fn linger(body: &mut Body) {
    let discard = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > LINGER_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, discard).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_by_its_type() {
        for yes in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/merge-patch+json; charset=\"utf-8\"",
            "application/json; charset=utf8",
            "application/json;charset=\"UTF8\"",
            "application/json; Charset = 'utf-8'",
            "application/json; charset=utf_8; x=y",
            "application/json; charset=us-ascii",
            "application/json; odata.metadata=minimal; charset=Utf8",
        ] {
            assert!(is_json(&HeaderValue::from_static(yes)), "{yes}");
        }
        for no in [
            "text/json",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin1",
            "application/json; charset=utf-16",
            "application/json; charset=",
            "",
            "+json",
        ] {
            assert!(!is_json(&HeaderValue::from_static(no)), "{no}");
        }
    }
}
