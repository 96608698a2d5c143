//! The store's part about files that clients have given us: who owns one, and how long it is kept. The bytes themselves are
//! in a [`FileStore`](crate::media::FileStore).
//!
//! A row is written before its file and removed after it, so that no file is ever without a row that says when it goes.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use utoipa::ToSchema;

use super::audit::Actor;
use super::store::{Moved, Result, Scope};
use crate::ids::{MediaId, UserId};
use crate::time::Time;

/// How long a file is kept that no message refers to, and one that a message refers to after the message's end.
pub const FILE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A file that is about to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Its id, made for it.
    pub id: MediaId,
    /// What it is, by its content.
    pub mime_type: String,
    /// In bytes.
    pub size: u64,
    /// The last part of the name that it came with.
    pub filename: Option<String>,
}

/// An uploaded file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
pub struct StoredFile {
    /// What a message names it by: `media.id`.
    pub id: MediaId,
    /// What it is, by its content.
    #[schema(examples("image/png"))]
    pub mime_type: String,
    /// In bytes.
    #[sqlx(try_from = "i64")]
    pub size: u64,
    /// The last part of the name that it came with.
    pub filename: Option<String>,
    /// When it was uploaded.
    pub created_at: Time,
    /// When it is removed: a day after its upload, or after the end of the last accepted message that refers to it.
    #[sqlx(rename = "keep_until")]
    pub expires_at: Time,
}

/// What is known of files.
#[async_trait]
pub trait Files: Send + Sync {
    /// Notes files that are about to be kept, for `keep` from now on; all or none. [`StoreError::Full`] if the user's files had
    /// more than `bytes_max` bytes together then: what is noted counts until it is forgotten.
    ///
    /// [`StoreError::Full`]: super::store::StoreError::Full
    async fn add_files(
        &self,
        user: UserId,
        files: &[NewFile],
        keep: Duration,
        bytes_max: u64,
        by: Actor,
    ) -> Result<Vec<StoredFile>>;

    /// Bytes of a user's files.
    async fn stored_bytes(&self, user: UserId) -> Result<u64>;

    /// A file.
    async fn file(&self, scope: Scope, id: MediaId) -> Result<Option<StoredFile>>;

    /// Those of a user's files that are kept for so long at least. What isn't answered doesn't exist, is another user's, or is
    /// gone, or nearly.
    async fn files(&self, user: UserId, ids: &[MediaId], at_least: Duration) -> Result<Vec<StoredFile>>;

    /// Marks a file as gone, before its time: its bytes are to be removed. Refused while a message needs it that is scheduled,
    /// waits or is being sent.
    async fn remove_file(&self, scope: Scope, id: MediaId, by: Actor) -> Result<Moved<StoredFile>>;

    /// Has files removed at the next sweep: nobody came to know of them.
    async fn discard_files(&self, ids: &[MediaId]) -> Result<()>;

    /// Marks files as gone whose time is over, and answers those whose bytes must be removed, up to
    /// [`SWEEP_CHUNK`](super::store::SWEEP_CHUNK). They are answered again until they are forgotten.
    async fn gone_files(&self) -> Result<Vec<MediaId>>;

    /// Removes the rows of files that are gone, after their bytes.
    async fn forget_files(&self, ids: &[MediaId]) -> Result<()>;
}
