//! `GET /usage`: the quota of today, and what was used on the last days.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use sanasr_shared::time::{Day, Time};
use sanasr_shared::usage::{Quota, UsageStats};
use serde::Serialize;

use crate::answer::Data;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

/// Days that are shown, today among them.
const DAYS: i64 = 30;

#[derive(Serialize)]
struct Usage {
    quota: Quota,
    days: Vec<UsageStats>,
}

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/api/v1/usage", get(usage))
}

async fn usage(State(app): State<App>, caller: Caller, _: NoQuery) -> Result<Data<Usage>, Problem> {
    let user = caller.user()?;
    let quota = app.store.quota(user).await?.ok_or_else(Problem::unauthenticated)?;
    let until = Time::now().day().next();
    let days = app.store.usage_days(user, Day(until.0 - DAYS), until).await?;
    Ok(Data::ok(Usage { quota, days }))
}
