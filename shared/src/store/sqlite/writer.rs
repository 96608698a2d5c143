//! The one writer. Accepts, pulls, settlements, receipts and every other write share its `BEGIN IMMEDIATE` … `COMMIT`, a
//! savepoint for each part, and a bounded share for each kind, so that none holds the others up. Answers go out only
//! after the commit.
//!
//! It is also the clock: one timestamp per transaction, for all that it writes.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{ConnectOptions, Connection};
use sqlx_sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::log::WriteAheadLog;
use super::sql::failed;
use super::transaction::Transaction;
use crate::group_commit::{Answer, Gather, Pending, survives};
use crate::ports::store::{
    AcceptHook, AcceptOutcome, AcceptRequest, PullRequest, Pulled, ReceiptBatch, Result, Settled, Settlement,
    StoreError,
};
use crate::store::RECEIPTS_EVERY;
use crate::time::{Time, millis};

/// A write that has no kind of its own.
pub(super) type Job =
    Box<dyn for<'c> FnOnce(&'c mut SqliteConnection, Time) -> BoxFuture<'c, Result<Box<dyn Any + Send>>> + Send>;

/// What waits to be written, by kind.
pub(super) struct Work {
    pub(super) accepts: Gather<AcceptRequest, Vec<AcceptOutcome>>,
    pub(super) pulls: Gather<PullRequest, Pulled>,
    pub(super) settlements: Gather<Settlement, Settled>,
    pub(super) receipts: Gather<ReceiptBatch, Vec<crate::ids::MessageId>>,
    pub(super) jobs: Gather<Job, Box<dyn Any + Send>>,
}

/// What is written in one transaction.
pub(super) struct Batch {
    pub(super) accepts: Vec<Pending<AcceptRequest, Vec<AcceptOutcome>>>,
    pub(super) pulls: Vec<Pending<PullRequest, Pulled>>,
    pub(super) settlements: Vec<Pending<Settlement, Settled>>,
    pub(super) receipts: Vec<Pending<ReceiptBatch, Vec<crate::ids::MessageId>>>,
    pub(super) jobs: Vec<Pending<Job, Box<dyn Any + Send>>>,
}

impl Batch {
    fn requests(&self) -> usize {
        self.accepts.len() + self.pulls.len() + self.settlements.len() + self.receipts.len() + self.jobs.len()
    }
}

/// Told to stop, the writer writes what waits and closes.
#[derive(Default)]
pub(super) struct Control {
    pub(super) bell: Arc<Notify>,
    closing: AtomicBool,
}

impl Control {
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}

/// The writer task's state.
pub(super) struct Writer {
    pub(super) options: SqliteConnectOptions,
    /// `None` after a failure: the next transaction opens a new one, so that none inherits a half-dead state.
    pub(super) conn: Option<SqliteConnection>,
    pub(super) work: Work,
    pub(super) control: Arc<Control>,
    pub(super) on_accept: AcceptHook,
    pub(super) last: Time,
    /// When receipts are written again.
    pub(super) receipts_at: Instant,
    pub(super) log: WriteAheadLog,
}

/// How far the system's clock may be set back without our following it: a transaction's time must not fall below the one
/// before, but a clock that was far ahead must not rule for ever.
const SET_BACK_MAX: Duration = Duration::from_secs(60);

impl Writer {
    /// Runs until it is told to close.
    pub(super) async fn run(mut self) {
        loop {
            // Before it gathers: what came before the closing is written.
            let closing = self.control.closing.load(Ordering::Acquire);
            let (batch, paused) = self.gather(closing);
            if batch.requests() > 0 {
                // After a panic nobody knows what the connection is in the middle of.
                if !survives(self.write(batch)).await {
                    self.abandon().await;
                }
            } else if closing {
                break;
            } else {
                let receipts_at = paused.then_some(self.receipts_at);
                let next = receipts_at.into_iter().chain(self.log.next_look()).min();
                tokio::select! {
                    () = self.control.bell.notified() => {}
                    () = until(next) => {}
                }
            }
            if let Some(conn) = self.conn.as_mut() {
                self.log.cut_if_large(conn).await;
            }
        }
        if let Some(conn) = self.conn.take()
            && let Err(error) = conn.close().await
        {
            tracing::warn!(%error, "the database did not close well");
        }
    }

    /// What waits, and whether receipts may wait that it leaves out: then nobody rings for them again.
    fn gather(&mut self, closing: bool) -> (Batch, bool) {
        let now = Instant::now();
        let paused = now < self.receipts_at && !closing;
        let receipts = if paused { Vec::new() } else { self.work.receipts.waiting() };
        if !receipts.is_empty() {
            self.receipts_at = now + RECEIPTS_EVERY;
        }
        let batch = Batch {
            accepts: self.work.accepts.waiting(),
            pulls: self.work.pulls.waiting(),
            settlements: self.work.settlements.waiting(),
            receipts,
            jobs: self.work.jobs.waiting(),
        };
        (batch, paused)
    }

    fn now(&mut self) -> Time {
        let now = Time::now();
        if now >= self.last || self.last.since(now) > SET_BACK_MAX {
            self.last = now;
        }
        self.last
    }

    async fn write(&mut self, batch: Batch) {
        let now = self.now();
        if self.conn.is_none() {
            match self.options.connect().await {
                Ok(conn) => self.conn = Some(conn),
                Err(error) => {
                    tracing::error!(%error, "the database can't be opened");
                    return Replies::default().refuse(batch, &failed(error));
                }
            }
        }
        let Some(conn) = self.conn.as_mut() else { return };
        let mut transaction = Transaction::new(conn, now);
        transaction.write(batch).await;
        let outcome = transaction.finish().await;
        let Transaction { replies, accepted, .. } = transaction;
        match outcome {
            Ok(()) => {
                if !accepted.is_empty() {
                    (self.on_accept)(&accepted);
                }
                replies.send(None);
            }
            Err(error) => {
                tracing::error!(%error, "a transaction failed");
                self.abandon().await;
                replies.send(Some(&error));
            }
        }
    }

    /// Ends a transaction whose state isn't known, with its connection.
    async fn abandon(&mut self) {
        if let Some(mut conn) = self.conn.take() {
            // It fails where SQLite has rolled back by itself.
            let _ = sqlx::query("ROLLBACK").execute(&mut conn).await;
            let _ = conn.close().await;
        }
    }
}

/// Waits until a time, or for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Answers that wait for the commit, and are overruled if it fails.
#[derive(Default)]
pub(super) struct Replies(Vec<Box<dyn FnOnce(Option<&StoreError>) + Send>>);

impl Replies {
    pub(super) fn add<Resp: Send + 'static>(&mut self, answer: Answer<Resp>, result: Result<Resp>) {
        self.0.push(Box::new(move |error| {
            answer.send(match error {
                Some(error) => Err(error.clone()),
                None => result,
            });
        }));
    }

    /// An answer to each of a kind.
    pub(super) fn add_all<Req: Send + 'static, Resp: Send + 'static>(
        &mut self,
        batch: Vec<Pending<Req, Resp>>,
        results: impl IntoIterator<Item = Result<Resp>>,
    ) {
        for (pending, result) in batch.into_iter().zip(results) {
            self.add(pending.into_parts().1, result);
        }
    }

    fn send(self, error: Option<&StoreError>) {
        for reply in self.0 {
            reply(error);
        }
    }

    fn refuse(mut self, batch: Batch, error: &StoreError) {
        self.add_all(batch.accepts, std::iter::repeat_with(|| Err(error.clone())));
        self.add_all(batch.pulls, std::iter::repeat_with(|| Err(error.clone())));
        self.add_all(batch.settlements, std::iter::repeat_with(|| Err(error.clone())));
        self.add_all(batch.receipts, std::iter::repeat_with(|| Err(error.clone())));
        self.add_all(batch.jobs, std::iter::repeat_with(|| Err(error.clone())));
        self.send(None);
    }
}

/// A duration in milliseconds added to a time, for statements.
pub(super) fn later(now: Time, by: Duration) -> i64 {
    now.0.saturating_add(millis(by))
}
