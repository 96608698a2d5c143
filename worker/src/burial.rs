//! Declares workers dead whose lease is over, so that their sessions get new owners.

use std::sync::Arc;
use std::time::Duration;

use sanasr_shared::lifecycle::Heartbeat;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::ports::store::StoreError;
use tokio::time::MissedTickBehavior;

use crate::lease::boottime;
use crate::life::Life;

/// How often it looks, unless the lease is very short.
const EVERY: Duration = Duration::from_secs(1);
/// The longest it waits for a row that a frozen transaction has locked; the database ends such a one after two seconds.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Looks again and again. Every second look waits for locked rows: so one that stays skipped is taken in the end.
pub(crate) async fn bury(life: Arc<Life>, heartbeat: Heartbeat) {
    let lease = life.settings.lease;
    let mut tick = tokio::time::interval(EVERY.min(lease / 5));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut blocking = false;
    loop {
        heartbeat.idle(); // what it asks has a time limit
        tick.tick().await;
        heartbeat.begin();
        if !life.lease.holds() || !life.contact.lasted(boottime(), lease) {
            continue;
        }
        match tokio::time::timeout(WAIT_MAX, life.store.bury(life.id, blocking)).await {
            Ok(Ok(dead)) if !dead.is_empty() => {
                tracing::warn!(?dead, "declared workers dead whose lease was over");
                life.hurry.notify_one();
                life.signals.publish(Signal::SessionFree);
            }
            Ok(Ok(_)) => {}
            Ok(Err(StoreError::Fenced)) => life.fenced(),
            Ok(Err(error)) => tracing::debug!(%error, blocking, "couldn't look for dead workers"),
            Err(_) => tracing::debug!(blocking, "looking for dead workers took too long"),
        }
        blocking = !blocking;
    }
}
