//! Who waits for a message's status to change, in this process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sanasr_shared::ids::MessageId;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The waiting requests, by message.
#[derive(Default)]
pub(crate) struct Waiters {
    waiting: Mutex<HashMap<MessageId, Waiting>>,
}

#[derive(Default)]
struct Waiting {
    notify: Arc<Notify>,
    requests: usize,
}

/// One waiting request; it waits no more when dropped.
pub(crate) struct Waiter {
    waiters: Arc<Waiters>,
    id: MessageId,
    notify: Arc<Notify>,
}

impl Waiters {
    pub(crate) fn register(self: &Arc<Self>, id: MessageId) -> Waiter {
        let mut map = self.lock();
        let waiting = map.entry(id).or_default();
        waiting.requests += 1;
        metrics::gauge!("sanasr_waiting_polls").increment(1);
        Waiter { waiters: Arc::clone(self), id, notify: Arc::clone(&waiting.notify) }
    }

    pub(crate) fn wake(&self, ids: &[MessageId]) {
        let map = self.lock();
        if !map.is_empty() {
            ids.iter().filter_map(|id| map.get(id)).for_each(|waiting| waiting.notify.notify_waiters());
        }
    }

    pub(crate) fn wake_all(&self) {
        self.lock().values().for_each(|waiting| waiting.notify.notify_waiters());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MessageId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Ends at the next change after this call, whenever it is first polled.
    pub(crate) fn changed(&self) -> OwnedNotified {
        Arc::clone(&self.notify).notified_owned()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Entry::Occupied(mut waiting) = self.waiters.lock().entry(self.id) {
            waiting.get_mut().requests -= 1;
            if waiting.get().requests == 0 {
                waiting.remove();
            }
        }
        metrics::gauge!("sanasr_waiting_polls").decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_after_registering_is_never_missed() {
        let waiters = Arc::new(Waiters::default());
        let id = MessageId::generate();
        let waiter = waiters.register(id);
        let changed = waiter.changed();
        waiters.wake(&[MessageId::generate(), id]);
        changed.await;
        let other = waiters.register(id);
        let (first, second) = (waiter.changed(), other.changed());
        waiters.wake_all();
        first.await;
        second.await;
        drop(waiter);
        assert_eq!(waiters.lock().len(), 1);
        drop(other);
        assert!(waiters.lock().is_empty());
    }
}
