//! Files: where their bytes are, and what they are by their content.

pub mod name;
mod signature;
mod sniff;
mod store;

pub use sniff::{HEAD_BYTES, check, check_voice, fit, identify, is_same_type};
pub use store::{FileError, FileStore, LocalFile, TempFile};
