//! `POST /dead-letters/{id}/replay`: sends what a dead letter says as a new message of the same user.

use axum::extract::State;
use axum::http::HeaderMap;
use sanasr_shared::ids::{MessageId, new_whatsapp_id};
use sanasr_shared::message::{Content, Message, NewMessage};
use serde_json::Map;

use crate::answer::Success;
use crate::auth::Staff;
use crate::body::EmptyBody;
use crate::edge::RequestId;
use crate::idempotency;
use crate::messages::accept::{Sent, accept_one, to_admin};
use crate::messages::draft::Prepared;
use crate::messages::{MessagePath, absent, files};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{self, Idempotency};
use crate::sessions::resolve;
use crate::state::App;
use crate::trail::OnTrail;

/// Replay a dead letter
///
/// Sends what it says as a new message of the same user, which names it in `replayed_from`.
#[utoipa::path(
    post, path = "/api/v1/dead-letters/{id}/replay", tag = "Operations", operation_id = "replay_dead_letter",
    security(("bearer" = [])), params(params::MessageId, Idempotency),
    responses(
        (status = 202, description = "The new message.", body = Success<Message>),
        (status = 409, description = "What it said can't be read, its session is gone, or its user is deactivated."),
    ),
)]
#[expect(clippy::too_many_arguments, reason = "one for each part of the request")]
pub(crate) async fn replay(
    State(app): State<App>,
    Staff(asker): Staff,
    OnTrail(trail): OnTrail,
    MessagePath(id): MessagePath,
    _: NoQuery,
    request_id: RequestId,
    headers: HeaderMap,
    _: EmptyBody,
) -> Result<Sent, Problem> {
    let letter = app.store.dead_letter(id).await?.ok_or_else(absent)?;
    let key = idempotency::key(&headers, &format!("POST /dead-letters/{id}/replay"), &Map::new(), false)?;
    let content = Content {
        text: letter.text,
        media: letter.media,
        location: letter.location,
        contact: letter.contact,
        caption: letter.caption,
    };
    if content == Content::default() {
        return Err(Problem::conflict("What the message said can't be read any more."));
    }
    let known = resolve::session(&app, letter.user_id, &letter.session).await?;
    let known = known.ok_or_else(|| Problem::conflict("The message's session is gone."))?;
    if let Some(media) = content.media.as_ref().and_then(|media| media.id) {
        files::find_again(&app, letter.user_id, media).await?;
    }
    let message = NewMessage {
        id: MessageId::generate(),
        session: known.id,
        recipient: letter.to,
        whatsapp_id: new_whatsapp_id(),
        kind: letter.kind,
        content,
        reply_to: letter.reply_to,
        replayed_from: Some(letter.id),
        reference: letter.reference,
        send_at: None,
        expires_at: None,
        request_id: request_id.as_str().to_owned(),
    };
    let prepared = Prepared { position: 0, prefix: String::new(), session: letter.session, known, message, file: None };
    let sent = accept_one(&app, letter.user_id, key, prepared, trail.actor()).await;
    sent.map_err(|problem| to_admin(asker.user, letter.user_id, problem))
}
