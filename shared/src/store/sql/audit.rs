//! The audit trail.

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::rows::corrupt;
use super::scan::Scan;
use super::{Backend, Connection, failed};
use crate::ids::UserId;
use crate::ports::audit::{Action, Audit, AuditEntry, AuditFilter, AuditLine, Class};
use crate::ports::journal::LogPlace;
use crate::ports::store::{Page, Result, SWEEP_CHUNK, StoreError};
use crate::store::audit_json;
use crate::time::Time;

#[async_trait]
impl Audit for Backend {
    async fn write_audit(&self, entries: &[AuditEntry]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut entries = entries.to_owned();
        // Processes that add to the same lines lock them in the same order.
        entries.sort_by(|a, b| a.counted.cmp(&b.counted));
        change!(self, |c| write(c, &entries))
    }

    async fn list_audit(
        &self,
        filter: &AuditFilter,
        after: Option<LogPlace>,
        limit: u32,
    ) -> Result<Page<AuditLine, LogPlace>> {
        let filter = filter.clone();
        read!(self, |c| list(c, &filter, after, limit))
    }
}

async fn write(conn: &mut Connection, entries: &[AuditEntry]) -> Result<()> {
    let lines: Vec<Value> = entries.iter().map(audit_json).collect();
    sqlx::query(concat!(
        insert_audit!(json_rows!("$1")),
        " WHERE true ON CONFLICT (counted) WHERE counted IS NOT NULL DO UPDATE SET count = audit.count + excluded.count"
    ))
    .bind(Value::Array(lines).to_string())
    .execute(conn)
    .await
    .map(drop)
    .map_err(failed)
}

/// Writes the line of a change. Within the change's transaction.
pub(crate) async fn note(conn: &mut Connection, entry: impl Into<Option<AuditEntry>>) -> Result<()> {
    match entry.into() {
        Some(entry) => write(conn, &[entry]).await,
        None => Ok(()),
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    at: Time,
    actor_id: Option<UserId>,
    address: Option<String>,
    action: String,
    target: Option<String>,
    detail: String,
    count: i64,
    hit: bool,
}

impl TryFrom<Row> for AuditLine {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        let detail: Map<String, Value> =
            serde_json::from_str(&row.detail).map_err(|_| corrupt("audit.detail", row.id, &row.detail))?;
        let Row { id, at, actor_id: actor, address, action, target, count, .. } = row;
        Ok(Self { id, at, actor, address, action, target, detail, count })
    }
}

/// Lines in the order of the list, each with whether it is asked for. Each text finds its lines by an index of its own; all
/// have the same parameters.
macro_rules! scan_audit {
    ($which:expr) => {
        concat!(
            "SELECT t.id, t.at, t.actor_id, t.address, t.action, t.target, t.detail, t.count,
                (($4 IS NULL OR COALESCE(t.actor_id = $4, false)) AND ($5 IS NULL OR COALESCE(t.target = $5, false))
                    AND ($6 IS NULL OR t.action = $6)) AS hit
            FROM audit t WHERE t.at <= $1 AND (t.at, t.id) < ($1, $2) AND t.at >= $3",
            $which,
            " ORDER BY t.at DESC, t.id DESC LIMIT $7"
        )
    };
}
pub(crate) const OF_ALL: &str = scan_audit!("");
pub(crate) const OF_ACTOR: &str = scan_audit!(" AND t.actor_id = $4");
pub(crate) const OF_TARGET: &str = scan_audit!(" AND t.target = $5");
pub(crate) const OF_ACTION: &str = scan_audit!(" AND t.action = $6");

/// A page, newest first. Lines are looked through in steps, as messages are.
async fn list(
    conn: &mut Connection,
    filter: &AuditFilter,
    after: Option<LogPlace>,
    limit: u32,
) -> Result<Page<AuditLine, LogPlace>> {
    let text = match filter {
        AuditFilter { target: Some(_), .. } => OF_TARGET,
        AuditFilter { actor: Some(_), .. } => OF_ACTOR,
        AuditFilter { action: Some(_), .. } => OF_ACTION,
        _ => OF_ALL,
    };
    let highest = (filter.until.unwrap_or(Time(i64::MAX)), 0);
    let place = |row: &Row| (row.at, row.id);
    let mut scan = Scan::new(limit, after.map_or(highest, |after| after.min(highest)));
    while let Some(size) = scan.next_step() {
        let rows: Vec<Row> = sqlx::query_as(text)
            .bind(scan.below.0)
            .bind(scan.below.1)
            .bind(filter.since.unwrap_or(Time(i64::MIN)))
            .bind(filter.actor)
            .bind(filter.target.as_deref())
            .bind(filter.action.map(Action::as_str))
            .bind(size)
            .fetch_all(&mut *conn)
            .await
            .map_err(failed)?;
        scan.add(size, rows, place, |row| row.hit);
    }
    let Page { items, next } = scan.page(place);
    Ok(Page { items: items.into_iter().map(AuditLine::try_from).collect::<Result<_>>()?, next })
}

/// Removes lines that are older, and the oldest of each class while it has more than `max`; `true` if there may be more.
pub(crate) async fn retire(store: &Backend, before: Time, max: i64) -> Result<bool> {
    let mut gone = vec![change!(store, |c| remove_older(c, before))?];
    for class in Class::ALL {
        gone.push(change!(store, |c| remove_surplus(c, class, max))?);
    }
    Ok(gone.into_iter().any(|rows| rows >= SWEEP_CHUNK.unsigned_abs()))
}

async fn remove_older(conn: &mut Connection, before: Time) -> Result<u64> {
    let gone =
        sqlx::query("DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 ORDER BY at, id LIMIT $2)")
            .bind(before)
            .bind(SWEEP_CHUNK)
            .execute(conn)
            .await
            .map_err(failed)?;
    Ok(gone.rows_affected())
}

async fn remove_surplus(conn: &mut Connection, class: Class, max: i64) -> Result<u64> {
    let gone = sqlx::query(
        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE class = $1
            AND id <= (SELECT id FROM audit WHERE class = $1 ORDER BY id DESC LIMIT 1 OFFSET $2) ORDER BY id LIMIT $3)",
    )
    .bind(class as i16)
    .bind(max)
    .bind(SWEEP_CHUNK)
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(gone.rows_affected())
}
