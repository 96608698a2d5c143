//! The API log: a line for each request. Collected in memory, and written in batches off the requests' path: a request never
//! waits for it, and is never refused for it. What finds no room is counted and dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::ports::journal::ApiLog;
use sanasr_shared::ports::store::{Store, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::lines::Lines;

/// Time between two writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Lines of one write.
const BATCH: usize = 1_000;
/// Lines that may wait to be written: some seconds of a busy process, and some MB.
const WAITING_MAX: usize = 50_000;

/// What is logged and not written yet.
pub(crate) struct ApiLogs {
    store: Arc<dyn Store>,
    waiting: Mutex<Lines<ApiLog>>,
    /// A batch is together.
    full: Notify,
    /// Held while lines are written.
    writing: tokio::sync::Mutex<()>,
}

impl ApiLogs {
    /// Begins to log; what is logged is written until `life` ends.
    pub(crate) fn start(store: Arc<dyn Store>, watchdog: &Watchdog, life: CancellationToken) -> Arc<Self> {
        let logs = Arc::new(Self {
            store,
            waiting: Mutex::new(Lines::new(WAITING_MAX)),
            full: Notify::new(),
            writing: tokio::sync::Mutex::default(),
        });
        let (writer, watchdog) = (Arc::clone(&logs), watchdog.clone());
        tokio::spawn(async move {
            let write = async |_| {
                let pause = || tokio::time::timeout(INTERVAL, writer.full.notified());
                while life.run_until_cancelled(pause()).await.is_some() {
                    writer.flush().await;
                }
                writer.flush().await;
            };
            watchdog.keep("the API log", write).await;
        });
        logs
    }

    /// Takes a line.
    pub(crate) fn add(&self, line: ApiLog) {
        match self.lock().push(line) {
            None => dropped(1),
            Some(waiting) if waiting.is_multiple_of(BATCH) => self.full.notify_one(),
            Some(_) => {}
        }
    }

    /// Writes what was logged so far.
    pub(crate) async fn flush(&self) {
        let _alone = self.writing.lock().await;
        loop {
            let batch = self.lock().take(BATCH);
            if batch.is_empty() {
                return;
            }
            match self.store.write_api_logs(&batch).await {
                Ok(()) => {}
                // Once more, next time.
                Err(StoreError::Unavailable(_) | StoreError::Overloaded) => {
                    return dropped(self.lock().give_back(batch));
                }
                Err(error) => {
                    tracing::warn!(%error, lines = batch.len(), "lines of the API log are lost");
                    dropped(batch.len());
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines<ApiLog>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dropped(lines: usize) {
    metrics::counter!("sanasr_api_logs_dropped_total").increment(u64::try_from(lines).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::Ordering;

    use sanasr_shared::time::Time;

    use super::*;
    use crate::tests::fake::FakeStore;

    fn line(n: usize) -> ApiLog {
        ApiLog {
            at: Time(0),
            user: None,
            endpoint: "/api/v1/usage".to_owned(),
            method: "GET".to_owned(),
            status: 200,
            duration_us: i64::try_from(n).expect("a small number"),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            request_id: "".into(),
        }
    }

    #[tokio::test]
    async fn lines_wait_for_a_database_that_is_away_and_only_so_many() {
        let store = Arc::new(FakeStore::default());
        let ended = CancellationToken::new();
        ended.cancel();
        let logs = ApiLogs::start(Arc::clone(&store) as Arc<dyn Store>, &Watchdog::default(), ended);
        store.away.store(true, Ordering::Relaxed);
        (0..BATCH).for_each(|n| logs.add(line(n)));
        logs.flush().await;
        (BATCH..WAITING_MAX + 5).for_each(|n| logs.add(line(n)));
        logs.flush().await;
        assert_eq!(store.data().api_logs.len(), 0);
        store.away.store(false, Ordering::Relaxed);
        logs.flush().await;
        let written: Vec<_> = store.data().api_logs.iter().map(|line| line.duration_us).collect();
        assert!(written.iter().copied().eq((0..).take(WAITING_MAX)), "the first ones, in order, each once");
    }
}
