//! Whole-system tests: they start the real binary, embedded and distributed, and look at it from outside; and the store's
//! promises on both databases. `tests/run` provides the services that they need.

mod bridge_conformance;
mod chaos;
mod guarantees;
mod harness;
mod reference;
mod store_conformance;
