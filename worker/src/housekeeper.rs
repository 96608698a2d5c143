//! What one worker at a time does for all: schedules, expiry, the count of the backlog, deletion, retention.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sanasr_shared::ids::SessionId;
use sanasr_shared::ports::store::{Result, Retention, StoreError};
use tokio::time::{Duration, Instant, MissedTickBehavior};

use crate::life::Life;

const EVERY: Duration = Duration::from_secs(1);
/// How long the post is held without being confirmed.
const TERM: Duration = Duration::from_secs(4);
const COUNT_EVERY: Duration = Duration::from_secs(2);
const RETIRE_EVERY: Duration = Duration::from_secs(60);
/// A queue is deleted once more so much later: somebody may have declared it meanwhile.
const DELETE_AGAIN: Duration = Duration::from_secs(60);
/// Chunks of one sweep in one turn: the others must have theirs, and the post must be confirmed.
const CHUNKS_MAX: usize = 20;
const IDEMPOTENCY_KEYS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Keeps house while nobody else does.
pub(crate) async fn keep(life: Arc<Life>) {
    let mut house = House::new(&life);
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if !house.more {
            tick.tick().await;
        }
        house.more = false;
        match house.turn().await {
            Ok(()) => house.failing = false,
            Err(StoreError::Fenced) => return life.fenced(),
            Err(error) if error.is_transient() => tracing::debug!(%error, "housekeeping waits"),
            Err(error) => {
                if !std::mem::replace(&mut house.failing, true) {
                    tracing::error!(%error, "housekeeping failed; trying again");
                }
            }
        }
    }
}

struct House<'a> {
    life: &'a Life,
    leads: bool,
    /// There is more to do than one turn may.
    more: bool,
    failing: bool,
    counted: Option<Instant>,
    retired: Option<Instant>,
    /// Queues to be deleted once more, and when.
    queues: VecDeque<(Instant, SessionId)>,
}

impl<'a> House<'a> {
    const fn new(life: &'a Life) -> Self {
        Self { life, leads: false, more: false, failing: false, counted: None, retired: None, queues: VecDeque::new() }
    }

    async fn turn(&mut self) -> Result<()> {
        let leads = self.life.store.lead(self.life.id, TERM).await?;
        self.life.keeps_house.store(leads, Ordering::Relaxed);
        if leads != std::mem::replace(&mut self.leads, leads) {
            if leads {
                tracing::info!(worker = %self.life.id, "keeps house");
            } else {
                // Somebody else tells now.
                metrics::gauge!("sanasr_backlog").set(0);
                metrics::gauge!("sanasr_oldest_waiting_seconds").set(0);
            }
        }
        if !leads {
            return Ok(());
        }
        self.promote().await?;
        self.expire().await?;
        let now = Instant::now();
        if is_time(self.counted, COUNT_EVERY, now) {
            self.counted = Some(now);
            self.count().await?;
            self.drain().await?;
        }
        if is_time(self.retired, RETIRE_EVERY, now) {
            self.retire(now).await?;
        }
        while let Some((_, session)) = self.queues.pop_front_if(|(at, _)| *at <= now) {
            self.life.queue.delete(session).await;
        }
        Ok(())
    }

    async fn promote(&mut self) -> Result<()> {
        for _ in 0..CHUNKS_MAX {
            let (jobs, more) = self.life.store.promote().await?;
            if !jobs.is_empty() {
                tracing::debug!(messages = jobs.len(), "scheduled messages fell due");
                self.life.changes.add(jobs.iter().map(|job| job.message));
                self.life.queue.publish(&jobs);
            }
            if !more {
                return Ok(());
            }
        }
        self.more = true;
        Ok(())
    }

    async fn expire(&mut self) -> Result<()> {
        for _ in 0..CHUNKS_MAX {
            let swept = self.life.store.expire().await?;
            if !swept.messages.is_empty() {
                tracing::info!(messages = swept.messages.len(), "expired");
                self.life.changes.add(swept.messages);
            }
            if !swept.more {
                return Ok(());
            }
        }
        self.more = true;
        Ok(())
    }

    async fn count(&self) -> Result<()> {
        let (backlog, oldest) = self.life.store.count_backlog().await?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 messages don't wait")]
        metrics::gauge!("sanasr_backlog").set(backlog.total as f64);
        metrics::gauge!("sanasr_oldest_waiting_seconds").set(oldest.unwrap_or_default().as_secs_f64());
        Ok(())
    }

    async fn drain(&mut self) -> Result<()> {
        for _ in 0..CHUNKS_MAX {
            let (swept, removed) = self.life.store.drain_deleted().await?;
            self.life.changes.add(swept.messages);
            for session in removed {
                tracing::info!(%session, "removed a deleted session");
                self.life.queue.delete(session).await;
                self.queues.push_back((Instant::now() + DELETE_AGAIN, session));
            }
            if !swept.more {
                return Ok(());
            }
        }
        // The count's rhythm will do: nobody waits for a deletion.
        Ok(())
    }

    /// Goes on in the next turn until there is nothing more, and then rests.
    async fn retire(&mut self, now: Instant) -> Result<()> {
        let settings = &self.life.settings;
        let retention = Retention {
            events: settings.keep_events,
            api_logs: settings.keep_api_logs,
            idempotency_keys: IDEMPOTENCY_KEYS_KEPT,
            messages: settings.keep_messages,
        };
        for _ in 0..CHUNKS_MAX {
            if !self.life.store.retire(&retention).await? {
                self.retired = Some(now);
                return Ok(());
            }
        }
        Ok(())
    }
}

fn is_time(last: Option<Instant>, every: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now.duration_since(last) >= every)
}
