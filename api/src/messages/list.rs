//! `GET /messages`: a page of messages, newest first.

use axum::extract::State;
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::{Message, MessageType, Status};
use sanasr_shared::ports::store::MessageFilter;
use sanasr_shared::recipient::Recipient;

use crate::answer::Listed;
use crate::auth::Caller;
use crate::cursor::{self, List};
use crate::fields::{TextRule, one_of};
use crate::problem::Problem;
use crate::query::{Query, time};
use crate::state::App;

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
    let found = app.store.list_messages(caller.scope(), &filter, page.after.map(MessageId), page.limit).await?;
    let next = found.next.map(|id| cursor::encode(List::Messages, id));
    Ok(Listed { items: found.items, next, limit: page.limit })
}

fn checked(text: &str, rule: TextRule) -> Result<String, String> {
    rule.check(text).map(|()| text.to_owned()).map_err(|(_, detail)| detail)
}
