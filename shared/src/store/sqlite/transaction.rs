//! One transaction of the writer: parts of one kind each, one after the other.
//!
//! A lone request waits for each call, so a part has two: one that reads and one that writes. What begins and ends the
//! parts and the transaction goes with them.

use std::any::Any;
use std::collections::HashMap;
use std::hash::Hash;

use sqlx_sqlite::SqliteConnection;

use super::accept;
use super::script::{Answers, Script, Stopped};
use super::writer::{Batch, Job, Replies};
use crate::group_commit::Pending;
use crate::ports::store::{
    AcceptOutcome, AcceptRequest, AcceptedJob, PullRequest, ReceiptBatch, Result, Settlement, StoreError,
};
use crate::time::Time;

/// A request, or an item of one, as it is written together with others of its kind.
pub(super) trait Unit: Copy + Send + Sync {
    /// What is answered.
    type Answer: Send;

    /// The metric of how many come in one transaction.
    const METRIC: &'static str;

    /// The most that one part takes.
    const PART_MAX: usize = usize::MAX;

    /// What must be read for these.
    ///
    /// # Errors
    /// None of them can be written.
    fn read(units: &[Self], now: Time) -> Result<Script>;

    /// What is to be written for these, given what was read, and the answer to each.
    ///
    /// # Errors
    /// None of them may be written.
    fn write(units: &[Self], now: Time, read: Answers) -> Result<(Script, Vec<Result<Self::Answer>>)>;
}

/// Units of one kind, and which of them go together.
struct Plan<U> {
    units: Vec<U>,
    /// Places of units, part by part.
    parts: Vec<Vec<usize>>,
}

impl<U: Unit> Plan<U> {
    /// Units by their rounds.
    fn new(units: Vec<U>, rounds: &[usize]) -> Self {
        let mut places: Vec<Vec<usize>> = Vec::new();
        for (place, &round) in rounds.iter().enumerate() {
            places.resize_with(places.len().max(round + 1), Vec::new);
            places[round].push(place);
        }
        let parts = places.iter().flat_map(|round| round.chunks(U::PART_MAX).map(<[usize]>::to_vec)).collect();
        Self { units, parts }
    }
}

/// How far a transaction is, which is also how a part that fails is undone.
enum Stage {
    /// It hasn't begun, or has ended.
    Closed,
    /// The first part is all that it holds.
    First,
    /// A savepoint is between the part at hand and what came before.
    Further,
}

/// A transaction under way.
pub(super) struct Transaction<'w> {
    conn: &'w mut SqliteConnection,
    now: Time,
    stage: Stage,
    /// What goes in front of the next call.
    lead: Vec<&'static str>,
    /// Parts that are still to come, as far as is known.
    left: usize,
    /// The database failed: nothing of this can be committed.
    fatal: Option<StoreError>,
    pub(super) replies: Replies,
    pub(super) accepted: Vec<AcceptedJob>,
}

impl<'w> Transaction<'w> {
    /// A transaction that is yet to begin.
    pub(super) fn new(conn: &'w mut SqliteConnection, now: Time) -> Self {
        Self {
            conn,
            now,
            stage: Stage::Closed,
            lead: Vec::new(),
            left: 0,
            fatal: None,
            replies: Replies::default(),
            accepted: Vec::new(),
        }
    }

    /// Writes in parts: what frees places first, then what fills them.
    pub(super) async fn write(&mut self, batch: Batch) {
        let settlements = plan(&batch.settlements, |settlement: &Settlement| settlement.message);
        let receipts = plan(&batch.receipts, |receipts: &ReceiptBatch| receipts.session);
        let accepts = plan_accepts(&batch.accepts);
        let pulls = plan(&batch.pulls, |pull: &PullRequest| pull.session);
        self.left =
            settlements.parts.len() + receipts.parts.len() + accepts.parts.len() + batch.jobs.len() + pulls.parts.len();

        let results = self.write_all(settlements).await;
        self.replies.add_all(batch.settlements, results);
        let results = self.write_all(receipts).await;
        self.replies.add_all(batch.receipts, results);
        let results = self.write_all(accepts).await;
        self.answer_accepts(batch.accepts, results);
        for pending in batch.jobs {
            self.job(pending).await;
        }
        let results = self.write_all(pulls).await;
        self.replies.add_all(batch.pulls, results);
    }

    /// Ends the transaction, unless the last part did.
    ///
    /// # Errors
    /// Nothing of it was kept, or may have been: [`StoreError::OutcomeUnknown`].
    pub(super) async fn finish(&mut self) -> Result<()> {
        if let Some(error) = &self.fatal {
            return Err(error.clone());
        }
        let open = !matches!(self.stage, Stage::Closed);
        if open || !self.lead.is_empty() {
            self.call(Script::default(), open).await?;
        }
        Ok(())
    }

    fn answer_accepts(
        &mut self,
        batch: Vec<Pending<AcceptRequest, Vec<AcceptOutcome>>>,
        results: Vec<Result<accept::Stored>>,
    ) {
        let mut results = results.into_iter();
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
        self.replies.add_all(batch, answers);
    }

    async fn job(&mut self, pending: Pending<Job, Box<dyn Any + Send>>) {
        let (job, answer) = pending.into_parts();
        let result = match self.begin_part() {
            Ok(()) => {
                let result = match self.call(Script::default(), false).await {
                    Ok(_) => job(self.conn, self.now).await,
                    Err(error) => Err(error),
                };
                self.end_part(result)
            }
            Err(error) => Err(error),
        };
        self.replies.add(answer, result);
    }

    /// Writes units part by part, and a part that fails in halves until what can't be written stands alone.
    async fn write_all<U: Unit>(&mut self, Plan { units, mut parts }: Plan<U>) -> Vec<Result<U::Answer>> {
        if units.is_empty() {
            return Vec::new();
        }
        metrics::histogram!(U::METRIC).record(u32::try_from(units.len()).unwrap_or(u32::MAX));
        let mut results: Vec<Option<Result<U::Answer>>> = units.iter().map(|_| None).collect();
        parts.reverse();
        while let Some(mut part) = parts.pop() {
            let chosen: Vec<U> = part.iter().map(|&place| units[place]).collect();
            match self.part(&chosen).await {
                Ok(written) => {
                    for (&place, result) in part.iter().zip(written) {
                        results[place] = Some(result);
                    }
                }
                Err(error) if part.len() == 1 || self.fatal.is_some() => {
                    for &place in &part {
                        results[place] = Some(Err(error.clone()));
                    }
                }
                Err(_) => {
                    parts.push(part.split_off(part.len() / 2));
                    parts.push(part);
                    self.left += 2;
                }
            }
        }
        let missing = || Err(StoreError::Internal("a write without a result".to_owned()));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    async fn part<U: Unit>(&mut self, units: &[U]) -> Result<Vec<Result<U::Answer>>> {
        self.begin_part()?;
        let result = self.read_and_write(units).await;
        self.end_part(result)
    }

    async fn read_and_write<U: Unit>(&mut self, units: &[U]) -> Result<Vec<Result<U::Answer>>> {
        let read = self.call(U::read(units, self.now)?, false).await?;
        let (writes, answers) = U::write(units, self.now, read)?;
        let last = self.left == 0;
        if last || !writes.is_empty() {
            self.call(writes, last).await?;
        }
        Ok(answers)
    }

    fn begin_part(&mut self) -> Result<()> {
        self.left = self.left.saturating_sub(1);
        if let Some(error) = &self.fatal {
            return Err(error.clone());
        }
        self.stage = match self.stage {
            Stage::Closed => {
                self.lead.push("BEGIN IMMEDIATE");
                Stage::First
            }
            Stage::First => {
                self.lead.push("SAVEPOINT part");
                Stage::Further
            }
            Stage::Further => {
                self.lead.extend(["RELEASE part", "SAVEPOINT part"]);
                Stage::Further
            }
        };
        Ok(())
    }

    /// Keeps a part that was written and undoes one that failed, unless the failure is the database's.
    fn end_part<T>(&mut self, result: Result<T>) -> Result<T> {
        match (&result, &self.stage) {
            (Ok(_), _) => {}
            (Err(error), _) if error.is_transient() => self.fatal = Some(error.clone()),
            (Err(_), Stage::Further) => self.lead.push("ROLLBACK TO part"),
            (Err(_), Stage::Closed | Stage::First) => {
                self.lead.push("ROLLBACK");
                self.stage = Stage::Closed;
            }
        }
        result
    }

    /// Runs a script, and the commit with it if that is the last thing to do: it isn't run if anything before it fails.
    async fn call(&mut self, script: Script, commit: bool) -> Result<Answers> {
        let lead = std::mem::take(&mut self.lead);
        let outcome = script.run_between(self.conn, &lead, commit.then_some("COMMIT")).await;
        if commit && outcome.is_ok() {
            self.stage = Stage::Closed;
        }
        outcome.map_err(|stopped| match stopped {
            Stopped::Before(error) => StoreError::Unavailable(error.to_string()),
            Stopped::Within(error) => error,
            Stopped::After(error) => commit_error(error),
        })
    }
}

/// Requests with the same key go one after the other.
fn plan<Req, Resp, K: Eq + Hash>(batch: &[Pending<Req, Resp>], key: impl Fn(&Req) -> K) -> Plan<&Req>
where
    for<'r> &'r Req: Unit,
{
    let rounds = ordinals(batch.iter().map(|pending| Some(key(&pending.request))));
    Plan::new(batch.iter().map(|pending| &pending.request).collect(), &rounds)
}

/// Requests with the same idempotency key go one after the other; an item that can't be stored stands alone.
fn plan_accepts(batch: &[Pending<AcceptRequest, Vec<AcceptOutcome>>]) -> Plan<accept::Item<'_>> {
    let of_requests =
        ordinals(batch.iter().map(|p| p.request.key.as_ref().map(|key| (p.request.user, key.key.as_str()))));
    let mut items = Vec::new();
    let mut rounds = Vec::new();
    for (pending, round) in batch.iter().zip(of_requests) {
        for (position, message) in &pending.request.items {
            items.push(accept::Item { request: &pending.request, position: *position, message });
            rounds.push(round);
        }
    }
    Plan::new(items, &rounds)
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
