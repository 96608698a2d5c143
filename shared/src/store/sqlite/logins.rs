//! Logins: their statements are one text for both databases.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;

use super::{SqliteStore, sql};
use crate::ids::{FamilyId, UserId};
use crate::ports::logins::{Attempt, Credentials, Login, Logins, Reserved, Rotation};
use crate::ports::store::Result;
use crate::user::User;

#[async_trait]
impl Logins for SqliteStore {
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>> {
        sql::logins::credentials(&mut *self.read().await?, username).await
    }

    async fn credentials_of(&self, user: UserId) -> Result<Option<Credentials>> {
        sql::logins::credentials_of(&mut *self.read().await?, user).await
    }

    async fn start_login(&self, user: UserId, verified: &str, life: Duration) -> Result<Option<(FamilyId, User)>> {
        let verified = verified.to_owned();
        self.write(move |c, _| async move { sql::logins::start(c, user, &verified, life).await }.boxed()).await
    }

    async fn login(&self, family: FamilyId) -> Result<Option<Login>> {
        sql::logins::login(&mut *self.read().await?, family).await
    }

    async fn rotate(&self, family: FamilyId, generation: i64, life: Duration) -> Result<Rotation> {
        self.write(move |c, _| sql::logins::rotate(c, family, generation, life).boxed()).await
    }

    async fn end_login(&self, family: FamilyId) -> Result<Option<UserId>> {
        self.write(move |c, _| sql::logins::end(c, family).boxed()).await
    }

    async fn change_password(&self, user: UserId, verified: &str, hash: &str, keep: Option<FamilyId>) -> Result<bool> {
        let (verified, hash) = (verified.to_owned(), hash.to_owned());
        self.write(move |c, _| {
            async move { sql::logins::change_password(c, user, &verified, &hash, keep).await }.boxed()
        })
        .await
    }

    async fn attempt(&self, address: &str, name: &str) -> Result<Attempt> {
        let (address, name) = (address.to_owned(), name.to_owned());
        self.write(move |c, _| async move { sql::logins::attempt(c, &address, &name).await }.boxed()).await
    }

    async fn attempt_succeeded(&self, address: &str, name: &str, reserved: Reserved) -> Result<()> {
        let (address, name) = (address.to_owned(), name.to_owned());
        self.write(move |c, _| {
            async move { sql::logins::attempt_succeeded(c, &address, &name, reserved).await }.boxed()
        })
        .await
    }

    async fn forget_failures(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.write(move |c, _| async move { sql::logins::forget_failures(c, &name).await }.boxed()).await
    }
}
