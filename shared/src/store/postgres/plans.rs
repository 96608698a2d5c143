//! The plans of the statements that are planned once, for a test that they hold whatever is in the tables.

use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::{PLANNED_ONCE, accept, error, options, pull, receipts, settle};
use crate::ports::store::Result;

/// Each statement's name and its plan, as PostgreSQL would make it now for a committer: a line per step, in the order of
/// `EXPLAIN`.
///
/// # Errors
/// If the database can't be reached, or can't plan a statement.
pub async fn plans(url: &str) -> Result<Vec<(&'static str, Vec<String>)>> {
    let mut connection = options(url)?.options(PLANNED_ONCE).connect().await.map_err(error)?;
    let mut plans = Vec::new();
    for (name, sql) in
        [("accept", accept::SQL), ("pull", pull::SQL), ("settle", settle::SQL), ("receipts", receipts::SQL)]
    {
        let parameters = (1..).take_while(|n| sql.contains(&format!("${n}"))).count();
        let nulls = vec!["NULL"; parameters].join(", ");
        sqlx::raw_sql(AssertSqlSafe(format!("PREPARE {name} AS {sql}")))
            .execute(&mut connection)
            .await
            .map_err(error)?;
        let explain = format!("EXPLAIN (COSTS off) EXECUTE {name} ({nulls})");
        let plan = sqlx::query_scalar(AssertSqlSafe(explain)).persistent(false).fetch_all(&mut connection);
        plans.push((name, plan.await.map_err(error)?));
    }
    connection.close().await.map_err(error)?;
    Ok(plans)
}
