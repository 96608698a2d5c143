//! conformance
pub mod bridge;
