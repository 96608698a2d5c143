//! Multipart bodies: a few small fields and one file, which is streamed to a temporary file. Bounds of size, of rate, and of
//! what lies in memory, whatever the sender does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use bytes::Bytes;
use futures_util::stream;
use multer::Field;
use sanasr_shared::media::{HEAD_BYTES, TempFile, name};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::body::linger;
use crate::pace::{Cut, Paced};
use crate::problem::{Code, Problem};
use crate::room::Room;
use crate::state::App;
use crate::trail;
use crate::work::while_here;

/// Parts of a body, at most.
const PARTS_MAX: usize = 20;
/// Bytes of a field, at most.
const FIELD_BYTES_MAX: usize = 64 << 10;
/// What comes besides the file, at most: the fields, boundaries and headers.
const BESIDES_BYTES_MAX: u64 = 2 << 20;
/// Bytes that the parser may hold without making anything of them, such as the headers of a part.
const HELD_BYTES_MAX: usize = 64 << 10;
/// Users whose shares fill the places for uploads.
const SHARES: usize = 8;
/// How long an upload waits for its place.
const PATIENCE: Duration = Duration::from_secs(60);
/// Characters of a media type that is believed.
const MIME_TYPE_CHARS_MAX: usize = 127;
/// The part that carries the file.
const FILE: &str = "file";

/// Places for uploads, `all` of them, of which a user has a share.
pub(crate) fn room(all: usize) -> Room {
    Room::new(all, all.div_ceil(SHARES), PATIENCE)
}

/// A body that has been read.
pub(crate) struct Multipart {
    /// The texts, as JSON would have them.
    pub(crate) fields: Map<String, Value>,
    /// The part `file`, if there was one; it isn't empty.
    pub(crate) file: Option<Upload>,
}

/// A file that has arrived.
pub(crate) struct Upload {
    pub(crate) file: TempFile,
    /// Its first bytes.
    pub(crate) head: Vec<u8>,
    pub(crate) sha256: [u8; 32],
    /// The last part of the name that it came with.
    pub(crate) filename: Option<String>,
    /// The media type that its sender declares.
    pub(crate) declared: Option<String>,
}

/// Whether a request's body is multipart.
pub(crate) fn is_multipart(headers: &HeaderMap) -> bool {
    let typed = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    typed.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("multipart/form-data")
}

impl Multipart {
    /// Reads a request's body for as long as the credentials that it came with are good. Nothing of it stays if it is refused.
    pub(crate) async fn read(app: &App, request: Request) -> Result<Self, Problem> {
        match trail::of(request.extensions())?.asker() {
            Some(asker) => app.watch.hold(asker, Self::arrive(app, request)).await,
            None => Self::arrive(app, request).await,
        }
    }

    async fn arrive(app: &App, request: Request) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let mut body = Paced::new(body);
        let boundary = boundary(&parts.headers)?;
        let limit = app.media.media_limit;
        let announced = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let too_large = announced.is_some_and(|length| length > limit.saturating_add(BESIDES_BYTES_MAX));
        // With `Expect: 100-continue` the client won't send the body.
        if too_large && parts.headers.contains_key(EXPECT) {
            return Err(Problem::payload_too_large(limit, Some("SANASR_MEDIA_LIMIT")));
        }
        let asker = trail::of(&parts.extensions)?.asker();
        let asker = asker.ok_or_else(|| Problem::internal("an upload came before its credentials"))?;
        let place = while_here(app.uploads.take(asker.user, 1)).await;
        let place = place.ok_or_else(|| Problem::malformed("The body broke off."))??;
        let read = if too_large {
            Err(Problem::payload_too_large(limit, Some("SANASR_MEDIA_LIMIT")))
        } else {
            read_parts(app, &mut body, boundary, limit).await
        };
        drop(place);
        let is_slow = read.as_ref().is_err_and(|problem| problem.code() == Code::RequestTimeout);
        if (read.is_err() || !body.is_end_stream()) && !is_slow {
            linger(&mut body.into_inner()).await;
        }
        read
    }
}

fn boundary(headers: &HeaderMap) -> Result<String, Problem> {
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Problem::unsupported_media_type("The body must come without a Content-Encoding."));
    }
    if !is_multipart(headers) {
        return Err(Problem::unsupported_media_type("The body must be multipart/form-data, with a part named file."));
    }
    let typed = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(typed).ok().filter(|boundary| (1..=70).contains(&boundary.len()));
    boundary.ok_or_else(|| Problem::malformed("The Content-Type names no boundary (of 1 to 70 characters)."))
}

async fn read_parts(app: &App, body: &mut Paced, boundary: String, limit: u64) -> Result<Multipart, Problem> {
    let held = AtomicUsize::new(0);
    let mut parts = multer::Multipart::new(chunks(body, &held, limit.saturating_add(BESIDES_BYTES_MAX)), boundary);
    let mut read = Multipart { fields: Map::new(), file: None };
    for _ in 0..=PARTS_MAX {
        let next = parts.next_field().await;
        let Some(part) = next.map_err(|error| unreadable(&error, limit))? else { return Ok(read) };
        held.store(0, Ordering::Relaxed);
        let mut part = Part { part, held: &held, limit };
        let name = part.part.name().unwrap_or_default().to_owned();
        if name != FILE {
            let text = part.text(&name).await?;
            if read.fields.insert(name.clone(), Value::String(text)).is_some() {
                return Err(Problem::field(shown(&name), "given_twice", "Give it once."));
            }
        } else if read.file.is_some() {
            return Err(Problem::field(FILE, "given_twice", "One file at a time."));
        } else {
            read.file = Some(part.file(app).await?);
        }
    }
    Err(Problem::malformed(format!("The body has more than {PARTS_MAX} parts.")))
}

/// The body's data, one piece at a time: the parser takes all that it is given at once, so it is given no more. `held` counts
/// what it has been given since it last made something of it.
fn chunks<'b>(
    body: &'b mut Paced,
    held: &'b AtomicUsize,
    limit: u64,
) -> impl stream::Stream<Item = Result<Bytes, Broken>> + Send + 'b {
    let (mut pause, mut total) = (false, 0_u64);
    stream::poll_fn(move |context| {
        if std::mem::take(&mut pause) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if held.load(Ordering::Relaxed) > HELD_BYTES_MAX {
            return Poll::Ready(Some(Err(Broken::Headers)));
        }
        let data = match ready!(body.poll_next(context)) {
            None => return Poll::Ready(None),
            Some(Err(cut)) => return Poll::Ready(Some(Err(Broken::Cut(cut)))),
            Some(Ok(data)) => data,
        };
        total += data.len() as u64;
        if total > limit {
            return Poll::Ready(Some(Err(Broken::TooLarge)));
        }
        held.fetch_add(data.len(), Ordering::Relaxed);
        pause = true;
        Poll::Ready(Some(Ok(data)))
    })
}

/// Why a body's data end before their time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Cut(#[from] Cut),
    #[error("too large")]
    TooLarge,
    #[error("too much before a part begins")]
    Headers,
}

fn unreadable(error: &multer::Error, limit: u64) -> Problem {
    let broken = match error {
        multer::Error::StreamReadFailed(error) => error.downcast_ref::<Broken>(),
        _ => None,
    };
    match (broken, error) {
        (Some(Broken::TooLarge), _) => Problem::payload_too_large(limit, Some("SANASR_MEDIA_LIMIT")),
        (Some(Broken::Headers), _) => Problem::malformed("A part's headers are too long, or its boundary never comes."),
        (Some(Broken::Cut(Cut::Off)), _) => Problem::malformed("The body broke off."),
        (Some(Broken::Cut(Cut::Slow)), _) => Problem::body_too_slow(),
        (None, multer::Error::IncompleteStream | multer::Error::IncompleteFieldData { .. }) => {
            Problem::malformed("The body ends before its last boundary.")
        }
        (None, error) => Problem::malformed(format!("The body is no multipart/form-data: {error}.")),
    }
}

struct Part<'a, 'b> {
    part: Field<'b>,
    held: &'a AtomicUsize,
    limit: u64,
}

impl Part<'_, '_> {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        let chunk = self.part.chunk().await;
        self.held.store(0, Ordering::Relaxed);
        chunk.map_err(|error| unreadable(&error, self.limit))
    }

    async fn text(&mut self, name: &str) -> Result<String, Problem> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > FIELD_BYTES_MAX {
                return Err(Problem::field(shown(name), "too_long", format!("Has at most {FIELD_BYTES_MAX} bytes.")));
            }
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).map_err(|_| Problem::field(shown(name), "invalid_type", "Must be a text in UTF-8."))
    }

    async fn file(&mut self, app: &App) -> Result<Upload, Problem> {
        let disposition = self.part.headers().get(CONTENT_DISPOSITION);
        let filename = disposition.and_then(|header| name::of_part(header.as_bytes()));
        let declared = self.part.content_type().map(ToString::to_string);
        let declared = declared.filter(|declared| declared.len() <= MIME_TYPE_CHARS_MAX);
        app.files.check_room().await?;
        let mut file = app.files.temporary().await?;
        let (mut head, mut hash) = (Vec::new(), Sha256::new());
        while let Some(chunk) = self.chunk().await? {
            if file.size() + chunk.len() as u64 > self.limit {
                return Err(Problem::payload_too_large(self.limit, Some("SANASR_MEDIA_LIMIT")));
            }
            head.extend_from_slice(&chunk[..chunk.len().min(HEAD_BYTES - head.len())]);
            hash.update(&chunk);
            file.write(&chunk).await?;
        }
        if file.size() == 0 {
            return Err(Problem::field(FILE, "empty", "The file is empty."));
        }
        Ok(Upload { file, head, sha256: hash.finalize().into(), filename, declared })
    }
}

/// A field's name, as far as it is repeated.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}
