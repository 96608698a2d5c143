//! The ports' methods, and the statements that are the same text for SQLite and PostgreSQL.
//!
//! This module is compiled twice: each store includes it by `#[path]` and gives it `Db`, its own type as `Backend`, the
//! modules `dialect` and `sweeps`, and the macros in which the databases' texts differ (see `sqlite/dialect.rs`).
//!
//! A method of a port is one call of `read!`, `lookup!` or `change!`, each with a function over a connection. `change!` runs
//! it in a transaction that is committed if it answers `Ok` and rolled back otherwise. The functions lock in the one order
//! of all transactions: worker, sessions, messages, quota.

/// The columns of a user, without its password.
macro_rules! user_columns {
    () => {
        "id, username, email, first_name, last_name, is_staff, is_active, max_messages_per_day, created_at, updated_at"
    };
}

pub(crate) mod accounts;
pub(crate) mod audit;
pub(crate) mod devices;
pub(crate) mod files;
mod housekeeping;
pub(crate) mod journal;
pub(crate) mod logins;
pub(crate) mod messages;
pub(crate) mod operations;
pub(crate) mod ownership;
pub(crate) mod people;
pub(crate) mod rows;
mod scan;
pub(crate) mod sessions;

use super::{Backend, Db, dialect};
use crate::ids::{MessageId, SessionId, UserId};
use crate::ports::store::{Result, StoreError};
use crate::store::error_from;

/// The database's connection.
pub(crate) type Connection = <Db as sqlx::Database>::Connection;

/// Sorts an error of the driver.
pub(crate) fn failed(error: sqlx::Error) -> StoreError {
    error_from(&error, dialect::fault)
}

/// Whether the database answers.
pub(crate) async fn ping(conn: &mut Connection) -> Result<()> {
    sqlx::query("SELECT 1").execute(conn).await.map(drop).map_err(failed)
}

/// The smallest write that reaches the disk.
pub(crate) async fn probe(conn: &mut Connection) -> Result<()> {
    sqlx::query("UPDATE deployment SET created_at = created_at").execute(conn).await.map(drop).map_err(failed)
}

/// Writes the event that a message (or without one, a session) has this status now.
pub(crate) async fn event(
    conn: &mut Connection,
    user: UserId,
    session: SessionId,
    message: Option<MessageId>,
    status: i16,
) -> Result<()> {
    sqlx::query(concat!(
        "INSERT INTO events (at, user_id, session_id, message_id, status) VALUES (",
        now_ms!(),
        ", $1, $2, $3, $4)"
    ))
    .bind(user)
    .bind(session)
    .bind(message)
    .bind(status)
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(())
}
