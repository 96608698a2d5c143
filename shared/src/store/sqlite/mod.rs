//! The embedded store: one SQLite file, one writing connection, a few reading ones.
//!
//! Only one process may open it; the caller holds the lock on the data dir that proves so. All writing goes through
//! [`writer`], a task that shares its commits among everybody; reading goes around it, in whole pages, and never holds a
//! transaction across an await, for the write-ahead log can't be cut while somebody reads.

#[macro_use]
mod dialect;
#[macro_use]
mod moves;
mod accept;
mod devices;
mod log;
mod logs;
#[cfg(feature = "conformance")]
pub mod plans;
mod pull;
mod receipts;
mod script;
mod settle;
#[path = "../sql/mod.rs"]
mod sql;
mod sweeps;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt};
use sqlx::ConnectOptions;
use sqlx_sqlite::{
    Sqlite, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use self::log::WriteAheadLog;
use self::logs::Logs;
use self::sql::failed;
use self::writer::{Control, Job, Work, Writer};
use crate::group_commit::{Group, ringing_group};
use crate::ids::WorkerId;
use crate::ports::devices::DeviceWrite;
use crate::ports::journal::ApiLog;
use crate::ports::store::{AcceptHook, Result, Store, StoreError};
use crate::priority;
use crate::store::pulse::Pulse;
use crate::store::{Groups, Lane, to_its_end};
use crate::time::Time;

/// The database that the shared statements are compiled for.
pub(crate) type Db = Sqlite;
/// The store that the shared methods are compiled for.
pub(crate) type Backend = SqliteStore;
/// The time of a transaction: the writer's clock.
pub(crate) type Now = Time;

/// How long a statement waits for a lock of another program, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the write-ahead log that are kept once all of it is in the database file.
const WAL_MAX: u64 = 64 << 20;
/// Connections for reads.
const READERS: u32 = 3;
/// Connections for lookups.
const LOOKUPS: u32 = 2;
/// The longest that a read may take.
const READ_MAX: Duration = Duration::from_secs(10);

/// Steps of SQLite's virtual machine after which a read is long: some milliseconds.
const LONG_READ_STEPS: i32 = 50_000;
/// The niceness of a thread that reads long: about a tenth of the share that other threads get.
const LONG_READ_NICENESS: i32 = 10;

/// Requests of a kind that may wait, and the most that one transaction takes of it: a commit costs about a millisecond,
/// and a transaction with a full share of each kind takes some tens.
mod share {
    /// Requests to accept; more are refused.
    pub(super) const ACCEPTS_WAITING: usize = 8_192;
    /// Messages.
    pub(super) const ACCEPTS: usize = 64;
    /// Of everything else, which is bounded by its callers.
    pub(super) const OTHERS_WAITING: usize = 4_096;
    /// Places.
    pub(super) const PULLS: usize = crate::store::PULL_PLACES_MAX;
    /// Messages.
    pub(super) const SETTLEMENTS: usize = 256;
    /// Receipts.
    pub(super) const RECEIPTS: usize = 512;
    /// Writes of any other kind; a sweep is one.
    pub(super) const JOBS: usize = 16;
}

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/sqlite");

/// Opens the database file `path`, making it if there is none and bringing its schema up to date. The caller must hold
/// the lock on the data dir: whoever is entered as a worker is taken to be dead.
///
/// # Errors
/// [`StoreError::Unavailable`] if the file can't be opened or written; [`StoreError::Internal`] if its schema is newer
/// than this program.
pub async fn open(path: &Path, on_accept: AcceptHook) -> Result<Arc<dyn Store>> {
    let base = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(false)
        .disable_statement_logging();
    let options = base
        .clone()
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "memory")
        .pragma("wal_autocheckpoint", "4000")
        .pragma("journal_size_limit", WAL_MAX.to_string())
        // What is written together is one text, in as many variants as there are that occur.
        .statement_cache_capacity(256);
    let mut conn = options.connect().await.map_err(failed)?;
    MIGRATIONS.run(&mut conn).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) => failed(error),
        error => StoreError::Internal(error.to_string()),
    })?;
    let (deployment, last) = begin(&mut conn).await?;
    let logs = Logs::open(path).await?;

    let control = Arc::new(Control::default());
    let ring = || Arc::clone(&control.bell);
    let (accepting, accepts) = ringing_group(share::ACCEPTS_WAITING, share::ACCEPTS, ring());
    let (pulling, pulls) = ringing_group(share::OTHERS_WAITING, share::PULLS, ring());
    let (settling, settlements) = ringing_group(share::OTHERS_WAITING, share::SETTLEMENTS, ring());
    let (receiving, receipts) = ringing_group(share::OTHERS_WAITING, share::RECEIPTS, ring());
    let (writing, jobs) = ringing_group(share::OTHERS_WAITING, share::JOBS, ring());
    let work = Work { accepts, pulls, settlements, receipts, jobs };
    let writer = Writer {
        options,
        conn: Some(conn),
        work,
        control: Arc::clone(&control),
        on_accept,
        last,
        receipts_at: tokio::time::Instant::now(),
        log: WriteAheadLog::new(path, WAL_MAX),
    };
    let reading = base.read_only(true).pragma("cache_size", "-2048").statement_cache_capacity(32);
    let pool = |connections: u32| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .test_before_acquire(false)
            .acquire_timeout(BUSY_TIMEOUT)
            .after_connect(|conn, _| Box::pin(long_reads_yield(conn)))
            .connect_lazy_with(reading.clone())
    };
    Ok(Arc::new(SqliteStore {
        deployment,
        lookups: pool(LOOKUPS),
        readers: pool(READERS),
        logs,
        groups: Groups { accept: accepting, pull: pulling, settle: settling, receipts: receiving },
        writing,
        control,
        pulse: Arc::default(),
        writer: Mutex::new(Some(tokio::spawn(writer.run()))),
    }))
}

/// A connection's thread yields to others from its first long read on: whoever lists without end takes no time from who sends.
async fn long_reads_yield(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    let mut lowered = false;
    conn.lock_handle().await?.set_progress_handler(LONG_READ_STEPS, move || {
        if !lowered {
            lowered = true;
            if let Err(error) = priority::lower(LONG_READ_NICENESS) {
                tracing::debug!(%error, "long reads keep their priority");
            }
        }
        true
    });
    Ok(())
}

/// Frees what a process that is gone has left, and answers the deployment's id and the time of the latest event.
async fn begin(conn: &mut SqliteConnection) -> Result<(String, Time)> {
    let fresh = format!("{:016x}", rand::random::<u64>());
    for text in [
        "INSERT INTO deployment (id, created_at) SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM deployment)",
        // Sessions of workers without a row are freed below as those of others are.
        "INSERT INTO workers (id, lease_until, started_at) SELECT DISTINCT owner, 0, 0 FROM sessions
        WHERE owner IS NOT NULL AND $1 IS NOT NULL AND $2 IS NOT NULL ON CONFLICT (id) DO NOTHING",
    ] {
        sqlx::query(text).bind(&fresh).bind(Time::now()).execute(&mut *conn).await.map_err(failed)?;
    }
    let dead: Vec<(WorkerId,)> =
        sqlx::query_as("SELECT id FROM workers").fetch_all(&mut *conn).await.map_err(failed)?;
    for (worker,) in dead {
        sql::ownership::leave(conn, worker).await?;
    }
    let (deployment,): (String,) =
        sqlx::query_as("SELECT id FROM deployment").fetch_one(&mut *conn).await.map_err(failed)?;
    let (last,): (Option<Time>,) = sqlx::query_as("SELECT (SELECT at FROM events ORDER BY n DESC LIMIT 1) AS at")
        .fetch_one(conn)
        .await
        .map_err(failed)?;
    Ok((deployment, last.unwrap_or_default()))
}

pub(crate) struct SqliteStore {
    deployment: String,
    lookups: SqlitePool,
    readers: SqlitePool,
    logs: Logs,
    groups: Groups,
    writing: Group<Job, Box<dyn Any + Send>>,
    control: Arc<Control>,
    pulse: Arc<Pulse>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.control.close();
    }
}

impl SqliteStore {
    /// Reads, on a connection of a lane. The caller may leave: before the call has a connection nothing has begun, and
    /// afterwards it comes to its end.
    async fn read<T, F>(&self, lane: Lane, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let pool = match lane {
            Lane::Lookups => &self.lookups,
            Lane::Reads => &self.readers,
        };
        read_from(pool, read).await
    }

    /// Has something written in the writer's next transaction, as a part of its own. Once the writer has it, it is written
    /// whether or not the caller still waits.
    async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection, Now) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        write(&self.writing, change).await
    }

    /// A settlement writes when its session last sent, too.
    async fn write_last_active(&self, _: WorkerId) -> Result<()> {
        Ok(())
    }

    async fn write_device_state(&self, write: DeviceWrite) -> Result<bool> {
        change!(self, |c| devices::write(c, write))
    }

    async fn write_log(&self, lines: &[ApiLog]) -> Result<()> {
        self.logs.write(lines).await
    }

    /// Reads the API log: a file of its own.
    async fn read_log<T, F>(&self, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        read_from(&self.logs.readers, read).await
    }
}

async fn write<T, F>(writing: &Group<Job, Box<dyn Any + Send>>, change: F) -> Result<T>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection, Now) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    let job: Job = Box::new(move |conn, now| {
        change(conn, now).map(|result| result.map(|value| Box::new(value) as Box<dyn Any + Send>)).boxed()
    });
    let value = writing.commit(job, 1).await?;
    value.downcast().map(|value| *value).map_err(|_| StoreError::Internal("a write with another answer".to_owned()))
}

async fn read_from<T, F>(pool: &SqlitePool, read: F) -> Result<T>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    let mut connection = pool.acquire().await.map_err(failed)?;
    let reading = async move {
        match tokio::time::timeout(READ_MAX, read(&mut connection)).await {
            Ok(result) => result,
            Err(_) => {
                drop(connection.detach());
                Err(StoreError::Unavailable("the database took too long".to_owned()))
            }
        }
    };
    to_its_end(reading).await
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<()> {
        lookup!(self, |c| sql::ping(c))
    }

    fn moves(&self) -> Result<()> {
        // Locked while the store is being closed.
        if let Ok(writer) = self.writer.try_lock()
            && writer.as_ref().is_some_and(JoinHandle::is_finished)
        {
            return Err(StoreError::Unavailable("the database's writer has ended".to_owned()));
        }
        let writing = self.writing.clone();
        self.pulse.check(async move { write(&writing, |c, _| Box::pin(sql::probe(c))).await })
    }

    fn deployment(&self) -> &str {
        &self.deployment
    }

    async fn close(&self) {
        // Readers first: the last to close cuts the write-ahead log, and that must be one that writes.
        self.lookups.close().await;
        self.readers.close().await;
        self.logs.close().await;
        self.control.close();
        if let Some(writer) = self.writer.lock().await.take()
            && let Err(error) = writer.await
        {
            tracing::error!(%error, "the database's writer ended badly");
        }
    }
}
