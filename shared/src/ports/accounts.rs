//! Users and API keys as admins handle them.

use async_trait::async_trait;

use super::audit::Actor;
use super::store::{Moved, Result};
use crate::ids::{ApiKeyId, FamilyId, SessionId, UserId};
use crate::session::BridgeKind;
use crate::time::Time;
use crate::user::{ApiKey, NewUser, User, UserChange, UserFilter};

/// Users and API keys as admins handle them. Deleted users are absent; the last active admin stays one. Each change has its line
/// in the audit trail.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Makes a user with its session `default`, with all that is known of it. [`StoreError::Taken`] if the name is.
    ///
    /// [`StoreError::Taken`]: super::store::StoreError::Taken
    async fn add_user(&self, user: &NewUser, rest: &UserChange, default_bridge: BridgeKind, by: Actor) -> Result<User>;

    /// A page of users, newest first, older than `after`; and whether there are more.
    async fn list_users(&self, filter: &UserFilter, after: Option<UserId>, limit: u32) -> Result<(Vec<User>, bool)>;

    /// Changes what is given; a new password ends the user's logins but for `keep`, deactivating ends them all. Refused if no active admin would be
    /// left, whoever else changes them at the same time. [`StoreError::Taken`] if the name is.
    ///
    /// [`StoreError::Taken`]: super::store::StoreError::Taken
    async fn change_user(
        &self,
        id: UserId,
        change: &UserChange,
        keep: Option<FamilyId>,
        by: Actor,
    ) -> Result<Moved<User>>;

    /// Deletes a user: its keys are revoked, its logins end, its sessions are marked for deletion, and nothing personal is
    /// kept. Messages, usage and logs stay under its id, and its name is free. Answers the sessions marked. Refused if no
    /// active admin would be left.
    async fn delete_user(&self, id: UserId, by: Actor) -> Result<Moved<Vec<SessionId>>>;

    /// An API key, revoked or not.
    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>>;

    /// A page of API keys, of one user or all, newest first, older than `after`; and whether there are more.
    async fn list_api_keys(
        &self,
        user: Option<UserId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<(Vec<ApiKey>, bool)>;

    /// Writes down when keys were last used; an earlier time than the known one changes nothing.
    async fn mark_keys_used(&self, used: &[(ApiKeyId, Time)]) -> Result<()>;
}
