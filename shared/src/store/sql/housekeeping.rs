//! What one worker at a time does for all. Each sweep is made by `sweeps`, as the databases differ there.

use std::time::Duration;

use async_trait::async_trait;

use super::super::sweeps;
use super::{Backend, ownership};
use crate::ids::{SessionId, WorkerId};
use crate::ports::store::{AcceptedJob, Backlog, Housekeeping, Result, Retention, Swept};

#[async_trait]
impl Housekeeping for Backend {
    async fn lead(&self, worker: WorkerId, term: Duration) -> Result<bool> {
        change!(self, |c| ownership::lead(c, worker, term))
    }

    async fn promote(&self) -> Result<(Vec<AcceptedJob>, bool)> {
        change!(self, |c, now| sweeps::promote(c, now))
    }

    async fn expire(&self) -> Result<Swept> {
        change!(self, |c, now| sweeps::expire(c, now))
    }

    async fn count_backlog(&self) -> Result<(Backlog, Option<Duration>)> {
        sweeps::count_backlog(self).await
    }

    async fn drain_deleted(&self) -> Result<(Swept, Vec<SessionId>)> {
        change!(self, |c, now| sweeps::drain_deleted(c, now))
    }

    async fn retire(&self, retention: &Retention) -> Result<bool> {
        sweeps::retire(self, retention).await
    }
}
