//! `GET /sessions/{name}` and `GET /sessions/status`.

use axum::extract::State;
use sanasr_shared::session::Session;

use super::{SessionPath, absent};
use crate::answer::Data;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn get(
    State(app): State<App>,
    SessionPath { user, name }: SessionPath,
    _: NoQuery,
) -> Result<Data<Session>, Problem> {
    app.store.session(user, &name).await?.map(Data::ok).ok_or_else(absent)
}

/// The session `default`.
pub(crate) async fn default(app: State<App>, caller: Caller, query: NoQuery) -> Result<Data<Session>, Problem> {
    get(app, SessionPath::default_of(caller)?, query).await
}
