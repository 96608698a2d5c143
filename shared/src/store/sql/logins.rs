//! Logins: passwords, families of tokens, and how often somebody may try. Transactions lock a user before its families, and
//! an address's own row before those of names.

use std::time::Duration;

use async_trait::async_trait;

use super::{Backend, Connection, audit, failed, people};
use crate::ids::{FamilyId, UserId};
use crate::ports::audit::{Action, Actor, AuditEntry, Target};
use crate::ports::logins::{Attempt, Credentials, Login, Logins, Reserved, Rotation};
use crate::ports::store::{Result, SWEEP_CHUNK};
use crate::throttle::{FORGOTTEN_AFTER, FREE_FAILURES, FREE_NAMES, penalty};
use crate::time::{Time, millis};
use crate::user::User;

#[async_trait]
impl Logins for Backend {
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>> {
        let username = username.to_owned();
        lookup!(self, |c| credentials(c, &username))
    }

    async fn credentials_of(&self, user: UserId) -> Result<Option<Credentials>> {
        lookup!(self, |c| credentials_of(c, user))
    }

    async fn start_login(&self, user: UserId, verified: &str, life: Duration) -> Result<Option<(FamilyId, User)>> {
        let verified = verified.to_owned();
        change!(self, |c| start(c, user, &verified, life))
    }

    async fn login(&self, family: FamilyId) -> Result<Option<Login>> {
        lookup!(self, |c| login(c, family))
    }

    async fn rotate(&self, family: FamilyId, generation: i64, life: Duration) -> Result<Rotation> {
        change!(self, |c| rotate(c, family, generation, life))
    }

    async fn end_login(&self, family: FamilyId) -> Result<Option<UserId>> {
        change!(self, |c| end(c, family))
    }

    async fn change_password(
        &self,
        user: UserId,
        verified: &str,
        hash: &str,
        keep: Option<FamilyId>,
        by: Actor,
    ) -> Result<bool> {
        let (verified, hash) = (verified.to_owned(), hash.to_owned());
        change!(self, |c| change_password(c, user, &verified, &hash, keep, by))
    }

    async fn attempt(&self, address: &str, name: &str) -> Result<Attempt> {
        let (address, name) = (address.to_owned(), name.to_owned());
        change!(self, |c| attempt(c, &address, &name))
    }

    async fn attempt_succeeded(&self, address: &str, name: &str, reserved: Reserved) -> Result<()> {
        let (address, name) = (address.to_owned(), name.to_owned());
        change!(self, |c| attempt_succeeded(c, &address, &name, reserved))
    }

    async fn login_addresses(&self, limit: u32) -> Result<Vec<String>> {
        lookup!(self, |c| addresses(c, limit))
    }

    async fn forget_failures(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        change!(self, |c| forget_failures(c, &name))
    }
}

/// How long an address is known from which somebody has logged in.
const ADDRESSES_KEPT: Duration = Duration::from_secs(90 * 86_400);

const CREDENTIALS_BY_NAME: &str =
    "SELECT id, username, password_hash, is_active FROM users WHERE username = $1 AND deleted_at IS NULL";
const CREDENTIALS_BY_ID: &str =
    "SELECT id, username, password_hash, is_active FROM users WHERE id = $1 AND deleted_at IS NULL";

/// What a name's password is checked against.
pub(crate) async fn credentials(conn: &mut Connection, username: &str) -> Result<Option<Credentials>> {
    sqlx::query_as(CREDENTIALS_BY_NAME).bind(username).fetch_optional(conn).await.map_err(failed)
}

/// What a user's password is checked against.
pub(crate) async fn credentials_of(conn: &mut Connection, user: UserId) -> Result<Option<Credentials>> {
    sqlx::query_as(CREDENTIALS_BY_ID).bind(user).fetch_optional(conn).await.map_err(failed)
}

/// Begins a login. Within a transaction: whoever changes the password at the same time comes before or after the whole.
pub(crate) async fn start(
    conn: &mut Connection,
    user: UserId,
    verified: &str,
    life: Duration,
) -> Result<Option<(FamilyId, User)>> {
    let still: Option<(UserId,)> = sqlx::query_as(concat!(
        "SELECT id FROM users WHERE id = $1 AND password_hash = $2 AND is_active AND deleted_at IS NULL",
        for_update!()
    ))
    .bind(user)
    .bind(verified)
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    if still.is_none() {
        return Ok(None);
    }
    let family = FamilyId::generate();
    sqlx::query(concat!(
        "INSERT INTO token_families (id, user_id, generation, created_at, expires_at)
        SELECT $1, $2, 1, t.now, t.now + $3 FROM (SELECT ",
        now_ms!(),
        " AS now) t"
    ))
    .bind(family)
    .bind(user)
    .bind(millis(life))
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    Ok(people::user(conn, user).await?.map(|user| (family, user)))
}

/// Whose login this is, while it lives.
pub(crate) async fn login(conn: &mut Connection, family: FamilyId) -> Result<Option<Login>> {
    sqlx::query_as(concat!(
        "SELECT u.id, u.is_staff FROM token_families f JOIN users u ON u.id = f.user_id
        WHERE f.id = $1 AND f.revoked_at IS NULL AND f.expires_at > ",
        now_ms!(),
        " AND u.is_active AND u.deleted_at IS NULL"
    ))
    .bind(family)
    .fetch_optional(conn)
    .await
    .map_err(failed)
}

/// Exchanges a token for the next one. Within a transaction.
pub(crate) async fn rotate(
    conn: &mut Connection,
    family: FamilyId,
    generation: i64,
    life: Duration,
) -> Result<Rotation> {
    let rotated: Option<(UserId, i64)> = sqlx::query_as(concat!(
        "UPDATE token_families SET generation = generation + 1, expires_at = ",
        now_ms!(),
        " + $3 WHERE id = $1 AND generation = $2 AND revoked_at IS NULL AND expires_at > ",
        now_ms!(),
        " AND EXISTS (SELECT 1 FROM users u
            WHERE u.id = token_families.user_id AND u.is_active AND u.deleted_at IS NULL)
        RETURNING user_id, generation"
    ))
    .bind(family)
    .bind(generation)
    .bind(millis(life))
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    if let Some((user, generation)) = rotated {
        return Ok(Rotation::Rotated { user, generation });
    }
    let reused: Option<(UserId,)> = sqlx::query_as(concat!(
        "UPDATE token_families SET revoked_at = ",
        now_ms!(),
        " WHERE id = $1 AND generation > $2 AND revoked_at IS NULL RETURNING user_id"
    ))
    .bind(family)
    .bind(generation)
    .fetch_optional(conn)
    .await
    .map_err(failed)?;
    Ok(reused.map_or(Rotation::Ended, |(user,)| Rotation::Reused(user)))
}

/// Ends a login.
pub(crate) async fn end(conn: &mut Connection, family: FamilyId) -> Result<Option<UserId>> {
    let user: Option<(UserId,)> = sqlx::query_as(concat!(
        "UPDATE token_families SET revoked_at = COALESCE(revoked_at, ",
        now_ms!(),
        ") WHERE id = $1 RETURNING user_id"
    ))
    .bind(family)
    .fetch_optional(conn)
    .await
    .map_err(failed)?;
    Ok(user.map(|(user,)| user))
}

/// Ends a user's logins but for one.
pub(super) async fn end_all(conn: &mut Connection, user: UserId, keep: Option<FamilyId>) -> Result<()> {
    sqlx::query(concat!(
        "UPDATE token_families SET revoked_at = ",
        now_ms!(),
        " WHERE user_id = $1 AND revoked_at IS NULL AND ($2 IS NULL OR id <> $2)"
    ))
    .bind(user)
    .bind(keep)
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Sets a password if the old one is still in force. Within a transaction.
pub(crate) async fn change_password(
    conn: &mut Connection,
    user: UserId,
    verified: &str,
    hash: &str,
    keep: Option<FamilyId>,
    by: Actor,
) -> Result<bool> {
    let done = sqlx::query(concat!(
        "UPDATE users SET password_hash = $3, updated_at = ",
        now_ms!(),
        " WHERE id = $1 AND password_hash = $2 AND is_active AND deleted_at IS NULL"
    ))
    .bind(user)
    .bind(verified)
    .bind(hash)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    end_all(conn, user, keep).await?;
    audit::note(conn, AuditEntry::new(by, Action::PasswordChanged, Some(Target::User(user)))).await?;
    Ok(true)
}

/// Counts an attempt, or says how long to wait. Within a transaction.
pub(crate) async fn attempt(conn: &mut Connection, address: &str, name: &str) -> Result<Attempt> {
    // Locks the address: attempts from there go one after the other from here on.
    let (now, address_until): (Time, Time) = sqlx::query_as(concat!(
        "INSERT INTO login_failures (address, username, failures, blocked_until, last_at) VALUES ($1, '', 0, 0, ",
        now_ms!(),
        ") ON CONFLICT (address, username) DO UPDATE SET last_at = excluded.last_at RETURNING last_at, blocked_until"
    ))
    .bind(address)
    .fetch_one(&mut *conn)
    .await
    .map_err(failed)?;
    let remembered = now.0 - millis(FORGOTTEN_AFTER);
    let known: Option<(i64, Time)> = sqlx::query_as(
        "SELECT failures, blocked_until FROM login_failures WHERE address = $1 AND username = $2 AND last_at > $3",
    )
    .bind(address)
    .bind(name)
    .bind(remembered)
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    let wait = known.map_or(address_until, |(_, until)| until.max(address_until)).since(now);
    if !wait.is_zero() {
        return Ok(Attempt::Wait(wait));
    }
    let failures = known.map_or(1, |(failures, _)| failures + 1);
    let of_name = penalty(failures, FREE_FAILURES);
    sqlx::query(
        "INSERT INTO login_failures (address, username, failures, blocked_until, last_at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (address, username) DO UPDATE
        SET failures = excluded.failures, blocked_until = excluded.blocked_until, last_at = excluded.last_at",
    )
    .bind(address)
    .bind(name)
    .bind(failures)
    .bind(of_name.map_or(Time(0), |wait| now.plus(wait)))
    .bind(now)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    let of_address = if known.is_none() { close(conn, address, now).await? } else { None };
    let address_until = of_address.map(|wait| now.plus(wait));
    Ok(Attempt::May(Reserved { penalty: of_name.max(of_address), address_until }))
}

/// A name is tried from an address that wasn't before: closes the address if those are many, and says for how long.
async fn close(conn: &mut Connection, address: &str, now: Time) -> Result<Option<Duration>> {
    let (names,): (i64,) = sqlx::query_as(
        "SELECT count(*) AS names FROM login_failures WHERE address = $1 AND username <> '' AND last_at > $2",
    )
    .bind(address)
    .bind(now.0 - millis(FORGOTTEN_AFTER))
    .fetch_one(&mut *conn)
    .await
    .map_err(failed)?;
    let wait = penalty(names, FREE_NAMES);
    if let Some(wait) = wait {
        sqlx::query("UPDATE login_failures SET blocked_until = $2 WHERE address = $1 AND username = ''")
            .bind(address)
            .bind(now.plus(wait))
            .execute(conn)
            .await
            .map_err(failed)?;
    }
    Ok(wait)
}

/// An attempt was right. Within a transaction.
pub(crate) async fn attempt_succeeded(
    conn: &mut Connection,
    address: &str,
    name: &str,
    reserved: Reserved,
) -> Result<()> {
    if let Some(until) = reserved.address_until {
        sqlx::query(
            "UPDATE login_failures SET blocked_until = 0 WHERE address = $1 AND username = '' AND blocked_until = $2",
        )
        .bind(address)
        .bind(until)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    }
    sqlx::query("DELETE FROM login_failures WHERE address = $1 AND username = $2")
        .bind(address)
        .bind(name)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    sqlx::query(concat!(
        "INSERT INTO login_addresses (address, last_at) VALUES ($1, ",
        now_ms!(),
        ") ON CONFLICT (address) DO UPDATE SET last_at = excluded.last_at"
    ))
    .bind(address)
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Addresses that somebody has logged in from, the latest first.
pub(crate) async fn addresses(conn: &mut Connection, limit: u32) -> Result<Vec<String>> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT address FROM login_addresses ORDER BY last_at DESC LIMIT $1")
        .bind(i64::from(limit))
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    Ok(rows.into_iter().map(|(address,)| address).collect())
}

/// Forgets a name's failures. Within a transaction.
pub(crate) async fn forget_failures(conn: &mut Connection, name: &str) -> Result<()> {
    for text in [
        "DELETE FROM login_failures WHERE username = '' AND address IN
            (SELECT n.address FROM login_failures n WHERE n.username = $1)",
        "DELETE FROM login_failures WHERE username = $1",
    ] {
        sqlx::query(text).bind(name).execute(&mut *conn).await.map_err(failed)?;
    }
    Ok(())
}

/// Removes logins that have ended by themselves and failures that are forgotten; `true` if there may be more. What somebody
/// is at just now is left.
pub(crate) async fn retire(conn: &mut Connection, now: Time) -> Result<bool> {
    let mut more = false;
    for (text, before) in [
        (
            concat!(
                "DELETE FROM token_families WHERE id IN (SELECT id FROM token_families WHERE expires_at < $1
                    ORDER BY expires_at LIMIT $2",
                for_update!(),
                skip_locked!(),
                ")"
            ),
            now.0,
        ),
        (
            concat!(
                "DELETE FROM login_failures WHERE (address, username) IN (SELECT address, username FROM login_failures
                    WHERE last_at < $1 ORDER BY last_at LIMIT $2",
                for_update!(),
                skip_locked!(),
                ")"
            ),
            now.0 - millis(FORGOTTEN_AFTER),
        ),
        (
            concat!(
                "DELETE FROM login_addresses WHERE address IN (SELECT address FROM login_addresses WHERE last_at < $1
                    ORDER BY last_at LIMIT $2",
                for_update!(),
                skip_locked!(),
                ")"
            ),
            now.0 - millis(ADDRESSES_KEPT),
        ),
    ] {
        let gone = sqlx::query(text).bind(before).bind(SWEEP_CHUNK).execute(&mut *conn).await.map_err(failed)?;
        more |= gone.rows_affected() >= SWEEP_CHUNK.unsigned_abs();
    }
    Ok(more)
}
