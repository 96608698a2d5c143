//! Plans, for tests: of the statements that are planned once, that they hold whatever is in the tables; of the lists of the
//! journal and of the audit trail, that they hold among millions of rows.

use sqlx::{ConnectOptions, Connection};

use super::{PLANNED_ONCE, accept, devices, error, options, pull, receipts, settle, sql, sweeps};
use crate::ports::store::Result;

/// Each statement's name and its plan, as PostgreSQL would make it now for a committer: a line per step, in the order of
/// `EXPLAIN`.
///
/// # Errors
/// If the database can't be reached, or can't plan a statement.
pub async fn plans(url: &str) -> Result<Vec<(&'static str, Vec<String>)>> {
    let mut connection = options(url)?.options(PLANNED_ONCE).connect().await.map_err(error)?;
    let mut plans = Vec::new();
    for (name, sql) in [
        ("accept", accept::SQL),
        ("pull", pull::SQL),
        ("settle", settle::SQL),
        ("receipts", receipts::SQL),
        ("devices", devices::SQL),
    ] {
        let parameters = (1..).take_while(|n| sql.contains(&format!("${n}"))).count();
        let nulls = vec!["NULL"; parameters].join(", ");
        sqlx::raw_sql(&format!("PREPARE {name} AS {sql}")).execute(&mut connection).await.map_err(error)?;
        let explain = format!("EXPLAIN (COSTS off) EXECUTE {name} ({nulls})");
        let plan = sqlx::query_scalar(&explain).persistent(false).fetch_all(&mut connection);
        plans.push((name, plan.await.map_err(error)?));
    }
    connection.close().await.map_err(error)?;
    Ok(plans)
}

/// Plans of the lists of the journal and of the audit trail as a reading connection would have them: each statement's name, with what
/// it is asked, and its plan; for values that are known and for any.
///
/// # Errors
/// If the database can't be reached, or can't plan a statement.
pub async fn lists(url: &str) -> Result<Vec<(String, Vec<String>)>> {
    use crate::ids::UserId;
    use crate::ports::store::Scope;
    use sql::audit;
    use sql::journal::{LOGS_OF_ALL, LOGS_OF_USER, USAGE_OF_ALL, USAGE_OF_USER, events_after_text};
    const ANY: &str = "9223372036854775807, 0, -9223372036854775808";
    let logs = "bigint, bigint, bigint, bigint, text, smallint, text, bigint";
    let trail = "bigint, bigint, bigint, bigint, text, text, bigint";
    let usage = "bigint, bigint, bigint, bigint, bigint";
    let events = "bigint, bigint, bigint";
    let asked = [
        ("api_logs", LOGS_OF_ALL, logs, format!("{ANY}, NULL, NULL, NULL, NULL, 51")),
        ("api_logs_filtered", LOGS_OF_ALL, logs, format!("{ANY}, NULL, 'GET', 418, '/none', 5000")),
        ("api_logs_user", LOGS_OF_USER, logs, format!("{ANY}, 7, NULL, NULL, NULL, 51")),
        ("api_logs_user_filtered", LOGS_OF_USER, logs, format!("{ANY}, 7, 'GET', 418, '/none', 5000")),
        ("audit", audit::OF_ALL, trail, format!("{ANY}, NULL, NULL, NULL, 51")),
        ("audit_actor", audit::OF_ACTOR, trail, format!("{ANY}, 7, NULL, 'none', 51")),
        ("audit_target", audit::OF_TARGET, trail, format!("{ANY}, 7, 'user/7', 'none', 51")),
        ("audit_action", audit::OF_ACTION, trail, format!("{ANY}, NULL, NULL, 'action 7', 51")),
        ("usage", USAGE_OF_ALL, usage, format!("{ANY}, NULL, 51")),
        ("usage_user", USAGE_OF_USER, usage, format!("{ANY}, 7, 51")),
        ("events", events_after_text(Scope::All), events, "0, NULL, 1000".to_owned()),
        ("events_user", events_after_text(Scope::User(UserId(7))), events, "0, 7, 100".to_owned()),
    ];
    explained(url, &asked).await
}

/// Plans of the statements that look for what waits in a user's sessions: each statement's name, and its plan.
///
/// # Errors
/// If the database can't be reached, or can't plan a statement.
pub async fn waiting(url: &str) -> Result<Vec<(String, Vec<String>)>> {
    const ID: &str = "'01890a5d-ac96-774b-bcce-b302099a8057'";
    let asked = [
        ("drain", sweeps::DRAIN, "bigint, text, uuid", format!("1000, '', {ID}")),
        (
            "cancel",
            sweeps::CANCEL,
            "bigint, text, bigint, text, text, text, bigint",
            "1000, '', 1, NULL, NULL, NULL, 9000000000000".to_owned(),
        ),
    ];
    explained(url, &asked).await
}

/// Plans of statements (name, text, types and values of its parameters), as a reading connection would have them.
async fn explained(url: &str, asked: &[(&str, &str, &str, String)]) -> Result<Vec<(String, Vec<String>)>> {
    let mut plans = Vec::new();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let mut connection = options(url)?.options([("plan_cache_mode", mode)]).connect().await.map_err(error)?;
        for (name, sql, types, values) in asked {
            sqlx::raw_sql(&format!("PREPARE {name} ({types}) AS {sql}"))
                .execute(&mut connection)
                .await
                .map_err(error)?;
            let explain = format!("EXPLAIN (COSTS off) EXECUTE {name} ({values})");
            let plan = sqlx::query_scalar(&explain).persistent(false).fetch_all(&mut connection);
            plans.push((format!("{name}, {mode}"), plan.await.map_err(error)?));
        }
        connection.close().await.map_err(error)?;
    }
    Ok(plans)
}
