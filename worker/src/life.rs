//! One life of a worker: from the registration of its id until it leaves or is declared dead.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sanasr_shared::ids::{SessionId, WorkerId};
use sanasr_shared::lifecycle::{Backoff, Part};
use sanasr_shared::media::FileStore;
use sanasr_shared::ports::bridge::{Bridge, Owner};
use sanasr_shared::ports::queue::Queue;
use sanasr_shared::ports::signals::{Signal, Signals};
use sanasr_shared::ports::store::{Store, StoreError};
use sanasr_shared::session::BridgeKind;
use sanasr_shared::settings::WorkerSettings;
use sanasr_shared::vault::Vault;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Parts;
use crate::changes::Changes;
use crate::lease::{Contact, Lease};
use crate::media::Bringer;

/// What all tasks of a life share.
pub(crate) struct Life {
    /// The worker's id, of this life alone.
    pub(crate) id: WorkerId,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) files: FileStore,
    /// This worker is the housekeeper.
    pub(crate) keeps_house: AtomicBool,
    pub(crate) bringer: Bringer,
    pub(crate) vault: Arc<Vault>,
    pub(crate) bridges: HashMap<BridgeKind, Arc<dyn Bridge>>,
    pub(crate) settings: WorkerSettings,
    pub(crate) shard: i64,
    /// How long an actor may take to finish what is in flight.
    pub(crate) drain: Duration,
    pub(crate) lease: Lease,
    pub(crate) contact: Contact,
    /// Whether the lease is being renewed.
    pub(crate) renewal: Part,
    /// Cancelled when the worker's row is found gone: everything is dropped at once.
    pub(crate) over: CancellationToken,
    /// Asks for a renewal at once.
    pub(crate) hurry: Notify,
    pub(crate) changes: Changes,
    /// Signals of ours about sessions that we haven't heard ourselves yet.
    echoes: Mutex<HashMap<SessionId, u32>>,
}

/// Why a write wasn't made. What follows from it is its caller's to say.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// The worker's row is gone: the life is over.
    Lost,
    /// The database refuses it, whatever the reason, as often as it is tried.
    Refused(StoreError),
}

/// How often a write is tried that the database refuses: a defect or a bad row doesn't mend itself, but a deployment under way may.
const REFUSALS_MAX: u32 = 5;

impl Life {
    /// This worker as a bridge knows it.
    pub(crate) fn owner(self: &Arc<Self>) -> Owner {
        let life = Arc::clone(self);
        Owner::new(self.id, move || life.lease.holds())
    }

    pub(crate) fn new(parts: &Parts, drain: Duration) -> Self {
        Self {
            id: WorkerId::generate(),
            store: Arc::clone(&parts.store),
            queue: Arc::clone(&parts.queue),
            signals: Arc::clone(&parts.signals),
            files: parts.files.clone(),
            keeps_house: AtomicBool::new(false),
            bringer: Bringer::new(parts.files.clone(), &parts.media),
            vault: Arc::clone(&parts.vault),
            bridges: parts.bridges.iter().map(|bridge| (bridge.kind(), Arc::clone(bridge))).collect(),
            settings: parts.settings.clone(),
            shard: parts.shard,
            drain,
            lease: Lease::default(),
            contact: Contact::default(),
            renewal: parts.watchdog.part("the lease's renewal"),
            over: CancellationToken::new(),
            hurry: Notify::new(),
            changes: Changes::default(),
            echoes: Mutex::default(),
        }
    }

    /// The number of a new actor: what another number left `sending` is in doubt.
    pub(crate) fn next_claim() -> i64 {
        static CLAIMS: AtomicI64 = AtomicI64::new(1);
        CLAIMS.fetch_add(1, Ordering::Relaxed)
    }

    /// The worker's row is gone: nothing is sent or written any more.
    pub(crate) fn fenced(&self) {
        self.lease.revoke();
        self.over.cancel();
    }

    /// Writes until it is written: a write isn't given up because the database is away, since nobody else may make it. What the
    /// database refuses is given up after a few seconds.
    pub(crate) async fn persist<T, F>(&self, what: &str, mut write: impl FnMut() -> F) -> Result<T, Unwritten>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut refusals = 0;
        loop {
            match write().await {
                Ok(answer) => return Ok(answer),
                Err(StoreError::Fenced) => {
                    self.fenced();
                    return Err(Unwritten::Lost);
                }
                // That the database is away is said by who renews the lease, once for all writes.
                Err(error) if error.is_transient() => tracing::debug!(%error, "couldn't write {what} yet"),
                Err(error) => {
                    refusals += 1;
                    if refusals == REFUSALS_MAX {
                        tracing::warn!(%error, refusals, "{what} can't be written; given up");
                        metrics::counter!("sanasr_writes_refused_total", "what" => what.to_owned()).increment(1);
                        return Err(Unwritten::Refused(error));
                    }
                    tracing::warn!(%error, "couldn't write {what}; trying again");
                }
            }
            tokio::select! {
                () = self.over.cancelled() => return Err(Unwritten::Lost),
                () = tokio::time::sleep(backoff.pause()) => {}
            }
        }
    }

    /// Tells everybody that a session has changed.
    pub(crate) fn announce(&self, session: SessionId) {
        *self.echoes.lock().unwrap_or_else(PoisonError::into_inner).entry(session).or_default() += 1;
        self.signals.publish(Signal::Session(session));
    }

    /// Whether a signal about a session that we hear is our own. A lost signal may have the next one taken for ours: that
    /// costs until the next renewal.
    pub(crate) fn is_echo(&self, session: SessionId) -> bool {
        let mut echoes = self.echoes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = echoes.get_mut(&session) else { return false };
        *count -= 1;
        if *count == 0 {
            echoes.remove(&session);
        }
        true
    }

    /// Forgets the echoes that are awaited: from time to time, as signals may be lost.
    pub(crate) fn forget_echoes(&self) {
        self.echoes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
