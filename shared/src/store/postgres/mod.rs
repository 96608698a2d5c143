//! The distributed store.
//!
//! Accepts, pulls, settlements and receipts go through committers, each a task with a connection of its own; the rest
//! goes through [`Connections`]. Every connection has the time limits that keep one frozen process from stalling the others.

#[macro_use]
mod dialect;
mod accept;
mod committer;
mod connections;
mod devices;
mod journal;
mod partitions;
#[cfg(feature = "conformance")]
pub mod plans;
mod pull;
mod receipts;
mod settle;
#[path = "../sql/mod.rs"]
mod sql;
mod sweeps;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::{ConnectOptions, Connection};
use sqlx_postgres::{PgConnectOptions, PgConnection};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use uuid::Uuid;

use self::committer::{Committer, serve};
use self::connections::Connections;
pub(crate) use self::connections::Now;
use self::settle::Active;
use crate::group_commit::{Batches, Group, group};
use crate::ids::WorkerId;
use crate::ports::devices::DeviceWrite;
use crate::ports::journal::ApiLog;
use crate::ports::store::{AcceptHook, AcceptRequest, Result, Store, StoreError};
use crate::store::pulse::Pulse;
use crate::store::{Groups, Lane, PULL_PLACES_MAX, RECEIPTS_EVERY};

/// The database that the shared statements are compiled for.
pub(crate) type Db = sqlx_postgres::Postgres;
/// The store that the shared methods are compiled for.
pub(crate) type Backend = Postgres;

use self::sql::failed as error;

/// Requests that may wait for the accepting committers before the next is refused.
const ACCEPT_WAITING_MAX: usize = 4_096;
/// Calls of a worker that may wait for a committer; more wait outside.
const WORK_WAITING_MAX: usize = 4_096;
/// Settlements, receipts or device writes in one statement, at most.
const WORK_BATCH_MAX: usize = 512;
/// Committers of accepts in a process: while one waits for the disk, the other gathers.
const ACCEPT_COMMITTERS: usize = 2;
/// Committers of pulls in a process: a pull of few places doesn't wait for one of many, and many are decoded while the next are
/// claimed.
const PULL_COMMITTERS: usize = 2;

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
    connections: Arc<Connections>,
    deployment: String,
    pulse: Arc<Pulse>,
    /// A committer is no more, though nobody closed it.
    ended: AtomicBool,
    active: Arc<Active>,
    groups: Groups,
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
        let connections = Arc::new(Connections::new(&options, connections));
        let deployment =
            connections.read(Lane::Lookups, |c| Box::pin(deployment(c))).await?.ok_or_else(not_migrated)?;

        let options = options.options(PLANNED_ONCE);
        let active = Arc::new(Active::default());
        let mut committers = JoinSet::new();
        let (accept, gather) = group(ACCEPT_WAITING_MAX, accept::BATCH_MAX);
        let gather = Arc::new(gather);
        for _ in 0..ACCEPT_COMMITTERS {
            let committer = Committer::new(accept::Accept, options.clone());
            committers.spawn(accept::serve(Batches::new(gather.clone()), committer, on_accept.clone()));
        }
        let (pull, gather) = group(WORK_WAITING_MAX, PULL_PLACES_MAX);
        let gather = Arc::new(gather);
        for _ in 0..PULL_COMMITTERS {
            let (pulls, committer) = (Batches::new(gather.clone()), Committer::new(pull::Pull, options.clone()));
            committers.spawn(serve(pulls, committer, pull::together, Duration::ZERO, "sanasr_pull_batch_size"));
        }
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
            connections,
            deployment,
            pulse: Arc::default(),
            ended: AtomicBool::new(false),
            active,
            groups: Groups { accept, pull, settle, receipts },
            devices,
            committers: Mutex::new(committers),
        }))
    }

    /// See [`Connections::read`].
    async fn read<T, F>(&self, lane: Lane, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.connections.read(lane, read).await
    }

    /// See [`Connections::write`].
    async fn write<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection, Now) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.connections.write(write).await
    }

    /// Writes down when the worker's sessions last sent.
    async fn write_last_active(&self, worker: WorkerId) -> Result<()> {
        let sent: Vec<(Uuid, i64)> = self.active.lock().map(|mut active| active.drain().collect()).unwrap_or_default();
        if sent.is_empty() {
            return Ok(());
        }
        change!(self, |c| settle::write_last_active(c, worker, sent))
    }

    async fn write_device_state(&self, write: DeviceWrite) -> Result<bool> {
        let weight = write.changes.len().max(1);
        self.devices.commit(write, weight).await
    }

    async fn write_log(&self, lines: &[ApiLog]) -> Result<()> {
        let text = journal::copied(lines);
        change!(self, |c| journal::copy_logs(c, &text))
    }

    /// Reads the API log: a table like any other.
    async fn read_log<T, F>(&self, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.read(Lane::Reads, read).await
    }
}

async fn deployment(connection: &mut PgConnection) -> Result<Option<String>> {
    sqlx::query_scalar("SELECT id FROM deployment ORDER BY created_at LIMIT 1")
        .fetch_optional(connection)
        .await
        .map_err(|e| match e.as_database_error().and_then(|e| e.code()).as_deref() {
            Some("42P01") => not_migrated(),
            _ => error(e),
        })
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
        lookup!(self, |c| sql::ping(c))
    }

    fn moves(&self) -> Result<()> {
        // Locked while the store is being closed.
        if let Ok(mut committers) = self.committers.try_lock()
            && committers.try_join_next().is_some()
        {
            self.ended.store(true, Ordering::Relaxed);
        }
        if self.ended.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("a committer has ended".to_owned()));
        }
        let (connections, accept) = (self.connections.clone(), self.groups.accept.clone());
        self.pulse.check(async move {
            change!(connections, |c| sql::probe(c))?;
            // Of nothing: it shows that the committer comes round.
            accept.offer(AcceptRequest::nothing(), 0).await.map(drop)
        })
    }

    fn deployment(&self) -> &str {
        &self.deployment
    }

    async fn close(&self) {
        self.groups.close();
        self.devices.close();
        let mut committers = self.committers.lock().await;
        while committers.join_next().await.is_some() {}
        self.connections.close().await;
    }
}
