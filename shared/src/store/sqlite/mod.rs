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
mod accounts;
mod devices;
mod files;
mod housekeeping;
mod journal;
mod logins;
mod logs;
mod operations;
#[cfg(feature = "conformance")]
pub mod plans;
mod pull;
mod receipts;
mod script;
mod settle;
#[path = "../sql/mod.rs"]
mod sql;
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
use sqlx::pool::PoolConnection;
use sqlx_sqlite::{
    Sqlite, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use self::logs::Logs;
use self::sql::failed;
use self::writer::{Control, Job, Work, Writer};
use crate::group_commit::{Group, ringing_group};
use crate::ids::{ApiKeyId, MessageId, SessionId, UserId, WorkerId};
use crate::message::Message;
use crate::ports::store::{
    AcceptHook, AcceptOutcome, AcceptRequest, AcceptedJob, Accepting, Awaiting, Backlog, Housekeeping, MessageFilter,
    Messages, Moved, OwnedSession, Page, People, PullRequest, Pulled, ReceiptBatch, Renewed, Result, Retention, Scope,
    SessionCommand, SessionReport, Sessions, Settled, Settlement, Store, StoreError, Swept, Working,
};
use crate::session::{BridgeKind, Pace, Session};
use crate::time::{Day, Time, millis};
use crate::usage::{Quota, UsageStats};
use crate::user::{KeyOwner, NewUser, User};

/// The database that the shared statements are compiled for.
pub(crate) type Db = Sqlite;

/// How long a statement waits for a lock of another program, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that read.
const READERS: u32 = 3;

/// Requests of a kind that may wait, and the most that one transaction takes of it: a commit costs about a millisecond,
/// and a transaction with a full share of each kind takes some tens.
mod share {
    /// Requests to accept; more are refused.
    pub(super) const ACCEPTS_WAITING: usize = 8_192;
    /// Messages.
    pub(super) const ACCEPTS: usize = 64;
    /// Of everything else, which is bounded by its callers.
    pub(super) const OTHERS_WAITING: usize = 4_096;
    /// Sessions.
    pub(super) const PULLS: usize = 64;
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
        .pragma("journal_size_limit", "67108864")
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
    };
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .acquire_timeout(BUSY_TIMEOUT)
        .connect_lazy_with(base.read_only(true).pragma("cache_size", "-2048").statement_cache_capacity(32));
    Ok(Arc::new(SqliteStore {
        deployment,
        readers,
        logs,
        accepting,
        pulling,
        settling,
        receiving,
        writing,
        control,
        writer: Mutex::new(Some(tokio::spawn(writer.run()))),
    }))
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

struct SqliteStore {
    deployment: String,
    readers: SqlitePool,
    logs: Logs,
    accepting: Group<AcceptRequest, Vec<AcceptOutcome>>,
    pulling: Group<PullRequest, Pulled>,
    settling: Group<Settlement, Settled>,
    receiving: Group<ReceiptBatch, Vec<MessageId>>,
    writing: Group<Job, Box<dyn Any + Send>>,
    control: Arc<Control>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.control.close();
    }
}

impl SqliteStore {
    async fn read(&self) -> Result<PoolConnection<Sqlite>> {
        self.readers.acquire().await.map_err(failed)
    }

    /// Has something written in the writer's next transaction, as a part of its own.
    async fn write<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection, Time) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let job: Job = Box::new(move |conn, now| {
            write(conn, now).map(|result| result.map(|value| Box::new(value) as Box<dyn Any + Send>)).boxed()
        });
        let value = self.writing.commit(job, 1).await?;
        value.downcast().map(|value| *value).map_err(|_| StoreError::Internal("a write with another answer".to_owned()))
    }
}

#[async_trait]
impl Accepting for SqliteStore {
    async fn accept(&self, request: AcceptRequest) -> Result<Vec<AcceptOutcome>> {
        if request.items.is_empty() {
            return Ok(Vec::new());
        }
        let weight = request.items.len();
        self.accepting.offer(request, weight).await
    }

    async fn replay(&self, user: UserId, key: &str) -> Result<Option<(Vec<u8>, Vec<(u32, MessageId)>)>> {
        sql::messages::replay(&mut *self.read().await?, user, key).await
    }

    async fn backlog(&self) -> Result<Backlog> {
        sql::messages::backlog(&mut *self.read().await?).await
    }
}

#[async_trait]
impl Messages for SqliteStore {
    async fn message(&self, scope: Scope, id: MessageId) -> Result<Option<Message>> {
        sql::messages::message(&mut *self.read().await?, scope, id).await
    }

    async fn messages(&self, scope: Scope, ids: &[MessageId]) -> Result<Vec<Message>> {
        sql::messages::messages(&mut *self.read().await?, scope, ids).await
    }

    async fn list_messages(
        &self,
        scope: Scope,
        filter: &MessageFilter,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<Page<Message>> {
        sql::messages::page(&mut *self.read().await?, scope, filter, after, limit).await
    }

    async fn cancel(&self, scope: Scope, id: MessageId) -> Result<Moved<Message>> {
        self.write(move |conn, _| sql::messages::cancel(conn, scope, id).boxed()).await
    }

    async fn quota(&self, user: UserId) -> Result<Option<Quota>> {
        sql::messages::quota(&mut *self.read().await?, user).await
    }

    async fn usage_days(&self, user: UserId, from: Day, until: Day) -> Result<Vec<UsageStats>> {
        sql::messages::usage_days(&mut *self.read().await?, user, from, until).await
    }

    async fn count_requests(&self, shard: i64, requests: &[(UserId, i64)]) -> Result<()> {
        let mut counts = std::collections::BTreeMap::<i64, i64>::new();
        for (user, count) in requests {
            *counts.entry(user.0).or_default() += count;
        }
        let counts: Vec<(i64, i64)> = counts.into_iter().collect();
        self.write(move |conn, now| moves::count_requests(conn, now.day(), shard, counts).boxed()).await
    }
}

#[async_trait]
impl People for SqliteStore {
    async fn any_user(&self) -> Result<bool> {
        sql::people::any_user(&mut *self.read().await?).await
    }

    async fn create_user(&self, user: &NewUser, default_bridge: BridgeKind) -> Result<User> {
        let user = user.clone();
        self.write(move |conn, _| async move { sql::people::create_user(conn, &user, default_bridge).await }.boxed())
            .await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>> {
        sql::people::user(&mut *self.read().await?, id).await
    }

    async fn user_by_name(&self, username: &str) -> Result<Option<User>> {
        sql::people::user_by_name(&mut *self.read().await?, username).await
    }

    async fn set_password(&self, username: &str, password_hash: &str) -> Result<bool> {
        let (username, hash) = (username.to_owned(), password_hash.to_owned());
        self.write(move |conn, _| async move { sql::people::set_password(conn, &username, &hash).await }.boxed()).await
    }

    async fn set_active(&self, user: UserId, active: bool) -> Result<bool> {
        self.write(move |conn, _| sql::people::set_active(conn, user, active).boxed()).await
    }

    async fn set_limit(&self, user: UserId, max_messages_per_day: Option<i64>) -> Result<bool> {
        self.write(move |conn, _| sql::people::set_limit(conn, user, max_messages_per_day).boxed()).await
    }

    async fn create_api_key(
        &self,
        user: UserId,
        name: &str,
        lookup: &str,
        hash: &[u8],
        expires_at: Option<Time>,
    ) -> Result<ApiKeyId> {
        let (name, lookup, hash) = (name.to_owned(), lookup.to_owned(), hash.to_owned());
        self.write(move |conn, _| {
            async move { sql::people::create_api_key(conn, user, &name, &lookup, &hash, expires_at).await }.boxed()
        })
        .await
    }

    async fn key_owner(&self, lookup: &str) -> Result<Option<KeyOwner>> {
        sql::people::key_owner(&mut *self.read().await?, lookup).await
    }

    async fn revoke_api_key(&self, id: ApiKeyId) -> Result<bool> {
        self.write(move |conn, _| sql::people::revoke_api_key(conn, id).boxed()).await
    }
}

#[async_trait]
impl Sessions for SqliteStore {
    async fn create_session(&self, user: UserId, name: &str, bridge: BridgeKind) -> Result<Session> {
        let name = name.to_owned();
        self.write(move |conn, _| async move { sql::sessions::create(conn, user, &name, bridge).await }.boxed()).await
    }

    async fn session(&self, user: UserId, name: &str) -> Result<Option<Session>> {
        sql::sessions::session(&mut *self.read().await?, user, name).await
    }

    async fn session_name(&self, scope: Scope, id: SessionId) -> Result<Option<(UserId, String)>> {
        sql::sessions::name(&mut *self.read().await?, scope, id).await
    }

    async fn list_sessions(&self, scope: Scope, after: Option<SessionId>, limit: u32) -> Result<Page<Session>> {
        sql::sessions::page(&mut *self.read().await?, scope, after, limit).await
    }

    async fn set_pace(&self, user: UserId, name: &str, pace: &Pace) -> Result<Option<Session>> {
        let (name, pace) = (name.to_owned(), *pace);
        self.write(move |conn, _| async move { sql::sessions::set_pace(conn, user, &name, &pace).await }.boxed()).await
    }

    async fn set_proxy(&self, user: UserId, name: &str, proxy: Option<(Vec<u8>, String)>) -> Result<Option<Session>> {
        let name = name.to_owned();
        self.write(move |conn, _| async move { sql::sessions::set_proxy(conn, user, &name, proxy).await }.boxed()).await
    }

    async fn command(&self, user: UserId, name: &str, command: SessionCommand) -> Result<Option<Session>> {
        let name = name.to_owned();
        self.write(move |conn, _| async move { sql::sessions::command(conn, user, &name, command).await }.boxed()).await
    }

    async fn request_pair_code(&self, user: UserId, name: &str, phone: &str) -> Result<Moved<Session>> {
        let (name, phone) = (name.to_owned(), phone.to_owned());
        self.write(move |conn, _| {
            async move { sql::sessions::request_pair_code(conn, user, &name, &phone).await }.boxed()
        })
        .await
    }

    async fn pair_code(&self, session: SessionId) -> Result<Option<(String, Time)>> {
        sql::sessions::pair_code(&mut *self.read().await?, session).await
    }

    async fn delete_session(&self, user: UserId, name: &str) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |conn, _| async move { sql::sessions::delete(conn, user, &name).await }.boxed()).await
    }
}

#[async_trait]
impl Working for SqliteStore {
    async fn register(&self, worker: WorkerId, lease: Duration) -> Result<()> {
        self.write(move |conn, _| sql::ownership::register(conn, worker, millis(lease)).boxed()).await
    }

    async fn renew(&self, worker: WorkerId, lease: Duration) -> Result<Renewed> {
        self.write(move |conn, _| sql::ownership::renew(conn, worker, millis(lease)).boxed()).await
    }

    async fn take(&self, worker: WorkerId, count: usize) -> Result<Vec<OwnedSession>> {
        self.write(move |conn, _| sql::ownership::take(conn, worker, count).boxed()).await
    }

    async fn give_back(&self, worker: WorkerId, sessions: &[SessionId]) -> Result<()> {
        let sessions = sessions.to_owned();
        self.write(move |conn, _| async move { sql::ownership::give_back(conn, worker, &sessions).await }.boxed()).await
    }

    async fn bury(&self, worker: WorkerId, blocking: bool) -> Result<Vec<WorkerId>> {
        self.write(move |conn, _| sql::ownership::bury(conn, worker, blocking).boxed()).await
    }

    async fn leave(&self, worker: WorkerId) -> Result<()> {
        self.write(move |conn, _| sql::ownership::leave(conn, worker).boxed()).await
    }

    async fn report(&self, worker: WorkerId, session: SessionId, report: &SessionReport) -> Result<bool> {
        let report = report.clone();
        self.write(move |conn, _| async move { sql::ownership::report(conn, worker, session, &report).await }.boxed())
            .await
    }

    async fn report_pacing(&self, worker: WorkerId, session: SessionId, until: Option<Time>) -> Result<()> {
        self.write(move |conn, _| sql::ownership::report_pacing(conn, worker, session, until).boxed()).await
    }

    async fn pull(&self, request: PullRequest) -> Result<Pulled> {
        self.pulling.commit(request, 1).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled> {
        self.settling.commit(settlement, 1).await
    }

    async fn receipts(&self, batch: ReceiptBatch) -> Result<Vec<MessageId>> {
        let weight = batch.receipts.len().max(1);
        self.receiving.commit(batch, weight).await
    }

    async fn awaiting_receipts(&self, session: SessionId, limit: u32) -> Result<Vec<Awaiting>> {
        sql::messages::awaiting_receipts(&mut *self.read().await?, session, limit).await
    }
}

#[async_trait]
impl Housekeeping for SqliteStore {
    async fn lead(&self, worker: WorkerId, term: Duration) -> Result<bool> {
        self.write(move |conn, _| sql::ownership::lead(conn, worker, term).boxed()).await
    }

    async fn promote(&self) -> Result<(Vec<AcceptedJob>, bool)> {
        self.write(move |conn, now| housekeeping::promote(conn, now).boxed()).await
    }

    async fn expire(&self) -> Result<Swept> {
        self.write(move |conn, now| housekeeping::expire(conn, now).boxed()).await
    }

    async fn count_backlog(&self) -> Result<(Backlog, Option<Duration>)> {
        let counted = housekeeping::count(&mut *self.read().await?, Time::now()).await?;
        if !counted.changed.is_empty() {
            let changed = counted.changed;
            self.write(move |conn, _| async move { housekeeping::write_counts(conn, &changed).await }.boxed()).await?;
        }
        Ok((counted.backlog, counted.oldest))
    }

    async fn drain_deleted(&self) -> Result<(Swept, Vec<SessionId>)> {
        self.write(move |conn, now| housekeeping::drain_deleted(conn, now).boxed()).await
    }

    async fn retire(&self, retention: &Retention) -> Result<bool> {
        let retention = *retention;
        let more = self.logs.retire(Time(Time::now().0.saturating_sub(millis(retention.api_logs)))).await?;
        let rest = self
            .write(move |conn, now| async move { housekeeping::retire(conn, now, &retention).await }.boxed())
            .await?;
        Ok(more || rest)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&mut *self.read().await?).await.map(drop).map_err(failed)
    }

    fn deployment(&self) -> &str {
        &self.deployment
    }

    async fn close(&self) {
        // Readers first: the last to close cuts the write-ahead log, and that must be one that writes.
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
