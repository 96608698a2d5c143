//! Events, the API log and usage by day.

use async_trait::async_trait;

use super::{Postgres, error, sql};
use crate::ids::{ApiKeyId, FamilyId, SessionId};
use crate::ports::journal::{
    ApiLog, ApiLogFilter, Event, Journal, LogPlace, Newest, UNDER_WAY_MAX, UsageFilter, UsagePlace,
};
use crate::ports::store::{Page, Result, Scope};
use crate::session::Session;
use crate::time::millis;
use crate::usage::UsageStats;

/// The newest event that is so much older than the event `$1`; 0 if none is, nothing if the event is gone. As it is asked,
/// the user's own is found by the index of user and number.
macro_rules! back {
    ($before:literal, $order:literal) => {
        concat!(
            "SELECT COALESCE((SELECT b.n FROM events b WHERE ",
            $before,
            " AND b.at < e.at - $3 ORDER BY ",
            $order,
            " LIMIT 1), 0) FROM events e WHERE e.n = $1"
        )
    };
}

const WRITE_LOGS: &str = "
INSERT INTO api_logs (at, user_id, endpoint, method, status, duration_us, ip_address, request_id)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::text[],
    $8::text[])";

#[async_trait]
impl Journal for Postgres {
    async fn newest_events(&self) -> Result<Newest> {
        self.on_pool(async |c| sql::journal::newest_events(c).await).await
    }

    async fn events_after(&self, scope: Scope, n: i64, limit: u32) -> Result<Vec<Event>> {
        self.on_pool(async |c| sql::journal::events_after(c, scope, n, limit).await).await
    }

    async fn events_numbered(&self, numbers: &[i64]) -> Result<Vec<Event>> {
        self.on_pool(async |c| sql::journal::events_numbered(c, numbers).await).await
    }

    async fn events_back(&self, scope: Scope, n: i64) -> Result<i64> {
        let text = match scope {
            Scope::User(_) => back!("(b.user_id, b.n) < ($2, $1) AND b.user_id >= $2", "b.user_id DESC, b.n DESC"),
            Scope::All => back!("b.n < $1 AND CAST($2 AS bigint) IS NULL", "b.n DESC"),
        };
        self.on_pool(async |c| {
            let back: Option<i64> = sqlx::query_scalar(text)
                .bind(n)
                .bind(scope.user())
                .bind(millis(UNDER_WAY_MAX))
                .fetch_optional(c)
                .await
                .map_err(error)?;
            Ok(back.unwrap_or(n))
        })
        .await
    }

    async fn sessions_by_id(&self, ids: &[SessionId]) -> Result<Vec<Session>> {
        self.on_pool(async |c| sql::sessions::by_ids(c, ids).await).await
    }

    async fn keys_in_standing(&self, keys: &[ApiKeyId]) -> Result<Vec<ApiKeyId>> {
        self.on_pool(async |c| sql::journal::keys_in_standing(c, keys).await).await
    }

    async fn logins_in_standing(&self, families: &[FamilyId]) -> Result<Vec<(FamilyId, bool)>> {
        self.on_pool(async |c| sql::journal::logins_in_standing(c, families).await).await
    }

    async fn write_api_logs(&self, lines: &[ApiLog]) -> Result<()> {
        let at: Vec<i64> = lines.iter().map(|line| line.at.0).collect();
        let users: Vec<Option<i64>> = lines.iter().map(|line| line.user.map(|user| user.0)).collect();
        let endpoints: Vec<&str> = lines.iter().map(|line| line.endpoint.as_str()).collect();
        let methods: Vec<&str> = lines.iter().map(|line| line.method.as_str()).collect();
        let statuses: Vec<i16> = lines.iter().map(|line| i16::try_from(line.status).unwrap_or(i16::MAX)).collect();
        let durations: Vec<i64> = lines.iter().map(|line| line.duration_us).collect();
        let addresses: Vec<String> = lines.iter().map(|line| line.address.to_string()).collect();
        let requests: Vec<&str> = lines.iter().map(|line| &*line.request_id).collect();
        self.on_pool(async |c| {
            sqlx::query(WRITE_LOGS)
                .bind(&at)
                .bind(&users)
                .bind(&endpoints)
                .bind(&methods)
                .bind(&statuses)
                .bind(&durations)
                .bind(&addresses)
                .bind(&requests)
                .execute(c)
                .await
                .map(|_| ())
                .map_err(error)
        })
        .await
    }

    async fn list_api_logs(
        &self,
        filter: &ApiLogFilter,
        after: Option<LogPlace>,
        limit: u32,
    ) -> Result<Page<ApiLog, LogPlace>> {
        self.on_pool(async |c| sql::journal::list_api_logs(c, filter, after, limit).await).await
    }

    async fn list_usage(
        &self,
        filter: &UsageFilter,
        after: Option<UsagePlace>,
        limit: u32,
    ) -> Result<Page<UsageStats, UsagePlace>> {
        self.on_pool(async |c| sql::journal::list_usage(c, filter, after, limit).await).await
    }
}
