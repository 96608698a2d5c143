//! Keys and ratchets of the Signal protocol.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use wacore::store::error::Result;
use wacore::store::traits::SignalStore;

use super::{Backend, Kind, failed, id, number, unreadable};

#[async_trait]
impl SignalStore for Backend {
    async fn put_identity(&self, address: &str, key: [u8; 32]) -> Result<()> {
        self.set(Kind::Identity, address, &key).await
    }

    async fn put_identities_batch(&self, identities: &[(Arc<str>, [u8; 32])]) -> Result<()> {
        let changes = identities.iter().map(|(address, key)| self.put(Kind::Identity, address.as_bytes(), key));
        self.write(changes.collect()).await
    }

    async fn load_identity(&self, address: &str) -> Result<Option<[u8; 32]>> {
        let key = self.bytes(Kind::Identity, address).await?;
        key.map(|key| key.try_into().map_err(|_| unreadable("an identity key is broken"))).transpose()
    }

    async fn delete_identity(&self, address: &str) -> Result<()> {
        self.remove(Kind::Identity, address).await
    }

    async fn get_session(&self, address: &str) -> Result<Option<Bytes>> {
        Ok(self.bytes(Kind::Session, address).await?.map(Bytes::from))
    }

    async fn put_session(&self, address: &str, session: &[u8]) -> Result<()> {
        self.set(Kind::Session, address, session).await
    }

    async fn put_sessions_batch(&self, sessions: &[(Arc<str>, Bytes)]) -> Result<()> {
        let changes = sessions.iter().map(|(address, session)| self.put(Kind::Session, address.as_bytes(), session));
        self.write(changes.collect()).await
    }

    async fn delete_session(&self, address: &str) -> Result<()> {
        self.remove(Kind::Session, address).await
    }

    async fn has_signal_state_for_user(&self, user: &str) -> Result<bool> {
        for kind in [Kind::Session, Kind::Identity] {
            for prefix in [format!("{user}@"), format!("{user}:")] {
                if self.0.any(kind, prefix).await.map_err(failed)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    // Whether a key was uploaded is kept nowhere: nothing reads it back.

    async fn store_prekey(&self, id: u32, record: &[u8], _uploaded: bool) -> Result<()> {
        self.set(Kind::PreKey, number(id), record).await
    }

    async fn store_prekeys_batch(&self, keys: &[(u32, Bytes)], _uploaded: bool) -> Result<()> {
        self.write(keys.iter().map(|(id, record)| self.put(Kind::PreKey, number(*id), record)).collect()).await
    }

    async fn mark_prekeys_uploaded(&self, _ids: &[u32]) -> Result<()> {
        Ok(())
    }

    async fn load_prekey(&self, id: u32) -> Result<Option<Bytes>> {
        Ok(self.bytes(Kind::PreKey, number(id)).await?.map(Bytes::from))
    }

    async fn load_prekeys_batch(&self, ids: &[u32]) -> Result<Vec<(u32, Bytes)>> {
        let keys = ids.iter().map(|id| number(*id).to_vec()).collect();
        let found = self.0.get_all(Kind::PreKey, keys).await.map_err(failed)?;
        found.into_iter().map(|(key, record)| Ok((id(&key)?, Bytes::from(record)))).collect()
    }

    async fn remove_prekey(&self, id: u32) -> Result<()> {
        self.remove(Kind::PreKey, number(id)).await
    }

    async fn get_max_prekey_id(&self) -> Result<u32> {
        let keys = self.0.list(Kind::PreKey, b"").await.map_err(failed)?;
        keys.last().map_or(Ok(0), |(key, _)| id(key))
    }

    async fn store_signed_prekey(&self, id: u32, record: &[u8]) -> Result<()> {
        self.set(Kind::SignedPreKey, number(id), record).await
    }

    async fn load_signed_prekey(&self, id: u32) -> Result<Option<Vec<u8>>> {
        self.bytes(Kind::SignedPreKey, number(id)).await
    }

    async fn load_all_signed_prekeys(&self) -> Result<Vec<(u32, Vec<u8>)>> {
        let keys = self.0.list(Kind::SignedPreKey, b"").await.map_err(failed)?;
        keys.into_iter().map(|(key, record)| Ok((id(&key)?, record))).collect()
    }

    async fn remove_signed_prekey(&self, id: u32) -> Result<()> {
        self.remove(Kind::SignedPreKey, number(id)).await
    }

    async fn put_sender_key(&self, address: &str, record: &[u8]) -> Result<()> {
        self.set(Kind::SenderKey, address, record).await
    }

    async fn put_sender_keys_batch(&self, keys: &[(Arc<str>, Bytes)]) -> Result<()> {
        self.write(keys.iter().map(|(address, record)| self.put(Kind::SenderKey, address.as_bytes(), record)).collect())
            .await
    }

    async fn get_sender_key(&self, address: &str) -> Result<Option<Vec<u8>>> {
        self.bytes(Kind::SenderKey, address).await
    }

    async fn delete_sender_key(&self, address: &str) -> Result<()> {
        self.remove(Kind::SenderKey, address).await
    }
}
