//! `GET /messages`: a page of messages, newest first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::{Message, MessageType, Status};
use sanasr_shared::ports::store::{MessageFilter, Store};
use sanasr_shared::recipient::Recipient;
use utoipa::IntoParams;

use crate::answer::{Listed, Page};
use crate::auth::Caller;
use crate::cursor::{self, List};
use crate::fields::{TextRule, one_of};
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
    #[param(min_length = 1, max_length = 64, example = "+15551234567")]
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
    let filter = MessageFilter {
        status: query.parsed("status", |text| one_of(text, &Status::ALL, Status::as_str)),
        session: query.parsed("session", |text| checked(text, TextRule::line(64))),
        to: query.parsed("to", Recipient::parse),
        kind: query.parsed("type", |text| one_of(text, &MessageType::ALL, MessageType::as_str)),
        reference: query.parsed("reference", |text| checked(text, TextRule::line(255))),
        from: query.parsed("from", time),
        until: query.parsed("until", time),
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

fn checked(text: &str, rule: TextRule) -> Result<String, String> {
    rule.check(text).map(|()| text.to_owned()).map_err(|(_, detail)| detail)
}
