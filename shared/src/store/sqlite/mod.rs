//! The embedded store.

#[macro_use]
mod dialect;
#[path = "../sql/mod.rs"]
mod sql;

pub(crate) type Db = sqlx::Sqlite;
