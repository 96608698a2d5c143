//! Users and API keys as admins handle them. Transactions lock users by id, then the user's keys, logins and sessions.

use async_trait::async_trait;

use super::{Backend, Connection, audit, dialect, failed, logins, people};
use crate::ids::{ApiKeyId, FamilyId, SessionId, UserId};
use crate::ports::accounts::Accounts;
use crate::ports::audit::{Action, Actor, AuditEntry, Target};
use crate::ports::store::{Moved, Result, StoreError};
use crate::session::BridgeKind;
use crate::store::taken;
use crate::time::Time;
use crate::user::{ApiKey, NewUser, User, UserChange, UserFilter};

#[async_trait]
impl Accounts for Backend {
    async fn add_user(&self, user: &NewUser, rest: &UserChange, default_bridge: BridgeKind, by: Actor) -> Result<User> {
        let (user, rest) = (user.clone(), rest.clone());
        change!(self, |c| add(c, &user, &rest, default_bridge, by))
    }

    async fn list_users(&self, filter: &UserFilter, after: Option<UserId>, limit: u32) -> Result<(Vec<User>, bool)> {
        let filter = filter.clone();
        read!(self, |c| page(c, &filter, after, limit))
    }

    async fn change_user(
        &self,
        id: UserId,
        change: &UserChange,
        keep: Option<FamilyId>,
        by: Actor,
    ) -> Result<Moved<User>> {
        let change = change.clone();
        change!(self, |c| super::accounts::change(c, id, &change, keep, by))
    }

    async fn delete_user(&self, id: UserId, by: Actor) -> Result<Moved<Vec<SessionId>>> {
        change!(self, |c| delete(c, id, by))
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>> {
        read!(self, |c| api_key(c, id))
    }

    async fn list_api_keys(
        &self,
        user: Option<UserId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<(Vec<ApiKey>, bool)> {
        read!(self, |c| api_keys(c, user, after, limit))
    }

    async fn mark_keys_used(&self, used: &[(ApiKeyId, Time)]) -> Result<()> {
        let used: Vec<(i64, i64)> = used.iter().map(|(id, at)| (id.0, at.0)).collect();
        change!(self, |c| dialect::mark_keys_used(c, &used))
    }
}

/// Makes a user with all that is known of it. Within a transaction.
pub(crate) async fn add(
    conn: &mut Connection,
    user: &NewUser,
    rest: &UserChange,
    default_bridge: BridgeKind,
    by: Actor,
) -> Result<User> {
    let made = people::create_user(conn, user, default_bridge, by).await?;
    if *rest == UserChange::default() {
        return Ok(made);
    }
    Ok(write(conn, made.id, rest).await?.unwrap_or(made))
}

/// A page of users, newest first, and whether there are more.
pub(crate) async fn page(
    conn: &mut Connection,
    filter: &UserFilter,
    after: Option<UserId>,
    limit: u32,
) -> Result<(Vec<User>, bool)> {
    let rows = sqlx::query_as(concat!(
        "SELECT ",
        user_columns!(),
        " FROM users WHERE deleted_at IS NULL AND ($1 IS NULL OR id < $1) AND ($2 IS NULL OR username = $2)
            AND ($3 IS NULL OR is_active = $3) AND ($4 IS NULL OR is_staff = $4)
        ORDER BY id DESC LIMIT $5"
    ))
    .bind(after)
    .bind(&filter.username)
    .bind(filter.is_active)
    .bind(filter.is_staff)
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    Ok(cut(rows, limit))
}

/// The rows of a page, one of which may be too many, which tells that there are more.
fn cut<T>(mut rows: Vec<T>, limit: u32) -> (Vec<T>, bool) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    (rows, more)
}

/// Changes a user. Within a transaction.
pub(crate) async fn change(
    conn: &mut Connection,
    id: UserId,
    change: &UserChange,
    keep: Option<FamilyId>,
    by: Actor,
) -> Result<Moved<User>> {
    let resigns = change.is_staff == Some(false) || change.is_active == Some(false);
    if resigns && is_last_admin(conn, id).await? {
        return Ok(people::user(conn, id).await?.map_or(Moved::Absent, Moved::Refused));
    }
    let Some(user) = write(conn, id, change).await? else { return Ok(Moved::Absent) };
    if change.is_active == Some(false) {
        logins::end_all(conn, id, None).await?;
    } else if change.password_hash.is_some() {
        logins::end_all(conn, id, keep).await?;
    }
    if *change != UserChange::default() {
        audit::note(conn, changed(id, change, by)).await?;
    }
    Ok(Moved::Done(user))
}

/// The audit trail's line of a change: which fields, and the values of those that say what the user may do.
fn changed(id: UserId, change: &UserChange, by: Actor) -> AuditEntry {
    let given = [
        ("username", change.username.is_some()),
        ("password", change.password_hash.is_some()),
        ("email", change.email.is_some()),
        ("first_name", change.first_name.is_some()),
        ("last_name", change.last_name.is_some()),
        ("is_staff", change.is_staff.is_some()),
        ("is_active", change.is_active.is_some()),
        ("max_messages_per_day", change.max_messages_per_day.is_some()),
    ];
    let fields: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
    let mut entry = AuditEntry::new(by, Action::UserChanged, Some(Target::User(id))).with("changed", fields);
    if let Some(is_staff) = change.is_staff {
        entry = entry.with("is_staff", is_staff);
    }
    if let Some(is_active) = change.is_active {
        entry = entry.with("is_active", is_active);
    }
    if let Some(limit) = change.max_messages_per_day {
        entry = entry.with("max_messages_per_day", limit);
    }
    entry
}

/// Whether no active admin would be left without this one. Whoever makes an admin resign locks them all, in one order: so
/// two who do it at the same time see each other.
async fn is_last_admin(conn: &mut Connection, id: UserId) -> Result<bool> {
    let admins: Vec<(UserId,)> = sqlx::query_as(concat!(
        "SELECT id FROM users WHERE is_staff AND is_active AND deleted_at IS NULL ORDER BY id",
        for_update!()
    ))
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    Ok(admins == [(id,)])
}

async fn write(conn: &mut Connection, id: UserId, change: &UserChange) -> Result<Option<User>> {
    sqlx::query_as(concat!(
        "UPDATE users SET username = COALESCE($2, username), password_hash = COALESCE($3, password_hash),
            email = COALESCE($4, email), first_name = COALESCE($5, first_name), last_name = COALESCE($6, last_name),
            is_staff = COALESCE($7, is_staff), is_active = COALESCE($8, is_active),
            max_messages_per_day = CASE WHEN $9 THEN $10 ELSE max_messages_per_day END,
            updated_at = ",
        now_ms!(),
        " WHERE id = $1 AND deleted_at IS NULL RETURNING ",
        user_columns!()
    ))
    .bind(id)
    .bind(&change.username)
    .bind(&change.password_hash)
    .bind(&change.email)
    .bind(&change.first_name)
    .bind(&change.last_name)
    .bind(change.is_staff)
    .bind(change.is_active)
    .bind(change.max_messages_per_day.is_some())
    .bind(change.max_messages_per_day.flatten())
    .fetch_optional(conn)
    .await
    .map_err(|e| if taken(&e) { StoreError::Taken("username") } else { failed(e) })
}

/// Deletes a user but for its books. Within a transaction.
pub(crate) async fn delete(conn: &mut Connection, id: UserId, by: Actor) -> Result<Moved<Vec<SessionId>>> {
    if is_last_admin(conn, id).await? {
        return Ok(Moved::Refused(Vec::new()));
    }
    // No real name has a space.
    let done = sqlx::query(concat!(
        "UPDATE users SET username = 'deleted ' || CAST(id AS text), password_hash = '', email = '', first_name = '',
            last_name = '', is_active = false, is_staff = false, deleted_at = t.now, updated_at = t.now
        FROM (SELECT ",
        now_ms!(),
        " AS now) t WHERE id = $1 AND deleted_at IS NULL"
    ))
    .bind(id)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Ok(Moved::Absent);
    }
    sqlx::query("UPDATE api_keys SET is_active = false WHERE user_id = $1 AND is_active")
        .bind(id)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    logins::end_all(conn, id, None).await?;
    let sessions: Vec<(SessionId,)> = sqlx::query_as(concat!(
        "SELECT id FROM sessions WHERE user_id = $1 AND deleting_at IS NULL ORDER BY id",
        for_update!()
    ))
    .bind(id)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    sqlx::query(concat!(
        "UPDATE sessions SET deleting_at = t.now, updated_at = t.now, wanted = false
        FROM (SELECT ",
        now_ms!(),
        " AS now) t WHERE user_id = $1 AND deleting_at IS NULL"
    ))
    .bind(id)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    audit::note(conn, AuditEntry::new(by, Action::UserDeleted, Some(Target::User(id)))).await?;
    Ok(Moved::Done(sessions.into_iter().map(|(id,)| id).collect()))
}

macro_rules! api_key {
    ($rest:literal) => {
        concat!(
            "SELECT id, user_id, name, 'sanasr_' || lookup AS prefix,
                (is_active AND (expires_at IS NULL OR expires_at > ",
            now_ms!(),
            ")) AS is_active, expires_at, last_used_at, created_at FROM api_keys WHERE ",
            $rest
        )
    };
}

/// An API key.
pub(crate) async fn api_key(conn: &mut Connection, id: ApiKeyId) -> Result<Option<ApiKey>> {
    sqlx::query_as(api_key!("id = $1")).bind(id).fetch_optional(conn).await.map_err(failed)
}

/// A page of API keys, newest first, and whether there are more.
pub(crate) async fn api_keys(
    conn: &mut Connection,
    user: Option<UserId>,
    after: Option<ApiKeyId>,
    limit: u32,
) -> Result<(Vec<ApiKey>, bool)> {
    // Two texts, so that one user's are found by their index.
    let text = match user {
        Some(_) => api_key!("user_id = $1 AND ($2 IS NULL OR id < $2) ORDER BY id DESC LIMIT $3"),
        None => api_key!("$1 IS NULL AND ($2 IS NULL OR id < $2) ORDER BY id DESC LIMIT $3"),
    };
    let rows =
        sqlx::query_as(text).bind(user).bind(after).bind(i64::from(limit) + 1).fetch_all(conn).await.map_err(failed)?;
    Ok(cut(rows, limit))
}
