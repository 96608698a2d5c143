//! Signals: something changed, to every process. They may be lost, doubled or late: whoever waits also looks by itself.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::ids::{MessageId, SessionId, UserId};

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// The statuses of these messages.
    Messages(Vec<MessageId>),
    /// What is wanted of a session, or what it is doing.
    Session(SessionId),
    /// A session needs an owner.
    SessionFree,
    /// A user's standing, limit or keys: forget what is remembered.
    User(UserId),
    /// Signals may have been missed (the connection was made anew): look again.
    Missed,
}

/// Publishes and hears signals.
#[async_trait]
pub trait Signals: Send + Sync {
    /// Tells every process, this one included. It never blocks: what can't be sent is dropped.
    fn publish(&self, signal: Signal);

    /// Hears every signal from now on. A slow listener loses the oldest (`RecvError::Lagged`): it must look by itself.
    fn subscribe(&self) -> broadcast::Receiver<Arc<Signal>>;

    /// Whether signals reach other processes.
    fn is_connected(&self) -> bool;

    /// Closes.
    async fn close(&self);
}
