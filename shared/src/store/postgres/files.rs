//! What is known of files.

use std::time::Duration;

use async_trait::async_trait;

use super::{Postgres, sql};
use crate::ids::{MediaId, UserId};
use crate::ports::files::{Files, NewFile, StoredFile};
use crate::ports::store::{Result, Scope};
use crate::time::{Time, millis};

#[async_trait]
impl Files for Postgres {
    async fn add_files(&self, user: UserId, files: &[NewFile], keep: Duration) -> Result<Vec<StoredFile>> {
        self.in_transaction(async |c| sql::files::add(c, user, files, millis(keep)).await).await
    }

    async fn file(&self, scope: Scope, id: MediaId) -> Result<Option<StoredFile>> {
        self.on_pool(async |c| sql::files::file(c, scope, id).await).await
    }

    async fn keep_files(&self, user: UserId, ids: &[MediaId], until: Time) -> Result<Vec<StoredFile>> {
        self.on_pool(async |c| sql::files::keep(c, user, ids, until).await).await
    }

    async fn discard_files(&self, ids: &[MediaId]) -> Result<()> {
        self.on_pool(async |c| sql::files::discard(c, ids).await).await
    }

    async fn gone_files(&self) -> Result<Vec<MediaId>> {
        self.on_pool(async |c| sql::files::gone(c).await).await
    }

    async fn forget_files(&self, ids: &[MediaId]) -> Result<()> {
        self.on_pool(async |c| sql::files::forget(c, ids).await).await
    }
}
