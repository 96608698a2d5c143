//! One device's state in the store: sealed values by kind and key.
//!
//! A write is durable, and proven to be the owner's, when it returns. Only the owner writes, so what reads before it writes
//! needs no more than [`State::alone`], an order within this process.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, MutexGuard};

use crate::ids::SessionId;
use crate::ports::bridge::Owner;
use crate::ports::devices::{DeviceChange, DeviceRange, DeviceWrite};
use crate::ports::store::{Store, StoreError};
use crate::time::Time;
use crate::vault::{Sealed, Vault};

/// What a value is. The numbers are in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub(crate) enum Kind {
    /// The device itself: its keys and its account.
    Device = 0,
    /// Others' identity keys, by address.
    Identity = 1,
    /// Ratchets, by address.
    Session = 2,
    /// One-time keys, by id.
    PreKey = 3,
    /// Keys that others begin a ratchet with, by id.
    SignedPreKey = 4,
    /// Groups' ratchets, by address.
    SenderKey = 5,
    /// Who has our key of a group: group and device.
    SenderKeyDevice = 6,
    /// The account's own keys for what its devices share, by id.
    SyncKey = 7,
    /// The one of these that came last.
    LatestSyncKey = 8,
    /// How far the shared collections are known, by name.
    SyncVersion = 9,
    /// What they are made of, by name and index.
    SyncMac = 10,
    /// Hidden ids and phone numbers, by hidden id.
    Lid = 11,
    /// The hidden id of a phone number.
    LidOfNumber = 12,
    /// Keys that a retry must not repeat: address and message.
    BaseKey = 13,
    /// Others' devices, by user.
    DeviceList = 14,
    /// Groups, by id.
    Group = 15,
    /// Tokens of people who have written to us, by id.
    TcToken = 16,
    /// What was sent of late, for devices that couldn't decrypt it: chat and message.
    SentMessage = 17,
    /// What came and isn't taken yet: chat, sender and message.
    PendingInbound = 18,
    /// What later changes of a message are encrypted with: chat, sender and message.
    MessageSecret = 19,
    /// People and what we know of them, by number.
    Contact = 20,
    /// Who of a group has a message of ours, by message.
    GroupReceipts = 21,
    /// Receipts that nobody has taken yet.
    Mail = 22,
}

/// Why the state can't be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StateError {
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The session is another worker's now.
    #[error("the session is driven by another worker")]
    NotOurs,
    /// A value can't be opened.
    #[error("the device's state can't be read: {0}")]
    Sealed(#[from] Sealed),
    /// A value isn't what it should be.
    #[error("the device's state can't be read: {0}")]
    Unreadable(String),
}

pub(crate) type Result<T> = std::result::Result<T, StateError>;

/// A device's state.
pub(crate) struct State {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    session: SessionId,
    owner: Owner,
    turn: Mutex<()>,
}

/// A change to be written.
pub(crate) struct Change(DeviceChange);

impl State {
    pub(crate) fn new(store: Arc<dyn Store>, vault: Arc<Vault>, session: SessionId, owner: Owner) -> Self {
        Self { store, vault, session, owner, turn: Mutex::new(()) }
    }

    /// Waits for others who read before they write.
    pub(crate) async fn alone(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Where a value is kept: what it is bound to.
    fn place(&self, kind: Kind, key: &[u8]) -> Vec<u8> {
        [self.session.0.as_bytes().as_slice(), &(kind as i16).to_be_bytes(), key].concat()
    }

    /// A value set, with the time by which it is found again.
    pub(crate) fn put(&self, kind: Kind, key: impl AsRef<[u8]>, value: &[u8], at: Time) -> Change {
        let key = key.as_ref();
        let value = Some((self.vault.seal(&self.place(kind, key), value), at));
        Change(DeviceChange { kind: kind as i16, key: key.to_vec(), value })
    }

    /// A value removed.
    pub(crate) fn gone(kind: Kind, key: impl AsRef<[u8]>) -> Change {
        Change(DeviceChange { kind: kind as i16, key: key.as_ref().to_vec(), value: None })
    }

    /// Writes, all or nothing.
    pub(crate) async fn write(&self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let changes = changes.into_iter().map(|change| change.0).collect();
        let write = DeviceWrite { worker: self.owner.worker, session: self.session, changes };
        if self.store.write_device(write).await? { Ok(()) } else { Err(StateError::NotOurs) }
    }

    /// Sets one value.
    pub(crate) async fn set(&self, kind: Kind, key: impl AsRef<[u8]>, value: &[u8]) -> Result<()> {
        self.write(vec![self.put(kind, key, value, Time::now())]).await
    }

    /// Removes one value.
    pub(crate) async fn remove(&self, kind: Kind, key: impl AsRef<[u8]>) -> Result<()> {
        self.write(vec![Self::gone(kind, key)]).await
    }

    /// Removes several; answers how many.
    pub(crate) async fn clear(&self, kind: Kind, range: DeviceRange) -> Result<u32> {
        let gone = self.store.clear_device(self.owner.worker, self.session, kind as i16, range).await?;
        gone.map(|n| u32::try_from(n).unwrap_or(u32::MAX)).ok_or(StateError::NotOurs)
    }

    /// One value.
    pub(crate) async fn get(&self, kind: Kind, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        Ok(self.get_all(kind, vec![key.as_ref().to_vec()]).await?.pop().map(|(_, value)| value))
    }

    /// Several values, with their keys.
    pub(crate) async fn get_all(&self, kind: Kind, keys: Vec<Vec<u8>>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let sealed = self.store.device_values(self.session, kind as i16, keys).await?;
        sealed.into_iter().map(|(key, value)| self.opened(kind, key, &value)).collect()
    }

    /// All values whose keys begin so, in the keys' order.
    pub(crate) async fn list(&self, kind: Kind, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let sealed = self.store.device_prefix(self.session, kind as i16, prefix.as_ref().to_vec(), u32::MAX).await?;
        sealed.into_iter().map(|(key, value)| self.opened(kind, key, &value)).collect()
    }

    /// Whether any key begins so.
    pub(crate) async fn any(&self, kind: Kind, prefix: impl AsRef<[u8]>) -> Result<bool> {
        let found = self.store.device_prefix(self.session, kind as i16, prefix.as_ref().to_vec(), 1).await?;
        Ok(!found.is_empty())
    }

    fn opened(&self, kind: Kind, key: Vec<u8>, sealed: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let value = self.vault.open(&self.place(kind, &key), sealed)?;
        Ok((key, value))
    }

    /// A change that sets a value in a form of its own.
    pub(crate) fn put_json(
        &self,
        kind: Kind,
        key: impl AsRef<[u8]>,
        value: &impl Serialize,
        at: Time,
    ) -> Result<Change> {
        let bytes = serde_json::to_vec(value).map_err(|e| StateError::Unreadable(e.to_string()))?;
        Ok(self.put(kind, key, &bytes, at))
    }

    /// Sets one value in a form of its own.
    pub(crate) async fn set_json(&self, kind: Kind, key: impl AsRef<[u8]>, value: &impl Serialize) -> Result<()> {
        self.write(vec![self.put_json(kind, key, value, Time::now())?]).await
    }

    /// One value that was set so.
    pub(crate) async fn get_json<T: DeserializeOwned>(&self, kind: Kind, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        self.get(kind, key).await?.map(|bytes| from_json(&bytes)).transpose()
    }
}

/// Reads a value that was written as JSON.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| StateError::Unreadable(e.to_string()))
}

/// A key of several parts; with fewer of them, what all keys begin with that have these.
pub(crate) fn key(parts: &[&str]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        key.extend(part.as_bytes());
    }
    key
}

/// The parts of a [`key`].
pub(crate) fn parts(mut key: &[u8]) -> Result<Vec<String>> {
    let broken = || StateError::Unreadable("a key of parts is broken".to_owned());
    let mut parts = Vec::new();
    while !key.is_empty() {
        let (length, rest) = key.split_first_chunk::<4>().ok_or_else(broken)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| broken())?;
        let (part, rest) = rest.split_at_checked(length).ok_or_else(broken)?;
        parts.push(String::from_utf8(part.to_vec()).map_err(|_| broken())?);
        key = rest;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_gives_its_parts_back(all in prop::collection::vec(".{0,20}", 0..4)) {
            let texts: Vec<&str> = all.iter().map(String::as_str).collect();
            let whole = key(&texts);
            prop_assert_eq!(parts(&whole).expect("its parts"), all.clone());
            prop_assert!(whole.starts_with(&key(&texts[..texts.len() / 2])));
        }

        #[test]
        fn garbage_has_no_parts_or_some(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parts(&bytes);
        }
    }
}
