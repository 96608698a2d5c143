//! Where SQLite's text differs from PostgreSQL's: what the shared statements are made with.

use uuid::Uuid;

use crate::store::Fault;

/// The database's clock in milliseconds. SQLite counts in whole ones, which a floating-point number of seconds hides.
macro_rules! now_ms {
    () => {
        "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)"
    };
}

/// One of the uuids in a parameter made by `ids`.
macro_rules! among {
    ($parameter:literal) => {
        concat!("IN (SELECT unhex(value) FROM json_each(", $parameter, "))")
    };
}

/// One of the numbers in a parameter made by `numbers`.
macro_rules! among_numbers {
    ($parameter:literal) => {
        concat!("IN (SELECT value FROM json_each(", $parameter, "))")
    };
}

/// The events of the user `$2` after the number `$1`, in order.
macro_rules! events_of_user {
    () => {
        "e.user_id = $2 AND e.n > $1 ORDER BY e.n"
    };
}

/// The highest number that an event was given.
macro_rules! last_event {
    () => {
        "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) AS last"
    };
}

/// Locks rows against every change: there is one writer.
macro_rules! for_update {
    () => {
        ""
    };
}

/// Locks rows against removal: there is one writer.
macro_rules! for_key_share {
    () => {
        ""
    };
}

/// Leaves out rows that are locked: none are.
macro_rules! skip_locked {
    () => {
        ""
    };
}

/// A list of uuids as one parameter.
pub(crate) fn ids(ids: impl Iterator<Item = Uuid>) -> String {
    let mut text = String::from("[");
    for id in ids {
        if text.len() > 1 {
            text.push(',');
        }
        text.push('"');
        text.push_str(id.simple().encode_lower(&mut Uuid::encode_buffer()));
        text.push('"');
    }
    text.push(']');
    text
}

/// A list of numbers as one parameter.
pub(crate) fn numbers(numbers: &[i64]) -> String {
    let texts: Vec<String> = numbers.iter().map(i64::to_string).collect();
    format!("[{}]", texts.join(","))
}

/// Events with a lower number than the newest that may be under way still: none, as there is one writer.
pub(crate) const EVENTS_UNDER_WAY: i64 = 1;

/// What an (extended) result code means. <https://www.sqlite.org/rescode.html>
pub(crate) fn fault(code: &str) -> Fault {
    match code.parse::<u32>().map(|code| code & 0xff) {
        // BUSY, LOCKED, NOMEM, READONLY (a disk that turned so), INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
        Ok(5 | 6 | 7 | 8 | 9 | 10 | 13 | 14 | 15) => Fault::Unavailable,
        // TOOBIG, CONSTRAINT, MISMATCH
        Ok(18..=20) => Fault::Data,
        _ => Fault::Defect,
    }
}
