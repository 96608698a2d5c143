//! Logins: passwords, families of tokens, and how often somebody may try.

use std::time::Duration;

use async_trait::async_trait;

use super::audit::Actor;
use super::store::Result;
use crate::ids::{FamilyId, UserId};
use crate::time::Time;
use crate::user::User;

/// What a password is checked against.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Credentials {
    /// Whose they are.
    #[sqlx(rename = "id")]
    pub user: UserId,
    /// The name to log in with.
    pub username: String,
    /// The hash of the password.
    pub password_hash: String,
    /// Whether the user may do anything.
    pub is_active: bool,
}

/// Whose login a family of tokens is, while it lives and its user is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Login {
    /// The user.
    #[sqlx(rename = "id")]
    pub user: UserId,
    /// May use the admin endpoints.
    pub is_staff: bool,
}

/// What became of a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// It was the one in force; this generation is now, and the login lives on.
    Rotated {
        /// Whose login it is.
        user: UserId,
        /// The new token's generation.
        generation: i64,
    },
    /// It was used before: somebody has stolen it, or what came of it. The login has ended with this.
    Reused(UserId),
    /// The login had ended, or its user isn't active.
    Ended,
}

/// Whether somebody may try a password now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// They may, and it counts as wrong until it is found to be right.
    May(Reserved),
    /// Not before so long.
    Wait(Duration),
}

/// An attempt that counts already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// How long they must wait if it is wrong.
    pub penalty: Option<Duration>,
    /// Until when it has closed the whole address.
    pub address_until: Option<Time>,
}

/// Logins, as all processes share them. Deleted users are absent.
#[async_trait]
pub trait Logins: Send + Sync {
    /// What a name's password is checked against.
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>>;

    /// What a user's password is checked against.
    async fn credentials_of(&self, user: UserId) -> Result<Option<Credentials>>;

    /// Begins a login that ends after `life` without a rotation; its first token has generation 1. `None` if the user isn't
    /// active, or has another password by now than the one that was verified.
    async fn start_login(&self, user: UserId, verified: &str, life: Duration) -> Result<Option<(FamilyId, User)>>;

    /// Whose login this is; `None` if it has ended or its user isn't active.
    async fn login(&self, family: FamilyId) -> Result<Option<Login>>;

    /// Exchanges the token of this generation for the next one, which lives so long. Of several at once one is rotated.
    async fn rotate(&self, family: FamilyId, generation: i64, life: Duration) -> Result<Rotation>;

    /// Ends a login; whose it was, or `None` if there is none. Ending it again is harmless.
    async fn end_login(&self, family: FamilyId) -> Result<Option<UserId>>;

    /// Sets a user's password if it is still the one that was verified, and ends the user's logins but for `keep`.
    async fn change_password(
        &self,
        user: UserId,
        verified: &str,
        hash: &str,
        keep: Option<FamilyId>,
        by: Actor,
    ) -> Result<bool>;

    /// Counts an attempt to give a name's password from an address, or says how long to wait. The name goes by its
    /// [`name_key`](crate::throttle::name_key). An attempt counts before its password is looked at, so that many at once
    /// can't slip through.
    async fn attempt(&self, address: &str, name: &str) -> Result<Attempt>;

    /// The password was right: the name has no failures from this address any more, which is remembered as one that somebody
    /// has logged in from.
    async fn attempt_succeeded(&self, address: &str, name: &str, reserved: Reserved) -> Result<()>;

    /// Addresses that somebody has logged in from, those of the latest logins first.
    async fn login_addresses(&self, limit: u32) -> Result<Vec<String>>;

    /// Forgets a name's failures everywhere, and whatever else closes the addresses they came from.
    async fn forget_failures(&self, name: &str) -> Result<()>;
}
