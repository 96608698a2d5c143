//! The API log: a database file of its own beside the main one, so that it never takes part in the accepting writer's
//! commits. It may lose its last lines when the machine dies, and nothing else may: `synchronous=NORMAL`.

use std::path::Path;

use serde::Serialize;
use sqlx::{ConnectOptions, Connection};
use sqlx_sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::Mutex;

use super::log::WriteAheadLog;
use super::sql::failed;
use super::{BUSY_TIMEOUT, moves};
use crate::ports::journal::ApiLog;
use crate::ports::store::{Result, SWEEP_CHUNK, StoreError};
use crate::time::Time;

/// The file, in the main one's folder.
pub(super) const FILE: &str = "api-logs.db";

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/sqlite-logs");

/// Bytes of the file's write-ahead log that are kept once all of it is in the file.
const WAL_MAX: u64 = 16 << 20;

/// The log's file, opened. Only its clients' calls keep it busy: no task of its own.
pub(super) struct Logs {
    /// The connection that writes, and the write-ahead log that it writes to; `None` once it is closed.
    writer: Mutex<Option<(SqliteConnection, WriteAheadLog)>>,
    pub(super) readers: SqlitePool,
}

/// Lines beyond the limit that are removed in one transaction: removing must keep up with writing.
const LINES_CHUNK: i64 = 10_000;

#[derive(Serialize)]
struct Line<'a>(i64, Option<i64>, &'a str, &'a str, u16, i64, String, &'a str);

impl Logs {
    /// Opens the log beside the main file, making it if there is none.
    pub(super) async fn open(main: &Path) -> Result<Self> {
        let path = main.with_file_name(FILE);
        let base = SqliteConnectOptions::new().filename(&path).busy_timeout(BUSY_TIMEOUT).disable_statement_logging();
        let mut conn = base
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .pragma("cache_size", "-4096")
            .pragma("journal_size_limit", WAL_MAX.to_string())
            .connect()
            .await
            .map_err(failed)?;
        MIGRATIONS.run(&mut conn).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) => failed(error),
            error => StoreError::Internal(format!("{FILE}: {error}")),
        })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_lazy_with(base.read_only(true).pragma("cache_size", "-2048"));
        let log = WriteAheadLog::new(&path, WAL_MAX);
        Ok(Self { writer: Mutex::new(Some((conn, log))), readers })
    }

    /// Adds lines.
    pub(super) async fn write(&self, lines: &[ApiLog]) -> Result<()> {
        let rows: Vec<Line<'_>> = lines
            .iter()
            .map(|line| {
                let (user, address) = (line.user.map(|user| user.0), line.address.to_string());
                let (endpoint, method) = (line.endpoint.as_str(), line.method.as_str());
                Line(line.at.0, user, endpoint, method, line.status, line.duration_us, address, &line.request_id)
            })
            .collect();
        let rows = moves::json(&rows)?;
        self.change(
            "INSERT INTO api_logs (at, user_id, endpoint, method, status, duration_us, ip_address, request_id)
            SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7
            FROM json_each($1) WHERE $2 IS NOT NULL",
            rows,
            0,
        )
        .await
        .map(drop)
    }

    /// Removes lines that are older, and the oldest while there are more than `max`, in chunks; `true` if there may be more.
    pub(super) async fn retire(&self, before: Time, max: i64) -> Result<bool> {
        let gone = self
            .change(
                "DELETE FROM api_logs WHERE n IN (SELECT n FROM api_logs WHERE at < $1 ORDER BY at, n LIMIT $2)",
                before,
                SWEEP_CHUNK,
            )
            .await?;
        // The numbers have no gaps.
        let beyond = self
            .change(
                "DELETE FROM api_logs WHERE n IN (
                    SELECT n FROM api_logs WHERE n <= (SELECT max(n) FROM api_logs) - $1 ORDER BY n LIMIT $2)",
                max,
                LINES_CHUNK,
            )
            .await?;
        Ok(gone >= SWEEP_CHUNK.unsigned_abs() || beyond >= LINES_CHUNK.unsigned_abs())
    }

    async fn change<'q, T>(&self, text: &'static str, first: T, second: i64) -> Result<u64>
    where
        T: sqlx::Encode<'q, sqlx_sqlite::Sqlite> + sqlx::Type<sqlx_sqlite::Sqlite> + Send + 'q,
    {
        let mut writer = self.writer.lock().await;
        let Some((conn, log)) = writer.as_mut() else {
            return Err(StoreError::Unavailable("the API log is closed".to_owned()));
        };
        let done = sqlx::query(text).bind(first).bind(second).execute(&mut *conn).await.map_err(failed)?;
        log.cut_if_large(conn).await;
        Ok(done.rows_affected())
    }

    /// Closes: readers first, for the last to close cuts the write-ahead log, and that must be one that writes.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        if let Some((conn, _)) = self.writer.lock().await.take()
            && let Err(error) = conn.close().await
        {
            tracing::warn!(%error, "the API log did not close well");
        }
    }
}
