//! `GET /analytics/usage-stats`: what each user did on each day, newest day first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::UserId;
use sanasr_shared::ports::journal::UsageFilter;
use sanasr_shared::ports::store::Store;
use sanasr_shared::time::Day;
use sanasr_shared::usage::UsageStats;
use utoipa::IntoParams;

use crate::answer::{Listed, Page};
use crate::auth::Staff;
use crate::cursor::{self, List};
use crate::problem::Problem;
use crate::query::{Query, time};
use crate::reference::params::{ByUser, Paging};
use crate::state::App;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
struct Days {
    /// From this day on: a date, or a time whose UTC day is taken. `from` means the same.
    #[param(min_length = 10)]
    since: Option<String>,
    /// Before this day.
    #[param(min_length = 10)]
    until: Option<String>,
}

/// List usage by user and day
///
/// The newest day first. The day is UTC; a message belongs to the day on which it was accepted, whatever becomes of it when.
#[utoipa::path(
    get, path = "/api/v1/analytics/usage-stats", tag = "Analytics", operation_id = "list_usage_stats",
    security(("bearer" = [])), params(ByUser, Days, Paging),
    responses((status = 200, description = "A page of users' days.", body = Page<UsageStats>)),
)]
pub(super) async fn usage_stats(
    State(app): State<App>,
    Staff(asker): Staff,
    mut query: Query,
) -> Result<Listed<UsageStats>, Problem> {
    let (since, until) = query.span(day);
    let filter = UsageFilter {
        user: query.user_filter().user(),
        from: since.unwrap_or(Day(i64::MIN)),
        until: until.unwrap_or(Day(i64::MAX)),
    };
    let page = query.page(List::UsageStats);
    query.finish()?;
    let after = page.after.map(|(day, user)| (Day(day), UserId(user)));
    let limit = page.limit;
    let read = async move |store: Arc<dyn Store>| store.list_usage(&filter, after, limit).await;
    let (found, room) = app.page(asker.user, limit, read).await?;
    let next = found.next.map(|(day, user)| cursor::encode(List::UsageStats, (day.0, user.0)));
    Ok(Listed { items: found.items, next, limit: page.limit, room })
}

/// A day, or the one that a time falls on.
fn day(text: &str) -> Result<Day, String> {
    Day::parse(text).or_else(|| time(text).ok().map(|time| time.day())).ok_or_else(|| {
        "Must be a date such as 2026-11-25, or a time in RFC 3339 with a zone, whose UTC day is taken.".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates_or_times() {
        assert_eq!(day("2026-11-25"), Ok(Day(20_782)));
        assert_eq!(day("2026-11-25T23:59:59Z"), Ok(Day(20_782)));
        assert_eq!(day("2026-11-25T23:59:59-02:00"), Ok(Day(20_783)));
        for wrong in ["", "today", "2026-11-31", "2026-11-25T23:59:59", "25.11.2026"] {
            assert!(day(wrong).is_err(), "{wrong}");
        }
    }
}
