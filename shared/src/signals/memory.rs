//! Signals within one process.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::LISTENER_CAPACITY;
use crate::ports::signals::{Signal, Signals};

/// Tells whoever listens in this process.
#[derive(Debug)]
pub struct MemorySignals {
    listeners: broadcast::Sender<Arc<Signal>>,
}

impl MemorySignals {
    /// Signals that nobody listens to yet.
    pub fn new() -> Self {
        Self { listeners: broadcast::Sender::new(LISTENER_CAPACITY) }
    }
}

impl Default for MemorySignals {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Signals for MemorySignals {
    fn publish(&self, signal: Signal) {
        // An error means that nobody listens.
        let _ = self.listeners.send(Arc::new(signal));
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Signal>> {
        self.listeners.subscribe()
    }

    fn is_connected(&self) -> bool {
        true
    }

    async fn close(&self) {}
}
