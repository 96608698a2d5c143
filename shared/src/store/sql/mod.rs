//! The statements that are the same text for SQLite and PostgreSQL.
//!
//! This module is compiled twice: each store includes it by `#[path]` and gives it `Db`, the module `dialect`, and the
//! macros in which the databases' texts differ (see `sqlite/dialect.rs`). Functions that write several statements expect
//! to be called within a transaction, which the store begins and commits. They lock in the one order of all transactions:
//! worker, sessions, messages, quota.

/// The columns of a user, without its password.
macro_rules! user_columns {
    () => {
        "id, username, email, first_name, last_name, is_staff, is_active, max_messages_per_day, created_at, updated_at"
    };
}

pub(crate) mod accounts;
pub(crate) mod devices;
pub(crate) mod files;
pub(crate) mod journal;
pub(crate) mod logins;
pub(crate) mod messages;
pub(crate) mod operations;
pub(crate) mod ownership;
pub(crate) mod people;
pub(crate) mod rows;
pub(crate) mod sessions;

use super::{Db, dialect};
use crate::ids::{MessageId, SessionId, UserId};
use crate::ports::store::{Result, StoreError};
use crate::store::error_from;

/// The database's connection.
pub(crate) type Connection = <Db as sqlx::Database>::Connection;

/// Sorts an error of the driver.
pub(crate) fn failed(error: sqlx::Error) -> StoreError {
    error_from(&error, dialect::fault)
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
