//! `GET /usage`: the quota of today, and what was used on the last days.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use sanasr_shared::time::{Day, Time};
use sanasr_shared::usage::{Quota, UsageStats};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::OfUser;
use crate::state::App;

/// Days that are shown, today among them.
const DAYS: i64 = 30;

/// What a user has used.
#[derive(Serialize, ToSchema)]
struct Usage {
    /// Today's quota.
    quota: Quota,
    /// The files that are kept.
    files: FileUsage,
    /// The last 30 days on which there was anything.
    days: Vec<UsageStats>,
}

/// What a user's files take.
#[derive(Serialize, ToSchema)]
struct FileUsage {
    /// Bytes of the files that are kept.
    bytes: u64,
    /// Bytes that they may take together.
    limit: u64,
}

/// The endpoint in the reference.
#[derive(OpenApi)]
#[openapi(paths(usage))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/api/v1/usage", get(usage))
}

/// Get the quota and the last days
///
/// How much of today's quota is used and when it resets, how many bytes the user's files take, and what was used on each of the last 30 days. The day is UTC; a
/// message belongs to the day on which it was accepted.
#[utoipa::path(
    get, path = "/api/v1/usage", tag = "Usage", operation_id = "get_usage",
    params(OfUser),
    responses((status = 200, description = "The usage.", body = Success<Usage>)),
)]
async fn usage(State(app): State<App>, caller: Caller, _: NoQuery) -> Result<Data<Usage>, Problem> {
    let user = caller.user()?;
    let quota = app.store.quota(user).await?.ok_or_else(Problem::unauthenticated)?;
    let until = Time::now().day().next();
    let days = app.store.usage_days(user, Day(until.0 - DAYS), until).await?;
    let bytes = app.store.stored_bytes(user).await?;
    Ok(Data::ok(Usage { quota, files: FileUsage { bytes, limit: app.media.media_user_limit }, days }))
}
