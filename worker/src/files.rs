//! Removes files whose time is over: the bytes first, then the row. Interrupted anywhere, it is taken up again.
//!
//! A job of its own beside the housekeeper's, since the place where files are may be slow or away for long.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use sanasr_shared::ids::MediaId;
use sanasr_shared::lifecycle::Heartbeat;
use sanasr_shared::ports::store::Result;
use tokio::time::{Duration, MissedTickBehavior};

use crate::life::Life;

const EVERY: Duration = Duration::from_secs(10);
/// Files that are being removed at once.
const AT_ONCE: usize = 8;

/// Sweeps while this worker keeps house.
/// Says nothing of its progress: the place where files are may be away for long.
pub(crate) async fn sweep(life: Arc<Life>, _heartbeat: Heartbeat) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !life.keeps_house.load(Ordering::Relaxed) {
            continue;
        }
        match turn(&life).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => tracing::debug!(%error, "sweeping files waits"),
            Err(error) => tracing::error!(%error, "sweeping files failed; trying again"),
        }
    }
}

/// Removes what is gone, chunk by chunk, until there is nothing more or something can't be removed.
async fn turn(life: &Life) -> Result<()> {
    loop {
        let gone = life.store.gone_files().await?;
        if gone.is_empty() {
            return Ok(());
        }
        let count = gone.len();
        let removals: Vec<_> = gone.into_iter().map(|id| remove(life, id)).collect();
        let removed: Vec<_> = futures_util::stream::iter(removals)
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if !removed.is_empty() {
            life.store.forget_files(&removed).await?;
            tracing::info!(files = removed.len(), "removed files whose time is over");
        }
        if removed.len() < count {
            return Ok(());
        }
    }
}

async fn remove(life: &Life, id: MediaId) -> Option<MediaId> {
    match life.files.remove(id).await {
        Ok(()) => Some(id),
        Err(error) => {
            tracing::warn!(%error, file = %id, "a file can't be removed now; trying again");
            None
        }
    }
}
