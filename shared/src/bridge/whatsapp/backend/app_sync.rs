//! What the account's devices share: contacts, settings.

use std::collections::HashMap;

use async_trait::async_trait;
use wacore::appstate::hash::HashState;
use wacore::appstate::processor::AppStateMutationMAC;
use wacore::store::error::Result;
use wacore::store::traits::{AppStateSyncKey, AppSyncStore};

use super::super::state::{State, key};
use super::{Backend, Kind, failed, seconds};
use crate::ports::devices::DeviceRange;
use crate::time::Time;

/// A piece's key: the collection's name and its index.
fn piece(name: &str, index: &[u8]) -> Vec<u8> {
    [key(&[name]).as_slice(), index].concat()
}

#[async_trait]
impl AppSyncStore for Backend {
    async fn get_sync_key(&self, key_id: &[u8]) -> Result<Option<AppStateSyncKey>> {
        self.json(Kind::SyncKey, key_id).await
    }

    async fn set_sync_key(&self, key_id: &[u8], key: AppStateSyncKey) -> Result<()> {
        let share = self.0.put_json(Kind::SyncKey, key_id, &key, Time::now()).map_err(failed)?;
        self.write(vec![share, self.put(Kind::LatestSyncKey, b"", key_id)]).await
    }

    async fn get_version(&self, name: &str) -> Result<HashState> {
        Ok(self.json(Kind::SyncVersion, name).await?.unwrap_or_default())
    }

    async fn set_version(&self, name: &str, state: HashState) -> Result<()> {
        self.set_json(Kind::SyncVersion, name, &state).await
    }

    async fn put_mutation_macs(&self, name: &str, version: u64, mutations: &[AppStateMutationMAC]) -> Result<()> {
        let at = seconds(i64::try_from(version).unwrap_or(i64::MAX));
        let changes = mutations
            .iter()
            .map(|mutation| self.0.put(Kind::SyncMac, piece(name, &mutation.index_mac), &mutation.value_mac, at));
        self.write(changes.collect()).await
    }

    async fn get_mutation_mac(&self, name: &str, index_mac: &[u8]) -> Result<Option<Vec<u8>>> {
        self.bytes(Kind::SyncMac, piece(name, index_mac)).await
    }

    async fn get_mutation_macs(&self, name: &str, index_macs: &[[u8; 32]]) -> Result<HashMap<[u8; 32], Vec<u8>>> {
        let keys = index_macs.iter().map(|index| piece(name, index)).collect();
        let mut found: HashMap<_, _> = self.0.get_all(Kind::SyncMac, keys).await.map_err(failed)?.into_iter().collect();
        Ok(index_macs.iter().filter_map(|index| Some((*index, found.remove(&piece(name, index))?))).collect())
    }

    async fn delete_mutation_macs(&self, name: &str, index_macs: &[Vec<u8>]) -> Result<()> {
        self.write(index_macs.iter().map(|index| State::gone(Kind::SyncMac, piece(name, index))).collect()).await
    }

    async fn clear_mutation_macs(&self, name: &str) -> Result<()> {
        self.0.clear(Kind::SyncMac, DeviceRange::Prefix(key(&[name]))).await.map(drop).map_err(failed)
    }

    async fn get_latest_sync_key_id(&self) -> Result<Option<Vec<u8>>> {
        self.bytes(Kind::LatestSyncKey, b"").await
    }
}
