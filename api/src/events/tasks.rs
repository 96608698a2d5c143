//! What goes on beside the streams: reading on, and signs of life.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::ports::store::StoreError;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::hub::Hub;

/// Events are looked for this often: a signal may be lost.
const LOOK: Duration = Duration::from_secs(1);
/// The shortest time between two looks: what happens in between is read together.
const GATHER: Duration = Duration::from_millis(10);

/// Runs until the process stops, which `stopping` tells, or `life` ends.
pub(crate) fn start(hub: &Arc<Hub>, watchdog: &Watchdog, stopping: CancellationToken, life: CancellationToken) {
    let ends = async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = life.cancelled() => {}
        }
    };
    let (over, ended) = (CancellationToken::new(), Arc::clone(hub));
    let keep = |name, job: fn(Arc<Hub>) -> BoxFuture<'static, ()>| {
        let (hub, watchdog, over) = (Arc::clone(hub), watchdog.clone(), over.clone());
        tokio::spawn(async move { over.run_until_cancelled(watchdog.keep(name, |_| job(Arc::clone(&hub)))).await });
    };
    keep("reading events", |hub| Box::pin(read_on(hub)));
    keep("signs of life to listeners", |hub| Box::pin(beat(hub)));
    tokio::spawn(async move {
        ends.await;
        over.cancel();
        ended.close();
    });
}

async fn read_on(hub: Arc<Hub>) {
    let mut failing = false;
    loop {
        let _ = timeout(LOOK, hub.news.notified()).await;
        loop {
            match hub.advance().await {
                Ok(true) => {}
                Ok(false) => {
                    failing = false;
                    break;
                }
                Err(error) => {
                    tell(&error, &mut failing, "events can't be read; trying again");
                    break;
                }
            }
        }
        sleep(GATHER).await;
    }
}

async fn beat(hub: Arc<Hub>) {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for second in 0.. {
        tick.tick().await;
        hub.beat(second);
    }
}

/// Says it once.
fn tell(error: &StoreError, failing: &mut bool, what: &str) {
    if !std::mem::replace(failing, true) {
        tracing::warn!(%error, "{what}");
    }
}
