//! Runs batches, each as one statement in autocommit: one round trip, no transaction to leave open.
//!
//! A batch that met a deadlock, a lock's time limit, a concurrent twin or a lost connection is run again as it is: ids are
//! fixed before the first run, so what was written is found again. One that ran into the statement's time limit is run in
//! halves: as it was, it would take as long again. A data error splits it until the bad item stands alone.

use std::future::Future;
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, Connection};
use sqlx_postgres::{PgConnectOptions, PgConnection};

use crate::group_commit::{Batches, Pending, survives};
use crate::lifecycle::Backoff;
use crate::ports::store::StoreError;

/// How long a batch is tried again before its callers hear of it. Callers that can wait longer ask again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest a statement may take, beyond the server's own limit, before its connection is given up.
const STATEMENT_MAX: Duration = Duration::from_secs(8);
/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// A statement that handles many items at once.
pub(super) trait Statement: Send + Sync + 'static {
    type Item: Send + Sync;
    type Answer: Send;

    /// Runs it once; one answer per item, in their order.
    fn run(
        &self,
        connection: &mut PgConnection,
        items: &[&Self::Item],
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer, StoreError>>, sqlx::Error>> + Send;

    /// What a lone item is answered that the database can't store.
    fn invalid(&self, reason: String) -> Result<Self::Answer, StoreError> {
        Err(StoreError::Invalid(reason))
    }
}

/// What to do after an error.
enum Cure {
    /// The connection is gone: reconnect and run it again; it may have been written.
    Reconnect,
    /// Nothing was written: run it again.
    Again,
    /// Nothing was written, and it was too much at once: run it in halves.
    Halve,
    /// An item is bad.
    Split,
    /// A defect.
    GiveUp,
}

fn cure(error: &sqlx::Error) -> Cure {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Cure::GiveUp,
            _ => Cure::Reconnect,
        };
    };
    match database.code().as_deref().unwrap_or_default() {
        // deadlock, serialization, a lock's time limit
        "40P01" | "40001" | "55P03" => Cure::Again,
        // the statement's time limit
        "57014" => Cure::Halve,
        // a concurrent twin, by key or by id: it is found in the next run
        "23505" if matches!(database.constraint(), Some("messages_pkey" | "idempotency_keys_pkey")) => Cure::Again,
        code if is_connection_code(code) => Cure::Reconnect,
        code if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => Cure::Split,
        _ => Cure::GiveUp,
    }
}

/// Codes after which the connection is of no use: connection exceptions, shutdowns, idle in transaction, too many
/// connections, a read-only server (a standby that was promoted elsewhere).
pub(super) fn is_connection_code(code: &str) -> bool {
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "53300" | "25006")
}

/// A committer's own connection, made when needed.
pub(super) struct Committer<S> {
    statement: S,
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl<S: Statement> Committer<S> {
    pub(super) fn new(statement: S, options: PgConnectOptions) -> Self {
        Self { statement, options, connection: None }
    }

    /// Runs a batch to its end: an answer for each item.
    pub(super) async fn run(&mut self, items: &[&S::Item]) -> Vec<Result<S::Answer, StoreError>> {
        let mut answers = Vec::with_capacity(items.len());
        // Halves of a split batch, the first half on top: the items' order is kept.
        let mut parts = vec![items];
        while let Some(part) = parts.pop() {
            match self.run_part(part).await {
                Ok(done) => answers.extend(done),
                Err(Refused::Data(reason)) if part.len() == 1 => answers.push(self.statement.invalid(reason)),
                Err(Refused::Data(_) | Refused::TooMuch) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push(second);
                    parts.push(first);
                }
                Err(Refused::All(error)) => answers.extend(part.iter().map(|_| Err(error.clone()))),
            }
        }
        answers
    }

    async fn run_part(&mut self, items: &[&S::Item]) -> Result<Vec<Result<S::Answer, StoreError>>, Refused> {
        let until = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(500));
        let mut maybe_written = false;
        loop {
            let error = match connected(&self.options, &mut self.connection).await {
                Err(error) => error,
                Ok(connection) => {
                    let error = match tokio::time::timeout(STATEMENT_MAX, self.statement.run(connection, items)).await {
                        Ok(Ok(answers)) => return Ok(answers),
                        Ok(Err(error)) => error,
                        Err(_) => sqlx::Error::Protocol("the statement took too long".to_owned()),
                    };
                    match cure(&error) {
                        Cure::Reconnect => {
                            self.connection = None;
                            maybe_written = true;
                        }
                        Cure::Halve if items.len() > 1 => return Err(Refused::TooMuch),
                        Cure::Again | Cure::Halve => {}
                        Cure::Split => return Err(Refused::Data(error.to_string())),
                        Cure::GiveUp => {
                            tracing::error!(%error, "the database refused a batch");
                            return Err(Refused::All(StoreError::Internal(error.to_string())));
                        }
                    }
                    error
                }
            };
            tracing::debug!(%error, items = items.len(), "a batch is run again");
            if Instant::now() >= until {
                let text = error.to_string();
                return Err(Refused::All(if maybe_written {
                    StoreError::OutcomeUnknown(text)
                } else {
                    StoreError::Unavailable(text)
                }));
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Gives the connection up: the next batch makes a new one.
    pub(super) fn reconnect(&mut self) {
        self.connection = None;
    }

    /// Says goodbye to the server.
    pub(super) async fn close(self) {
        if let Some(connection) = self.connection {
            let _ = tokio::time::timeout(Duration::from_millis(500), connection.close()).await;
        }
    }
}

/// Runs what is gathered until all callers are gone; `together` makes the rule by which requests share a statement, `every` is
/// the shortest time from one to the next, and `batch_size` names the histogram.
pub(super) async fn serve<S: Statement, T: FnMut(&S::Item) -> bool>(
    mut batches: Batches<S::Item, S::Answer>,
    mut committer: Committer<S>,
    together: fn() -> T,
    every: Duration,
    batch_size: &'static str,
) {
    let mut next = tokio::time::Instant::now();
    loop {
        if !every.is_zero() {
            tokio::time::sleep_until(next).await;
        }
        let Some(batch) = batches.next(together()).await else { break };
        next = tokio::time::Instant::now() + every;
        metrics::histogram!(batch_size).record(u32::try_from(batch.len()).unwrap_or(u32::MAX));
        let (items, callers): (Vec<S::Item>, Vec<_>) = batch.into_iter().map(Pending::into_parts).unzip();
        let batch = async {
            let answers = committer.run(&items.iter().collect::<Vec<_>>()).await;
            for (caller, answer) in callers.into_iter().zip(answers) {
                caller.send(answer);
            }
        };
        if !survives(batch).await {
            committer.reconnect();
        }
    }
    committer.close().await;
}

/// The connection, made if there is none.
async fn connected<'a>(
    options: &PgConnectOptions,
    connection: &'a mut Option<PgConnection>,
) -> Result<&'a mut PgConnection, sqlx::Error> {
    let ready = match connection.take() {
        Some(connection) => connection,
        None => tokio::time::timeout(CONNECT_MAX, options.connect()).await.map_err(|_| sqlx::Error::PoolTimedOut)??,
    };
    Ok(connection.insert(ready))
}

enum Refused {
    /// An item can't be stored: what the database said.
    Data(String),
    /// The items together took too long.
    TooMuch,
    /// For every item alike.
    All(StoreError),
}
