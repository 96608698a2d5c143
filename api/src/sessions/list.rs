//! `GET /sessions`: a page of sessions, newest first.

use axum::extract::State;
use sanasr_shared::ids::SessionId;
use sanasr_shared::session::Session;

use crate::answer::Listed;
use crate::auth::Caller;
use crate::cursor::{self, List};
use crate::problem::Problem;
use crate::query::Query;
use crate::state::App;

pub(crate) async fn list(State(app): State<App>, caller: Caller, mut query: Query) -> Result<Listed<Session>, Problem> {
    let page = query.page(List::Sessions);
    query.finish()?;
    let found = app.store.list_sessions(caller.scope(), page.after.map(SessionId), page.limit).await?;
    let next = found.next.map(|id| cursor::encode(List::Sessions, id));
    Ok(Listed { items: found.items, next, limit: page.limit })
}
