//! `POST /auth/logout`: ends a login, with all its tokens. Ending it again is fine.

use axum::extract::State;

use super::{Nothing, RefreshRequest, Stranger};
use crate::answer::Data;
use crate::body::JsonBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn logout(
    State(app): State<App>,
    _: Stranger,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<Nothing>, Problem> {
    let RefreshRequest { refresh } = RefreshRequest::read(body)?;
    let claimed = app.tokens.read_refresh(&refresh).ok_or_else(Problem::login_ended)?;
    if let Some(user) = app.store.end_login(claimed.family).await? {
        app.standing_changed(user);
    }
    Ok(Data::ok(Nothing {}))
}
