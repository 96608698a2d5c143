//! What one worker at a time does for all: schedules, expiry, the count of the backlog, deletion, retention.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sanasr_shared::ids::SessionId;
use sanasr_shared::lifecycle::Heartbeat;
use sanasr_shared::ports::audit::{AUDIT_KEPT, AUDIT_LINES_MAX};
use sanasr_shared::ports::store::{Retention, StoreError};
use tokio::time::{Duration, Instant, MissedTickBehavior};

use crate::life::Life;

const EVERY: Duration = Duration::from_secs(1);
/// How long a housekeeper stays it without confirming that.
const TERM: Duration = Duration::from_secs(4);
const COUNT_EVERY: Duration = Duration::from_secs(2);
const RETIRE_EVERY: Duration = Duration::from_secs(60);
/// A queue is deleted once more so much later: somebody may have declared it meanwhile.
const DELETE_AGAIN: Duration = Duration::from_secs(60);
/// Chunks of one sweep in one turn: the others must have theirs, and that it is still the housekeeper must be confirmed.
const CHUNKS_MAX: usize = 20;
const IDEMPOTENCY_KEYS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Lines that the API log has at most: 2 to 3 GB of ordinary ones on PostgreSQL, 10 GB of the longest.
const API_LOG_LINES_MAX: i64 = 10_000_000;

/// A sweep that has failed so often in a row says so; then again each time that it has failed as often as this once more.
const TOLD_AFTER: u32 = 3;
const TOLD_EVERY: u32 = 300;

/// Keeps house while nobody else does.
pub(crate) async fn keep(life: Arc<Life>, heartbeat: Heartbeat) {
    let mut house = House::new(&life, &heartbeat);
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if !house.more {
            heartbeat.idle();
            tick.tick().await;
        }
        heartbeat.begin();
        house.more = false;
        if house.turn().await.is_err() {
            return life.fenced();
        }
    }
}

/// The worker's row is gone.
struct Fenced;

/// What is done in a turn. Each part fails for itself.
#[derive(Debug, Clone, Copy)]
enum Sweep {
    Lead,
    Promote,
    Expire,
    Count,
    Drain,
    Retire,
}

impl Sweep {
    const ALL: usize = Self::Retire as usize + 1;

    const fn as_str(self) -> &'static str {
        match self {
            Self::Lead => "becoming the housekeeper",
            Self::Promote => "releasing scheduled messages",
            Self::Expire => "ending expired messages",
            Self::Count => "counting the backlog",
            Self::Drain => "removing deleted sessions",
            Self::Retire => "removing what is kept no longer",
        }
    }
}

struct House<'a> {
    life: &'a Life,
    heartbeat: &'a Heartbeat,
    leads: bool,
    /// There is more to do than one turn may.
    more: bool,
    /// How often each sweep has failed in a row.
    failures: [u32; Sweep::ALL],
    counted: Option<Instant>,
    retired: Option<Instant>,
    /// Queues to be deleted once more, and when.
    queues: VecDeque<(Instant, SessionId)>,
}

impl<'a> House<'a> {
    const fn new(life: &'a Life, heartbeat: &'a Heartbeat) -> Self {
        Self {
            life,
            heartbeat,
            leads: false,
            more: false,
            failures: [0; Sweep::ALL],
            counted: None,
            retired: None,
            queues: VecDeque::new(),
        }
    }

    async fn turn(&mut self) -> Result<(), Fenced> {
        let led = self.life.store.lead(self.life.id, TERM).await;
        let leads = *led.as_ref().unwrap_or(&false);
        self.note(Sweep::Lead, led.map(drop))?;
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
        let promoted = self.promote().await;
        self.note(Sweep::Promote, promoted)?;
        let expired = self.expire().await;
        self.note(Sweep::Expire, expired)?;
        let now = Instant::now();
        if is_time(self.counted, COUNT_EVERY, now) {
            self.counted = Some(now);
            let counted = self.count().await;
            self.note(Sweep::Count, counted)?;
            let drained = self.drain().await;
            self.note(Sweep::Drain, drained)?;
        }
        if is_time(self.retired, RETIRE_EVERY, now) {
            let retired = self.retire(now).await;
            self.note(Sweep::Retire, retired)?;
        }
        while let Some((_, session)) = self.queues.pop_front_if(|(at, _)| *at <= now) {
            self.delete_queue(session).await;
        }
        Ok(())
    }

    /// A sweep that fails leaves the others their turn, and is tried again in the next one.
    fn note(&mut self, sweep: Sweep, done: Result<(), StoreError>) -> Result<(), Fenced> {
        self.heartbeat.progress();
        let what = sweep.as_str();
        let failures = &mut self.failures[sweep as usize];
        match done {
            Ok(()) => {
                if std::mem::take(failures) >= TOLD_AFTER {
                    tracing::info!("{what} works again");
                }
            }
            Err(StoreError::Fenced) => return Err(Fenced),
            Err(error) => {
                *failures = failures.saturating_add(1);
                if *failures == TOLD_AFTER || failures.is_multiple_of(TOLD_EVERY) {
                    tracing::warn!(%error, failures = *failures, "{what} fails; it is tried again and again");
                } else {
                    tracing::debug!(%error, failures = *failures, "{what} failed; it is tried again");
                }
                metrics::counter!("sanasr_sweep_failures_total", "sweep" => what).increment(1);
            }
        }
        Ok(())
    }

    async fn delete_queue(&self, session: SessionId) {
        self.life.queue.delete(session).await;
        self.heartbeat.progress();
    }

    async fn promote(&mut self) -> Result<(), StoreError> {
        for _ in 0..CHUNKS_MAX {
            let (jobs, more) = self.life.store.promote().await?;
            self.heartbeat.progress();
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

    async fn expire(&mut self) -> Result<(), StoreError> {
        for _ in 0..CHUNKS_MAX {
            let swept = self.life.store.expire().await?;
            self.heartbeat.progress();
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

    async fn count(&self) -> Result<(), StoreError> {
        let (backlog, oldest) = self.life.store.count_backlog().await?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 messages don't wait")]
        metrics::gauge!("sanasr_backlog").set(backlog.total as f64);
        metrics::gauge!("sanasr_oldest_waiting_seconds").set(oldest.unwrap_or_default().as_secs_f64());
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), StoreError> {
        for _ in 0..CHUNKS_MAX {
            let (swept, removed) = self.life.store.drain_deleted().await?;
            self.heartbeat.progress();
            self.life.changes.add(swept.messages);
            for session in removed {
                tracing::info!(%session, "removed a deleted session");
                self.delete_queue(session).await;
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
    async fn retire(&mut self, now: Instant) -> Result<(), StoreError> {
        let settings = &self.life.settings;
        let retention = Retention {
            events: settings.keep_events,
            api_logs: settings.keep_api_logs,
            idempotency_keys: IDEMPOTENCY_KEYS_KEPT,
            unsent: settings.keep_unsent,
            messages: settings.keep_messages,
            api_log_lines: API_LOG_LINES_MAX,
            audit: AUDIT_KEPT,
            audit_lines: AUDIT_LINES_MAX,
        };
        for _ in 0..CHUNKS_MAX {
            let more = self.life.store.retire(&retention).await?;
            self.heartbeat.progress();
            if !more {
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
