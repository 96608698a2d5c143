//! Successful answers.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::Problem;

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
        json(StatusCode::OK, &Page { success: true, data: self.items, pagination })
    }
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    // Room for an ordinary message.
    let mut body = Vec::with_capacity(1024);
    if let Err(error) = serde_json::to_writer(&mut body, document) {
        return Problem::internal(format!("an answer can't be written: {error}")).into_response();
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
