//! The bindings of a current SQLite, under the version number that sqlx 0.8 asks for.
//!
//! sqlx 0.8.6 is the newest version that sets `TCP_NODELAY`, and it asks for bindings that bundle SQLite 3.46.0 of May 2024.
//! Later SQLites are faster at what we ask of them, and 3.51.3 mends a race of two connections on a write-ahead log
//! (<https://sqlite.org/wal.html>, "the WAL-reset bug"). The functions that sqlx calls are the same in both.
//!
//! This goes once sqlx has released a version later than 0.9.0.

pub use bindings::*;
