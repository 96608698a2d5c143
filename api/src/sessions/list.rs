//! `GET /sessions`: a page of sessions, newest first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::SessionId;
use sanasr_shared::ports::store::Store;
use sanasr_shared::session::Session;

use crate::answer::{Listed, Page};
use crate::auth::Caller;
use crate::cursor::{self, List};
use crate::problem::Problem;
use crate::query::Query;
use crate::reference::params::{OfUser, Paging};
use crate::state::App;

/// List sessions
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/sessions", tag = "Sessions", operation_id = "list_sessions",
    params(Paging, OfUser),
    responses((status = 200, description = "A page of sessions.", body = Page<Session>)),
)]
pub(crate) async fn list(State(app): State<App>, caller: Caller, mut query: Query) -> Result<Listed<Session>, Problem> {
    let page = query.page(List::Sessions);
    query.finish()?;
    let (scope, after, limit) = (caller.scope(), page.after.map(SessionId), page.limit);
    let read = async move |store: Arc<dyn Store>| store.list_sessions(scope, after, limit).await;
    let (found, room) = app.page(caller.asker.user, limit, read).await?;
    let next = found.next.map(|id| cursor::encode(List::Sessions, id));
    let items = found.items.into_iter().map(|session| session.opened(&app.vault)).collect();
    Ok(Listed { items, next, limit: page.limit, room })
}
