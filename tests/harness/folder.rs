//! Temporary folders.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder that goes with its owner. It lies in the folder of the test run if there is one, so that nothing is left
/// even if the tests are killed.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A new one; `kind` begins its name.
    pub(crate) fn new(kind: &str) -> Self {
        let base = std::env::var_os("SANASR_TEST_RUN").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = base.join(super::unique(kind));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        // PostgreSQL runs as another user if the tests run as root.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file or folder in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
