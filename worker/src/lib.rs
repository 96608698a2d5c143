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
//! row gone drops everything at once and begins again under a new id. No error of the store ends a worker.

use std::sync::Arc;
use std::time::Duration;

use sanasr_shared::lifecycle;
use sanasr_shared::media::FileStore;
use sanasr_shared::ports::bridge::Bridge;
use sanasr_shared::ports::queue::Queue;
use sanasr_shared::ports::signals::Signals;
use sanasr_shared::ports::store::Store;
use sanasr_shared::settings::{MediaSettings, WorkerSettings};
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

        let mut helpers = JoinSet::new();
        helpers.spawn(changes::tell(Arc::clone(&life)));
        helpers.spawn(life::supervised("housekeeper", Arc::clone(&life), housekeeper::keep));
        helpers.spawn(life::supervised("sweeping files", Arc::clone(&life), files::sweep));
        if !parts.alone {
            helpers.spawn(life::supervised("burial", Arc::clone(&life), burial::bury));
        }
        let end = ownership::own(&life, &stop).await;
        helpers.shutdown().await;
        life.changes.flush(&*life.signals);
        match end {
            End::Stopped => {
                tracing::info!(worker = %life.id, "gave everything back and left");
                return;
            }
            End::Fenced => {
                tracing::warn!(worker = %life.id, "was declared dead: beginning again under a new id");
            }
        }
        if stop.is_cancelled() {
            return;
        }
    }
}
