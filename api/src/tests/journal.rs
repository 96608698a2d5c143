//! The journal of the store in memory: events in the order in which the tests put them in; and its audit trail.

use async_trait::async_trait;
use sanasr_shared::ids::{ApiKeyId, FamilyId, SessionId};
use sanasr_shared::ports::audit::{Audit, AuditEntry, AuditFilter, AuditLine};
use sanasr_shared::ports::journal::*;
use sanasr_shared::ports::store::*;
use sanasr_shared::session::Session;
use sanasr_shared::usage::UsageStats;

use super::fake::{FakeStore, beyond};

#[async_trait]
impl Journal for FakeStore {
    async fn newest_events(&self) -> Result<Newest> {
        let last = self.data().events.iter().map(|event| event.n).max().unwrap_or(0);
        Ok(Newest { last, missing: Vec::new() })
    }

    async fn events_after(&self, scope: Scope, n: i64, limit: u32) -> Result<Vec<Event>> {
        let mut events = self.reach()?.events.clone();
        events.retain(|event| event.n > n && scope.user().is_none_or(|user| user == event.user));
        events.sort_by_key(|event| event.n);
        events.truncate(limit as usize);
        Ok(events)
    }

    async fn events_numbered(&self, numbers: &[i64]) -> Result<Vec<Event>> {
        Ok(self.reach()?.events.iter().filter(|event| numbers.contains(&event.n)).copied().collect())
    }

    async fn events_back(&self, _: Scope, n: i64) -> Result<i64> {
        Ok(n)
    }

    async fn sessions_by_id(&self, ids: &[SessionId]) -> Result<Vec<Session>> {
        Ok(self.reach()?.sessions.iter().filter(|session| ids.contains(&session.id)).cloned().collect())
    }

    async fn keys_in_standing(&self, keys: &[ApiKeyId]) -> Result<Vec<ApiKeyId>> {
        let data = self.reach()?;
        let stands = |key: &&ApiKeyId| data.keys.values().any(|k| k.key_id == **key && k.key_is_active);
        Ok(keys.iter().filter(stands).copied().collect())
    }

    async fn logins_in_standing(&self, families: &[FamilyId]) -> Result<Vec<(FamilyId, bool)>> {
        if families.is_empty() { Ok(Vec::new()) } else { Err(beyond()) }
    }

    async fn write_api_logs(&self, lines: &[ApiLog]) -> Result<()> {
        self.reach()?.api_logs.extend_from_slice(lines);
        Ok(())
    }

    async fn list_api_logs(&self, _: &ApiLogFilter, _: Option<LogPlace>, _: u32) -> Result<Page<ApiLog, LogPlace>> {
        Err(beyond())
    }

    async fn list_usage(&self, _: &UsageFilter, _: Option<UsagePlace>, _: u32) -> Result<Page<UsageStats, UsagePlace>> {
        Err(beyond())
    }
}

#[async_trait]
impl Audit for FakeStore {
    async fn write_audit(&self, entries: &[AuditEntry]) -> Result<()> {
        self.reach()?.audit.extend_from_slice(entries);
        Ok(())
    }

    async fn list_audit(&self, _: &AuditFilter, _: Option<LogPlace>, _: u32) -> Result<Page<AuditLine, LogPlace>> {
        Err(beyond())
    }
}
