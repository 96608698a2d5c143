//! Notes in memory when each API key was last used, and writes it down every few seconds: no request waits for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sanasr_shared::ids::ApiKeyId;
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::ports::store::Store;
use sanasr_shared::time::Time;
use tokio_util::sync::CancellationToken;

/// Time between two writes.
const INTERVAL: Duration = Duration::from_secs(10);
/// Keys that are noted between two writes; more aren't.
const KEYS_MAX: usize = 100_000;

/// What is noted and not written yet.
pub(crate) struct KeysUsed {
    store: Arc<dyn Store>,
    times: Mutex<HashMap<ApiKeyId, Time>>,
}

impl KeysUsed {
    /// Begins to note; what is noted is written until `life` ends.
    pub(crate) fn start(store: Arc<dyn Store>, watchdog: &Watchdog, life: CancellationToken) -> Arc<Self> {
        let used = Arc::new(Self { store, times: Mutex::default() });
        let (writer, watchdog) = (Arc::clone(&used), watchdog.clone());
        tokio::spawn(async move {
            let write = async |_| {
                while life.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
                    writer.flush().await;
                }
            };
            watchdog.keep("noting the use of keys", write).await;
        });
        used
    }

    pub(crate) fn note(&self, key: ApiKeyId) {
        let now = Time::now();
        let mut times = self.lock();
        if times.len() < KEYS_MAX || times.contains_key(&key) {
            times.insert(key, now);
        }
    }

    /// Writes what was noted so far. What can't be written is left out: the next use is noted again.
    pub(crate) async fn flush(&self) {
        let used: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
        if used.is_empty() {
            return;
        }
        if let Err(error) = self.store.mark_keys_used(&used).await {
            tracing::debug!(%error, "the last uses of some keys were not written");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ApiKeyId, Time>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
