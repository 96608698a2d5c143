//! Device state.

use sqlx_sqlite::SqliteConnection;

use super::sql::{self, failed};
use crate::ports::devices::DeviceWrite;
use crate::ports::store::Result;

/// Writes changes one after the other, in their order.
pub(super) async fn write(conn: &mut SqliteConnection, write: DeviceWrite) -> Result<bool> {
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
