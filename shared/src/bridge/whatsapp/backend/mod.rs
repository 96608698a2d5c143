//! The device's state in the form that the protocol's crate wants it: one [`State`], five traits.

mod app_sync;
mod device;
mod protocol;
mod secrets;
mod signal;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use wacore::store::error::{Result, StoreError};

use super::state::{Change, Kind, State, StateError, from_json};
use crate::time::Time;

/// A device as the crate sees it.
pub(crate) struct Backend(Arc<State>);

impl Backend {
    pub(crate) const fn new(state: Arc<State>) -> Self {
        Self(state)
    }

    async fn bytes(&self, kind: Kind, key: impl AsRef<[u8]> + Send) -> Result<Option<Vec<u8>>> {
        self.0.get(kind, key).await.map_err(failed)
    }

    async fn set(&self, kind: Kind, key: impl AsRef<[u8]> + Send, value: &[u8]) -> Result<()> {
        self.0.set(kind, key, value).await.map_err(failed)
    }

    async fn json<T: DeserializeOwned>(&self, kind: Kind, key: impl AsRef<[u8]> + Send) -> Result<Option<T>> {
        self.0.get_json(kind, key).await.map_err(failed)
    }

    async fn set_json(&self, kind: Kind, key: impl AsRef<[u8]> + Send, value: &(impl Serialize + Sync)) -> Result<()> {
        self.0.set_json(kind, key, value).await.map_err(failed)
    }

    async fn remove(&self, kind: Kind, key: impl AsRef<[u8]> + Send) -> Result<()> {
        self.0.remove(kind, key).await.map_err(failed)
    }

    async fn write(&self, changes: Vec<Change>) -> Result<()> {
        self.0.write(changes).await.map_err(failed)
    }

    fn put(&self, kind: Kind, key: impl AsRef<[u8]>, value: &[u8]) -> Change {
        self.0.put(kind, key, value, Time::now())
    }
}

/// What the crate is told.
fn failed(error: StateError) -> StoreError {
    match error {
        StateError::Store(_) | StateError::NotOurs => StoreError::Database(Box::new(error)),
        StateError::Sealed(_) | StateError::Unreadable(_) => StoreError::Serialization(Box::new(error)),
    }
}

/// A value that isn't what it should be.
fn unreadable(what: &str) -> StoreError {
    failed(StateError::Unreadable(what.to_owned()))
}

/// A number as a key, in its order.
fn number(id: u32) -> [u8; 4] {
    id.to_be_bytes()
}

/// Seconds since 1970, as the crate counts, as a time.
const fn seconds(seconds: i64) -> Time {
    Time(seconds.saturating_mul(1_000))
}

/// The number that a key is.
fn id(key: &[u8]) -> Result<u32> {
    key.try_into().map(u32::from_be_bytes).map_err(|_| unreadable("a number's key is broken"))
}

fn text(key: Vec<u8>) -> Result<String> {
    String::from_utf8(key).map_err(|_| unreadable("a key isn't text"))
}
