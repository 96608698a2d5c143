//! Events, the API log and usage by day.

use async_trait::async_trait;

use super::{SqliteStore, sql};
use crate::ids::{ApiKeyId, FamilyId, SessionId};
use crate::ports::journal::{ApiLog, ApiLogFilter, Event, Journal, LogPlace, Newest, UsageFilter, UsagePlace};
use crate::ports::store::{Page, Result, Scope};
use crate::session::Session;
use crate::usage::UsageStats;

#[async_trait]
impl Journal for SqliteStore {
    async fn newest_events(&self) -> Result<Newest> {
        sql::journal::newest_events(&mut *self.read().await?).await
    }

    async fn events_after(&self, scope: Scope, n: i64, limit: u32) -> Result<Vec<Event>> {
        sql::journal::events_after(&mut *self.read().await?, scope, n, limit).await
    }

    async fn events_numbered(&self, numbers: &[i64]) -> Result<Vec<Event>> {
        sql::journal::events_numbered(&mut *self.read().await?, numbers).await
    }

    /// There is one writer: numbers are committed in their order.
    async fn events_back(&self, _: Scope, n: i64) -> Result<i64> {
        Ok(n)
    }

    async fn sessions_by_id(&self, ids: &[SessionId]) -> Result<Vec<Session>> {
        sql::sessions::by_ids(&mut *self.read().await?, ids).await
    }

    async fn keys_in_standing(&self, keys: &[ApiKeyId]) -> Result<Vec<ApiKeyId>> {
        sql::journal::keys_in_standing(&mut *self.read().await?, keys).await
    }

    async fn logins_in_standing(&self, families: &[FamilyId]) -> Result<Vec<(FamilyId, bool)>> {
        sql::journal::logins_in_standing(&mut *self.read().await?, families).await
    }

    async fn write_api_logs(&self, lines: &[ApiLog]) -> Result<()> {
        self.logs.write(lines).await
    }

    async fn list_api_logs(
        &self,
        filter: &ApiLogFilter,
        after: Option<LogPlace>,
        limit: u32,
    ) -> Result<Page<ApiLog, LogPlace>> {
        self.logs.list(filter, after, limit).await
    }

    async fn list_usage(
        &self,
        filter: &UsageFilter,
        after: Option<UsagePlace>,
        limit: u32,
    ) -> Result<Page<UsageStats, UsagePlace>> {
        sql::journal::list_usage(&mut *self.read().await?, filter, after, limit).await
    }
}
