//! `GET /users`: a page of users, newest first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::UserId;
use sanasr_shared::ports::store::Store;
use sanasr_shared::user::{User, UserFilter};
use utoipa::IntoParams;

use crate::answer::{Listed, Page};
use crate::auth::Staff;
use crate::cursor::{self, List};
use crate::problem::Problem;
use crate::query::Query;
use crate::reference::params::Paging;
use crate::state::App;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
struct Filter {
    /// Only the user with this name.
    #[param(min_length = 1, max_length = 150)]
    username: Option<String>,
    /// Only those who are active, or only those who aren't.
    is_active: Option<bool>,
    /// Only admins, or only others.
    is_staff: Option<bool>,
}

/// List users
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/users", tag = "Users", operation_id = "list_users",
    security(("bearer" = [])), params(Filter, Paging),
    responses((status = 200, description = "A page of users.", body = Page<User>)),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Staff(asker): Staff,
    mut query: Query,
) -> Result<Listed<User>, Problem> {
    let filter = UserFilter {
        username: query.parsed("username", "invalid_username", |text| Ok(sanasr_shared::user::parse_username(text)?)),
        is_active: query.flag("is_active"),
        is_staff: query.flag("is_staff"),
    };
    let page = query.page(List::Users);
    query.finish()?;
    let after = page.after.map(|id| UserId(cursor::number(id)));
    let limit = page.limit;
    let read = async move |store: Arc<dyn Store>| store.list_users(&filter, after, limit).await;
    let ((items, more), room) = app.page(asker.user, limit, read).await?;
    let next = items.last().filter(|_| more).map(|user| cursor::encode_number(List::Users, user.id.0));
    Ok(Listed { items, next, limit: page.limit, room })
}
