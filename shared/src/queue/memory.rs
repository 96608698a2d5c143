//! The queue within one process: a ring and no more. The backlog rests in the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{count_dropped, count_published};
use crate::ids::SessionId;
use crate::ports::queue::{Doorbell, Queue};
use crate::ports::store::AcceptedJob;

/// Rings whoever listens in this process. A session without a listener costs nothing: its owner pulls when it begins.
#[derive(Debug, Default)]
pub struct MemoryQueue {
    bells: Arc<Bells>,
}

/// Who listens, by session; during a hand-over there may be two.
#[derive(Debug, Default)]
struct Bells(Mutex<HashMap<SessionId, Vec<Arc<Notify>>>>);

impl MemoryQueue {
    /// A queue that nobody listens to yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Bells {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Vec<Arc<Notify>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    fn publish(&self, jobs: &[AcceptedJob]) {
        let mut rung = 0;
        {
            let bells = self.bells.lock();
            for job in jobs {
                if let Some(listeners) = bells.get(&job.session) {
                    rung += 1;
                    listeners.iter().for_each(|bell| bell.notify_one());
                }
            }
        }
        count_published(rung);
        count_dropped(jobs.len() - rung, "unroutable");
    }

    async fn consume(&self, session: SessionId, _prefetch: u16) -> Box<dyn Doorbell> {
        let bell = Arc::new(Notify::new());
        self.bells.lock().entry(session).or_default().push(Arc::clone(&bell));
        Box::new(MemoryDoorbell { session, bell, bells: Arc::clone(&self.bells) })
    }

    async fn delete(&self, _session: SessionId) {}

    async fn depth(&self, _session: SessionId) -> Option<u64> {
        None
    }

    fn is_connected(&self) -> bool {
        true
    }

    async fn close(&self) {}
}

struct MemoryDoorbell {
    session: SessionId,
    bell: Arc<Notify>,
    bells: Arc<Bells>,
}

#[async_trait]
impl Doorbell for MemoryDoorbell {
    async fn ring(&mut self) {
        self.bell.notified().await;
    }

    fn finished(&mut self) {}

    fn idle(&mut self) {}

    async fn close(self: Box<Self>) {}
}

impl Drop for MemoryDoorbell {
    fn drop(&mut self) {
        let mut bells = self.bells.lock();
        if let Some(listeners) = bells.get_mut(&self.session) {
            listeners.retain(|bell| !Arc::ptr_eq(bell, &self.bell));
            if listeners.is_empty() {
                bells.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_kept_of_sessions_that_nobody_listens_to() {
        let queue = MemoryQueue::new();
        let session = SessionId::generate();
        let first = queue.consume(session, 1).await;
        let second = queue.consume(session, 1).await;
        drop(first);
        assert_eq!(queue.bells.lock().len(), 1);
        second.close().await;
        assert!(queue.bells.lock().is_empty());
    }
}
