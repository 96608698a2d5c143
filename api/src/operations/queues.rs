//! `GET /queues`: what waits for each session, the newest session first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::SessionId;
use sanasr_shared::ports::operations::SessionQueue;
use sanasr_shared::ports::store::Store;

use crate::answer::{Listed, Page};
use crate::auth::Staff;
use crate::cursor::{self, List};
use crate::problem::Problem;
use crate::query::Query;
use crate::reference::params::{ByUser, Paging};
use crate::state::App;

/// List queues
///
/// What waits for each session, the newest session first.
#[utoipa::path(
    get, path = "/api/v1/queues", tag = "Operations", operation_id = "list_queues",
    security(("bearer" = [])), params(ByUser, Paging),
    responses((status = 200, description = "A page of sessions' queues.", body = Page<SessionQueue>)),
)]
pub(crate) async fn queues(
    State(app): State<App>,
    Staff(asker): Staff,
    mut query: Query,
) -> Result<Listed<SessionQueue>, Problem> {
    let scope = query.user_filter();
    let page = query.page(List::Queues);
    query.finish()?;
    let (after, limit) = (page.after.map(SessionId), page.limit);
    let read = async move |store: Arc<dyn Store>| store.list_queues(scope, after, limit).await;
    let (found, room) = app.page(asker.user, limit, read).await?;
    let next = found.next.map(|id| cursor::encode(List::Queues, id));
    Ok(Listed { items: found.items, next, limit: page.limit, room })
}
