//! Counts each user's requests in memory, and adds them to the usage stats every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sanasr_shared::ids::UserId;
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::ports::store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

/// Time between two writes.
const INTERVAL: Duration = Duration::from_secs(3);
/// Users that are counted between two writes; the requests of more aren't.
const USERS_MAX: usize = 100_000;

/// What is counted and not written yet.
pub(crate) struct Requests {
    store: Arc<dyn Store>,
    shard: i64,
    counts: Mutex<HashMap<UserId, i64>>,
}

impl Requests {
    /// Begins to count; what is counted is written until `life` ends.
    pub(crate) fn start(store: Arc<dyn Store>, shard: i64, watchdog: &Watchdog, life: CancellationToken) -> Arc<Self> {
        let requests = Arc::new(Self { store, shard, counts: Mutex::default() });
        let (writer, watchdog) = (Arc::clone(&requests), watchdog.clone());
        tokio::spawn(async move {
            let write = async |_| {
                while life.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
                    writer.flush().await;
                }
                writer.flush().await;
            };
            watchdog.keep("counting requests", write).await;
        });
        requests
    }

    pub(crate) fn count(&self, user: UserId) {
        add(&mut self.lock(), user, 1);
    }

    /// Writes what was counted so far.
    pub(crate) async fn flush(&self) {
        let mut counted: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
        if counted.is_empty() {
            return;
        }
        counted.sort_unstable_by_key(|(user, _)| *user);
        match self.store.count_requests(self.shard, &counted).await {
            Ok(()) => {}
            // Definitely not written: once more, next time.
            Err(StoreError::Unavailable(_) | StoreError::Overloaded) => {
                let mut counts = self.lock();
                for (user, number) in counted {
                    add(&mut counts, user, number);
                }
            }
            Err(error) => tracing::warn!(%error, "requests of some seconds were not counted"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, i64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counts: &mut HashMap<UserId, i64>, user: UserId, number: i64) {
    if counts.len() < USERS_MAX || counts.contains_key(&user) {
        *counts.entry(user).or_default() += number;
    }
}
