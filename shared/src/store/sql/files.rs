//! What is known of files.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::{Backend, Connection, audit, dialect, failed};
use crate::ids::{MediaId, UserId};
use crate::ports::audit::{Action, Actor, AuditEntry, Target};
use crate::ports::files::{Files, NewFile, StoredFile};
use crate::ports::store::{Bounded, Moved, Result, SWEEP_CHUNK, Scope, StoreError};
use crate::time::millis;

#[async_trait]
impl Files for Backend {
    async fn add_files(
        &self,
        user: UserId,
        files: &[NewFile],
        keep: Duration,
        bytes_max: u64,
        by: Actor,
    ) -> Result<Vec<StoredFile>> {
        let files = files.to_owned();
        change!(self, |c| add(c, user, &files, millis(keep), bytes_max, by))
    }

    async fn stored_bytes(&self, user: UserId) -> Result<u64> {
        read!(self, |c| stored_bytes(c, user))
    }

    async fn file(&self, scope: Scope, id: MediaId) -> Result<Option<StoredFile>> {
        read!(self, |c| file(c, scope, id))
    }

    async fn files(&self, user: UserId, ids: &[MediaId], at_least: Duration) -> Result<Vec<StoredFile>> {
        let ids = ids.to_owned();
        lookup!(self, |c| several(c, user, &ids, millis(at_least)))
    }

    async fn remove_file(&self, scope: Scope, id: MediaId, by: Actor) -> Result<Moved<StoredFile>> {
        change!(self, |c| remove(c, scope, id, by))
    }

    async fn discard_files(&self, ids: &[MediaId]) -> Result<()> {
        let ids = ids.to_owned();
        change!(self, |c| discard(c, &ids))
    }

    async fn gone_files(&self) -> Result<Vec<MediaId>> {
        change!(self, |c| gone(c))
    }

    async fn forget_files(&self, ids: &[MediaId]) -> Result<()> {
        let ids = ids.to_owned();
        change!(self, |c| forget(c, &ids))
    }
}

macro_rules! file_columns {
    () => {
        "id, mime_type, size, filename, created_at, keep_until"
    };
}

/// Notes files unless their user's had too many bytes then. Within a transaction.
pub(crate) async fn add(
    conn: &mut Connection,
    user: UserId,
    files: &[NewFile],
    keep_ms: i64,
    bytes_max: u64,
    by: Actor,
) -> Result<Vec<StoredFile>> {
    let bytes = files.iter().fold(0_i64, |sum, file| sum.saturating_add(size(file)));
    let taken = sqlx::query(
        "INSERT INTO media_bytes AS b (user_id, bytes) SELECT $1, $2 WHERE $2 <= $3
        ON CONFLICT (user_id) DO UPDATE SET bytes = b.bytes + excluded.bytes WHERE b.bytes <= $3 - excluded.bytes",
    )
    .bind(user)
    .bind(bytes)
    .bind(i64::try_from(bytes_max).unwrap_or(i64::MAX))
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    if taken.rows_affected() == 0 {
        return Err(StoreError::Full { what: Bounded::FileBytes, limit: bytes_max });
    }
    let mut added = Vec::with_capacity(files.len());
    for file in files {
        let row: StoredFile = sqlx::query_as(concat!(
            "INSERT INTO media (id, user_id, mime_type, size, filename, gone, created_at, keep_until)
            SELECT $1, $2, $3, $4, $5, false, t.now, t.now + $6 FROM (SELECT ",
            now_ms!(),
            " AS now) t RETURNING ",
            file_columns!()
        ))
        .bind(file.id)
        .bind(user)
        .bind(&file.mime_type)
        .bind(size(file))
        .bind(&file.filename)
        .bind(keep_ms)
        .fetch_one(&mut *conn)
        .await
        .map_err(failed)?;
        audit::note(conn, AuditEntry::on_behalf(by, user, Action::FileAdded, Target::File(file.id))).await?;
        added.push(row);
    }
    Ok(added)
}

fn size(file: &NewFile) -> i64 {
    i64::try_from(file.size).unwrap_or(i64::MAX)
}

/// Bytes of a user's files.
pub(crate) async fn stored_bytes(conn: &mut Connection, user: UserId) -> Result<u64> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT bytes FROM media_bytes WHERE user_id = $1")
        .bind(user)
        .fetch_optional(conn)
        .await
        .map_err(failed)?;
    Ok(row.map_or(0, |(bytes,)| bytes.unsigned_abs()))
}

/// A file that isn't gone.
pub(crate) async fn file(conn: &mut Connection, scope: Scope, id: MediaId) -> Result<Option<StoredFile>> {
    sqlx::query_as(concat!(
        "SELECT ",
        file_columns!(),
        " FROM media WHERE id = $1 AND ($2 IS NULL OR user_id = $2) AND NOT gone"
    ))
    .bind(id)
    .bind(scope.user())
    .fetch_optional(conn)
    .await
    .map_err(failed)
}

/// Several files of a user that are kept for so long at least.
pub(crate) async fn several(
    conn: &mut Connection,
    user: UserId,
    ids: &[MediaId],
    at_least_ms: i64,
) -> Result<Vec<StoredFile>> {
    sqlx::query_as(concat!(
        "SELECT ",
        file_columns!(),
        " FROM media WHERE id ",
        among!("$1"),
        " AND user_id = $2 AND NOT gone AND keep_until >= $3 + ",
        now_ms!()
    ))
    .bind(dialect::ids(ids.iter().map(|id| id.0)))
    .bind(user)
    .bind(at_least_ms)
    .fetch_all(conn)
    .await
    .map_err(failed)
}

/// Whether a message needs a file: one that is scheduled, waits or is being sent.
const NEEDED: &str = "SELECT EXISTS (SELECT 1 FROM messages m
    WHERE m.media_id = $1 AND m.media_id IS NOT NULL AND (m.open OR m.due_at IS NOT NULL)) AS needed";

/// Marks a file as gone unless a message needs it. Within a transaction: who accepts a message with it locks it, too.
pub(crate) async fn remove(conn: &mut Connection, scope: Scope, id: MediaId, by: Actor) -> Result<Moved<StoredFile>> {
    let found: Option<StoredFile> = sqlx::query_as(concat!(
        "SELECT ",
        file_columns!(),
        " FROM media WHERE id = $1 AND ($2 IS NULL OR user_id = $2) AND NOT gone",
        for_update!()
    ))
    .bind(id)
    .bind(scope.user())
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    let Some(file) = found else { return Ok(Moved::Absent) };
    let (needed,): (bool,) = sqlx::query_as(NEEDED).bind(id).fetch_one(&mut *conn).await.map_err(failed)?;
    if needed {
        return Ok(Moved::Refused(file));
    }
    let (owner,): (UserId,) = sqlx::query_as("UPDATE media SET gone = true WHERE id = $1 RETURNING user_id")
        .bind(id)
        .fetch_one(&mut *conn)
        .await
        .map_err(failed)?;
    audit::note(conn, AuditEntry::on_behalf(by, owner, Action::FileRemoved, Target::File(id))).await?;
    Ok(Moved::Done(file))
}

/// Has files removed at the next sweep.
pub(crate) async fn discard(conn: &mut Connection, ids: &[MediaId]) -> Result<()> {
    sqlx::query(concat!("UPDATE media SET keep_until = 0 WHERE id ", among!("$1"), " AND NOT gone"))
        .bind(dialect::ids(ids.iter().map(|id| id.0)))
        .execute(conn)
        .await
        .map(drop)
        .map_err(failed)
}

/// Marks what is over as gone, and answers what is gone. A file that is being referred to just now is left for the next time.
pub(crate) async fn gone(conn: &mut Connection) -> Result<Vec<MediaId>> {
    sqlx::query(concat!(
        "UPDATE media SET gone = true WHERE id IN (SELECT id FROM media WHERE NOT gone AND keep_until <= ",
        now_ms!(),
        " ORDER BY keep_until LIMIT $1",
        for_update!(),
        skip_locked!(),
        ") AND NOT gone AND keep_until <= ",
        now_ms!()
    ))
    .bind(SWEEP_CHUNK)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    let rows: Vec<(MediaId,)> = sqlx::query_as("SELECT id FROM media WHERE gone ORDER BY id LIMIT $1")
        .bind(SWEEP_CHUNK)
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// Removes the rows of files that are gone: their bytes don't count any more. Within a transaction.
pub(crate) async fn forget(conn: &mut Connection, ids: &[MediaId]) -> Result<()> {
    let rows: Vec<(UserId, i64)> =
        sqlx::query_as(concat!("DELETE FROM media WHERE gone AND id ", among!("$1"), " RETURNING user_id, size"))
            .bind(dialect::ids(ids.iter().map(|id| id.0)))
            .fetch_all(&mut *conn)
            .await
            .map_err(failed)?;
    let mut bytes: BTreeMap<UserId, i64> = BTreeMap::new();
    for (user, size) in rows {
        *bytes.entry(user).or_default() += size;
    }
    for (user, bytes) in bytes {
        sqlx::query(concat!("UPDATE media_bytes SET bytes = ", at_least_zero!("bytes - $2"), " WHERE user_id = $1"))
            .bind(user)
            .bind(bytes)
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    Ok(())
}
