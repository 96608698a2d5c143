//! The reference: the OpenAPI document, made from the types that the handlers use, and the pages made from it.
//!
//! A new endpoint: `#[utoipa::path]` at its handler, which says what is its own (parameters, body, success, a 409), and a
//! line in its folder's `Reference`. What all have in common, [`finish`] adds: headers, and the errors that any endpoint of
//! its kind can answer. Tests compare the document with the routes, and the bodies' schemas with their readers.

mod error_pages;
pub(crate) mod errors;
mod finish;
mod html;
mod page;
pub(crate) mod params;
mod schema;
mod swagger;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};

use crate::answer::Compressible;
use crate::{analytics, api_keys, audit, events, health, logins, media, messages, operations, sessions, usage, users};

/// How long a client may keep the document and the pages, in seconds: a new version may be deployed at any time.
const MAX_AGE: HeaderValue = HeaderValue::from_static("max-age=300");

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/api/openapi.json", get(json))
        .route("/api/docs", get(swagger::index))
        .route("/api/docs/{file}", get(swagger::file))
        .route("/api/redoc", get(redoc))
        .route("/api/redoc.css", get(style))
        .route("/errors", get(error_pages::list))
        .route("/errors/{code}", get(error_pages::one))
}

#[derive(OpenApi)]
#[openapi(
    info(title = "sanasr", description = include_str!("overview.md")),
    servers((url = "/", description = "This server")),
    security(("bearer" = []), ("apiKey" = [])),
    tags(
        (name = "Auth", description = "Logging in, and the tokens that come of it."),
        (name = "Users", description = "Accounts of client apps and operators. For admins who are logged in."),
        (name = "API keys", description = "Keys by which client apps send. For admins who are logged in."),
        (name = "Sessions", description = "WhatsApp accounts: making, pairing, pausing, pacing."),
        (name = "Messages", description = "Sending, following and cancelling messages."),
        (name = "Media", description = "Files to be sent."),
        (name = "Events", description = "Changes of messages and sessions, as they happen."),
        (name = "Usage", description = "One's own quota and usage."),
        (name = "Analytics", description = "Usage of all users, and the log of requests. For admins who are logged in."),
        (name = "Operations", description = "Workers, queues and dead letters. For admins who are logged in."),
        (name = "Health", description = "For load balancers and monitoring; no login."),
    ),
)]
struct Base;

/// The whole document.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    let mut document = Base::openapi();
    for part in [
        logins::Reference::openapi(),
        users::Reference::openapi(),
        api_keys::Reference::openapi(),
        sessions::Reference::openapi(),
        messages::Reference::openapi(),
        media::Reference::openapi(),
        events::Reference::openapi(),
        usage::Reference::openapi(),
        analytics::Reference::openapi(),
        operations::Reference::openapi(),
        audit::Reference::openapi(),
        health::Reference::openapi(),
    ] {
        document.merge(part);
    }
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.info.license = None;
    document.info.contact = None;
    let schemes = &mut document.components.get_or_insert_default().security_schemes;
    schemes
        .extend([("bearer", bearer()), ("apiKey", api_key())].map(|(name, scheme)| (name.to_owned(), scheme.into())));
    finish::finish(&mut document);
    document
}

fn bearer() -> SecurityScheme {
    let mut http = Http::new(HttpAuthScheme::Bearer);
    http.bearer_format = Some("JWT".to_owned());
    http.description =
        Some("An access token, from `POST /api/v1/auth/login`: `Authorization: Bearer <token>`.".to_owned());
    SecurityScheme::Http(http)
}

fn api_key() -> SecurityScheme {
    let about = "An API key. It never opens an endpoint for admins. `Authorization: ApiKey <key>` means the same.";
    SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("X-Api-Key", about)))
}

/// The document as it is served, rendered once.
static JSON: LazyLock<Rendered> = LazyLock::new(|| {
    Rendered::new("application/json", document().to_json().expect("the document is plain data, as the tests show"))
});

async fn json(headers: HeaderMap) -> Response {
    JSON.answer(&headers)
}

static PAGE: LazyLock<Rendered> =
    LazyLock::new(|| Rendered::new("text/html; charset=utf-8", page::render(&mut document())));

static STYLE: LazyLock<Rendered> =
    LazyLock::new(|| Rendered::new("text/css; charset=utf-8", include_str!("redoc.css")));

async fn redoc(headers: HeaderMap) -> Response {
    let mut response = PAGE.answer(&headers);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, html::POLICY);
    response
}

async fn style(headers: HeaderMap) -> Response {
    STYLE.answer(&headers)
}

/// A page of ours.
fn html_answer(page: String) -> Response {
    let headers = [(CONTENT_SECURITY_POLICY, html::POLICY), (CACHE_CONTROL, MAX_AGE)];
    (headers, [(CONTENT_TYPE, "text/html; charset=utf-8")], Extension(Compressible), page).into_response()
}

/// A page that is the same for everybody, with what tells a client that it has it already.
struct Rendered {
    content_type: &'static str,
    body: Bytes,
    etag: HeaderValue,
}

impl Rendered {
    fn new(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let hash: String = Sha256::digest(&body).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let etag = HeaderValue::try_from(format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Self { content_type, body, etag }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let known = headers.get_all(IF_NONE_MATCH).iter().any(|tag| {
            tag.to_str().is_ok_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == self.etag))
        });
        let caching = [(ETAG, self.etag.clone()), (CACHE_CONTROL, MAX_AGE)];
        if known {
            return (StatusCode::NOT_MODIFIED, caching).into_response();
        }
        (caching, [(CONTENT_TYPE, self.content_type)], Extension(Compressible), self.body.clone()).into_response()
    }
}
