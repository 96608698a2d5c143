//! Users and their keys.

use async_trait::async_trait;

use super::{Backend, Connection, audit, failed, logins, sessions};
use crate::ids::{ApiKeyId, UserId};
use crate::ports::audit::{Action, Actor, AuditEntry, Target};
use crate::ports::store::{People, Result, StoreError};
use crate::session::{BridgeKind, DEFAULT_SESSION};
use crate::store::taken;
use crate::time::Time;
use crate::user::{KeyOwner, NewUser, User};

#[async_trait]
impl People for Backend {
    async fn any_user(&self) -> Result<bool> {
        lookup!(self, |c| any_user(c))
    }

    async fn create_user(&self, user: &NewUser, default_bridge: BridgeKind, by: Actor) -> Result<User> {
        let user = user.clone();
        change!(self, |c| create_user(c, &user, default_bridge, by))
    }

    async fn user(&self, id: UserId) -> Result<Option<User>> {
        lookup!(self, |c| user(c, id))
    }

    async fn user_by_name(&self, username: &str) -> Result<Option<User>> {
        let username = username.to_owned();
        lookup!(self, |c| user_by_name(c, &username))
    }

    async fn set_password(&self, username: &str, password_hash: &str, by: Actor) -> Result<bool> {
        let (username, password_hash) = (username.to_owned(), password_hash.to_owned());
        change!(self, |c| set_password(c, &username, &password_hash, by))
    }

    async fn set_active(&self, user: UserId, active: bool) -> Result<bool> {
        change!(self, |c| set_active(c, user, active))
    }

    async fn set_limit(&self, user: UserId, max_messages_per_day: Option<i64>) -> Result<bool> {
        change!(self, |c| set_limit(c, user, max_messages_per_day))
    }

    async fn create_api_key(
        &self,
        user: UserId,
        name: &str,
        lookup: &str,
        hash: &[u8],
        expires_at: Option<Time>,
        by: Actor,
    ) -> Result<ApiKeyId> {
        let (name, lookup, hash) = (name.to_owned(), lookup.to_owned(), hash.to_owned());
        change!(self, |c| create_api_key(c, user, &name, &lookup, &hash, expires_at, by))
    }

    async fn key_owner(&self, lookup: &str) -> Result<Option<KeyOwner>> {
        let lookup = lookup.to_owned();
        lookup!(self, |c| key_owner(c, &lookup))
    }

    async fn revoke_api_key(&self, id: ApiKeyId, by: Actor) -> Result<bool> {
        change!(self, |c| revoke_api_key(c, id, by))
    }
}

/// Whether any user exists.
pub(crate) async fn any_user(conn: &mut Connection) -> Result<bool> {
    let (any,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM users) AS found").fetch_one(conn).await.map_err(failed)?;
    Ok(any)
}

/// Makes a user with its session `default`. Within a transaction.
pub(crate) async fn create_user(
    conn: &mut Connection,
    user: &NewUser,
    default_bridge: BridgeKind,
    by: Actor,
) -> Result<User> {
    let made: User = sqlx::query_as(concat!(
        "INSERT INTO users (username, password_hash, is_staff, max_messages_per_day, created_at, updated_at)
        SELECT $1, $2, $3, $4, t.now, t.now FROM (SELECT ",
        now_ms!(),
        " AS now) t RETURNING ",
        user_columns!()
    ))
    .bind(&user.username)
    .bind(&user.password_hash)
    .bind(user.is_staff)
    .bind(user.max_messages_per_day)
    .fetch_one(&mut *conn)
    .await
    .map_err(|e| if taken(&e) { StoreError::Taken("username") } else { failed(e) })?;
    sessions::create(conn, made.id, DEFAULT_SESSION, default_bridge).await?;
    let entry = AuditEntry::new(by, Action::UserCreated, Some(Target::User(made.id))).with("is_staff", made.is_staff);
    audit::note(conn, entry).await?;
    Ok(made)
}

/// A user by id.
pub(crate) async fn user(conn: &mut Connection, id: UserId) -> Result<Option<User>> {
    sqlx::query_as(concat!("SELECT ", user_columns!(), " FROM users WHERE id = $1 AND deleted_at IS NULL"))
        .bind(id)
        .fetch_optional(conn)
        .await
        .map_err(failed)
}

/// A user by name.
pub(crate) async fn user_by_name(conn: &mut Connection, username: &str) -> Result<Option<User>> {
    sqlx::query_as(concat!("SELECT ", user_columns!(), " FROM users WHERE username = $1 AND deleted_at IS NULL"))
        .bind(username)
        .fetch_optional(conn)
        .await
        .map_err(failed)
}

/// Sets a user's password and ends its logins. Within a transaction.
pub(crate) async fn set_password(
    conn: &mut Connection,
    username: &str,
    password_hash: &str,
    by: Actor,
) -> Result<bool> {
    let user: Option<(UserId,)> = sqlx::query_as(concat!(
        "UPDATE users SET password_hash = $2, updated_at = ",
        now_ms!(),
        " WHERE username = $1 AND deleted_at IS NULL RETURNING id"
    ))
    .bind(username)
    .bind(password_hash)
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    let Some((user,)) = user else { return Ok(false) };
    logins::end_all(conn, user, None).await?;
    let entry = AuditEntry::new(by, Action::UserChanged, Some(Target::User(user))).with("changed", vec!["password"]);
    audit::note(conn, entry).await?;
    Ok(true)
}

/// Activates a user, or deactivates one and ends all logins. Within a transaction.
pub(crate) async fn set_active(conn: &mut Connection, user: UserId, active: bool) -> Result<bool> {
    let done = sqlx::query(concat!(
        "UPDATE users SET is_active = $2, updated_at = ",
        now_ms!(),
        " WHERE id = $1 AND deleted_at IS NULL"
    ))
    .bind(user)
    .bind(active)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    if !active {
        logins::end_all(conn, user, None).await?;
    }
    Ok(done.rows_affected() > 0)
}

/// Sets a user's daily limit.
pub(crate) async fn set_limit(conn: &mut Connection, user: UserId, max_messages_per_day: Option<i64>) -> Result<bool> {
    let done = sqlx::query(concat!(
        "UPDATE users SET max_messages_per_day = $2, updated_at = ",
        now_ms!(),
        " WHERE id = $1 AND deleted_at IS NULL"
    ))
    .bind(user)
    .bind(max_messages_per_day)
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected() > 0)
}

/// Keeps a new key.
pub(crate) async fn create_api_key(
    conn: &mut Connection,
    user: UserId,
    name: &str,
    lookup: &str,
    hash: &[u8],
    expires_at: Option<Time>,
    by: Actor,
) -> Result<ApiKeyId> {
    let (id,): (ApiKeyId,) = sqlx::query_as(concat!(
        "INSERT INTO api_keys (user_id, name, lookup, hash, expires_at, created_at) VALUES ($1, $2, $3, $4, $5, ",
        now_ms!(),
        ") RETURNING id"
    ))
    .bind(user)
    .bind(name)
    .bind(lookup)
    .bind(hash)
    .bind(expires_at)
    .fetch_one(&mut *conn)
    .await
    .map_err(|e| if taken(&e) { StoreError::Taken("key") } else { failed(e) })?;
    let entry = AuditEntry::new(by, Action::ApiKeyCreated, Some(Target::Key(id))).with("user_id", user.0);
    audit::note(conn, entry).await?;
    Ok(id)
}

/// What stands behind the public part of a key.
pub(crate) async fn key_owner(conn: &mut Connection, lookup: &str) -> Result<Option<KeyOwner>> {
    sqlx::query_as(
        "SELECT k.id AS key_id, k.hash, k.is_active AS key_is_active, k.expires_at, k.user_id,
            u.is_active AS user_is_active
        FROM api_keys k JOIN users u ON u.id = k.user_id WHERE k.lookup = $1",
    )
    .bind(lookup)
    .fetch_optional(conn)
    .await
    .map_err(failed)
}

/// Revokes a key.
pub(crate) async fn revoke_api_key(conn: &mut Connection, id: ApiKeyId, by: Actor) -> Result<bool> {
    let done = sqlx::query("UPDATE api_keys SET is_active = false WHERE id = $1")
        .bind(id)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    audit::note(conn, AuditEntry::new(by, Action::ApiKeyRevoked, Some(Target::Key(id)))).await?;
    Ok(true)
}
