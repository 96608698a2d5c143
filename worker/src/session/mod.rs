//! What drives one owned session.

pub(crate) mod actor;
pub(crate) mod board;
pub(crate) mod pacing;
pub(crate) mod supervisor;
pub(crate) mod tick;
