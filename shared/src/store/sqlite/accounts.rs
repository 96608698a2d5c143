//! Users and API keys as admins handle them.

use async_trait::async_trait;
use futures_util::FutureExt;

use super::sql::{self, failed};
use super::{SqliteStore, moves};
use crate::ids::{ApiKeyId, FamilyId, SessionId, UserId};
use crate::ports::accounts::Accounts;
use crate::ports::store::{Moved, Result};
use crate::session::BridgeKind;
use crate::time::Time;
use crate::user::{ApiKey, NewUser, User, UserChange, UserFilter};

const MARK_KEYS_USED: &str = "
UPDATE api_keys SET last_used_at = u.at
FROM (SELECT value->>0 AS id, value->>1 AS at FROM json_each($1)) u
WHERE api_keys.id = u.id AND (last_used_at IS NULL OR last_used_at < u.at)";

#[async_trait]
impl Accounts for SqliteStore {
    async fn add_user(&self, user: &NewUser, rest: &UserChange, default_bridge: BridgeKind) -> Result<User> {
        let (user, rest) = (user.clone(), rest.clone());
        self.write(move |c, _| async move { sql::accounts::add(c, &user, &rest, default_bridge).await }.boxed()).await
    }

    async fn list_users(&self, filter: &UserFilter, after: Option<UserId>, limit: u32) -> Result<(Vec<User>, bool)> {
        sql::accounts::page(&mut *self.read().await?, filter, after, limit).await
    }

    async fn change_user(&self, id: UserId, change: &UserChange, keep: Option<FamilyId>) -> Result<Moved<User>> {
        let change = change.clone();
        self.write(move |c, _| async move { sql::accounts::change(c, id, &change, keep).await }.boxed()).await
    }

    async fn delete_user(&self, id: UserId) -> Result<Moved<Vec<SessionId>>> {
        self.write(move |c, _| sql::accounts::delete(c, id).boxed()).await
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>> {
        sql::accounts::api_key(&mut *self.read().await?, id).await
    }

    async fn list_api_keys(
        &self,
        user: Option<UserId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<(Vec<ApiKey>, bool)> {
        sql::accounts::api_keys(&mut *self.read().await?, user, after, limit).await
    }

    async fn mark_keys_used(&self, used: &[(ApiKeyId, Time)]) -> Result<()> {
        let used: Vec<(i64, i64)> = used.iter().map(|(id, at)| (id.0, at.0)).collect();
        let used = moves::json(&used)?;
        self.write(move |c, _| {
            async move { sqlx::query(MARK_KEYS_USED).bind(used).execute(c).await.map(drop).map_err(failed) }.boxed()
        })
        .await
    }
}
