//! Device state: one statement for many sessions.

use std::collections::{BTreeMap, HashSet};

use sqlx_postgres::PgConnection;
use uuid::Uuid;

use super::committer::Statement;
use crate::ports::devices::DeviceWrite;
use crate::ports::store::{Result, StoreError};

pub(super) struct Write;

/// A session's owner is locked before its state, like everywhere. What is removed is found key by key first: joined with
/// the keys, a small table would be read whole, and a plan is made once.
pub(super) const SQL: &str = "
WITH worker AS MATERIALIZED (
    SELECT id FROM workers WHERE id = $1 FOR KEY SHARE
), own AS MATERIALIZED (
    SELECT s.id FROM worker CROSS JOIN (SELECT DISTINCT i.s FROM unnest($2::uuid[]) AS i (s) ORDER BY i.s) i
    CROSS JOIN LATERAL (SELECT s.id, s.owner FROM sessions s WHERE s.id = i.s OFFSET 0 FOR KEY SHARE OF s) s
    WHERE s.owner = $1
), gone AS (
    DELETE FROM whatsapp_state d WHERE d.ctid = ANY (ARRAY (
        SELECT w.at_row FROM own o JOIN unnest($3::uuid[], $4::smallint[], $5::bytea[]) AS g (s, kind, key) ON g.s = o.id
        CROSS JOIN LATERAL (SELECT w.ctid AS at_row FROM whatsapp_state w
                            WHERE w.session_id = g.s AND w.kind = g.kind AND w.key = g.key OFFSET 0) w))
), put AS (
    INSERT INTO whatsapp_state (session_id, kind, key, value, at)
    SELECT p.* FROM unnest($6::uuid[], $7::smallint[], $8::bytea[], $9::bytea[], $10::bigint[])
        AS p (s, kind, key, value, at)
    WHERE p.s IN (SELECT id FROM own)
    ORDER BY p.s, p.kind, p.key
    ON CONFLICT (session_id, kind, key) DO UPDATE SET value = excluded.value, at = excluded.at
)
SELECT o.id FROM worker LEFT JOIN own o ON true";

impl Statement for Write {
    type Item = DeviceWrite;
    type Answer = bool;

    async fn run(
        &self,
        connection: &mut PgConnection,
        items: &[&DeviceWrite],
    ) -> std::result::Result<Vec<Result<bool>>, sqlx::Error> {
        let Some(first) = items.first() else { return Ok(Vec::new()) };
        // The last change of each key: one statement may not change a row twice.
        let mut changes = BTreeMap::new();
        for (session, change) in items.iter().flat_map(|w| w.changes.iter().map(|change| (w.session.0, change))) {
            changes.insert((session, change.kind, change.key.as_slice()), change.value.as_ref());
        }
        let (mut gone, mut put) = ((vec![], vec![], vec![]), (vec![], vec![], vec![], vec![], vec![]));
        for ((session, kind, key), value) in changes {
            match value {
                None => {
                    gone.0.push(session);
                    gone.1.push(kind);
                    gone.2.push(key);
                }
                Some((value, at)) => {
                    put.0.push(session);
                    put.1.push(kind);
                    put.2.push(key);
                    put.3.push(value.as_slice());
                    put.4.push(at.0);
                }
            }
        }
        let rows: Vec<(Option<Uuid>,)> = sqlx::query_as(SQL)
            .bind(first.worker)
            .bind(items.iter().map(|write| write.session.0).collect::<Vec<_>>())
            .bind(gone.0)
            .bind(gone.1)
            .bind(gone.2)
            .bind(put.0)
            .bind(put.1)
            .bind(put.2)
            .bind(put.3)
            .bind(put.4)
            .fetch_all(connection)
            .await?;
        if rows.is_empty() {
            return Ok(items.iter().map(|_| Err(StoreError::Fenced)).collect());
        }
        let own: HashSet<Uuid> = rows.into_iter().filter_map(|(id,)| id).collect();
        Ok(items.iter().map(|write| Ok(own.contains(&write.session.0))).collect())
    }
}

/// One statement speaks for one worker.
pub(super) fn together() -> impl FnMut(&DeviceWrite) -> bool + Send {
    let mut whose = None;
    move |write| *whose.get_or_insert(write.worker) == write.worker
}
