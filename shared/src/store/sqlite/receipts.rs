//! Receipts: they come in any order, more than once, and before the acknowledgement is written.

use std::collections::{BTreeSet, HashMap};

use super::dialect;
use super::moves::{self, Hex, Move, State, json};
use super::script::{Answers, Script};
use super::settle::{alive, look_alive};
use super::transaction::Unit;
use crate::ids::{MessageId, SessionId, WorkerId};
use crate::message::Status;
use crate::ports::store::{Receipt, ReceiptBatch, Result, StoreError};
use crate::time::Time;

/// All that is known of one message, with the earliest time of each kind.
#[derive(Debug, Clone, Copy, Default)]
struct News {
    sent: Option<i64>,
    delivered: Option<i64>,
    read: Option<i64>,
}

impl News {
    fn add(&mut self, receipt: &Receipt) {
        let time = match receipt.status {
            Status::Sent => &mut self.sent,
            Status::Delivered => &mut self.delivered,
            Status::Read => &mut self.read,
            // No bridge gives any other.
            _ => return,
        };
        *time = earliest(*time, Some(receipt.at.0));
    }

    fn status(self) -> Option<Status> {
        let step = |time: Option<i64>, status| time.map(|_| status);
        step(self.read, Status::Read).or(step(self.delivered, Status::Delivered)).or(step(self.sent, Status::Sent))
    }

    /// What they make of a message; `None` if nothing. A later step implies the earlier ones.
    fn apply(self, row: &State) -> Option<State> {
        let status = self.status()?;
        let disproves = row.status.0 == Status::Failed && row.unknown_attempts > 0;
        let advances = (Status::Accepted..=Status::Delivered).contains(&row.status.0) && row.status.0 < status;
        if !disproves && !advances {
            return None;
        }
        let mut after = row.clone();
        after.end(status);
        after.error = None;
        let delivered = earliest(self.delivered, self.read);
        // WhatsApp's clock isn't ours, and counts in seconds: what came later is never shown as earlier.
        let mut earlier = row.created_at;
        let mut step = |known: Option<i64>, told: Option<i64>| {
            let at = known.or(told.map(|at| at.max(earlier)));
            earlier = at.unwrap_or(earlier);
            at
        };
        after.sent_at = step(row.sent_at, earliest(self.sent, delivered));
        after.delivered_at = step(row.delivered_at, delivered);
        after.read_at = step(row.read_at, self.read);
        Some(after)
    }
}

fn earliest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

const OWNERS: &str =
    "SELECT id, owner FROM sessions WHERE id IN (SELECT unhex(value) FROM json_each($1)) AND owner IS NOT NULL";

#[derive(sqlx::FromRow)]
struct Match {
    whatsapp_id: String,
    #[sqlx(flatten)]
    state: State,
}

pub(super) const MATCH: &str = concat!(
    "SELECT m.whatsapp_id, ",
    state_columns!(),
    " FROM json_each($1) i CROSS JOIN messages m INDEXED BY messages_whatsapp_id
    WHERE m.session_id = unhex(i.value->>0) AND m.whatsapp_id = i.value->>1"
);

/// Writes receipts. Two batches of one session don't come together.
impl Unit for &ReceiptBatch {
    type Answer = Vec<MessageId>;
    const METRIC: &'static str = "sanasr_receipt_batch_size";

    fn read(batches: &[Self], _: Time) -> Result<Script> {
        let told: BTreeSet<(Hex, &str)> = batches
            .iter()
            .flat_map(|b| b.receipts.iter().map(|r| (Hex(b.session.0), r.whatsapp_id.as_str())))
            .collect();
        let told: Vec<_> = told.into_iter().collect();
        Ok(look_alive(Script::default(), batches.iter().map(|b| b.worker))
            .then(OWNERS)
            .bind(dialect::ids(batches.iter().map(|b| b.session.0)))
            .then(MATCH)
            .bind(json(&told)?))
    }

    fn write(batches: &[Self], now: Time, mut answers: Answers) -> Result<(Script, Vec<Result<Vec<MessageId>>>)> {
        let alive = alive(&mut answers)?;
        let owners: HashMap<SessionId, WorkerId> = answers.read()?.into_iter().collect();
        let mut news: HashMap<(SessionId, &str), News> = HashMap::new();
        for batch in batches.iter().filter(|b| alive.contains(&b.worker) && owners.get(&b.session) == Some(&b.worker)) {
            for receipt in &batch.receipts {
                news.entry((batch.session, &receipt.whatsapp_id)).or_default().add(receipt);
            }
        }
        let shards: HashMap<SessionId, i64> = batches.iter().map(|b| (b.session, b.shard)).collect();
        let mut changed: HashMap<SessionId, Vec<MessageId>> = HashMap::new();
        let mut changes = Vec::new();
        for Match { whatsapp_id, state: row } in answers.read()? {
            let session = row.session_id;
            let Some(news) = news.get(&(session, whatsapp_id.as_str())) else { continue };
            if let Some(after) = news.apply(&row) {
                let change = Move::new(row, after, shards.get(&session).copied().unwrap_or(0))?;
                changed.entry(session).or_default().push(change.message());
                changes.push(change);
            }
        }
        let answer = |batch: &&ReceiptBatch| {
            if alive.contains(&batch.worker) {
                Ok(changed.remove(&batch.session).unwrap_or_default())
            } else {
                Err(StoreError::Fenced)
            }
        };
        Ok((moves::write(now, &changes)?, batches.iter().map(answer).collect()))
    }
}
