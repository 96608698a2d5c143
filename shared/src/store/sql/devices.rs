//! Device state, where both databases take the same text.

use async_trait::async_trait;

use super::{Backend, Connection, dialect, failed};
use crate::ids::{SessionId, WorkerId};
use crate::ports::devices::{DeviceRange, DeviceWrite, Devices, after_prefix};
use crate::ports::store::Result;

#[async_trait]
impl Devices for Backend {
    async fn write_device(&self, write: DeviceWrite) -> Result<bool> {
        self.write_device_state(write).await
    }

    async fn clear_device(
        &self,
        worker: WorkerId,
        session: SessionId,
        kind: i16,
        range: DeviceRange,
    ) -> Result<Option<u64>> {
        change!(self, |c| clear(c, worker, session, kind, range))
    }

    async fn device_values(
        &self,
        session: SessionId,
        kind: i16,
        keys: Vec<Vec<u8>>,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        read!(self, |c| dialect::device_values(c, session, kind, keys))
    }

    async fn device_prefix(
        &self,
        session: SessionId,
        kind: i16,
        prefix: Vec<u8>,
        limit: u32,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        read!(self, |c| super::devices::prefix(c, session, kind, prefix, limit))
    }
}

/// Whether the session is the worker's; both stay as they are until the transaction ends.
pub(crate) async fn own(conn: &mut Connection, worker: WorkerId, session: SessionId) -> Result<bool> {
    super::ownership::fence(&mut *conn, worker).await?;
    let row: Option<(SessionId,)> =
        sqlx::query_as(concat!("SELECT id FROM sessions WHERE id = $1 AND owner = $2", for_key_share!()))
            .bind(session)
            .bind(worker)
            .fetch_optional(conn)
            .await
            .map_err(failed)?;
    Ok(row.is_some())
}

/// Removes several keys of one kind. Within a transaction.
pub(crate) async fn clear(
    conn: &mut Connection,
    worker: WorkerId,
    session: SessionId,
    kind: i16,
    range: DeviceRange,
) -> Result<Option<u64>> {
    if !own(&mut *conn, worker, session).await? {
        return Ok(None);
    }
    let done = match range {
        DeviceRange::Prefix(prefix) => {
            let end = after_prefix(&prefix);
            sqlx::query(
                "DELETE FROM whatsapp_state
                WHERE session_id = $1 AND kind = $2 AND key >= $3 AND ($4 IS NULL OR key < $4)",
            )
            .bind(session)
            .bind(kind)
            .bind(prefix)
            .bind(end)
            .execute(conn)
            .await
        }
        DeviceRange::Before(time) => {
            sqlx::query("DELETE FROM whatsapp_state WHERE session_id = $1 AND kind = $2 AND at < $3")
                .bind(session)
                .bind(kind)
                .bind(time)
                .execute(conn)
                .await
        }
    };
    Ok(Some(done.map_err(failed)?.rows_affected()))
}

/// Keys that begin so and their values, in the keys' order.
pub(crate) async fn prefix(
    conn: &mut Connection,
    session: SessionId,
    kind: i16,
    prefix: Vec<u8>,
    limit: u32,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let end = after_prefix(&prefix);
    sqlx::query_as(
        "SELECT key, value FROM whatsapp_state
        WHERE session_id = $1 AND kind = $2 AND key >= $3 AND ($4 IS NULL OR key < $4) ORDER BY key LIMIT $5",
    )
    .bind(session)
    .bind(kind)
    .bind(prefix)
    .bind(end)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
    .map_err(failed)
}

/// Forgets a session's device. Within a transaction that has locked the session.
pub(crate) async fn wipe(conn: &mut Connection, session: SessionId) -> Result<()> {
    sqlx::query("DELETE FROM whatsapp_state WHERE session_id = $1")
        .bind(session)
        .execute(conn)
        .await
        .map_err(failed)?;
    Ok(())
}
