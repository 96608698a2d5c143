//! The two stores. What is the same text for both stands once, in `sql`, which each of them compiles for its database.

pub mod postgres;
pub mod sqlite;

use std::time::Duration;

use crate::ports::store::StoreError;

/// The shortest time from one write of receipts to the next. Nobody waits for them, and each message has several: at a few
/// hundred messages a second they would cost more than sending.
pub(crate) const RECEIPTS_EVERY: Duration = Duration::from_millis(10);

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

/// What a violated unique constraint means where a name is chosen.
pub(crate) fn taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.is_unique_violation())
}
