//! The promises that every implementation of a port must keep: one function per promise, over the port's trait. Callers
//! run them against each implementation with that port's `…_suite!` macro, which knows their names.

pub mod store;
