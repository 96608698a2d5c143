//! Settlements: how attempts ended. What they make of a message is decided in one pure function.

use std::collections::{HashMap, HashSet};

use super::dialect;
use super::moves::{self, Move, State, Stored};
use super::script::{Answers, Script};
use super::transaction::Unit;
use super::writer::later;
use crate::ids::{MessageId, WorkerId};
use crate::message::{Hold, MAX_CRASHES, MessageError, Status};
use crate::ports::store::{Outcome, Result, Settled, Settlement, StoreError};
use crate::time::Time;

const STATES: &str =
    concat!("SELECT ", state_columns!(), " FROM messages m WHERE m.id IN (SELECT unhex(value) FROM json_each($1))");

/// Writes settlements. Two of one message don't come together.
impl Unit for &Settlement {
    type Answer = Settled;
    const METRIC: &'static str = "sanasr_settle_batch_size";

    fn read(settlements: &[Self], _: Time) -> Result<Script> {
        let messages = dialect::ids(settlements.iter().map(|s| s.message.0));
        Ok(look_alive(Script::default(), settlements.iter().map(|s| s.worker)).then(STATES).bind(messages))
    }

    fn write(settlements: &[Self], now: Time, mut answers: Answers) -> Result<(Script, Vec<Result<Settled>>)> {
        let alive = alive(&mut answers)?;
        let mut rows: HashMap<MessageId, State> = answers.read()?.into_iter().map(|row: State| (row.id, row)).collect();
        let mut answers = Vec::with_capacity(settlements.len());
        let mut changes = Vec::new();
        for settlement in settlements {
            if !alive.contains(&settlement.worker) {
                answers.push(Err(StoreError::Fenced));
                continue;
            }
            let decided = rows.remove(&settlement.message).and_then(|row| Some((decide(&row, settlement, now)?, row)));
            answers.push(Ok(match decided {
                Some((after, before)) => {
                    let status = after.status.0;
                    changes.push(Move::new(before, after, settlement.shard)?);
                    Settled::Done(status)
                }
                None => Settled::Refused,
            }));
        }
        Ok((moves::write(now, &changes)?, answers))
    }
}

const ALIVE: &str = "SELECT id FROM workers WHERE id IN (SELECT unhex(value) FROM json_each($1))";

/// Asks which workers have a row.
pub(super) fn look_alive(script: Script, workers: impl Iterator<Item = WorkerId>) -> Script {
    let workers: HashSet<WorkerId> = workers.collect();
    script.then(ALIVE).bind(dialect::ids(workers.into_iter().map(|id| id.0)))
}

/// Which workers have a row.
pub(super) fn alive(answers: &mut Answers) -> Result<HashSet<WorkerId>> {
    Ok(answers.read()?.into_iter().map(|(id,): (WorkerId,)| id).collect())
}

/// What a settlement makes of a message; `None` if it is refused.
///
/// It must be the claim's own. Of the claim's attempts the last alone may be settled, but that it was sent is true
/// whichever attempt it was, also after its expiry said that nobody knows.
fn decide(row: &State, settlement: &Settlement, now: Time) -> Option<State> {
    let own = row.claimed_by == Some(settlement.worker) && row.claim == Some(settlement.claim);
    let sent = settlement.outcome == Outcome::Sent;
    let allowed = match row.status.0 {
        Status::Sending => sent || row.attempts == settlement.attempt,
        Status::Failed => sent && row.unknown_attempts > 0,
        // A receipt says that it was sent, and when.
        Status::Sent | Status::Delivered | Status::Read => false,
        Status::Scheduled | Status::Accepted | Status::Expired | Status::Cancelled => false,
    };
    if !own || !allowed {
        return None;
    }
    let mut after = row.clone();
    match &settlement.outcome {
        Outcome::Sent => {
            after.sent_at = Some(now.0);
            after.end(Status::Sent);
            after.error = None;
        }
        Outcome::Retry { error, after: pause, hold } => {
            after.not_sent();
            after.wait(Status::Accepted, Some(later(now, *pause)), *hold as i16);
            after.error = Some(error.to_json());
        }
        Outcome::Failed { error } => {
            after.not_sent();
            if error.code == MessageError::INTERNAL {
                after.crashes = MAX_CRASHES; // a dead letter, whether or not it has crashed
            }
            after.error = Some(error.to_json());
            after.end_unsent(Status::Failed);
        }
        Outcome::Expired => {
            after.not_sent();
            after.end_unsent(Status::Expired);
        }
        Outcome::InDoubt { error, after: pause } => {
            after.wait(Status::Sending, Some(later(now, *pause)), Hold::Retry as i16);
            after.error = Some(error.to_json());
        }
        Outcome::Unknown => after.end_unknown(),
        Outcome::Released => {
            after.not_attempted();
            after.wait(Status::Accepted, None, 0);
        }
        Outcome::Held { after: pause, hold } => {
            after.not_attempted();
            after.wait(Status::Accepted, Some(later(now, *pause)), *hold as i16);
        }
        Outcome::Crashed { called, after: pause } => {
            after.crashes = after.crashes.saturating_add(1);
            if !called {
                after.not_attempted();
            }
            if after.crashes >= MAX_CRASHES {
                let error = MessageError::internal("Sending it failed for a reason of ours, again and again.");
                after.error = Some(error.to_json());
                after.end_unsent(Status::Failed);
            } else {
                let status = if *called { Status::Sending } else { Status::Accepted };
                after.wait(status, Some(later(now, *pause)), Hold::Retry as i16);
            }
        }
    }
    Some(after)
}

impl State {
    /// The attempt definitely wasn't sent: it leaves no doubt behind.
    fn not_sent(&mut self) {
        self.unknown_attempts = self.unknown_attempts.saturating_sub(1).max(0);
    }

    /// The bridge was never called: the attempt wasn't one.
    fn not_attempted(&mut self) {
        self.not_sent();
        self.attempts = self.attempts.saturating_sub(1).max(0);
    }

    fn wait(&mut self, status: Status, due_at: Option<i64>, hold: i16) {
        self.status = Stored(status);
        self.due_at = due_at;
        self.hold = hold;
    }
}
