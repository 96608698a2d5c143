//! The connections that calls share, and the one place where a call begins and ends.
//!
//! What must hold: a connection goes back to its pool only when it is known to be in order, outside any transaction. Whatever
//! else becomes of it (an error, a time limit, a panic, an end of the runtime), it is closed, and the server rolls back.

use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx_postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, Postgres as Db};

use super::sql::failed;
use crate::ports::store::{Result, StoreError};
use crate::store::{Lane, to_its_end};

/// How long a call waits for a connection.
const ACQUIRE_MAX: Duration = Duration::from_secs(3);
/// The longest that a call may take once it has its connection. Past it the connection is closed.
const CALL_MAX: Duration = Duration::from_secs(10);
/// The longest that a commit may take.
const COMMIT_MAX: Duration = Duration::from_secs(5);
/// The longest that closing may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The time of a transaction: the server's clock, which its statements ask.
pub(crate) type Now = ServerClock;

/// See [`Now`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerClock;

/// A pool for each lane of reads, and one for writes.
pub(super) struct Connections {
    lookups: PgPool,
    reads: PgPool,
    writes: PgPool,
}

impl Connections {
    /// `reads` connections for reading, half as many for lookups and for writes; each is made when it is first needed.
    pub(super) fn new(options: &PgConnectOptions, reads: u32) -> Self {
        let pool = |connections: u32| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_MAX)
                .test_before_acquire(false)
                .connect_lazy_with(options.clone())
        };
        let half = reads.div_ceil(2);
        Self { lookups: pool(half), reads: pool(reads), writes: pool(half) }
    }

    /// Reads, on a connection of a lane. The caller may leave: before the call has a connection nothing has begun, and
    /// afterwards it comes to its end.
    pub(super) async fn read<T, F>(&self, lane: Lane, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let pool = match lane {
            Lane::Lookups => &self.lookups,
            Lane::Reads => &self.reads,
        };
        let mut connection = Leased::from(pool).await?;
        let reading = async move {
            let value = within(CALL_MAX, read(connection.get()?)).await?;
            connection.give_back();
            Ok(value)
        };
        to_its_end(reading).await
    }

    /// Writes, in a transaction: it is committed if `write` answers `Ok` and rolled back otherwise. The caller may leave, as
    /// with [`Self::read`].
    ///
    /// # Errors
    /// What `write` answers; [`StoreError::OutcomeUnknown`] if the connection was lost in mid-commit. After any other error
    /// nothing was written.
    pub(super) async fn write<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection, Now) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let mut connection = Leased::from(&self.writes).await?;
        let writing = async move {
            let inside = async {
                execute(connection.get()?, "BEGIN").await?;
                write(connection.get()?, ServerClock).await
            };
            match within(CALL_MAX, inside).await {
                Ok(value) => {
                    let committed = within(COMMIT_MAX, execute(connection.get()?, "COMMIT")).await;
                    committed.map_err(|error| StoreError::OutcomeUnknown(error.to_string()))?;
                    connection.give_back();
                    Ok(value)
                }
                Err(error) => {
                    if within(COMMIT_MAX, execute(connection.get()?, "ROLLBACK")).await.is_ok() {
                        connection.give_back();
                    }
                    Err(error)
                }
            }
        };
        to_its_end(writing).await
    }

    /// Waits for the calls under way, and closes.
    pub(super) async fn close(&self) {
        let closing = futures_util::future::join3(self.lookups.close(), self.reads.close(), self.writes.close());
        let _ = tokio::time::timeout(CLOSE_MAX, closing).await;
    }
}

async fn execute(connection: &mut PgConnection, text: &'static str) -> Result<()> {
    sqlx::query(text).execute(connection).await.map(drop).map_err(failed)
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| StoreError::Unavailable("the database took too long".to_owned());
    tokio::time::timeout(limit, call).await.map_err(late)?
}

/// A pool's connection, which is closed when it is dropped.
struct Leased(Option<PoolConnection<Db>>);

impl Leased {
    async fn from(pool: &PgPool) -> Result<Self> {
        Ok(Self(Some(pool.acquire().await.map_err(failed)?)))
    }

    fn get(&mut self) -> Result<&mut PgConnection> {
        self.0.as_deref_mut().ok_or_else(|| StoreError::Internal("a connection that was given back".to_owned()))
    }

    /// It is in order: others may use it.
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}
