//! Where PostgreSQL's text differs from SQLite's: what the shared statements are made with.

use uuid::Uuid;

use super::committer::is_connection_code;
use crate::store::Fault;

/// The database's clock in milliseconds, the same throughout a statement.
macro_rules! now_ms {
    () => {
        "now_ms()"
    };
}

/// One of the uuids in a parameter made by `ids`.
macro_rules! among {
    ($parameter:literal) => {
        concat!("= ANY(", $parameter, ")")
    };
}

/// One of the numbers in a parameter made by `numbers`.
macro_rules! among_numbers {
    ($parameter:literal) => {
        concat!("= ANY(", $parameter, ")")
    };
}

/// The events of the user `$2` after the number `$1`, in order. Asked by user and number together, or a planner that expects
/// many of a user's events would look for them among everybody's, which takes long if there are few.
macro_rules! events_of_user {
    () => {
        "(e.user_id, e.n) > ($2, $1) AND e.user_id <= $2 ORDER BY e.user_id, e.n"
    };
}

/// The highest number that an event was given, committed or not.
macro_rules! last_event {
    () => {
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS last FROM event_n"
    };
}

/// Locks rows against every change.
macro_rules! for_update {
    () => {
        " FOR UPDATE"
    };
}

/// Locks rows against removal.
macro_rules! for_key_share {
    () => {
        " FOR KEY SHARE"
    };
}

/// Leaves out rows that are locked.
macro_rules! skip_locked {
    () => {
        " SKIP LOCKED"
    };
}

/// A list of uuids as one parameter.
pub(crate) fn ids(ids: impl Iterator<Item = Uuid>) -> Vec<Uuid> {
    ids.collect()
}

/// A list of numbers as one parameter.
pub(crate) fn numbers(numbers: &[i64]) -> Vec<i64> {
    numbers.to_vec()
}

/// Events with a lower number than the newest that may be under way still: so many of the last numbers are looked through
/// for missing ones when somebody begins to read.
pub(crate) const EVENTS_UNDER_WAY: i64 = 20_000;

/// What an error code means. <https://www.postgresql.org/docs/15/errcodes-appendix.html>
pub(crate) fn fault(code: &str) -> Fault {
    match code {
        "40P01" | "40001" | "55P03" | "57014" => Fault::Unavailable,
        code if is_connection_code(code) => Fault::Unavailable,
        code if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => Fault::Data,
        _ => Fault::Defect,
    }
}
