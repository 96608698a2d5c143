//! Tells everybody which messages have changed: what comes while a signal is being published goes into the next one.

use std::sync::{Arc, Mutex, PoisonError};

use sanasr_shared::ids::MessageId;
use sanasr_shared::lifecycle::Heartbeat;
use sanasr_shared::ports::signals::{Signal, Signals};
use tokio::sync::Notify;

use crate::life::Life;

/// Ids in one signal, at most.
const IDS_MAX: usize = 500;

/// Messages that have changed and haven't been told of.
#[derive(Default)]
pub(crate) struct Changes {
    ids: Mutex<Vec<MessageId>>,
    some: Notify,
}

impl Changes {
    pub(crate) fn add(&self, ids: impl IntoIterator<Item = MessageId>) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
        self.some.notify_one();
    }

    /// Publishes what has gathered.
    pub(crate) fn flush(&self, signals: &dyn Signals) {
        let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner));
        for chunk in ids.chunks(IDS_MAX) {
            signals.publish(Signal::Messages(chunk.to_vec()));
        }
    }
}

/// Publishes changes as they come, until it is dropped.
pub(crate) async fn tell(life: Arc<Life>, heartbeat: Heartbeat) {
    loop {
        heartbeat.idle();
        life.changes.some.notified().await;
        heartbeat.begin();
        life.changes.flush(&*life.signals);
    }
}
