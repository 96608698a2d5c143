//! `GET /users`: a page of users, newest first.

use axum::extract::State;
use sanasr_shared::ids::UserId;
use sanasr_shared::user::{User, UserFilter};

use crate::answer::Listed;
use crate::auth::Staff;
use crate::cursor::{self, List};
use crate::problem::Problem;
use crate::query::Query;
use crate::state::App;

pub(crate) async fn list(State(app): State<App>, _: Staff, mut query: Query) -> Result<Listed<User>, Problem> {
    let filter = UserFilter {
        username: query.parsed("username", |text| Ok(sanasr_shared::user::parse_username(text)?)),
        is_active: query.flag("is_active"),
        is_staff: query.flag("is_staff"),
    };
    let page = query.page(List::Users);
    query.finish()?;
    let after = page.after.map(|id| UserId(cursor::number(id)));
    let (items, more) = app.store.list_users(&filter, after, page.limit).await?;
    let next = items.last().filter(|_| more).map(|user| cursor::encode_number(List::Users, user.id.0));
    Ok(Listed { items, next, limit: page.limit })
}
