//! `GET /messages`: a page of messages, newest first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::{Message, MessageType, Status};
use sanasr_shared::ports::store::{MessageFilter, Store};
use utoipa::IntoParams;

use crate::answer::{Listed, Page};
use crate::auth::Caller;
use crate::cursor::{self, List};
use crate::fields::TextRule;
use crate::problem::Problem;
use crate::query::{Query, time};
use crate::reference::params::{OfUser, Paging, Span};
use crate::state::App;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
struct Filter {
    /// Only with this status.
    status: Option<Status>,
    /// Only of the session with this name.
    #[param(min_length = 1, max_length = 64)]
    session: Option<String>,
    /// Only to this recipient, in any form.
    #[param(min_length = 1, max_length = 64)]
    to: Option<String>,
    /// Only of this type.
    r#type: Option<MessageType>,
    /// Only with this mark of yours.
    #[param(min_length = 1, max_length = 255)]
    reference: Option<String>,
}

/// List messages
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/messages", tag = "Messages", operation_id = "list_messages",
    params(Filter, Span, Paging, OfUser),
    responses((status = 200, description = "A page of messages.", body = Page<Message>)),
)]
pub(crate) async fn list(State(app): State<App>, caller: Caller, mut query: Query) -> Result<Listed<Message>, Problem> {
    let (from, until) = query.span(time);
    let filter = MessageFilter {
        status: query.word("status", &Status::ALL, Status::as_str),
        session: query.text("session", TextRule::line(64)),
        to: query.recipient("to", app.accept.bare_numbers),
        kind: query.word("type", &MessageType::ALL, MessageType::as_str),
        reference: query.text("reference", TextRule::line(255)),
        from,
        until,
    };
    let page = query.page(List::Messages);
    query.finish()?;
    let (scope, after, limit) = (caller.scope(), page.after.map(MessageId), page.limit);
    let read = async move |store: Arc<dyn Store>| store.list_messages(scope, &filter, after, limit).await;
    let (found, room) = app.page(caller.asker.user, limit, read).await?;
    let next = found.next.map(|id| cursor::encode(List::Messages, id));
    Ok(Listed { items: found.items, next, limit: page.limit, room })
}

/// List messages (alias)
///
/// The same as `GET /messages`.
#[utoipa::path(
    get, path = "/api/v1/messages/list", tag = "Messages", operation_id = "list_messages_alias",
    params(Filter, Span, Paging, OfUser),
    responses((status = 200, description = "A page of messages.", body = Page<Message>)),
)]
pub(crate) async fn list_alias(app: State<App>, caller: Caller, query: Query) -> Result<Listed<Message>, Problem> {
    list(app, caller, query).await
}
