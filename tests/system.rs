//! Whole-system tests: they start the real binary, embedded and distributed, and look at it from outside. `tests/run`
//! provides the services that they need.

mod guarantees;
mod harness;
