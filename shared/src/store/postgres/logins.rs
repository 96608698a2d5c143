//! Logins: their statements are one text for both databases.

use std::time::Duration;

use async_trait::async_trait;

use super::{Postgres, sql};
use crate::ids::{FamilyId, UserId};
use crate::ports::logins::{Attempt, Credentials, Login, Logins, Reserved, Rotation};
use crate::ports::store::Result;
use crate::user::User;

#[async_trait]
impl Logins for Postgres {
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>> {
        self.on_pool(async |c| sql::logins::credentials(c, username).await).await
    }

    async fn credentials_of(&self, user: UserId) -> Result<Option<Credentials>> {
        self.on_pool(async |c| sql::logins::credentials_of(c, user).await).await
    }

    async fn start_login(&self, user: UserId, verified: &str, life: Duration) -> Result<Option<(FamilyId, User)>> {
        self.in_transaction(async |c| sql::logins::start(c, user, verified, life).await).await
    }

    async fn login(&self, family: FamilyId) -> Result<Option<Login>> {
        self.on_pool(async |c| sql::logins::login(c, family).await).await
    }

    async fn rotate(&self, family: FamilyId, generation: i64, life: Duration) -> Result<Rotation> {
        self.in_transaction(async |c| sql::logins::rotate(c, family, generation, life).await).await
    }

    async fn end_login(&self, family: FamilyId) -> Result<Option<UserId>> {
        self.on_pool(async |c| sql::logins::end(c, family).await).await
    }

    async fn change_password(&self, user: UserId, verified: &str, hash: &str, keep: Option<FamilyId>) -> Result<bool> {
        self.in_transaction(async |c| sql::logins::change_password(c, user, verified, hash, keep).await).await
    }

    async fn attempt(&self, address: &str, name: &str) -> Result<Attempt> {
        self.in_transaction(async |c| sql::logins::attempt(c, address, name).await).await
    }

    async fn attempt_succeeded(&self, address: &str, name: &str, reserved: Reserved) -> Result<()> {
        self.in_transaction(async |c| sql::logins::attempt_succeeded(c, address, name, reserved).await).await
    }

    async fn forget_failures(&self, name: &str) -> Result<()> {
        self.in_transaction(async |c| sql::logins::forget_failures(c, name).await).await
    }
}
