//! Plans, for tests: of the lists of the journal and of the audit trail, that they hold among millions of rows.

use std::path::Path;

use sqlx::{ConnectOptions, Connection};
use sqlx_sqlite::SqliteConnectOptions;

use super::logs;
use super::sql::journal::{LOGS_OF_ALL, LOGS_OF_USER, USAGE_OF_ALL, USAGE_OF_USER, events_after_text};
use super::sql::{audit, failed};
use crate::ids::UserId;
use crate::ports::store::{Result, Scope};

/// Each statement's name and its plan, a line per step, for the database at `path` and the API log beside it.
///
/// # Errors
/// If a file can't be opened, or a statement can't be planned.
pub async fn lists(path: &Path) -> Result<Vec<(&'static str, Vec<String>)>> {
    let log = path.with_file_name(logs::FILE);
    let mut plans = Vec::new();
    for (name, file, sql) in [
        ("api_logs", log.as_path(), LOGS_OF_ALL),
        ("api_logs_user", log.as_path(), LOGS_OF_USER),
        ("audit", path, audit::OF_ALL),
        ("audit_actor", path, audit::OF_ACTOR),
        ("audit_target", path, audit::OF_TARGET),
        ("audit_action", path, audit::OF_ACTION),
        ("usage", path, USAGE_OF_ALL),
        ("usage_user", path, USAGE_OF_USER),
        ("events", path, events_after_text(Scope::All)),
        ("events_user", path, events_after_text(Scope::User(UserId(7)))),
    ] {
        let options = SqliteConnectOptions::new().filename(file).read_only(true);
        let mut connection = options.connect().await.map_err(failed)?;
        let steps: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(&format!("EXPLAIN QUERY PLAN {sql}")).fetch_all(&mut connection).await.map_err(failed)?;
        plans.push((name, steps.into_iter().map(|(.., step)| step).collect()));
        connection.close().await.map_err(failed)?;
    }
    Ok(plans)
}
