//! The device itself.

use async_trait::async_trait;
use wacore::store::Device;
use wacore::store::error::Result;
use wacore::store::traits::DeviceStore;

use super::{Backend, Kind, failed};

#[async_trait]
impl DeviceStore for Backend {
    async fn save(&self, device: &Device) -> Result<()> {
        self.set_json(Kind::Device, b"", device).await
    }

    async fn load(&self) -> Result<Option<Device>> {
        self.json(Kind::Device, b"").await
    }

    async fn exists(&self) -> Result<bool> {
        self.0.any(Kind::Device, b"").await.map_err(failed)
    }

    async fn create(&self) -> Result<i32> {
        Ok(1) // each session's state is its own: there is no other device to be told from
    }
}
