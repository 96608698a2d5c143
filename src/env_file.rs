//! The file `.env`: settings that the environment doesn't have. It is looked for in the working folder and nowhere else: a
//! folder above it may be somebody else's.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where it is, relative to the working folder.
const FILE: &str = ".env";

/// What was read, for the log, which starts later.
static READ: OnceLock<PathBuf> = OnceLock::new();

/// Reads the file, if there is one.
///
/// # Errors
/// It can't be read.
pub(crate) fn read() -> anyhow::Result<()> {
    match dotenvy::from_path(Path::new(FILE)) {
        Ok(()) => {
            let _ = READ.set(std::path::absolute(FILE).unwrap_or_else(|_| FILE.into()));
            Ok(())
        }
        Err(error) if error.not_found() => Ok(()),
        Err(error) => Err(anyhow::anyhow!("the file .env can't be read: {error}")),
    }
}

/// Says in the log what was read.
pub(crate) fn tell() {
    if let Some(path) = READ.get() {
        tracing::info!(path = %path.display(), "settings were read from the file .env");
    }
}
