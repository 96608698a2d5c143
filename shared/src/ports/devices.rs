//! The store's part about WhatsApp devices: what a paired session's device must remember, as keys and values that only its
//! bridge understands. The values come encrypted.
//!
//! Only the session's owner writes, and every write proves that it is; so a read that is followed by a write needs no
//! transaction, only an order within the owner's process.

use async_trait::async_trait;

use super::store::Result;
use crate::ids::{SessionId, WorkerId};
use crate::time::Time;

/// Changes of a device's state, made together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceWrite {
    /// The session's owner.
    pub worker: WorkerId,
    /// The session.
    pub session: SessionId,
    /// What changes; of two changes of one key the later counts.
    pub changes: Vec<DeviceChange>,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceChange {
    /// Which kind of thing it is.
    pub kind: i16,
    /// Its key among those of its kind.
    pub key: Vec<u8>,
    /// Its new value and the time by which [`DeviceRange::Before`] finds it, or `None` to remove it.
    pub value: Option<(Vec<u8>, Time)>,
}

/// Several keys of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceRange {
    /// Those that begin so; all, if it is empty.
    Prefix(Vec<u8>),
    /// Those whose time is before this one.
    Before(Time),
}

/// Device state. A session that is unlinked or drained after its deletion has none any more.
#[async_trait]
pub trait Devices: Send + Sync {
    /// Writes; durable and visible to [`Self::device_values`] once it answers. `false`, and nothing written, if the session
    /// isn't the worker's; [`StoreError::Fenced`](super::store::StoreError::Fenced) if the worker's row is gone.
    async fn write_device(&self, write: DeviceWrite) -> Result<bool>;

    /// Removes several at once; answers how many, or `None` if the session isn't the worker's.
    async fn clear_device(
        &self,
        worker: WorkerId,
        session: SessionId,
        kind: i16,
        range: DeviceRange,
    ) -> Result<Option<u64>>;

    /// The values of some keys, with them; those that don't exist are left out.
    async fn device_values(&self, session: SessionId, kind: i16, keys: Vec<Vec<u8>>)
    -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// Keys that begin so and their values, in the keys' order, `limit` at most.
    async fn device_prefix(
        &self,
        session: SessionId,
        kind: i16,
        prefix: Vec<u8>,
        limit: u32,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
}

/// The first key after all that begin with `prefix`, if there is one.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(after_prefix(&[255]), None);
        assert_eq!(after_prefix(b""), None);
    }
}
