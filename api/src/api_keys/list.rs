//! `GET /api-keys`: a page of keys, newest first, the revoked ones among them.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::ApiKeyId;
use sanasr_shared::ports::store::Store;
use sanasr_shared::user::ApiKey;

use crate::answer::{Listed, Page};
use crate::auth::Staff;
use crate::cursor::{self, List};
use crate::problem::Problem;
use crate::query::{Query, USER_ID};
use crate::reference::params::{ByUser, Paging};
use crate::state::App;

/// List API keys
///
/// Newest first, revoked ones too.
#[utoipa::path(
    get, path = "/api/v1/api-keys", tag = "API keys", operation_id = "list_api_keys",
    security(("bearer" = [])), params(ByUser, Paging),
    responses((status = 200, description = "A page of keys.", body = Page<ApiKey>)),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Staff(asker): Staff,
    mut query: Query,
) -> Result<Listed<ApiKey>, Problem> {
    let user = query.user(USER_ID);
    let page = query.page(List::ApiKeys);
    query.finish()?;
    let after = page.after.map(|id| ApiKeyId(cursor::number(id)));
    let limit = page.limit;
    let read = async move |store: Arc<dyn Store>| store.list_api_keys(user, after, limit).await;
    let ((items, more), room) = app.page(asker.user, limit, read).await?;
    let next = items.last().filter(|_| more).map(|key| cursor::encode_number(List::ApiKeys, key.id.0));
    Ok(Listed { items, next, limit: page.limit, room })
}
