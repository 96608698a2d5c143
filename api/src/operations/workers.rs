//! `GET /workers`: the worker processes, the latest started first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::WorkerId;
use sanasr_shared::ports::operations::WorkerState;
use sanasr_shared::ports::store::Store;

use crate::answer::{Listed, Page};
use crate::auth::Staff;
use crate::cursor::{self, List};
use crate::problem::Problem;
use crate::query::Query;
use crate::reference::params::Paging;
use crate::state::App;

/// List workers
///
/// The worker processes that live, the latest started first.
#[utoipa::path(
    get, path = "/api/v1/workers", tag = "Operations", operation_id = "list_workers",
    security(("bearer" = [])), params(Paging),
    responses((status = 200, description = "A page of workers.", body = Page<WorkerState>)),
)]
pub(crate) async fn workers(
    State(app): State<App>,
    Staff(asker): Staff,
    mut query: Query,
) -> Result<Listed<WorkerState>, Problem> {
    let page = query.page(List::Workers);
    query.finish()?;
    let (after, limit) = (page.after.map(WorkerId), page.limit);
    let read = async move |store: Arc<dyn Store>| store.list_workers(after, limit).await;
    let (found, room) = app.page(asker.user, limit, read).await?;
    let next = found.next.map(|id| cursor::encode(List::Workers, id));
    Ok(Listed { items: found.items, next, limit: page.limit, room })
}
