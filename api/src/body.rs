//! JSON bodies, within bounds: of size, of rate, and of memory for each user and over all.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use sanasr_shared::settings::HttpSettings;
use serde_json::{Map, Value};

use crate::fields::{FieldErrors, Fields};
use crate::json::{self, Fault, Listed};
use crate::pace::{Cut, Paced};
use crate::problem::Problem;
use crate::room::{Place, Room};
use crate::state::App;
use crate::trail::{self, Trail};
use crate::work::while_here;

/// Bytes of a body that needs no room: an ordinary message. The limit of connections bounds these.
const SMALL_BYTES: usize = 16 << 10;
/// Users whose shares fill the memory for bodies and pages.
const SHARES: usize = 8;
/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a body may take to arrive, however large it is.
const ARRIVAL: Duration = Duration::from_secs(300);
/// How much of a body that is too large is read and thrown away, so that its sender, who writes before it reads, sees the
/// answer; and for how long.
const LINGER_BYTES: usize = 64 << 20;
const LINGER: Duration = Duration::from_secs(1);

/// Memory for bodies and pages, in KiB: for each user a share, in which the largest body has room.
pub(crate) fn room(settings: &HttpSettings) -> Room {
    let largest = settings.body_limit.max(settings.batch_body_limit);
    // One user's largest body is never all that there is.
    let all = settings.body_memory.max(2 * largest);
    Room::new(kib(all), kib((all / SHARES).max(largest)), PATIENCE)
}

/// Bytes in the units of the room.
pub(crate) const fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 10)
}

/// The body of an ordinary request: an object. An absent body is an empty one.
pub(crate) struct JsonBody(pub(crate) Map<String, Value>);

/// The body of a request that may come without credentials: a small object.
pub(crate) struct SmallBody(pub(crate) Map<String, Value>);

/// The body of a batch, which may be larger.
pub(crate) struct BatchBody {
    pub(crate) map: Map<String, Value>,
    /// The items of `messages` that can't be read.
    pub(crate) faults: BTreeMap<u32, Fault>,
    /// Held for as long as anything of the body is in memory.
    pub(crate) room: Option<Place>,
}

/// A body that may be absent, and has no fields if it isn't.
pub(crate) struct EmptyBody;

impl FromRequest<App> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let trail = trail::of(request.extensions())?;
        let BatchBody { map, room, .. } =
            read(app, request, BodyLimit::of(app.http.body_limit, "SANASR_BODY_LIMIT"), object).await?;
        if let Some(room) = room {
            trail.hold(room);
        }
        Ok(Self(map))
    }
}

impl FromRequest<App> for SmallBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        Ok(Self(
            read(app, request, BodyLimit { bytes: SMALL_BYTES.min(app.http.body_limit), setting: None }, object)
                .await?
                .map,
        ))
    }
}

impl FromRequest<App> for BatchBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        read(app, request, BodyLimit::of(app.http.batch_body_limit, "SANASR_BATCH_BODY_LIMIT"), batch).await
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

/// How large a body may be.
#[derive(Clone, Copy)]
struct BodyLimit {
    bytes: usize,
    /// What the operator can change.
    setting: Option<&'static str>,
}

impl BodyLimit {
    const fn of(bytes: usize, setting: &'static str) -> Self {
        Self { bytes, setting: Some(setting) }
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
async fn read(app: &App, request: Request, limit: BodyLimit, parse: Parse) -> Result<BatchBody, Problem> {
    match trail::of(request.extensions())?.asker() {
        Some(asker) => app.watch.hold(asker, arrive(app, request, limit, parse)).await,
        None => arrive(app, request, limit, parse).await,
    }
}

async fn arrive(
    app: &App,
    request: Request,
    BodyLimit { bytes: limit, setting }: BodyLimit,
    parse: Parse,
) -> Result<BatchBody, Problem> {
    let (parts, body) = request.into_parts();
    let mut body = Paced::new(body);
    if body.is_end_stream() {
        return Ok(BatchBody { map: Map::new(), faults: BTreeMap::new(), room: None });
    }
    let typed = check_type(&parts.headers)?;
    let announced = announced(&parts.headers);
    if announced.is_some_and(|length| length > limit) {
        // With `Expect: 100-continue` the client won't send the body.
        if !parts.headers.contains_key(EXPECT) {
            linger(&mut body.into_inner()).await;
        }
        return Err(Problem::payload_too_large(limit as u64, setting));
    }
    let mut room = room_for(app, &*trail::of(&parts.extensions)?, announced.unwrap_or(limit)).await?;
    let collected = tokio::time::timeout(ARRIVAL, collect(&mut body, limit));
    let bytes = match collected.await.unwrap_or(Err(Unread::Slow)) {
        Ok(bytes) => bytes,
        Err(Unread::Slow) => return Err(Problem::body_too_slow()),
        Err(Unread::Broken) => return Err(Problem::malformed("The body broke off.")),
        Err(Unread::TooLarge) => {
            linger(&mut body.into_inner()).await;
            return Err(Problem::payload_too_large(limit as u64, setting));
        }
    };
    match &mut room {
        Some(room) if bytes.len() > SMALL_BYTES => room.shrink(kib(bytes.len())),
        _ => room = None,
    }
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

/// Room for a body, from its sender's share; `None` if it needs none.
async fn room_for(app: &App, trail: &Trail, bytes: usize) -> Result<Option<Place>, Problem> {
    if bytes <= SMALL_BYTES {
        return Ok(None);
    }
    // Larger ones are read only of senders who are known.
    let asker = trail.asker().ok_or_else(|| Problem::internal("a large body came before its credentials"))?;
    let taken = while_here(app.bodies.take(asker.user, kib(bytes))).await;
    Ok(Some(taken.ok_or_else(|| Problem::malformed("The body broke off."))??))
}

enum Unread {
    Broken,
    Slow,
    TooLarge,
}

async fn collect(body: &mut Paced, limit: usize) -> Result<Bytes, Unread> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(data) = body.next().await {
        let data = data.map_err(|cut| match cut {
            Cut::Off => Unread::Broken,
            Cut::Slow => Unread::Slow,
        })?;
        if first.len() + all.len() + data.len() > limit {
            return Err(Unread::TooLarge);
        }
        // BodyLimit bodies are one frame, which needs no copy.
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
