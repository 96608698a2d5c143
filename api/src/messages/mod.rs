//! Messages: accepting, following, cancelling.

pub(crate) mod accept;
pub(crate) mod batch;
pub(crate) mod bodies;
mod cancel;
pub(crate) mod cancel_all;
pub(crate) mod draft;
mod encoded;
pub(crate) mod files;
mod get;
mod list;
mod send;
mod send_media;
mod send_text;
pub(crate) mod waiters;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::{get, post};
use sanasr_shared::ids::MessageId;
use utoipa::OpenApi;
use uuid::Uuid;

use crate::problem::Problem;
use crate::state::App;

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(
    send::send,
    batch::batch,
    send_text::send_text,
    send_media::send_media,
    list::list,
    list::list_alias,
    get::get,
    cancel::cancel,
    cancel_all::cancel_all
))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/messages", get(list::list).post(send::send))
        .route("/api/v1/messages/list", get(list::list_alias))
        .route("/api/v1/messages/batch", post(batch::batch))
        .route("/api/v1/messages/cancel", post(cancel_all::cancel_all))
        .route("/api/v1/messages/send-text", post(send_text::send_text))
        .route("/api/v1/messages/send-media", post(send_media::send_media))
        .route("/api/v1/messages/{id}", get(get::get))
        .route("/api/v1/messages/{id}/cancel", post(cancel::cancel))
}

/// The message that a path names. What is no id is the id of no message.
pub(crate) struct MessagePath(pub(crate) MessageId);

impl FromRequestParts<App> for MessagePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, app).await.map_err(|_| Problem::no_uuid())?;
        Uuid::try_parse(&id).map(|id| Self(MessageId(id))).map_err(|_| Problem::no_uuid())
    }
}

/// Unknown, or another user's: which of the two isn't told.
pub(crate) fn absent() -> Problem {
    Problem::not_found("There is no such message.")
}
