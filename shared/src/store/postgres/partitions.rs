//! Tables in a partition a day: made ahead, and dropped whole when they are kept no longer. What was written before there was
//! a partition for it lies in the default one, and is deleted there.

use sqlx_postgres::PgConnection;

use super::error;
use crate::ports::store::{Result, SWEEP_CHUNK};
use crate::time::{Day, Time};

/// A table in daily partitions of its column `at`.
pub(super) struct Daily {
    table: &'static str,
    /// The partitions that there are.
    partitions: &'static str,
    /// Deletes from the default one what is older than `$1`, `$2` rows at most.
    delete: &'static str,
}

macro_rules! daily {
    ($table:literal) => {
        Daily {
            table: $table,
            partitions: concat!(
                "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE i.inhparent = '",
                $table,
                "'::regclass AND c.relname ~ '^",
                $table,
                "_[0-9]{8}$'"
            ),
            delete: concat!(
                "DELETE FROM ",
                $table,
                "_default WHERE ctid = ANY(ARRAY(SELECT ctid FROM ",
                $table,
                "_default WHERE at < $1 ORDER BY n LIMIT $2))"
            ),
        }
    };
}

pub(super) static EVENTS: Daily = daily!("events");
pub(super) static API_LOGS: Daily = daily!("api_logs");

/// Makes the next days' partitions and removes what is older than `before`; `true` if there may be more.
pub(super) async fn keep(connection: &mut PgConnection, daily: &Daily, now: Time, before: Time) -> Result<bool> {
    let table = daily.table;
    let name = |day: Day| format!("{table}_{}", day.to_string().replace('-', ""));
    let there: Vec<String> = sqlx::query_scalar(daily.partitions).fetch_all(&mut *connection).await.map_err(error)?;
    let tomorrow = now.day().next();
    for day in [tomorrow, tomorrow.next()] {
        let (name, from, until) = (name(day), day.start().0, day.next().start().0);
        // Making one locks the whole table, even if it is there already.
        if !there.contains(&name) {
            let make =
                format!("CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table} FOR VALUES FROM ({from}) TO ({until})");
            sqlx::query(&make).execute(&mut *connection).await.map_err(error)?;
        }
    }
    let first_kept = name(before.day());
    for old in there.into_iter().filter(|partition| *partition < first_kept) {
        let drop = format!("DROP TABLE IF EXISTS {old}");
        sqlx::query(&drop).execute(&mut *connection).await.map_err(error)?;
    }
    let done = sqlx::query(daily.delete).bind(before).bind(SWEEP_CHUNK).execute(connection).await.map_err(error)?;
    Ok(done.rows_affected() >= SWEEP_CHUNK.unsigned_abs())
}

/// Lines of the API log that are removed in one transaction: removing must keep up with writing.
const LINES_CHUNK: i64 = 10_000;

/// Removes the oldest lines of the API log while there are more than `max`, about: whole days first, then in chunks; `true` if there
/// may be more to remove. How many there are is told by their numbers, which have small gaps.
pub(super) async fn keep_lines(connection: &mut PgConnection, max: i64) -> Result<bool> {
    let last: i64 = sqlx::query_scalar("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM api_log_n")
        .fetch_one(&mut *connection)
        .await
        .map_err(error)?;
    let mut days: Vec<String> =
        sqlx::query_scalar(API_LOGS.partitions).fetch_all(&mut *connection).await.map_err(error)?;
    days.sort_unstable();
    let mut firsts = Vec::with_capacity(days.len());
    for table in days.into_iter().chain([format!("{}_default", API_LOGS.table)]) {
        // Connections draw numbers ahead: an old one now and then stands among newer ones.
        let first = format!("SELECT max(n), min(at) FROM (SELECT n, at FROM {table} ORDER BY at, n LIMIT 200) f");
        let (n, at): (Option<i64>, Option<i64>) =
            sqlx::query_as(&first).persistent(false).fetch_one(&mut *connection).await.map_err(error)?;
        if let (Some(n), Some(at)) = (n, at) {
            firsts.push((at, n, table));
        }
    }
    firsts.sort_unstable();
    let mut oldest = firsts.into_iter().peekable();
    while let Some((_, first, table)) = oldest.next() {
        let beyond = last - first - max;
        if beyond <= 0 {
            return Ok(false);
        }
        let whole = !table.ends_with("_default") && oldest.peek().is_some_and(|(_, next, _)| last - next >= max);
        if whole {
            let drop = format!("DROP TABLE IF EXISTS {table}");
            sqlx::query(&drop).persistent(false).execute(&mut *connection).await.map_err(error)?;
            continue;
        }
        let delete =
            format!("DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} ORDER BY at, n LIMIT $1))");
        let done = sqlx::query(&delete)
            .bind(beyond.min(LINES_CHUNK))
            .persistent(false)
            .execute(&mut *connection)
            .await
            .map_err(error)?;
        let removed = i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
        return Ok(removed > 0 && removed < beyond);
    }
    Ok(false)
}
