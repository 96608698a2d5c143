//! Who drives which session. Every function but `renew` and `owned` is called within a transaction; those that write for a
//! worker lock its row first.

use std::time::Duration;

use async_trait::async_trait;

use super::rows::OwnedSessionRow;
use super::{Backend, Connection, dialect, event, failed, messages};
use crate::ids::{MessageId, SessionId, UserId, WorkerId};
use crate::message::{MAX_CRASHES, MessageError, Status};
use crate::ports::store::{
    Awaiting, OwnedSession, Pairing, PullRequest, Pulled, ReceiptBatch, Renewed, Result, SessionReport, Settled,
    Settlement, StoreError, Working,
};
use crate::time::{Day, Time, millis};

#[async_trait]
impl Working for Backend {
    async fn register(&self, worker: WorkerId, lease: Duration) -> Result<()> {
        change!(self, |c| register(c, worker, millis(lease)))
    }

    async fn renew(&self, worker: WorkerId, lease: Duration) -> Result<Renewed> {
        let renewed: Result<Renewed> = change!(self, |c| renew(c, worker, millis(lease)));
        if renewed.is_ok()
            && let Err(error) = self.write_last_active(worker).await
        {
            tracing::debug!(%error, "when sessions last sent isn't written");
        }
        renewed
    }

    async fn take(&self, worker: WorkerId, count: usize) -> Result<Vec<OwnedSession>> {
        change!(self, |c| take(c, worker, count))
    }

    async fn give_back(&self, worker: WorkerId, sessions: &[SessionId]) -> Result<()> {
        let sessions = sessions.to_owned();
        change!(self, |c| give_back(c, worker, &sessions))
    }

    async fn bury(&self, worker: WorkerId, blocking: bool) -> Result<Vec<WorkerId>> {
        change!(self, |c| bury(c, worker, blocking))
    }

    async fn leave(&self, worker: WorkerId) -> Result<()> {
        change!(self, |c| leave(c, worker))
    }

    async fn report(&self, worker: WorkerId, session: SessionId, report: &SessionReport) -> Result<bool> {
        let report = report.clone();
        change!(self, |c| super::ownership::report(c, worker, session, &report))
    }

    async fn report_pacing(&self, worker: WorkerId, session: SessionId, until: Option<Time>) -> Result<()> {
        change!(self, |c| report_pacing(c, worker, session, until))
    }

    async fn pull(&self, request: PullRequest) -> Result<Pulled> {
        // It costs what it claims; a look for nothing costs a little, too.
        let weight = usize::try_from(request.places).unwrap_or(usize::MAX).max(1);
        self.groups.pull.commit(request, weight).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled> {
        self.groups.settle.commit(settlement, 1).await
    }

    async fn abandon(&self, worker: WorkerId, claim: i64, message: MessageId) -> Result<bool> {
        let Some((user, session, day)) = change!(self, |c| abandon(c, worker, claim, message))? else {
            return Ok(false);
        };
        // Each by itself: the message has ended, whatever becomes of them.
        let told: Result<()> = change!(self, |c| event(c, user, session, Some(message), Status::Failed as i16));
        let counted: Result<()> = change!(self, |c| count_failure(c, user, day));
        for error in [told.err(), counted.err()].into_iter().flatten() {
            tracing::warn!(%message, %error, "an abandoned message's event or count can't be written, and is left out");
        }
        Ok(true)
    }

    async fn receipts(&self, batch: ReceiptBatch) -> Result<Vec<MessageId>> {
        let weight = batch.receipts.len().max(1);
        self.groups.receipts.commit(batch, weight).await
    }

    async fn awaiting_receipts(&self, session: SessionId, limit: u32) -> Result<Vec<Awaiting>> {
        read!(self, |c| messages::awaiting_receipts(c, session, limit))
    }
}

/// Sessions that need an owner.
macro_rules! needs_owner {
    () => {
        "(wanted OR logout) AND deleting_at IS NULL"
    };
}

/// Locks a worker's own row: no row, no write.
pub(crate) async fn fence(conn: &mut Connection, worker: WorkerId) -> Result<()> {
    let row: Option<(WorkerId,)> = sqlx::query_as(concat!("SELECT id FROM workers WHERE id = $1", for_key_share!()))
        .bind(worker)
        .fetch_optional(conn)
        .await
        .map_err(failed)?;
    row.map(|_| ()).ok_or(StoreError::Fenced)
}

/// Enters a worker.
pub(crate) async fn register(conn: &mut Connection, worker: WorkerId, lease: i64) -> Result<()> {
    sqlx::query(concat!(
        "INSERT INTO workers (id, lease_until, started_at) SELECT $1, t.now + $2, t.now FROM (SELECT ",
        now_ms!(),
        " AS now) t WHERE true ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until"
    ))
    .bind(worker)
    .bind(lease)
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Renews a lease and answers what the worker must know.
pub(crate) async fn renew(conn: &mut Connection, worker: WorkerId, lease: i64) -> Result<Renewed> {
    let done = sqlx::query(concat!("UPDATE workers SET lease_until = ", now_ms!(), " + $2 WHERE id = $1"))
        .bind(worker)
        .bind(lease)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Err(StoreError::Fenced);
    }
    let (needed, free, living): (i64, i64, i64) = sqlx::query_as(concat!(
        "SELECT (SELECT count(*) FROM sessions WHERE ",
        needs_owner!(),
        ") AS needed, (SELECT count(*) FROM sessions WHERE owner IS NULL AND ",
        needs_owner!(),
        ") AS free, (SELECT count(*) FROM workers WHERE lease_until > ",
        now_ms!(),
        ") AS living"
    ))
    .fetch_one(&mut *conn)
    .await
    .map_err(failed)?;
    let living = living.max(1);
    Ok(Renewed {
        sessions: owned(conn, worker).await?,
        share: count((needed + living - 1) / living),
        free: count(free),
    })
}

fn count(n: i64) -> usize {
    usize::try_from(n).unwrap_or(0)
}

macro_rules! select_owned {
    ($condition:expr) => {
        concat!(
            "SELECT s.id, s.user_id, s.name, s.bridge, s.status, s.wanted, s.logout, s.paused,
                s.deleting_at IS NOT NULL AS deleting, COALESCE(u.is_active, false) AS user_active, s.paired,
                s.phone_number, s.pair_phone, s.paired_at, s.blocked_until, s.connects, s.proxy, s.per_minute, s.burst, s.jitter_ms,
                s.first_contacts_per_minute, s.typing, s.warm_up
            FROM sessions s LEFT JOIN users u ON u.id = s.user_id WHERE s.owner = $1",
            $condition,
            " ORDER BY s.id"
        )
    };
}

/// A worker's sessions.
pub(crate) async fn owned(conn: &mut Connection, worker: WorkerId) -> Result<Vec<OwnedSession>> {
    let rows: Vec<OwnedSessionRow> =
        sqlx::query_as(select_owned!("")).bind(worker).fetch_all(conn).await.map_err(failed)?;
    Ok(readable(rows))
}

/// The sessions whose rows can be read. One that can't be is driven by nobody; it must not keep the others' owner from renewing.
fn readable(rows: Vec<OwnedSessionRow>) -> Vec<OwnedSession> {
    let read = rows.into_iter().map(OwnedSession::try_from);
    read.filter_map(|session| session.inspect_err(|error| tracing::error!(%error, "a session can't be driven")).ok())
        .collect()
}

/// Takes free sessions that need an owner, the oldest first.
pub(crate) async fn take(conn: &mut Connection, worker: WorkerId, count: usize) -> Result<Vec<OwnedSession>> {
    fence(conn, worker).await?;
    // Materialized: a subquery is free to run more than once, and each time it skips what the last one has locked.
    let taken: Vec<(SessionId,)> = sqlx::query_as(concat!(
        "WITH free AS MATERIALIZED (SELECT id FROM sessions WHERE owner IS NULL AND ",
        needs_owner!(),
        " ORDER BY id LIMIT $2",
        for_update!(),
        skip_locked!(),
        ") UPDATE sessions SET owner = $1, updated_at = ",
        now_ms!(),
        " WHERE id IN (SELECT id FROM free) AND owner IS NULL RETURNING id"
    ))
    .bind(worker)
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    let rows: Vec<OwnedSessionRow> = sqlx::query_as(select_owned!(concat!(" AND s.id ", among!("$2"))))
        .bind(worker)
        .bind(dialect::ids(taken.iter().map(|(id,)| id.0)))
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    Ok(readable(rows))
}

/// What a session becomes when its owner is gone.
macro_rules! ownerless_status {
    () => {
        "CASE WHEN status IN (4, 5) THEN status WHEN wanted THEN 1 ELSE 0 END"
    };
}

macro_rules! free_events {
    ($which:expr) => {
        concat!(
            "INSERT INTO events (at, user_id, session_id, status) SELECT ",
            now_ms!(),
            ", x.user_id, x.id, x.new FROM (SELECT id, user_id, status, ",
            ownerless_status!(),
            " AS new FROM sessions WHERE owner = $1",
            $which,
            ") x WHERE x.new <> x.status"
        )
    };
}

macro_rules! free_sessions {
    ($which:expr) => {
        concat!(
            "UPDATE sessions SET owner = NULL, paced_until = NULL, qr_code = NULL, qr_expires_at = NULL, pair_code = NULL,
                status = ",
            ownerless_status!(),
            ", updated_at = ",
            now_ms!(),
            " WHERE owner = $1",
            $which
        )
    };
}

macro_rules! lock_sessions {
    ($which:expr) => {
        concat!("SELECT id FROM sessions WHERE owner = $1", $which, " ORDER BY id", for_update!())
    };
}

/// Gives sessions back.
pub(crate) async fn give_back(conn: &mut Connection, worker: WorkerId, sessions: &[SessionId]) -> Result<()> {
    fence(conn, worker).await?;
    for text in [
        lock_sessions!(concat!(" AND id ", among!("$2"))),
        free_events!(concat!(" AND id ", among!("$2"))),
        free_sessions!(concat!(" AND id ", among!("$2"))),
    ] {
        sqlx::query(text)
            .bind(worker)
            .bind(dialect::ids(sessions.iter().map(|id| id.0)))
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

macro_rules! dead_workers {
    ($skip:expr) => {
        concat!(
            "SELECT id FROM workers WHERE id <> $1 AND lease_until <= ",
            now_ms!(),
            " ORDER BY id",
            for_update!(),
            $skip
        )
    };
}

/// Declares workers dead whose lease is over.
pub(crate) async fn bury(conn: &mut Connection, worker: WorkerId, blocking: bool) -> Result<Vec<WorkerId>> {
    fence(conn, worker).await?;
    let text = match blocking {
        true => dead_workers!(""),
        false => dead_workers!(skip_locked!()),
    };
    let dead: Vec<(WorkerId,)> = sqlx::query_as(text).bind(worker).fetch_all(&mut *conn).await.map_err(failed)?;
    for (dead,) in &dead {
        remove(conn, *dead).await?;
    }
    Ok(dead.into_iter().map(|(id,)| id).collect())
}

/// Gives back what is left and removes the worker's row. That it is gone already is no error.
pub(crate) async fn leave(conn: &mut Connection, worker: WorkerId) -> Result<()> {
    let row: Option<(WorkerId,)> = sqlx::query_as(concat!("SELECT id FROM workers WHERE id = $1", for_update!()))
        .bind(worker)
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed)?;
    if row.is_some() { remove(conn, worker).await } else { Ok(()) }
}

/// Frees the sessions of a worker whose row is locked, and removes the row.
async fn remove(conn: &mut Connection, worker: WorkerId) -> Result<()> {
    for text in [
        lock_sessions!(""),
        free_events!(""),
        free_sessions!(""),
        "UPDATE housekeeper SET worker = NULL, until = 0 WHERE worker = $1",
        "DELETE FROM workers WHERE id = $1",
    ] {
        sqlx::query(text).bind(worker).execute(&mut *conn).await.map_err(failed)?;
    }
    Ok(())
}

/// Writes news of a session; `false` if it isn't the worker's.
pub(crate) async fn report(
    conn: &mut Connection,
    worker: WorkerId,
    session: SessionId,
    report: &SessionReport,
) -> Result<bool> {
    fence(conn, worker).await?;
    let row: Option<(UserId, i16)> =
        sqlx::query_as(concat!("SELECT user_id, status FROM sessions WHERE id = $1 AND owner = $2", for_update!()))
            .bind(session)
            .bind(worker)
            .fetch_optional(&mut *conn)
            .await
            .map_err(failed)?;
    let Some((user, old)) = row else { return Ok(false) };
    let status = report.status as i16;
    sqlx::query(concat!(
        "UPDATE sessions SET status = $2, blocked_reason = $3, qr_code = $4, qr_expires_at = $5, pair_code = $6,
            pair_code_expires_at = $7, blocked_until = $8, wanted = wanted AND NOT $9, connected_at = CASE WHEN $2 = 3 AND status <> 3 THEN ",
        now_ms!(),
        " ELSE connected_at END, updated_at = ",
        now_ms!(),
        " WHERE id = $1"
    ))
    .bind(session)
    .bind(status)
    .bind(report.blocked_reason.as_deref())
    .bind(report.qr.as_ref().map(|(code, _)| code.as_str()))
    .bind(report.qr.as_ref().map(|(_, end)| *end))
    .bind(report.pair_code.as_ref().map(|(code, _)| code.as_str()))
    .bind(report.pair_code.as_ref().map(|(_, end)| *end))
    .bind(report.blocked_until)
    .bind(report.halted)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    match &report.pairing {
        Some(Pairing::Paired(number)) => {
            sqlx::query(concat!(
                "UPDATE sessions SET paired = true, phone_number = $2, pair_phone = NULL,
                    paired_at = CASE WHEN paired THEN paired_at ELSE ",
                now_ms!(),
                " END WHERE id = $1"
            ))
            .bind(session)
            .bind(number)
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
        }
        Some(Pairing::Unlinked) => {
            sqlx::query(
                "UPDATE sessions SET paired = false, phone_number = NULL, pair_phone = NULL, paired_at = NULL, wanted = false,
                    logout = false WHERE id = $1",
            )
            .bind(session)
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
            super::devices::wipe(conn, session).await?;
        }
        None => {}
    }
    if old != status {
        event(conn, user, session, None, status).await?;
    }
    Ok(true)
}

/// Says until when a session paces.
pub(crate) async fn report_pacing(
    conn: &mut Connection,
    worker: WorkerId,
    session: SessionId,
    until: Option<Time>,
) -> Result<()> {
    fence(conn, worker).await?;
    sqlx::query("UPDATE sessions SET paced_until = $3 WHERE id = $1 AND owner = $2")
        .bind(session)
        .bind(worker)
        .bind(until)
        .execute(conn)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Becomes or stays the housekeeper; `false` if another living worker is.
pub(crate) async fn lead(conn: &mut Connection, worker: WorkerId, term: std::time::Duration) -> Result<bool> {
    fence(conn, worker).await?;
    let done = sqlx::query(concat!(
        "UPDATE housekeeper SET worker = $1, until = ",
        now_ms!(),
        " + $2 WHERE worker IS NULL OR worker = $1 OR until <= ",
        now_ms!()
    ))
    .bind(worker)
    .bind(millis(term))
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected() > 0)
}

/// `Failed` from `sending`, of the message's row alone. A count that is out of range would keep the row from being read.
const ABANDON: &str = concat!(
    "UPDATE messages SET status = 6, open = false, due_at = NULL, hold = 0, error = $4, crashes = $5,
        attempts = CASE WHEN attempts BETWEEN 1 AND 2147483647 THEN attempts ELSE 1 END,
        unknown_attempts = CASE WHEN unknown_attempts BETWEEN 1 AND 2147483647 THEN unknown_attempts ELSE 1 END,
        updated_at = ",
    now_ms!(),
    " WHERE id = $1 AND claimed_by = $2 AND claim = $3 AND status = 2 RETURNING user_id, session_id, quota_day"
);

/// Ends a message that can't be settled. Within a transaction.
async fn abandon(
    conn: &mut Connection,
    worker: WorkerId,
    claim: i64,
    message: MessageId,
) -> Result<Option<(UserId, SessionId, Day)>> {
    fence(conn, worker).await?;
    sqlx::query_as(ABANDON)
        .bind(message)
        .bind(worker)
        .bind(claim)
        .bind(MessageError::unknown_outcome().to_json())
        .bind(MAX_CRASHES)
        .fetch_optional(conn)
        .await
        .map_err(failed)
}

/// Counts a failure in the shard of those that no process in particular has written.
async fn count_failure(conn: &mut Connection, user: UserId, day: Day) -> Result<()> {
    sqlx::query(
        "INSERT INTO usage_stats (user_id, day, shard, failed) VALUES ($1, $2, 0, 1)
        ON CONFLICT (user_id, day, shard) DO UPDATE SET failed = usage_stats.failed + 1",
    )
    .bind(user)
    .bind(day)
    .execute(conn)
    .await
    .map(drop)
    .map_err(failed)
}
