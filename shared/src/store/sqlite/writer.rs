//! The one writer. Accepts, pulls, settlements, receipts and every other write share its `BEGIN IMMEDIATE` … `COMMIT`, a
//! savepoint for each part, and a bounded share for each kind, so that none holds the others up. Answers go out only
//! after the commit.
//!
//! It is also the clock: one timestamp per transaction, for all that it writes.

use std::any::Any;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Notify;

use super::sql::failed;
use super::{accept, pull, receipts, settle};
use crate::group_commit::{Gather, Pending};
use crate::ports::store::{
    AcceptHook, AcceptOutcome, AcceptRequest, AcceptedJob, PullRequest, Pulled, ReceiptBatch, Result, Settled,
    Settlement, StoreError,
};
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
struct Batch {
    accepts: Vec<Pending<AcceptRequest, Vec<AcceptOutcome>>>,
    pulls: Vec<Pending<PullRequest, Pulled>>,
    settlements: Vec<Pending<Settlement, Settled>>,
    receipts: Vec<Pending<ReceiptBatch, Vec<crate::ids::MessageId>>>,
    jobs: Vec<Pending<Job, Box<dyn Any + Send>>>,
}

impl Batch {
    fn requests(&self) -> usize {
        self.accepts.len() + self.pulls.len() + self.settlements.len() + self.receipts.len() + self.jobs.len()
    }

    /// Whether it is one thing, which then needs no savepoint.
    fn is_single(&self) -> bool {
        self.requests() == 1 && self.accepts.first().is_none_or(|p| p.request.items.len() == 1)
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
}

/// How far the system's clock may be set back without our following it: a transaction's time must not fall below the one
/// before, but a clock that was far ahead must not rule for ever.
const SET_BACK_MAX: Duration = Duration::from_secs(60);

impl Writer {
    /// Runs until it is told to close.
    pub(super) async fn run(mut self) {
        loop {
            let batch = self.gather();
            if batch.requests() > 0 {
                self.write(batch).await;
            } else if self.control.closing.load(Ordering::Acquire) {
                break;
            } else {
                self.control.bell.notified().await;
            }
        }
        if let Some(conn) = self.conn.take()
            && let Err(error) = conn.close().await
        {
            tracing::warn!(%error, "the database did not close well");
        }
    }

    fn gather(&self) -> Batch {
        Batch {
            accepts: self.work.accepts.waiting(),
            pulls: self.work.pulls.waiting(),
            settlements: self.work.settlements.waiting(),
            receipts: self.work.receipts.waiting(),
            jobs: self.work.jobs.waiting(),
        }
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
        if let Err(error) = self.begin().await {
            tracing::error!(%error, "a transaction can't begin");
            self.abandon().await;
            return Replies::default().refuse(batch, &error);
        }
        let Some(conn) = self.conn.as_mut() else { return };
        let single = batch.is_single();
        let mut transaction = Transaction {
            conn,
            now,
            single,
            spoiled: false,
            fatal: None,
            replies: Replies::default(),
            accepted: Vec::new(),
        };
        transaction.write(batch).await;
        let Transaction { spoiled, fatal, replies, accepted, .. } = transaction;
        let outcome = match fatal {
            Some(error) => Err(error),
            None if spoiled => self.execute("ROLLBACK").await.map_err(failed),
            None => self.execute("COMMIT").await.map_err(commit_error),
        };
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

    async fn execute(&mut self, text: &'static str) -> std::result::Result<(), sqlx::Error> {
        match self.conn.as_mut() {
            Some(conn) => sqlx::query(text).execute(conn).await.map(drop),
            None => Err(sqlx::Error::WorkerCrashed),
        }
    }

    async fn begin(&mut self) -> Result<()> {
        if self.conn.is_none() {
            self.conn = Some(self.options.connect().await.map_err(failed)?);
        }
        self.execute("BEGIN IMMEDIATE").await.map_err(failed)
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

/// Whether a transaction whose commit failed may be found written: after an I/O error it may, when the file is read again.
fn commit_error(error: sqlx::Error) -> StoreError {
    const IOERR: u32 = 10;
    let io = error.as_database_error().and_then(|e| e.code()?.parse::<u32>().ok()).is_some_and(|c| c & 0xff == IOERR);
    if io || error.as_database_error().is_none() {
        StoreError::OutcomeUnknown(error.to_string())
    } else {
        StoreError::Unavailable(error.to_string())
    }
}

/// Answers that wait for the commit, and are overruled if it fails.
#[derive(Default)]
struct Replies(Vec<Box<dyn FnOnce(Option<&StoreError>) + Send>>);

impl Replies {
    fn add<Req: Send + 'static, Resp: Send + 'static>(&mut self, pending: Pending<Req, Resp>, result: Result<Resp>) {
        let (_, answer) = pending.into_parts();
        self.0.push(Box::new(move |error| {
            answer.send(match error {
                Some(error) => Err(error.clone()),
                None => result,
            });
        }));
    }

    fn send(self, error: Option<&StoreError>) {
        for reply in self.0 {
            reply(error);
        }
    }

    fn refuse(mut self, batch: Batch, error: &StoreError) {
        batch.accepts.into_iter().for_each(|p| self.add(p, Err(error.clone())));
        batch.pulls.into_iter().for_each(|p| self.add(p, Err(error.clone())));
        batch.settlements.into_iter().for_each(|p| self.add(p, Err(error.clone())));
        batch.receipts.into_iter().for_each(|p| self.add(p, Err(error.clone())));
        batch.jobs.into_iter().for_each(|p| self.add(p, Err(error.clone())));
        self.send(None);
    }
}

/// A transaction under way.
pub(super) struct Transaction<'w> {
    conn: &'w mut SqliteConnection,
    now: Time,
    /// It holds one thing: no savepoint, a failure rolls all of it back.
    single: bool,
    /// The one thing failed.
    spoiled: bool,
    /// The database failed: nothing of this can be committed.
    fatal: Option<StoreError>,
    replies: Replies,
    accepted: Vec<AcceptedJob>,
}

/// Writes units of work together: a result for each, or an error for which none of it may stay.
pub(super) type Write<U, R> =
    for<'a> fn(&'a mut SqliteConnection, Time, &'a [U]) -> BoxFuture<'a, Result<Vec<Result<R>>>>;

impl Transaction<'_> {
    /// What frees places first, then what fills them.
    async fn write(&mut self, batch: Batch) {
        let settlements: Vec<&Settlement> = batch.settlements.iter().map(|p| &p.request).collect();
        let order = ordinals(settlements.iter().map(|s| Some(s.message)));
        let results = self.in_rounds("sanasr_settle_batch_size", &settlements, &order, settle::write).await;
        self.answer(batch.settlements, results);

        let receipts: Vec<&ReceiptBatch> = batch.receipts.iter().map(|p| &p.request).collect();
        let order = ordinals(receipts.iter().map(|r| Some(r.session)));
        let results = self.in_rounds("sanasr_receipt_batch_size", &receipts, &order, receipts::write).await;
        self.answer(batch.receipts, results);

        self.accept(batch.accepts).await;

        for pending in batch.jobs {
            self.job(pending).await;
        }

        let pulls: Vec<&PullRequest> = batch.pulls.iter().map(|p| &p.request).collect();
        let order = ordinals(pulls.iter().map(|p| Some(p.session)));
        let results = self.in_rounds("sanasr_pull_batch_size", &pulls, &order, pull::write).await;
        self.answer(batch.pulls, results);
    }

    /// Requests with the same idempotency key go one after the other; an item that can't be stored stands alone.
    async fn accept(&mut self, batch: Vec<Pending<AcceptRequest, Vec<AcceptOutcome>>>) {
        let of_requests =
            ordinals(batch.iter().map(|p| p.request.key.as_ref().map(|key| (p.request.user, key.key.as_str()))));
        let mut items = Vec::new();
        let mut order = Vec::new();
        for (pending, round) in batch.iter().zip(of_requests) {
            for (position, message) in &pending.request.items {
                items.push(accept::Item { request: &pending.request, position: *position, message });
                order.push(round);
            }
        }
        let mut results = self.in_rounds("sanasr_accept_batch_size", &items, &order, accept::write).await.into_iter();
        let mut answers = Vec::with_capacity(batch.len());
        for pending in &batch {
            let mut outcomes = Ok(Vec::with_capacity(pending.request.items.len()));
            for result in results.by_ref().take(pending.request.items.len()) {
                let outcome = match result {
                    Ok(stored) => {
                        self.accepted.extend(stored.job);
                        stored.outcome
                    }
                    Err(StoreError::Invalid(why)) => AcceptOutcome::Invalid(why),
                    Err(error) => {
                        outcomes = Err(error);
                        continue;
                    }
                };
                if let Ok(outcomes) = &mut outcomes {
                    outcomes.push(outcome);
                }
            }
            answers.push(outcomes);
        }
        self.answer(batch, answers);
    }

    async fn job(&mut self, pending: Pending<Job, Box<dyn Any + Send>>) {
        let (job, answer) = pending.into_parts();
        let result = match self.begin_part().await {
            Ok(()) => {
                let result = job(self.conn, self.now).await;
                self.end_part(result).await
            }
            Err(error) => Err(error),
        };
        self.replies.0.push(Box::new(move |error| {
            answer.send(match error {
                Some(error) => Err(error.clone()),
                None => result,
            });
        }));
    }

    fn answer<Req: Send + 'static, Resp: Send + 'static>(
        &mut self,
        batch: Vec<Pending<Req, Resp>>,
        results: Vec<Result<Resp>>,
    ) {
        for (pending, result) in batch.into_iter().zip(results) {
            self.replies.add(pending, result);
        }
    }

    /// Writes units by their rounds; within one, all together, and if that fails, in halves until what can't be written
    /// stands alone.
    async fn in_rounds<U: Copy + Send + Sync, R: Send>(
        &mut self,
        metric: &'static str,
        units: &[U],
        order: &[usize],
        write: Write<U, R>,
    ) -> Vec<Result<R>> {
        if units.is_empty() {
            return Vec::new();
        }
        metrics::histogram!(metric).record(u32::try_from(units.len()).unwrap_or(u32::MAX));
        let mut results: Vec<Option<Result<R>>> = units.iter().map(|_| None).collect();
        for round in 0..=order.iter().copied().max().unwrap_or(0) {
            let places: Vec<usize> = (0..units.len()).filter(|&n| order[n] == round).collect();
            let chosen: Vec<U> = places.iter().map(|&n| units[n]).collect();
            let mut parts: Vec<std::ops::Range<usize>> = std::iter::once(0..chosen.len()).collect();
            while let Some(part) = parts.pop() {
                match self.part(&chosen[part.clone()], write).await {
                    Ok(written) => {
                        for (&place, result) in places[part].iter().zip(written) {
                            results[place] = Some(result);
                        }
                    }
                    Err(error) if part.len() == 1 || self.fatal.is_some() => {
                        for &place in &places[part] {
                            results[place] = Some(Err(error.clone()));
                        }
                    }
                    Err(_) => {
                        let middle = part.start + part.len() / 2;
                        parts.push(middle..part.end);
                        parts.push(part.start..middle);
                    }
                }
            }
        }
        let missing = || Err(StoreError::Internal("a write without a result".to_owned()));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    async fn part<U: Sync, R: Send>(&mut self, units: &[U], write: Write<U, R>) -> Result<Vec<Result<R>>> {
        self.begin_part().await?;
        let result = write(self.conn, self.now, units).await;
        self.end_part(result).await
    }

    async fn begin_part(&mut self) -> Result<()> {
        if let Some(error) = &self.fatal {
            return Err(error.clone());
        }
        if self.single { Ok(()) } else { self.execute("SAVEPOINT part").await }
    }

    /// Keeps a part that was written and undoes one that failed, unless the failure is the database's.
    async fn end_part<T: Send>(&mut self, result: Result<T>) -> Result<T> {
        match &result {
            Err(error) if error.is_transient() => self.fatal = Some(error.clone()),
            Err(_) if self.single => self.spoiled = true,
            Err(_) => {
                self.execute("ROLLBACK TO part").await?;
                self.execute("RELEASE part").await?;
            }
            Ok(_) if self.single => {}
            Ok(_) => self.execute("RELEASE part").await?,
        }
        result
    }

    async fn execute(&mut self, text: &'static str) -> Result<()> {
        match sqlx::query(text).execute(&mut *self.conn).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = StoreError::Unavailable(error.to_string());
                self.fatal = Some(error.clone());
                Err(error)
            }
        }
    }
}

/// For each key, how many equal ones come before it; 0 where there is none.
fn ordinals<K: Eq + Hash>(keys: impl Iterator<Item = Option<K>>) -> Vec<usize> {
    let mut seen: HashMap<K, usize> = HashMap::new();
    keys.map(|key| {
        key.map_or(0, |key| {
            let count = seen.entry(key).or_default();
            *count += 1;
            *count - 1
        })
    })
    .collect()
}

/// A duration in milliseconds added to a time, for statements.
pub(super) fn later(now: Time, by: Duration) -> i64 {
    now.0.saturating_add(millis(by))
}
