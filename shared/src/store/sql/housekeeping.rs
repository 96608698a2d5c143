//! What one worker at a time does for all. Each sweep is made by `sweeps`, as the databases differ there.

use std::time::Duration;

use async_trait::async_trait;

use uuid::Uuid;

use super::super::sweeps;
use super::messages::first_id_at;
use super::sessions::remove_drained;
use super::{Backend, Connection, audit, dialect, failed, ownership};
use crate::ids::{SessionId, UserId, WorkerId};
use crate::ports::store::{AcceptedJob, Backlog, Housekeeping, Result, Retention, SWEEP_CHUNK, Swept};
use crate::time::{Day, Time, millis};

#[async_trait]
impl Housekeeping for Backend {
    async fn lead(&self, worker: WorkerId, term: Duration) -> Result<bool> {
        change!(self, |c| ownership::lead(c, worker, term))
    }

    async fn promote(&self) -> Result<(Vec<AcceptedJob>, bool)> {
        change!(self, |c, now| sweeps::promote(c, now))
    }

    async fn expire(&self) -> Result<Swept> {
        change!(self, |c, now| sweeps::expire(c, now))
    }

    async fn count_backlog(&self) -> Result<(Backlog, Option<Duration>)> {
        sweeps::count_backlog(self).await
    }

    async fn drain_deleted(&self) -> Result<(Swept, Vec<SessionId>)> {
        change!(self, |c, now| sweeps::drain_deleted(c, now))
    }

    async fn retire(&self, retention: &Retention) -> Result<bool> {
        let mut more = sweeps::retire(self, retention).await?;
        more |= retire_messages(self, retention).await?;
        let now = read!(self, |c| now(c))?;
        more |= audit::retire(self, Time(now.0.saturating_sub(millis(retention.audit))), retention.audit_lines).await?;
        for (user, day, units) in change!(self, |c| take_short(c))? {
            tracing::error!(%user, %day, units, "units of a quota were given back that had not been taken");
        }
        Ok(more)
    }
}

/// How long after it may be over a message is looked at, again and again: most have ended within a day of their acceptance, and
/// 61 days after it all have. So each is removed soon after its time, and none is looked at for ever.
const LOOKS: [Duration; 8] = [days(0), days(1), days(2), days(4), days(8), days(16), days(32), days(64)];
/// Messages that are looked at in one transaction.
const LOOK_MAX: usize = 5_000;

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

/// Removes messages that are over; `true` if there may be more.
async fn retire_messages(store: &Backend, retention: &Retention) -> Result<bool> {
    let now = read!(store, |c| now(c))?;
    let mut more = false;
    for (name, keep, unsent) in [("unsent", Some(retention.unsent), true), ("messages", retention.messages, false)] {
        let Some(keep) = keep else { continue };
        let changed_before = Time(now.0.saturating_sub(millis(keep)));
        for look in LOOKS {
            let sweep = Sweep {
                name: format!("{name}-{}", look.as_secs() / 86_400),
                below: first_id_at(Time(changed_before.0.saturating_sub(millis(look)))),
                changed_before: if look == LOOKS[LOOKS.len() - 1] { now } else { changed_before },
                unsent,
            };
            more |= change!(store, |c| sweep.run(c))?;
        }
        if !unsent {
            change!(store, |c| remove_drained(c, changed_before, first_id_at(changed_before)))?;
        }
    }
    Ok(more)
}

/// One look at messages, in the order of their ids, which is that of their acceptance. It goes on where it ended.
struct Sweep {
    name: String,
    /// Messages with lower ids are looked at.
    below: Uuid,
    /// Those go that changed before.
    changed_before: Time,
    /// Only those that were cancelled or expired.
    unsent: bool,
}

impl Sweep {
    /// Looks at the next messages; `true` if there may be more. Within a transaction.
    async fn run(&self, conn: &mut Connection) -> Result<bool> {
        let position: Option<(Uuid,)> = sqlx::query_as("SELECT position FROM sweeps WHERE name = $1")
            .bind(&self.name)
            .fetch_optional(&mut *conn)
            .await
            .map_err(failed)?;
        let position = position.map_or(Uuid::nil(), |(position,)| position);
        let mut rows: Vec<(Uuid, bool)> = sqlx::query_as(
            "SELECT id, (updated_at < $3 AND status > 2 AND (NOT $4 OR status IN (7, 8))) AS is_over
            FROM messages WHERE id > $1 AND id < $2 ORDER BY id LIMIT $5",
        )
        .bind(position)
        .bind(self.below)
        .bind(self.changed_before)
        .bind(self.unsent)
        .bind(i64::try_from(LOOK_MAX).unwrap_or(i64::MAX))
        .fetch_all(&mut *conn)
        .await
        .map_err(failed)?;
        let mut more = rows.len() >= LOOK_MAX;
        let mut over = Vec::new();
        for (at, (id, is_over)) in rows.iter().enumerate() {
            if !is_over {
                continue;
            }
            over.push(*id);
            if i64::try_from(over.len()).is_ok_and(|count| count >= SWEEP_CHUNK) {
                rows.truncate(at + 1);
                more = true;
                break;
            }
        }
        let Some((last, _)) = rows.last().copied() else { return Ok(false) };
        if !over.is_empty() {
            sqlx::query(concat!("DELETE FROM messages WHERE status > 2 AND id ", among!("$1")))
                .bind(dialect::ids(over.into_iter()))
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
        }
        sqlx::query(
            "INSERT INTO sweeps (name, position) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET position = excluded.position",
        )
        .bind(&self.name)
        .bind(last)
        .execute(conn)
        .await
        .map_err(failed)?;
        Ok(more)
    }
}

async fn now(conn: &mut Connection) -> Result<Time> {
    let (now,): (Time,) =
        sqlx::query_as(concat!("SELECT ", now_ms!(), " AS now")).fetch_one(conn).await.map_err(failed)?;
    Ok(now)
}

/// Quotas to which more was given back than had been taken, a defect, and how much; told once. Within a transaction.
async fn take_short(conn: &mut Connection) -> Result<Vec<(UserId, Day, i64)>> {
    let short: Vec<(UserId, Day, i64)> =
        sqlx::query_as(concat!("SELECT user_id, day, short FROM quotas WHERE short > 0 LIMIT 100", for_update!()))
            .fetch_all(&mut *conn)
            .await
            .map_err(failed)?;
    for (user, day, _) in &short {
        sqlx::query("UPDATE quotas SET short = 0 WHERE user_id = $1 AND day = $2")
            .bind(user)
            .bind(day)
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    Ok(short)
}
