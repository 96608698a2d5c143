//! The data dir: nobody but this process's user may read it, and where it holds the database, one process at a time has it.

use std::fs::{DirBuilder, DirEntry, File, Metadata, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};

/// What the mode of a folder or file must not have: anything for the group and for others.
const OTHERS: u32 = 0o077;
/// What a data dir holds: only what begins with these is ours.
const OURS: [&str; 5] = ["sanasr.db", "api-logs.db", "secret-key", "lock", "media"];

/// Makes the data dir, or takes from others what they may do there.
///
/// # Errors
/// It can't be made, or others may do something there and that can't be mended.
pub(crate) fn make(path: &Path) -> anyhow::Result<()> {
    let unusable = || format!("can't make the data dir {}; choose another with SANASR_DATA_DIR", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(unusable)?;
    let entries: Vec<DirEntry> =
        path.read_dir().and_then(Iterator::collect::<std::io::Result<_>>).with_context(unusable)?;
    let (ours, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| {
        let name = entry.file_name();
        OURS.iter().any(|ours| name.as_encoded_bytes().starts_with(ours.as_bytes()))
    });
    let meta = path.metadata().with_context(unusable)?;
    if meta.mode() & OTHERS != 0 && (!others.is_empty() || meta.mode() & STICKY != 0) {
        bail!(
            "others may read the data dir {}, which holds other things than sanasr's; choose a folder of its own with \
             SANASR_DATA_DIR",
            path.display()
        );
    }
    close(path, &meta)?;
    for entry in ours {
        match entry.metadata() {
            // What a link leads to isn't in the data dir.
            Ok(meta) if !meta.is_symlink() => close(&entry.path(), &meta)?,
            // It was gone already: another process's write-ahead log, for instance.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// The bit of folders for everybody, such as /tmp.
const STICKY: u32 = 0o1000;

/// Takes from others what they may do with a folder or file.
fn close(path: &Path, meta: &Metadata) -> anyhow::Result<()> {
    let mode = meta.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    match std::fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)) {
        Ok(()) => {
            tracing::warn!(path = %path.display(), "others could use this (mode {mode:o}); that is mended");
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| {
            format!(
                "others may use {} (mode {mode:o}), and that can't be mended; choose a folder of this user's own with \
                 SANASR_DATA_DIR",
                path.display()
            )
        }),
    }
}

/// Locks the data dir for this process: on one machine, one process at a time has it.
///
/// # Errors
/// Another process has it, or it can't be written.
pub(crate) fn lock(path: &Path) -> anyhow::Result<File> {
    make(path)?;
    let file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock")).with_context(
            || format!("can't write in the data dir {}; choose another with SANASR_DATA_DIR", path.display()),
        )?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another process uses the data dir {}; stop it, or choose another with SANASR_DATA_DIR",
                path.display()
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("can't lock {}", path.display())),
    }
}
