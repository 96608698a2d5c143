//! Users and API keys as admins handle them.

use async_trait::async_trait;

use super::{Postgres, error, sql};
use crate::ids::{ApiKeyId, FamilyId, SessionId, UserId};
use crate::ports::accounts::Accounts;
use crate::ports::store::{Moved, Result};
use crate::session::BridgeKind;
use crate::time::Time;
use crate::user::{ApiKey, NewUser, User, UserChange, UserFilter};

const MARK_KEYS_USED: &str = "
WITH locked AS MATERIALIZED (
    SELECT k.id, u.at FROM unnest($1::bigint[], $2::bigint[]) AS u (id, at) JOIN api_keys k ON k.id = u.id
    WHERE k.last_used_at IS NULL OR k.last_used_at < u.at
    ORDER BY k.id
    FOR NO KEY UPDATE OF k
)
UPDATE api_keys k SET last_used_at = l.at FROM locked l WHERE k.id = l.id";

#[async_trait]
impl Accounts for Postgres {
    async fn add_user(&self, user: &NewUser, rest: &UserChange, default_bridge: BridgeKind) -> Result<User> {
        self.in_transaction(async |c| sql::accounts::add(c, user, rest, default_bridge).await).await
    }

    async fn list_users(&self, filter: &UserFilter, after: Option<UserId>, limit: u32) -> Result<(Vec<User>, bool)> {
        self.on_pool(async |c| sql::accounts::page(c, filter, after, limit).await).await
    }

    async fn change_user(&self, id: UserId, change: &UserChange, keep: Option<FamilyId>) -> Result<Moved<User>> {
        self.in_transaction(async |c| sql::accounts::change(c, id, change, keep).await).await
    }

    async fn delete_user(&self, id: UserId) -> Result<Moved<Vec<SessionId>>> {
        self.in_transaction(async |c| sql::accounts::delete(c, id).await).await
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>> {
        self.on_pool(async |c| sql::accounts::api_key(c, id).await).await
    }

    async fn list_api_keys(
        &self,
        user: Option<UserId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<(Vec<ApiKey>, bool)> {
        self.on_pool(async |c| sql::accounts::api_keys(c, user, after, limit).await).await
    }

    async fn mark_keys_used(&self, used: &[(ApiKeyId, Time)]) -> Result<()> {
        let (ids, times): (Vec<i64>, Vec<i64>) = used.iter().map(|(id, at)| (id.0, at.0)).unzip();
        self.on_pool(async |c| {
            sqlx::query(MARK_KEYS_USED).bind(&ids).bind(&times).execute(c).await.map(|_| ()).map_err(error)
        })
        .await
    }
}
