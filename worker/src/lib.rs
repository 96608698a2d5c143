//! The worker: owns sessions, claims their messages, gives these to a bridge and writes down what became of them.
//!
//! ```text
//! run ── a life (one WorkerId) ─┬─ ownership   keeps the lease, takes sessions and gives them back
//!                               │    └─ session::actor, one for each session: link, doorbell, pull, sends, receipts
//!                               ├─ burial      declares workers dead whose lease is over
//!                               ├─ files       removes files whose time is over; with the housekeeper
//!                               └─ housekeeper promotes, expires, counts, drains, removes; one worker at a time
//! ```
//!
//! What must hold: nothing is sent and nothing is written without the worker's row in the store. A worker that finds its
//! row gone drops everything at once and begins again under a new id. No error of the store ends a worker. Each part has an
//! owner: one that panics is started again, or the process ends and lets the lease run out.

use std::sync::Arc;
use std::time::Duration;

use sanasr_shared::lifecycle::{self, Heartbeat, Watchdog, caught};
use sanasr_shared::media::FileStore;
use sanasr_shared::ports::bridge::Bridge;
use sanasr_shared::ports::queue::Queue;
use sanasr_shared::ports::signals::Signals;
use sanasr_shared::ports::store::Store;
use sanasr_shared::settings::{MediaSettings, WorkerSettings};
use sanasr_shared::vault::Vault;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::lease::boottime;
use crate::life::Life;
use crate::ownership::End;

mod burial;
mod changes;
mod files;
mod housekeeper;
mod lease;
mod life;
mod media;
mod ownership;
mod pull;
mod receipts;
mod send;
mod session;
mod slot;
mod trail;

/// What a worker works with.
#[derive(Clone)]
pub struct Parts {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// What rings.
    pub queue: Arc<dyn Queue>,
    /// What tells and hears of changes.
    pub signals: Arc<dyn Signals>,
    /// One bridge of each kind that this process can drive.
    pub bridges: Vec<Arc<dyn Bridge>>,
    /// Lease, places, time limits, retention.
    pub settings: WorkerSettings,
    /// Limits of files.
    pub media: MediaSettings,
    /// Where files are.
    pub files: FileStore,
    /// This process's shard of the usage stats.
    pub shard: i64,
    /// Seals the codes that link phones.
    pub vault: Arc<Vault>,
    /// Watches the worker's parts.
    pub watchdog: Watchdog,
    /// Nobody else can live (the lock on the data dir proves it), so nobody need be declared dead.
    pub alone: bool,
}

/// Works until `stop`, then finishes what is in flight (for `drain` at most), gives its sessions back and leaves.
///
/// It doesn't return because a service blinked: it waits for the database to begin with, tries every write again, and if
/// it was declared dead meanwhile, begins again under a new id.
pub async fn run(parts: Parts, stop: CancellationToken, drain: Duration) {
    loop {
        let life = Arc::new(Life::new(&parts, drain));
        let mut asked = boottime();
        let registered = lifecycle::wait_for("the database", &stop, || {
            asked = boottime();
            life.store.register(life.id, life.settings.lease)
        });
        if registered.await.is_none() {
            return;
        }
        life.lease.renewed(asked, life.settings.lease);
        tracing::info!(worker = %life.id, "working");

        let mut helpers = Helpers { life: &life, watchdog: &parts.watchdog, tasks: JoinSet::new() };
        helpers.start("telling of changes", changes::tell);
        helpers.start("the housekeeper", housekeeper::keep);
        helpers.start("sweeping files", files::sweep);
        if !parts.alone {
            helpers.start("looking for dead workers", burial::bury);
        }
        let end = caught(ownership::own(&life, &stop)).await;
        let mut helpers = helpers.tasks;
        helpers.shutdown().await;
        life.changes.flush(&*life.signals);
        match end {
            Err(panic) => {
                // Its sessions' tasks went with it. Nothing is written any more: others take the sessions when the lease is over.
                life.fenced();
                return parts.watchdog.fail(format!("the worker crashed: {panic}"));
            }
            Ok(End::Stopped) => {
                tracing::info!(worker = %life.id, "gave everything back and left");
                return;
            }
            Ok(End::Fenced) => {
                tracing::warn!(worker = %life.id, "was declared dead: beginning again under a new id");
            }
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

/// The jobs beside the sessions of one life.
struct Helpers<'a> {
    life: &'a Arc<Life>,
    watchdog: &'a Watchdog,
    tasks: JoinSet<()>,
}

impl Helpers<'_> {
    fn start<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &'static str,
        job: fn(Arc<Life>, Heartbeat) -> F,
    ) {
        let (life, watchdog) = (Arc::clone(self.life), self.watchdog.clone());
        self.tasks.spawn(async move { watchdog.keep(name, |heartbeat| job(Arc::clone(&life), heartbeat)).await });
    }
}
