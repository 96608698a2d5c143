//! Moves of messages: the one statement that changes a message that exists, and all that follows from a change: the
//! event, the unit given back, the counters.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use uuid::Uuid;

use super::dialect;
use super::script::Script;
use crate::ids::{MessageId, SessionId, UserId, WorkerId};
use crate::message::{MessageError, MessageType, Status};
use crate::ports::store::{Result, StoreError};
use crate::time::{Day, Time};

/// What of a message's row decides and changes. `error` is text: it goes through unread.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub(super) struct State {
    pub(super) seq: i64,
    pub(super) id: MessageId,
    pub(super) user_id: UserId,
    pub(super) session_id: SessionId,
    pub(super) quota_day: Day,
    pub(super) created_at: i64,
    pub(super) kind: i16,
    pub(super) claimed_by: Option<WorkerId>,
    pub(super) claim: Option<i64>,
    #[sqlx(try_from = "i16")]
    pub(super) status: Stored,
    pub(super) due_at: Option<i64>,
    pub(super) hold: i16,
    pub(super) error: Option<String>,
    pub(super) attempts: i32,
    pub(super) unknown_attempts: i32,
    pub(super) crashes: i32,
    pub(super) sent_at: Option<i64>,
    pub(super) delivered_at: Option<i64>,
    pub(super) read_at: Option<i64>,
    pub(super) refunded: bool,
}

/// A status as the row has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored(pub(super) Status);

impl TryFrom<i16> for Stored {
    type Error = String;

    fn try_from(code: i16) -> std::result::Result<Self, String> {
        Status::from_code(code).map(Self).ok_or_else(|| format!("messages.status is {code}"))
    }
}

/// The columns of [`State`], of `messages m`.
macro_rules! state_columns {
    () => {
        "m.seq, m.id, m.user_id, m.session_id, m.quota_day, m.created_at, m.type AS kind, m.claimed_by, m.claim,
        m.status, m.due_at, m.hold, m.error, m.attempts, m.unknown_attempts, m.crashes, m.sent_at, m.delivered_at, m.read_at, m.refunded"
    };
}

impl State {
    /// Nothing is waited for any more.
    pub(super) fn end(&mut self, status: Status) {
        self.status = Stored(status);
        self.due_at = None;
        self.hold = 0;
    }

    /// Ends it where the attempt at hand, if there was one, didn't send it: with its unit back, unless an earlier one may
    /// have.
    pub(super) fn end_unsent(&mut self, status: Status) {
        if self.unknown_attempts > 0 {
            self.end_unknown();
        } else {
            self.end(status);
            self.refunded = true;
        }
    }

    /// Ends it as one that may have been sent.
    pub(super) fn end_unknown(&mut self) {
        self.end(Status::Failed);
        self.error = Some(MessageError::unknown_outcome().to_json());
    }

    fn is_media(&self) -> bool {
        MessageType::from_code(self.kind).is_some_and(MessageType::is_media)
    }
}

/// A change of a message's row.
pub(super) struct Move {
    before: State,
    after: State,
    shard: i64,
}

impl Move {
    /// A change, counted in this shard.
    ///
    /// # Errors
    /// A defect: the table of moves doesn't allow it.
    pub(super) fn new(before: State, after: State, shard: i64) -> Result<Self> {
        let (from, to) = (before.status.0, after.status.0);
        if from != to && !to.origins().contains(&from) {
            return Err(StoreError::Internal(format!("no message moves from {} to {}", from.as_str(), to.as_str())));
        }
        Ok(Self { before, after, shard })
    }

    /// The message.
    pub(super) const fn message(&self) -> MessageId {
        self.before.id
    }
}

#[derive(Default)]
struct Counts {
    sent: i64,
    failed: i64,
    media_sent: i64,
}

/// What follows from changes, written together.
#[derive(Default)]
pub(super) struct Effects {
    events: Vec<(i64, Hex, Option<Hex>, i16)>,
    refunds: BTreeMap<(i64, i64), i64>,
    counts: BTreeMap<(i64, i64, i64), Counts>,
    sent_in: BTreeSet<SessionId>,
}

impl Effects {
    /// The event that a message has this status now.
    pub(super) fn event(&mut self, user: UserId, session: SessionId, message: MessageId, status: Status) {
        self.events.push((user.0, Hex(session.0), Some(Hex(message.0)), status as i16));
    }

    /// A message is known to have been sent from when it is first `sent`, `delivered` or `read`; by then it was in one of
    /// the other statuses, so that this counts it once.
    fn of(&mut self, change: &Move) {
        let (before, after) = (&change.before, &change.after);
        let (from, to) = (before.status.0, after.status.0);
        if from != to {
            self.event(before.user_id, before.session_id, before.id, to);
        }
        if after.refunded && !before.refunded {
            *self.refunds.entry((before.user_id.0, before.quota_day.0)).or_default() += 1;
        }
        let sent = is_sent(to) && !is_sent(from);
        let failed = i64::from(to == Status::Failed) - i64::from(from == Status::Failed);
        if sent || failed != 0 {
            let counts = self.counts.entry((before.user_id.0, before.quota_day.0, change.shard)).or_default();
            counts.failed += failed;
            counts.sent += i64::from(sent);
            counts.media_sent += i64::from(sent && before.is_media());
        }
        if sent {
            self.sent_in.insert(before.session_id);
        }
    }

    /// Adds what writes them, in the one order of locks.
    ///
    /// # Errors
    /// [`StoreError::Invalid`]
    pub(super) fn write(self, mut script: Script, now: Time) -> Result<Script> {
        if !self.sent_in.is_empty() {
            let sessions = dialect::ids(self.sent_in.iter().map(|id| id.0));
            script = script.then(ACTIVE).bind(sessions).bind(now);
        }
        if !self.refunds.is_empty() {
            let refunds: Vec<_> = self.refunds.into_iter().map(|((user, day), units)| (user, day, units)).collect();
            script = script.then(REFUND).bind(json(&refunds)?);
        }
        if !self.counts.is_empty() {
            let counts: Vec<_> = self
                .counts
                .into_iter()
                .map(|((user, day, shard), c)| (user, day, shard, c.sent, c.failed, c.media_sent))
                .collect();
            script = script.then(COUNT).bind(json(&counts)?);
        }
        if !self.events.is_empty() {
            script = script.then(EVENT).bind(json(&self.events)?).bind(now);
        }
        Ok(script)
    }
}

const ACTIVE: &str = "UPDATE sessions SET last_active_at = $2 WHERE id IN (SELECT unhex(value) FROM json_each($1))";

const REFUND: &str = concat!(
    "UPDATE quotas SET ",
    give_back!("quotas", "r.units"),
    " FROM (SELECT value->>0 AS user, value->>1 AS day, value->>2 AS units FROM json_each($1)) r
    WHERE quotas.user_id = r.user AND quotas.day = r.day"
);

const COUNT: &str = "INSERT INTO usage_stats (user_id, day, shard, sent, failed, media_sent)
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each($1) WHERE true
    ON CONFLICT (user_id, day, shard) DO UPDATE SET sent = sent + excluded.sent,
        failed = failed + excluded.failed, media_sent = media_sent + excluded.media_sent";

const EVENT: &str = "INSERT INTO events (at, user_id, session_id, message_id, status)
    SELECT $2, value->>0, unhex(value->>1), unhex(value->>2), value->>3 FROM json_each($1)";

const fn is_sent(status: Status) -> bool {
    matches!(status, Status::Sent | Status::Delivered | Status::Read)
}

/// Guarded by the status that was decided upon: [`Move::new`] has asked the table whether it is an origin.
pub(super) const MOVE: &str = "UPDATE messages SET status = i.status, open = i.status IN (1, 2), due_at = i.due_at,
        hold = i.hold, error = i.error, attempts = i.attempts, unknown_attempts = i.unknown_attempts,
        crashes = i.crashes, sent_at = i.sent_at, delivered_at = i.delivered_at, read_at = i.read_at,
        refunded = i.refunded, updated_at = $2
    FROM (SELECT value->>0 AS seq, value->>1 AS was, value->>2 AS status, value->>3 AS due_at, value->>4 AS hold,
            value->>5 AS error, value->>6 AS attempts, value->>7 AS unknown_attempts, value->>8 AS crashes,
            value->>9 AS sent_at, value->>10 AS delivered_at, value->>11 AS read_at, value->>12 AS refunded
        FROM json_each($1)) i
    WHERE messages.seq = i.seq AND messages.status = i.was";

/// Writes changes and what follows from them.
///
/// # Errors
/// [`StoreError::Invalid`]
pub(super) fn write(now: Time, moves: &[Move]) -> Result<Script> {
    if moves.is_empty() {
        return Ok(Script::default());
    }
    let mut effects = Effects::default();
    let mut rows = Vec::with_capacity(moves.len());
    for change in moves {
        effects.of(change);
        let to = &change.after;
        rows.push((
            to.seq,
            change.before.status.0 as i16,
            to.status.0 as i16,
            to.due_at,
            to.hold,
            to.error.as_deref(),
            to.attempts,
            to.unknown_attempts,
            to.crashes,
            to.sent_at,
            to.delivered_at,
            to.read_at,
            i16::from(to.refunded),
        ));
    }
    let script = Script::default().then(MOVE).bind(json(&rows)?).bind(now).expect_rows("messages moved", moves.len());
    effects.write(script, now)
}

/// A list of values as one parameter.
pub(super) fn json<T: Serialize>(value: &[T]) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::Invalid(e.to_string()))
}

/// A uuid as the statements take it from JSON: through `unhex()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hex(pub(super) Uuid);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.simple().encode_lower(&mut Uuid::encode_buffer()))
    }
}
