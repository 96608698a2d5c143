//! Where the bytes of files are: in the data dir, or in any store that speaks S3. On their way in and out they lie in a
//! folder of the data dir, never whole in memory.
//!
//! What must hold: a kept file is whole and durable when [`FileStore::keep`] returns; temporary files go with their owner,
//! and those of a process that was killed when the next one starts.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ClientOptions, MultipartUpload, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::ids::MediaId;
use crate::settings::MediaSettings;

/// Files go to S3 in parts of this size, which lie in memory; S3 takes no smaller ones.
const PART_BYTES: u64 = 6 << 20;
/// Files that go to S3 at once, in one process.
const S3_AT_ONCE: usize = 8;
/// How long S3 may take for one request, and for it with its retries.
const S3_REQUEST: Duration = Duration::from_secs(15);
const S3_PATIENCE: Duration = Duration::from_secs(20);
const S3_RETRIES: usize = 2;
/// A temporary file that nobody holds is left over, once its maker has had time to lock it.
const LOCKED_WITHIN: Duration = Duration::from_secs(60);

/// Free bytes that files leave on the disk of the data dir: the database, which may be there too, must go on accepting, and what is
/// being fetched and sent needs some room.
const RESERVE: u64 = 512 << 20;

/// Why a file can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// There is none.
    #[error("the file is gone")]
    Gone,
    /// The disk is nearly full: no more files are taken.
    #[error("the disk is nearly full")]
    Full,
    /// The disk or the S3 store can't now.
    #[error("files can't be kept or read now: {0}")]
    Unavailable(String),
}

type Result<T> = std::result::Result<T, FileError>;

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<object_store::Error> for FileError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Gone,
            error => Self::Unavailable(error.to_string()),
        }
    }
}

/// The files; clones are the same.
#[derive(Clone)]
pub struct FileStore(Arc<Inner>);

struct Inner {
    /// Where temporary files lie.
    temporary: PathBuf,
    /// Free bytes below which no more files are taken.
    reserve: u64,
    place: Place,
}

/// Where kept files are.
enum Place {
    Folder(PathBuf),
    S3 { store: Box<dyn ObjectStore>, folder: String, at_once: Semaphore },
}

/// A kept file as it can be read, on this machine.
#[derive(Debug)]
pub struct LocalFile {
    /// Where it is.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// If it is a copy, it goes with this.
    _copy: Option<TempFile>,
}

/// A file that goes with its owner unless it is kept.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
    file: tokio::fs::File,
    size: u64,
}

impl FileStore {
    /// The store that the settings name. Temporary files lie below `data_dir` in any case.
    ///
    /// # Errors
    /// In words, if the settings are wrong or the folder can't be made.
    pub fn open(settings: &MediaSettings, data_dir: &Path) -> std::result::Result<Self, String> {
        let folder = data_dir.join("media");
        let temporary = folder.join("temporary");
        let failed = |error: io::Error| format!("the folder {} can't be used: {error}", temporary.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&temporary).map_err(failed)?;
        sweep(&temporary).map_err(failed)?;
        let place = match settings.media_url.as_deref() {
            None => Place::Folder(folder),
            Some(url) => s3(url, settings).map_err(|error| format!("SANASR_MEDIA_URL: {error}"))?,
        };
        Ok(Self(Arc::new(Inner { temporary, reserve: RESERVE, place })))
    }

    /// Whether the disk has room for more files from clients.
    ///
    /// # Errors
    /// [`FileError::Full`] if it has less than the reserve.
    pub async fn check_room(&self) -> Result<()> {
        let (folder, reserve) = (self.0.temporary.clone(), self.0.reserve);
        let free = blocking(move || {
            let disk = rustix::fs::statvfs(&folder)?;
            Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
        })
        .await?;
        if free < reserve { Err(FileError::Full) } else { Ok(()) }
    }

    /// A new temporary file.
    ///
    /// # Errors
    /// [`FileError::Unavailable`], as of everything here.
    pub async fn temporary(&self) -> Result<TempFile> {
        let path = self.0.temporary.join(MediaId::generate().to_string());
        blocking(move || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            file.lock()?;
            Ok(TempFile { path, file: tokio::fs::File::from_std(file), size: 0 })
        })
        .await
    }

    /// Keeps a file under an id, durably.
    ///
    /// # Errors
    /// Nothing is kept then, as far as anyone can tell: keep the row that has it removed.
    pub async fn keep(&self, id: MediaId, mut file: TempFile) -> Result<()> {
        file.file.flush().await?;
        match &self.0.place {
            Place::Folder(folder) => {
                let folder = folder.clone();
                let to = folder.join(id.to_string());
                let synced = file.file.try_clone().await?.into_std().await;
                blocking(move || {
                    synced.sync_all()?;
                    std::fs::rename(&file.path, to)?;
                    File::open(folder)?.sync_all()
                })
                .await
            }
            Place::S3 { store, folder, at_once } => {
                let _turn = at_once.acquire().await;
                upload(&**store, &key(folder, id), &mut file).await
            }
        }
    }

    /// A kept file.
    ///
    /// # Errors
    /// [`FileError::Gone`] if there is none.
    pub async fn get(&self, id: MediaId) -> Result<LocalFile> {
        match &self.0.place {
            Place::Folder(folder) => {
                let path = folder.join(id.to_string());
                let size = tokio::fs::metadata(&path).await?.len();
                Ok(LocalFile { path, size, _copy: None })
            }
            Place::S3 { store, folder, .. } => {
                let mut copy = self.temporary().await?;
                let mut bytes = store.get(&key(folder, id)).await?.into_stream();
                while let Some(some) = bytes.try_next().await? {
                    copy.write(&some).await?;
                }
                copy.into_local().await
            }
        }
    }

    /// Removes a kept file; one that is gone already is fine.
    ///
    /// # Errors
    /// [`FileError::Unavailable`].
    pub async fn remove(&self, id: MediaId) -> Result<()> {
        let removed = match &self.0.place {
            Place::Folder(folder) => tokio::fs::remove_file(folder.join(id.to_string())).await.map_err(FileError::from),
            Place::S3 { store, folder, .. } => store.delete(&key(folder, id)).await.map_err(FileError::from),
        };
        match removed {
            Err(FileError::Gone) => Ok(()),
            other => other,
        }
    }
}

impl TempFile {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`FileError::Unavailable`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).await?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Bytes written.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The file to be read.
    ///
    /// # Errors
    /// [`FileError::Unavailable`] if not all could be written.
    pub async fn into_local(mut self) -> Result<LocalFile> {
        self.file.flush().await?;
        Ok(LocalFile { path: self.path.clone(), size: self.size, _copy: Some(self) })
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Gone if it was kept.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| FileError::Unavailable(error.to_string()))??)
}

/// Removes temporary files of processes that are gone: those alive hold a lock on theirs.
fn sweep(temporary: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(temporary)? {
        let path = entry?.path();
        // Others sweep, too.
        let Ok(file) = File::open(&path) else { continue };
        let written = file.metadata()?.modified()?;
        let fresh = SystemTime::now().duration_since(written).is_ok_and(|age| age < LOCKED_WITHIN);
        match file.try_lock() {
            Ok(()) if !fresh => std::fs::remove_file(&path)?,
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

fn s3(url: &str, settings: &MediaSettings) -> std::result::Result<Place, String> {
    let (bucket, folder) = match url.strip_prefix("s3://") {
        Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
        None => return Err("must be s3://bucket or s3://bucket/folder".to_owned()),
    };
    if bucket.is_empty() {
        return Err("names no bucket".to_owned());
    }
    crate::tls::install();
    let endpoint = settings.s3_endpoint.as_deref();
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&settings.s3_region)
        .with_virtual_hosted_style_request(endpoint.is_none())
        .with_retry(RetryConfig { max_retries: S3_RETRIES, retry_timeout: S3_PATIENCE, ..RetryConfig::default() })
        .with_client_options(
            ClientOptions::new()
                .with_timeout(S3_REQUEST)
                .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))),
        );
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(key) = &settings.s3_access_key {
        builder = builder.with_access_key_id(key);
    }
    if let Some(key) = &settings.s3_secret_key {
        builder = builder.with_secret_access_key(key);
    }
    let store = builder.build().map_err(|error| error.to_string())?;
    let folder = folder.trim_matches('/').to_owned();
    Ok(Place::S3 { store: Box::new(store), folder, at_once: Semaphore::new(S3_AT_ONCE) })
}

fn key(folder: &str, id: MediaId) -> Key {
    Key::from(format!("{folder}/{id}"))
}

async fn upload(store: &dyn ObjectStore, key: &Key, file: &mut TempFile) -> Result<()> {
    file.file.rewind().await?;
    if file.size <= PART_BYTES {
        let bytes = read_part(&mut file.file).await?;
        store.put(key, bytes.into()).await?;
        return Ok(());
    }
    let mut upload = store.put_multipart(key).await?;
    let sent = send_parts(&mut *upload, &mut file.file).await;
    if sent.is_err() {
        let _ = upload.abort().await;
    }
    sent
}

async fn send_parts(upload: &mut dyn MultipartUpload, file: &mut tokio::fs::File) -> Result<()> {
    loop {
        let part = read_part(file).await?;
        if part.is_empty() {
            break;
        }
        upload.put_part(part.into()).await?;
    }
    upload.complete().await?;
    Ok(())
}

async fn read_part(file: &mut tokio::fs::File) -> Result<Vec<u8>> {
    let mut part = Vec::new();
    file.take(PART_BYTES).read_to_end(&mut part).await?;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::defaults;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("sanasr-files-{}", MediaId::generate()));
            std::fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn store(&self) -> FileStore {
            FileStore::open(&defaults(), &self.0).expect("a store")
        }

        fn temporary(&self) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(self.0.join("media/temporary")).expect("a folder");
            entries.map(|entry| entry.expect("an entry").path()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_file_is_kept_read_and_removed() {
        let folder = Folder::new();
        let (store, id) = (folder.store(), MediaId::generate());
        assert_eq!(store.get(id).await.expect_err("none yet"), FileError::Gone);
        let mut file = store.temporary().await.expect("a file");
        file.write(b"hello ").await.expect("room");
        file.write(b"world").await.expect("room");
        assert_eq!(file.size(), 11);
        store.keep(id, file).await.expect("kept");
        assert_eq!(folder.temporary(), Vec::<PathBuf>::new());
        let local = store.get(id).await.expect("the file");
        assert_eq!((local.size, std::fs::read(&local.path).expect("bytes")), (11, b"hello world".to_vec()));
        drop(local);
        store.get(id).await.expect("reading leaves it");
        store.remove(id).await.expect("removed");
        store.remove(id).await.expect("removing twice is fine");
        assert_eq!(store.get(id).await.expect_err("gone"), FileError::Gone);
    }

    #[tokio::test]
    async fn a_disk_that_is_nearly_full_takes_no_files() {
        let folder = Folder::new();
        let store = folder.store();
        store.check_room().await.expect("room for the tests");
        let place = Place::Folder(folder.0.join("media"));
        let inner = Inner { temporary: folder.0.join("media/temporary"), reserve: u64::MAX, place };
        assert_eq!(FileStore(Arc::new(inner)).check_room().await, Err(FileError::Full));
    }

    #[tokio::test]
    async fn temporary_files_go_with_their_owner() {
        let folder = Folder::new();
        let store = folder.store();
        let mut file = store.temporary().await.expect("a file");
        file.write(b"x").await.expect("room");
        let local = file.into_local().await.expect("a file");
        assert_eq!(std::fs::read(&local.path).expect("bytes"), b"x");
        drop(local);
        assert_eq!(folder.temporary(), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn what_the_dead_left_goes_at_the_next_start() {
        let folder = Folder::new();
        let store = folder.store();
        let held = store.temporary().await.expect("a file");
        let (old, fresh) = (folder.temporary()[0].with_file_name("old"), folder.temporary()[0].with_file_name("fresh"));
        let long_ago = SystemTime::now() - 2 * LOCKED_WITHIN;
        for path in [&old, &fresh] {
            File::create(path).expect("a file");
        }
        for path in [&old, &held.path] {
            File::options().write(true).open(path).and_then(|f| f.set_modified(long_ago)).expect("a time");
        }
        folder.store();
        assert!(!old.exists(), "nobody holds it");
        assert!(fresh.exists(), "its maker may be about to lock it");
        assert!(held.path.exists(), "its maker lives");
    }

    #[test]
    fn an_s3_address_names_a_bucket() {
        let folder = Folder::new();
        for (url, good) in [("s3://bucket", true), ("s3://bucket/a/b/", true), ("s3://", false), ("/srv/media", false)]
        {
            let settings = MediaSettings { media_url: Some(url.to_owned()), ..defaults() };
            assert_eq!(FileStore::open(&settings, &folder.0).is_ok(), good, "{url}");
        }
    }
}
