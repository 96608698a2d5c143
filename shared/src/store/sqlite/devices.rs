//! Device state.

use async_trait::async_trait;
use futures_util::FutureExt;
use sqlx_sqlite::SqliteConnection;

use super::SqliteStore;
use super::sql::{self, failed};
use crate::ids::{SessionId, WorkerId};
use crate::ports::devices::{DeviceRange, DeviceWrite, Devices};
use crate::ports::store::Result;

/// Writes changes one after the other, in their order.
async fn write(conn: &mut SqliteConnection, write: DeviceWrite) -> Result<bool> {
    if !sql::devices::own(conn, write.worker, write.session).await? {
        return Ok(false);
    }
    for change in write.changes {
        let query = match change.value {
            Some((value, at)) => sqlx::query(
                "INSERT INTO whatsapp_state (session_id, kind, key, value, at) VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (session_id, kind, key) DO UPDATE SET value = excluded.value, at = excluded.at",
            )
            .bind(write.session)
            .bind(change.kind)
            .bind(change.key)
            .bind(value)
            .bind(at),
            None => sqlx::query("DELETE FROM whatsapp_state WHERE session_id = $1 AND kind = $2 AND key = $3")
                .bind(write.session)
                .bind(change.kind)
                .bind(change.key),
        };
        query.execute(&mut *conn).await.map_err(failed)?;
    }
    Ok(true)
}

#[async_trait]
impl Devices for SqliteStore {
    async fn write_device(&self, changes: DeviceWrite) -> Result<bool> {
        self.write(move |conn, _| write(conn, changes).boxed()).await
    }

    async fn clear_device(
        &self,
        worker: WorkerId,
        session: SessionId,
        kind: i16,
        range: DeviceRange,
    ) -> Result<Option<u64>> {
        self.write(move |conn, _| sql::devices::clear(conn, worker, session, kind, range).boxed()).await
    }

    async fn device_values(
        &self,
        session: SessionId,
        kind: i16,
        keys: Vec<Vec<u8>>,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut conn = self.read().await?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let row: Option<(Vec<u8>,)> =
                sqlx::query_as("SELECT value FROM whatsapp_state WHERE session_id = $1 AND kind = $2 AND key = $3")
                    .bind(session)
                    .bind(kind)
                    .bind(&key)
                    .fetch_optional(&mut *conn)
                    .await
                    .map_err(failed)?;
            found.extend(row.map(|(value,)| (key, value)));
        }
        Ok(found)
    }

    async fn device_prefix(
        &self,
        session: SessionId,
        kind: i16,
        prefix: Vec<u8>,
        limit: u32,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        sql::devices::prefix(&mut *self.read().await?, session, kind, prefix, limit).await
    }
}
