//! The four ports: traits, their types and their errors, nothing else. Each has an embedded and a distributed
//! implementation that pass one conformance suite, and nobody outside the composition root knows which it has.
//!
//! To add an implementation: implement the trait, call its suite in `conformance` from the system tests, choose it in the
//! binary's `roles.rs`. The store's trait is made of several: `store`, `accounts`, `logins`, `devices` and others hold them.

pub mod accounts;
pub mod audit;
pub mod bridge;
pub mod devices;
pub mod files;
pub mod journal;
pub mod logins;
pub mod operations;
pub mod queue;
pub mod signals;
pub mod store;
