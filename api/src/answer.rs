//! Successful answers.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tower_http::compression::Predicate;
use utoipa::ToSchema;

use crate::body::kib;
use crate::problem::Problem;
use crate::room::Place;

/// `{"success": true, "data": …}` with a status.
pub(crate) struct Data<T>(pub(crate) StatusCode, pub(crate) T);

impl<T> Data<T> {
    pub(crate) fn ok(data: T) -> Self {
        Self(StatusCode::OK, data)
    }

    pub(crate) fn accepted(data: T) -> Self {
        Self(StatusCode::ACCEPTED, data)
    }
}

/// A page of a list.
pub(crate) struct Listed<T> {
    pub(crate) items: Vec<T>,
    /// The cursor of the next page.
    pub(crate) next: Option<String>,
    pub(crate) limit: u32,
    /// What it takes in memory, until the client has it.
    pub(crate) room: Place,
}

/// What a success says.
#[derive(Serialize, ToSchema)]
pub(crate) struct Success<T> {
    /// Always true.
    #[schema(examples(true))]
    success: bool,
    /// What was asked for.
    data: T,
}

/// What a page of a list says.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// Always true.
    #[schema(examples(true))]
    success: bool,
    /// Newest first. A page may be short, even empty, while `pagination.next` isn't null.
    data: Vec<T>,
    pagination: Pagination,
}

/// Where a list goes on.
#[derive(Serialize, ToSchema)]
pub(crate) struct Pagination {
    /// The cursor of the next page, for the parameter `cursor`; null on the last one.
    #[schema(examples("AQGaw_JrHnw5prA_XRwuSnc4"))]
    next: Option<String>,
    /// Rows that a page has at most.
    #[schema(minimum = 1, maximum = 200, examples(50))]
    limit: u32,
}

impl<T: Serialize> IntoResponse for Data<T> {
    fn into_response(self) -> Response {
        json(self.0, &Success { success: true, data: self.1 })
    }
}

impl<T: Serialize> IntoResponse for Listed<T> {
    fn into_response(self) -> Response {
        let pagination = Pagination { next: self.next, limit: self.limit };
        let text = match text(&Page { success: true, data: self.items, pagination }) {
            Ok(text) => text,
            Err(problem) => return problem.into_response(),
        };
        let mut room = self.room;
        room.shrink(kib(text.len()));
        let mut response = Response::new(Body::from(Bytes::from_owner(Counted { text, _room: room })));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.extensions_mut().insert(Compressible);
        response
    }
}

/// A page's text with its room: as long as the one is in memory, the other is taken.
struct Counted {
    text: Vec<u8>,
    _room: Place,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// Marks an answer, in its extensions, that is compressed for clients who want that: a page. Others are too small to gain, or
/// go out bit by bit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compressible;

/// Bytes from which on compressing gains more than it costs.
const COMPRESSED_BYTES_MIN: u64 = 1 << 10;

impl Predicate for Compressible {
    fn should_compress<B: hyper::body::Body>(&self, response: &Response<B>) -> bool {
        let marked = response.extensions().get::<Self>().is_some();
        marked && response.body().size_hint().exact().is_none_or(|size| size >= COMPRESSED_BYTES_MIN)
    }
}

/// Headers of an ordinary answer, those that the edge and the server add among them: with this room the map never grows.
const HEADERS: usize = 16;

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    let body = match text(document) {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().reserve(HEADERS);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(document: &impl Serialize) -> Result<Vec<u8>, Problem> {
    // Room for an ordinary message.
    let mut text = Vec::with_capacity(1024);
    match serde_json::to_writer(&mut text, document) {
        Ok(()) => Ok(text),
        Err(error) => Err(Problem::internal(format!("an answer can't be written: {error}"))),
    }
}
