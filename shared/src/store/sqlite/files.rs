//! What is known of files.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;

use super::{SqliteStore, sql};
use crate::ids::{MediaId, UserId};
use crate::ports::files::{Files, NewFile, StoredFile};
use crate::ports::store::{Result, Scope};
use crate::time::{Time, millis};

#[async_trait]
impl Files for SqliteStore {
    async fn add_files(&self, user: UserId, files: &[NewFile], keep: Duration) -> Result<Vec<StoredFile>> {
        let files = files.to_owned();
        self.write(move |conn, _| async move { sql::files::add(conn, user, &files, millis(keep)).await }.boxed()).await
    }

    async fn file(&self, scope: Scope, id: MediaId) -> Result<Option<StoredFile>> {
        sql::files::file(&mut *self.read().await?, scope, id).await
    }

    async fn keep_files(&self, user: UserId, ids: &[MediaId], until: Time) -> Result<Vec<StoredFile>> {
        let ids = ids.to_owned();
        self.write(move |conn, _| async move { sql::files::keep(conn, user, &ids, until).await }.boxed()).await
    }

    async fn discard_files(&self, ids: &[MediaId]) -> Result<()> {
        let ids = ids.to_owned();
        self.write(move |conn, _| async move { sql::files::discard(conn, &ids).await }.boxed()).await
    }

    async fn gone_files(&self) -> Result<Vec<MediaId>> {
        self.write(move |conn, _| sql::files::gone(conn).boxed()).await
    }

    async fn forget_files(&self, ids: &[MediaId]) -> Result<()> {
        let ids = ids.to_owned();
        self.write(move |conn, _| async move { sql::files::forget(conn, &ids).await }.boxed()).await
    }
}
