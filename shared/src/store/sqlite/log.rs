//! The size of a write-ahead log.
//!
//! SQLite begins its log anew once all of it is in the database file and nobody reads in it. While somebody reads in one long
//! transaction, such as a backup, the log grows. Afterwards SQLite would begin it anew only at a moment when nobody reads, and
//! under load somebody always does. So a log that has become large is cut, in a moment of the writer's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Row;
use sqlx_sqlite::SqliteConnection;
use tokio::time::Instant;

use super::BUSY_TIMEOUT;
use super::sql::failed;
use crate::ports::store::Result;

/// How often the size is looked at, and a large log is tried to be cut.
const EVERY: Duration = Duration::from_secs(1);
/// How long the writer waits for those who read in the log.
const WAIT: Duration = Duration::from_millis(20);

/// The write-ahead log of one database file.
pub(super) struct WriteAheadLog {
    path: PathBuf,
    /// Bytes beyond which it is large.
    max: u64,
    look_at: Instant,
    /// Something was written since the last look, or it was too large then and couldn't be cut.
    is_due: bool,
}

impl WriteAheadLog {
    /// The log of a database file; `max` bytes of it are kept, as its connections' `journal_size_limit` says.
    pub(super) fn new(database: &Path, max: u64) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), max, look_at: Instant::now(), is_due: false }
    }

    /// When [`Self::cut_if_large`] is to be called again, if nothing is written until then.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.is_due.then_some(self.look_at)
    }

    /// Cuts it if it is large and nobody reads in it; called after each transaction, it looks once a second. `conn` is the one that
    /// writes.
    pub(super) async fn cut_if_large(&mut self, conn: &mut SqliteConnection) {
        let now = Instant::now();
        self.is_due = now < self.look_at;
        if self.is_due {
            return;
        }
        self.look_at = now + EVERY;
        if self.size() > self.max {
            self.is_due = true;
            match cut(conn).await {
                Ok(true) => self.is_due = false,
                Ok(false) => {
                    tracing::debug!(bytes = self.size(), "somebody reads in the write-ahead log: it grows until then")
                }
                Err(error) => tracing::warn!(%error, "the write-ahead log can't be cut"),
            }
        }
    }

    fn size(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }
}

/// Moves the log into the database file and empties it; `false` if somebody reads in it.
async fn cut(conn: &mut SqliteConnection) -> Result<bool> {
    set_busy_timeout(conn, WAIT).await?;
    let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *conn).await.map_err(failed);
    set_busy_timeout(conn, BUSY_TIMEOUT).await?;
    let busy: i64 = row?.try_get(0).map_err(failed)?;
    Ok(busy == 0)
}

async fn set_busy_timeout(conn: &mut SqliteConnection, timeout: Duration) -> Result<()> {
    let text = format!("PRAGMA busy_timeout = {}", timeout.as_millis());
    sqlx::query(&text).persistent(false).execute(conn).await.map(drop).map_err(failed)
}
