//! The distributed store.
//!
//! Accepts, pulls, settlements and receipts go through committers, each a task with a connection of its own; the rest
//! uses a pool. Every connection has the time limits that keep one frozen process from stalling the others.

#[macro_use]
mod dialect;
mod accept;
mod accounts;
mod committer;
mod devices;
mod files;
mod housekeeping;
mod journal;
mod logins;
mod operations;
mod partitions;
#[cfg(feature = "conformance")]
pub mod plans;
mod pull;
mod receipts;
mod settle;
#[path = "../sql/mod.rs"]
mod sql;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{ConnectOptions, Connection};
use sqlx_postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use uuid::Uuid;

use self::committer::{Committer, serve};
use self::settle::Active;
use crate::group_commit::{Batches, Group, group};
use crate::ids::{ApiKeyId, MessageId, SessionId, UserId, WorkerId};
use crate::message::Message;
use crate::ports::devices::DeviceWrite;
use crate::ports::store::{
    AcceptHook, AcceptOutcome, AcceptRequest, AcceptedJob, Accepting, Awaiting, Backlog, Housekeeping, MessageFilter,
    Messages, Moved, OwnedSession, Page, People, PullRequest, Pulled, ReceiptBatch, Renewed, Result, Retention, Scope,
    SessionCommand, SessionReport, Sessions, Settled, Settlement, Store, StoreError, Swept, Working,
};
use crate::session::{BridgeKind, Pace, Session};
use crate::store::RECEIPTS_EVERY;
use crate::time::{Day, Time, millis};
use crate::usage::{Quota, UsageStats};
use crate::user::{KeyOwner, NewUser, User};

/// The database that the shared statements are compiled for.
pub(crate) type Db = sqlx_postgres::Postgres;

use self::sql::failed as error;

/// Requests that may wait for the accepting committers before the next is refused.
const ACCEPT_WAITING_MAX: usize = 4_096;
/// Calls of a worker that may wait for a committer; more wait outside.
const WORK_WAITING_MAX: usize = 4_096;
/// Pulls, settlements or receipt batches in one statement, at most.
const WORK_BATCH_MAX: usize = 512;
/// Committers of accepts in a process: while one waits for the disk, the other gathers.
const ACCEPT_COMMITTERS: usize = 2;
/// How long a call waits for a connection of the pool.
const ACQUIRE_MAX: Duration = Duration::from_secs(3);
/// The longest that anything but a sweep may take: past it, its connection is closed, which ends its transaction.
const CALL_MAX: Duration = Duration::from_secs(10);

/// A committer's statements are prepared once and planned once: planning them takes longer than running them. The plan must be
/// right for a large table even if the table is empty yet, or nothing in it is open: whatever reads it whole, or whole through
/// an index, looks cheap then.
const PLANNED_ONCE: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("jit", "off"),
];

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/postgres");

/// The store on PostgreSQL.
pub struct Postgres {
    pool: PgPool,
    deployment: String,
    active: Arc<Active>,
    accept: Group<AcceptRequest, Vec<AcceptOutcome>>,
    pull: Group<PullRequest, Pulled>,
    settle: Group<Settlement, Settled>,
    receipts: Group<ReceiptBatch, Vec<MessageId>>,
    devices: Group<DeviceWrite, bool>,
    committers: Mutex<JoinSet<()>>,
}

/// Reads a database URL and adds what every connection of ours sets.
fn options(url: &str) -> Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|e| StoreError::Invalid(format!("DATABASE_URL can't be read: {e}")))?
        .application_name("sanasr")
        .options([
            ("statement_timeout", "5s"),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "2s"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
        ]);
    Ok(options)
}

/// Brings the schema up to date and makes the deployment's id. Safe to run twice at once.
///
/// # Errors
/// If the database can't be reached or a migration fails.
pub async fn migrate(url: &str) -> Result<()> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|e| StoreError::Invalid(format!("DATABASE_URL can't be read: {e}")))?
        .application_name("sanasr migrate");
    let mut connection = options.connect().await.map_err(error)?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .map_err(|e| StoreError::Internal(format!("the schema can't be brought up to date: {e}")))?;
    sqlx::query(concat!(
        "INSERT INTO deployment (id, created_at) SELECT $1, ",
        now_ms!(),
        " WHERE NOT EXISTS (SELECT 1 FROM deployment)"
    ))
    .bind(format!("sanasr-{}", &Uuid::now_v7().simple().to_string()[20..]))
    .execute(&mut connection)
    .await
    .map_err(error)?;
    connection.close().await.map_err(error)
}

impl Postgres {
    /// Connects to a database whose schema is up to date; `connections` of the pool at most. `on_accept` is called after
    /// each commit with what was accepted.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the database can't be reached or `migrate` hasn't run yet.
    pub async fn connect(url: &str, connections: u32, on_accept: AcceptHook) -> Result<Arc<Self>> {
        let options = options(url)?;
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_MAX)
            .test_before_acquire(false)
            .connect_with(options.clone())
            .await
            .map_err(error)?;
        let deployment: Option<String> = sqlx::query_scalar("SELECT id FROM deployment ORDER BY created_at LIMIT 1")
            .fetch_optional(&pool)
            .await
            .map_err(|e| match e.as_database_error().and_then(|e| e.code()).as_deref() {
                Some("42P01") => not_migrated(),
                _ => error(e),
            })?;
        let deployment = deployment.ok_or_else(not_migrated)?;

        let options = options.options(PLANNED_ONCE);
        let active = Arc::new(Active::default());
        let mut committers = JoinSet::new();
        let (accept, gather) = group(ACCEPT_WAITING_MAX, accept::BATCH_MAX);
        let gather = Arc::new(gather);
        for _ in 0..ACCEPT_COMMITTERS {
            let committer = Committer::new(accept::Accept, options.clone());
            committers.spawn(accept::serve(Batches::new(gather.clone()), committer, on_accept.clone()));
        }
        let (pull, pulls) = batches();
        let committer = Committer::new(pull::Pull, options.clone());
        committers.spawn(serve(pulls, committer, pull::together, Duration::ZERO, "sanasr_pull_batch_size"));
        let (settle, settlements) = batches();
        let committer = Committer::new(settle::Settle { active: active.clone() }, options.clone());
        committers.spawn(serve(settlements, committer, settle::together, Duration::ZERO, "sanasr_settle_batch_size"));
        let (receipts, gathered) = batches();
        let committer = Committer::new(receipts::Receipts, options.clone());
        committers.spawn(serve(gathered, committer, receipts::together, RECEIPTS_EVERY, "sanasr_receipt_batch_size"));
        let (devices, writes) = batches();
        let committer = Committer::new(devices::Write, options);
        committers.spawn(serve(writes, committer, devices::together, Duration::ZERO, "sanasr_device_batch_size"));
        Ok(Arc::new(Self {
            pool,
            deployment,
            active,
            accept,
            pull,
            settle,
            receipts,
            devices,
            committers: Mutex::new(committers),
        }))
    }

    /// Runs something on a connection of the pool. After an error that may have left it in the middle of something, the
    /// connection is closed rather than used again.
    async fn on_pool<T>(&self, call: impl AsyncFnOnce(&mut PgConnection) -> Result<T>) -> Result<T> {
        let mut connection = self.pool.acquire().await.map_err(error)?;
        match tokio::time::timeout(CALL_MAX, call(&mut connection)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if error.is_transient() {
                    drop(connection.detach());
                }
                Err(error)
            }
            Err(_) => {
                drop(connection.detach());
                Err(StoreError::Unavailable("the database took too long".to_owned()))
            }
        }
    }

    /// Runs something in a transaction.
    async fn in_transaction<T>(&self, call: impl AsyncFnOnce(&mut PgConnection) -> Result<T>) -> Result<T> {
        self.on_pool(async |connection| {
            sqlx::query("BEGIN").execute(&mut *connection).await.map_err(error)?;
            let value = match call(&mut *connection).await {
                Ok(value) => value,
                Err(failure) => {
                    // By hand: a transaction that is dropped only queues its rollback.
                    return match sqlx::query("ROLLBACK").execute(&mut *connection).await {
                        Ok(_) => Err(failure),
                        Err(_) => Err(StoreError::Unavailable(failure.to_string())),
                    };
                }
            };
            sqlx::query("COMMIT")
                .execute(&mut *connection)
                .await
                .map_err(|e| StoreError::OutcomeUnknown(e.to_string()))?;
            Ok(value)
        })
        .await
    }
}

/// A group of a worker's calls.
fn batches<Req, Resp>() -> (Group<Req, Resp>, Batches<Req, Resp>) {
    let (group, gather) = group(WORK_WAITING_MAX, WORK_BATCH_MAX);
    (group, Batches::new(Arc::new(gather)))
}

fn not_migrated() -> StoreError {
    StoreError::Unavailable("the database has no schema yet: run `sanasr migrate`".to_owned())
}

#[async_trait]
impl Store for Postgres {
    async fn ping(&self) -> Result<()> {
        self.on_pool(async |c| sqlx::query("SELECT 1").execute(c).await.map(|_| ()).map_err(error)).await
    }

    fn deployment(&self) -> &str {
        &self.deployment
    }

    async fn close(&self) {
        self.accept.close();
        self.pull.close();
        self.settle.close();
        self.receipts.close();
        self.devices.close();
        let mut committers = self.committers.lock().await;
        while committers.join_next().await.is_some() {}
        self.pool.close().await;
    }
}

#[async_trait]
impl Accepting for Postgres {
    async fn accept(&self, request: AcceptRequest) -> Result<Vec<AcceptOutcome>> {
        let weight = request.items.len();
        self.accept.offer(request, weight).await
    }

    async fn replay(&self, user: UserId, key: &str) -> Result<Option<(Vec<u8>, Vec<(u32, MessageId)>)>> {
        self.on_pool(async |c| sql::messages::replay(c, user, key).await).await
    }

    async fn backlog(&self) -> Result<Backlog> {
        self.on_pool(async |c| sql::messages::backlog(c).await).await
    }
}

#[async_trait]
impl Messages for Postgres {
    async fn message(&self, scope: Scope, id: MessageId) -> Result<Option<Message>> {
        self.on_pool(async |c| sql::messages::message(c, scope, id).await).await
    }

    async fn messages(&self, scope: Scope, ids: &[MessageId]) -> Result<Vec<Message>> {
        self.on_pool(async |c| sql::messages::messages(c, scope, ids).await).await
    }

    async fn list_messages(
        &self,
        scope: Scope,
        filter: &MessageFilter,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<Page<Message>> {
        self.on_pool(async |c| sql::messages::page(c, scope, filter, after, limit).await).await
    }

    async fn cancel(&self, scope: Scope, id: MessageId) -> Result<Moved<Message>> {
        self.in_transaction(async |c| sql::messages::cancel(c, scope, id).await).await
    }

    async fn quota(&self, user: UserId) -> Result<Option<Quota>> {
        self.on_pool(async |c| sql::messages::quota(c, user).await).await
    }

    async fn usage_days(&self, user: UserId, from: Day, until: Day) -> Result<Vec<UsageStats>> {
        self.on_pool(async |c| sql::messages::usage_days(c, user, from, until).await).await
    }

    async fn count_requests(&self, shard: i64, requests: &[(UserId, i64)]) -> Result<()> {
        let (users, counts): (Vec<i64>, Vec<i64>) = requests.iter().map(|(user, count)| (user.0, *count)).unzip();
        self.on_pool(async |c| {
            sqlx::query(concat!(
                "INSERT INTO usage_stats AS u (user_id, day, shard, api_requests)
                 SELECT r.user_id, ",
                now_ms!(),
                " / 86400000, $1, sum(r.n) FROM unnest($2::bigint[], $3::bigint[]) AS r (user_id, n)
                 GROUP BY r.user_id ORDER BY r.user_id
                 ON CONFLICT (user_id, day, shard) DO UPDATE SET api_requests = u.api_requests + excluded.api_requests"
            ))
            .bind(shard)
            .bind(users)
            .bind(counts)
            .execute(c)
            .await
            .map(|_| ())
            .map_err(error)
        })
        .await
    }
}

#[async_trait]
impl People for Postgres {
    async fn any_user(&self) -> Result<bool> {
        self.on_pool(async |c| sql::people::any_user(c).await).await
    }

    async fn create_user(&self, user: &NewUser, default_bridge: BridgeKind) -> Result<User> {
        self.in_transaction(async |c| sql::people::create_user(c, user, default_bridge).await).await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>> {
        self.on_pool(async |c| sql::people::user(c, id).await).await
    }

    async fn user_by_name(&self, username: &str) -> Result<Option<User>> {
        self.on_pool(async |c| sql::people::user_by_name(c, username).await).await
    }

    async fn set_password(&self, username: &str, password_hash: &str) -> Result<bool> {
        self.in_transaction(async |c| sql::people::set_password(c, username, password_hash).await).await
    }

    async fn set_active(&self, user: UserId, active: bool) -> Result<bool> {
        self.on_pool(async |c| sql::people::set_active(c, user, active).await).await
    }

    async fn set_limit(&self, user: UserId, max_messages_per_day: Option<i64>) -> Result<bool> {
        self.on_pool(async |c| sql::people::set_limit(c, user, max_messages_per_day).await).await
    }

    async fn create_api_key(
        &self,
        user: UserId,
        name: &str,
        lookup: &str,
        hash: &[u8],
        expires_at: Option<Time>,
    ) -> Result<ApiKeyId> {
        self.on_pool(async |c| sql::people::create_api_key(c, user, name, lookup, hash, expires_at).await).await
    }

    async fn key_owner(&self, lookup: &str) -> Result<Option<KeyOwner>> {
        self.on_pool(async |c| sql::people::key_owner(c, lookup).await).await
    }

    async fn revoke_api_key(&self, id: ApiKeyId) -> Result<bool> {
        self.on_pool(async |c| sql::people::revoke_api_key(c, id).await).await
    }
}

#[async_trait]
impl Sessions for Postgres {
    async fn create_session(&self, user: UserId, name: &str, bridge: BridgeKind) -> Result<Session> {
        self.on_pool(async |c| sql::sessions::create(c, user, name, bridge).await).await
    }

    async fn session(&self, user: UserId, name: &str) -> Result<Option<Session>> {
        self.on_pool(async |c| sql::sessions::session(c, user, name).await).await
    }

    async fn session_name(&self, scope: Scope, id: SessionId) -> Result<Option<(UserId, String)>> {
        self.on_pool(async |c| sql::sessions::name(c, scope, id).await).await
    }

    async fn list_sessions(&self, scope: Scope, after: Option<SessionId>, limit: u32) -> Result<Page<Session>> {
        self.on_pool(async |c| sql::sessions::page(c, scope, after, limit).await).await
    }

    async fn set_pace(&self, user: UserId, name: &str, pace: &Pace) -> Result<Option<Session>> {
        self.on_pool(async |c| sql::sessions::set_pace(c, user, name, pace).await).await
    }

    async fn set_proxy(&self, user: UserId, name: &str, proxy: Option<(Vec<u8>, String)>) -> Result<Option<Session>> {
        self.on_pool(async |c| sql::sessions::set_proxy(c, user, name, proxy).await).await
    }

    async fn command(&self, user: UserId, name: &str, command: SessionCommand) -> Result<Option<Session>> {
        self.in_transaction(async |c| sql::sessions::command(c, user, name, command).await).await
    }

    async fn request_pair_code(&self, user: UserId, name: &str, phone: &str) -> Result<Moved<Session>> {
        self.in_transaction(async |c| sql::sessions::request_pair_code(c, user, name, phone).await).await
    }

    async fn pair_code(&self, session: SessionId) -> Result<Option<(String, Time)>> {
        self.on_pool(async |c| sql::sessions::pair_code(c, session).await).await
    }

    async fn delete_session(&self, user: UserId, name: &str) -> Result<bool> {
        self.on_pool(async |c| sql::sessions::delete(c, user, name).await).await
    }
}

#[async_trait]
impl Working for Postgres {
    async fn register(&self, worker: WorkerId, lease: Duration) -> Result<()> {
        self.on_pool(async |c| sql::ownership::register(c, worker, millis(lease)).await).await
    }

    async fn renew(&self, worker: WorkerId, lease: Duration) -> Result<Renewed> {
        self.on_pool(async |c| {
            let renewed = sql::ownership::renew(&mut *c, worker, millis(lease)).await?;
            settle::write_active(c, worker, &self.active).await?;
            Ok(renewed)
        })
        .await
    }

    async fn take(&self, worker: WorkerId, count: usize) -> Result<Vec<OwnedSession>> {
        self.in_transaction(async |c| sql::ownership::take(c, worker, count).await).await
    }

    async fn give_back(&self, worker: WorkerId, sessions: &[SessionId]) -> Result<()> {
        self.in_transaction(async |c| sql::ownership::give_back(c, worker, sessions).await).await
    }

    async fn bury(&self, worker: WorkerId, blocking: bool) -> Result<Vec<WorkerId>> {
        self.in_transaction(async |c| sql::ownership::bury(c, worker, blocking).await).await
    }

    async fn leave(&self, worker: WorkerId) -> Result<()> {
        self.in_transaction(async |c| sql::ownership::leave(c, worker).await).await
    }

    async fn report(&self, worker: WorkerId, session: SessionId, report: &SessionReport) -> Result<bool> {
        self.in_transaction(async |c| sql::ownership::report(c, worker, session, report).await).await
    }

    async fn report_pacing(&self, worker: WorkerId, session: SessionId, until: Option<Time>) -> Result<()> {
        self.in_transaction(async |c| sql::ownership::report_pacing(c, worker, session, until).await).await
    }

    async fn pull(&self, request: PullRequest) -> Result<Pulled> {
        self.pull.commit(request, 1).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled> {
        self.settle.commit(settlement, 1).await
    }

    async fn receipts(&self, batch: ReceiptBatch) -> Result<Vec<MessageId>> {
        let weight = batch.receipts.len();
        self.receipts.commit(batch, weight).await
    }

    async fn awaiting_receipts(&self, session: SessionId, limit: u32) -> Result<Vec<Awaiting>> {
        self.on_pool(async |c| sql::messages::awaiting_receipts(c, session, limit).await).await
    }
}

#[async_trait]
impl Housekeeping for Postgres {
    async fn lead(&self, worker: WorkerId, term: Duration) -> Result<bool> {
        self.in_transaction(async |c| sql::ownership::lead(c, worker, term).await).await
    }

    async fn promote(&self) -> Result<(Vec<AcceptedJob>, bool)> {
        self.on_pool(async |c| housekeeping::promote(c).await).await
    }

    async fn expire(&self) -> Result<Swept> {
        self.on_pool(async |c| housekeeping::expire(c).await).await
    }

    async fn count_backlog(&self) -> Result<(Backlog, Option<Duration>)> {
        self.on_pool(async |c| housekeeping::count_backlog(c).await).await
    }

    async fn drain_deleted(&self) -> Result<(Swept, Vec<SessionId>)> {
        self.in_transaction(async |c| housekeeping::drain_deleted(c).await).await
    }

    async fn retire(&self, retention: &Retention) -> Result<bool> {
        self.on_pool(async |c| housekeeping::retire(c, retention).await).await
    }
}
