//! The two stores. What is the same text for both stands once, in `sql`, which each of them compiles for its database: the
//! statements, and the methods of the ports over each store's `read` and `write`.
//!
//! What must hold: a connection is only used again when it is known to be in order, and a caller that leaves changes nothing
//! for the next one. [`to_its_end`] and each store's `read` and `write` are the one place that sees to it.

/// Reads by a function over a connection: `read!(store, |connection| function(connection, …))`.
macro_rules! read {
    ($store:expr, |$conn:ident| $call:expr) => {
        $store.read(crate::store::Lane::Reads, move |$conn| Box::pin(async move { $call.await })).await
    };
}

/// Reads what others wait for: see `Lane::Lookups`.
macro_rules! lookup {
    ($store:expr, |$conn:ident| $call:expr) => {
        $store.read(crate::store::Lane::Lookups, move |$conn| Box::pin(async move { $call.await })).await
    };
}

/// Writes by a function over a connection, in a transaction of its own; with the time of the transaction, if the function
/// takes it.
macro_rules! change {
    ($store:expr, |$conn:ident| $call:expr) => {
        $store.write(move |$conn, _| Box::pin(async move { $call.await })).await
    };
    ($store:expr, |$conn:ident, $now:ident| $call:expr) => {
        $store.write(move |$conn, $now| Box::pin(async move { $call.await })).await
    };
}

/// Gives units of a quota back, as assignments of an update of the table that `$quotas` names. `used` never falls below 0: units
/// that had not been taken are counted in `short`, which the housekeeper tells in the log, as that is a defect.
macro_rules! give_back {
    ($quotas:literal, $units:literal) => {
        concat!(
            "used = ",
            at_least_zero!($quotas, ".used - ", $units),
            ", short = ",
            $quotas,
            ".short + ",
            at_least_zero!($units, " - ", $quotas, ".used")
        )
    };
}

/// Adds lines to the audit trail from `$rows`, each with a `value` made by [`audit_json`].
macro_rules! insert_audit {
    ($rows:expr) => {
        concat!(
            "INSERT INTO audit (at, class, actor_id, address, action, target, detail, count, counted)
            SELECT COALESCE(CAST(value->>0 AS bigint), ",
            now_ms!(),
            "), CAST(value->>1 AS smallint), CAST(value->>2 AS bigint), value->>3, value->>4, value->>5, value->>6,
                CAST(value->>7 AS bigint), value->>8 FROM ",
            $rows
        )
    };
}

pub mod postgres;
mod pulse;
pub mod sqlite;

use std::time::Duration;

use tracing::Instrument;

use crate::group_commit::Group;
use crate::ids::MessageId;
use crate::ports::audit::AuditEntry;
use crate::ports::store::{
    AcceptOutcome, AcceptRequest, PullRequest, Pulled, ReceiptBatch, Settled, Settlement, StoreError,
};

/// The shortest time from one write of receipts to the next. Nobody waits for them, and each message has several: at a few
/// hundred messages a second they would cost more than sending.
pub(crate) const RECEIPTS_EVERY: Duration = Duration::from_millis(10);

/// Places that the pulls of one statement ask for together, at most.
pub(crate) const PULL_PLACES_MAX: usize = 4_096;

/// Which of a store's connections a read uses: what many may ask for at length must not hold up what everybody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Short reads that others wait for: credentials and standing, what accepting needs, readiness.
    Lookups,
    /// All other reads.
    Reads,
}

/// Runs a call that has a connection, as a task of its own: once it has begun, it comes to its end, and its connection in
/// order, whether or not its caller still waits. Its connection's pool is its owner: closing one waits for the other. A panic
/// goes on in the caller.
pub(crate) async fn to_its_end<T: Send + 'static>(
    call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::spawn(call.in_current_span()).await {
        Ok(result) => result,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down.
            Err(_) => Err(StoreError::OutcomeUnknown("the process stops".to_owned())),
        },
    }
}

/// What is committed in batches.
pub(crate) struct Groups {
    pub(crate) accept: Group<AcceptRequest, Vec<AcceptOutcome>>,
    pub(crate) pull: Group<PullRequest, Pulled>,
    pub(crate) settle: Group<Settlement, Settled>,
    pub(crate) receipts: Group<ReceiptBatch, Vec<MessageId>>,
}

impl Groups {
    /// Takes nothing more; what waits is still committed.
    pub(crate) fn close(&self) {
        self.accept.close();
        self.pull.close();
        self.settle.close();
        self.receipts.close();
    }
}

/// What an error code of a database means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The database can't just now: the same again may succeed.
    Unavailable,
    /// What was to be stored isn't fit to be.
    Data,
    /// Anything else: a defect of ours.
    Defect,
}

/// Sorts a driver's error; `fault` knows the database's codes.
pub(crate) fn error_from(error: &sqlx::Error, fault: fn(&str) -> Fault) -> StoreError {
    use sqlx::Error;
    let text = error.to_string();
    match error {
        Error::Database(e) => match e.code().map_or(Fault::Defect, |code| fault(&code)) {
            Fault::Unavailable => StoreError::Unavailable(text),
            Fault::Data => StoreError::Invalid(text),
            Fault::Defect => StoreError::Internal(text),
        },
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed => StoreError::Unavailable(text),
        Error::Encode(_) => StoreError::Invalid(text),
        Error::ColumnDecode { .. } | Error::Decode(_) => StoreError::Corrupt(text),
        _ => StoreError::Internal(text),
    }
}

/// A line of the audit trail as `insert_audit!` reads it.
pub(crate) fn audit_json(entry: &AuditEntry) -> serde_json::Value {
    let AuditEntry { at, actor, action, target, detail, counted } = entry;
    let detail = serde_json::Value::Object(detail.clone()).to_string();
    serde_json::json!([
        at.map(|at| at.0),
        action.class() as i16,
        actor.user.map(|user| user.0),
        actor.address.map(|address| address.to_string()),
        action.as_str(),
        target.map(|target| target.to_string()),
        detail,
        counted.as_ref().map_or(1, |(_, count)| *count),
        counted.as_ref().map(|(name, _)| name),
    ])
}

/// What a violated unique constraint means where a name is chosen.
pub(crate) fn taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.is_unique_violation())
}
