//! `GET /dead-letters`: messages that couldn't be processed, newest first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::Message;
use sanasr_shared::ports::store::Store;

use crate::answer::{Listed, Page};
use crate::auth::Staff;
use crate::cursor::{self, List};
use crate::problem::Problem;
use crate::query::Query;
use crate::reference::params::{ByUser, Paging};
use crate::state::App;

/// List dead letters
///
/// Messages that couldn't be processed, newest first.
#[utoipa::path(
    get, path = "/api/v1/dead-letters", tag = "Operations", operation_id = "list_dead_letters",
    security(("bearer" = [])), params(ByUser, Paging),
    responses((status = 200, description = "A page of messages.", body = Page<Message>)),
)]
pub(crate) async fn dead_letters(
    State(app): State<App>,
    Staff(asker): Staff,
    mut query: Query,
) -> Result<Listed<Message>, Problem> {
    let scope = query.user_filter();
    let page = query.page(List::DeadLetters);
    query.finish()?;
    let (after, limit) = (page.after.map(MessageId), page.limit);
    let read = async move |store: Arc<dyn Store>| store.list_dead_letters(scope, after, limit).await;
    let (found, room) = app.page(asker.user, limit, read).await?;
    let next = found.next.map(|id| cursor::encode(List::DeadLetters, id));
    Ok(Listed { items: found.items, next, limit: page.limit, room })
}
