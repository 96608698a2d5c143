//! Files: where their bytes are, and what they are by their content.

mod sniff;
mod store;

pub use sniff::{HEAD_BYTES, check, fit, identify};
pub use store::{FileError, FileStore, LocalFile, TempFile};
