//! Keeps a session's actor running: one that panics is begun again under a new claim number, so that what it left
//! `sending` is in doubt.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use sanasr_shared::lifecycle::{Backoff, caught};
use sanasr_shared::ports::store::OwnedSession;
use sanasr_shared::session::SessionStatus;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::life::Life;
use crate::session::actor::Actor;
use crate::session::board::Board;

/// An actor that has run for so long is begun again at once.
const STEADY: Duration = Duration::from_secs(60);

/// What an actor and its owner share.
pub(crate) struct Reins {
    /// What is known of the session; kept up to date by the owner.
    pub(crate) session: watch::Receiver<OwnedSession>,
    /// Asks the actor to finish.
    pub(crate) stop: CancellationToken,
    /// 0 while the session isn't connected, else one more than its sends in flight.
    pub(crate) load: Arc<AtomicU32>,
}

/// Runs a session's actor until it is asked to stop.
pub(crate) async fn supervise(life: Arc<Life>, mut reins: Reins) {
    let (id, kind, name, status) = {
        let session = reins.session.borrow();
        (session.id, session.bridge, session.name.clone(), session.status)
    };
    let Some(bridge) = life.bridges.get(&kind).map(Arc::clone) else {
        tracing::error!(session = %id, name, bridge = kind.as_str(), "this process has no such bridge");
        let mut board = Board::new(Arc::clone(&life), id, name, status);
        board.show(SessionStatus::Disconnected, Some("bridge_missing".to_owned()));
        board.advance().await;
        return reins.stop.cancelled().await;
    };
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60));
    loop {
        let begun = Instant::now();
        let actor = async { Actor::new(Arc::clone(&life), Arc::clone(&bridge), &mut reins).run().await };
        let Err(panic) = caught(actor).await else { return };
        tracing::error!(session = %id, name, "the session's actor crashed and is started again: {panic}");
        metrics::counter!("sanasr_crashes_total", "part" => "session").increment(1);
        if begun.elapsed() > STEADY {
            backoff.reset();
        }
        tokio::select! {
            () = reins.stop.cancelled() => return,
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
}
