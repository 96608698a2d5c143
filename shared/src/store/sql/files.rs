//! What is known of files.

use std::time::Duration;

use async_trait::async_trait;

use super::{Backend, Connection, dialect, failed};
use crate::ids::{MediaId, UserId};
use crate::ports::files::{Files, NewFile, StoredFile};
use crate::ports::store::{Result, SWEEP_CHUNK, Scope};
use crate::time::{Time, millis};

#[async_trait]
impl Files for Backend {
    async fn add_files(&self, user: UserId, files: &[NewFile], keep: Duration) -> Result<Vec<StoredFile>> {
        let files = files.to_owned();
        change!(self, |c| add(c, user, &files, millis(keep)))
    }

    async fn file(&self, scope: Scope, id: MediaId) -> Result<Option<StoredFile>> {
        read!(self, |c| file(c, scope, id))
    }

    async fn keep_files(&self, user: UserId, ids: &[MediaId], until: Time) -> Result<Vec<StoredFile>> {
        let ids = ids.to_owned();
        change!(self, |c| keep(c, user, &ids, until))
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

/// Notes files. Within a transaction.
pub(crate) async fn add(
    conn: &mut Connection,
    user: UserId,
    files: &[NewFile],
    keep_ms: i64,
) -> Result<Vec<StoredFile>> {
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
        .bind(i64::try_from(file.size).unwrap_or(i64::MAX))
        .bind(&file.filename)
        .bind(keep_ms)
        .fetch_one(&mut *conn)
        .await
        .map_err(failed)?;
        added.push(row);
    }
    Ok(added)
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

/// Has files kept longer. Each set is locked by id, as two requests may name the same files.
pub(crate) async fn keep(conn: &mut Connection, user: UserId, ids: &[MediaId], until: Time) -> Result<Vec<StoredFile>> {
    sqlx::query_as(concat!(
        "UPDATE media SET keep_until = CASE WHEN keep_until < $3 THEN $3 ELSE keep_until END
        WHERE id IN (SELECT id FROM media WHERE id ",
        among!("$1"),
        " AND user_id = $2 AND NOT gone ORDER BY id",
        for_update!(),
        ") AND NOT gone RETURNING ",
        file_columns!()
    ))
    .bind(dialect::ids(ids.iter().map(|id| id.0)))
    .bind(user)
    .bind(until)
    .fetch_all(conn)
    .await
    .map_err(failed)
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

/// Removes the rows of files that are gone.
pub(crate) async fn forget(conn: &mut Connection, ids: &[MediaId]) -> Result<()> {
    sqlx::query(concat!("DELETE FROM media WHERE gone AND id ", among!("$1")))
        .bind(dialect::ids(ids.iter().map(|id| id.0)))
        .execute(conn)
        .await
        .map(drop)
        .map_err(failed)
}
