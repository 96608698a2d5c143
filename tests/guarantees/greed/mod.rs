//! One greedy or hostile client: others are served meanwhile.

mod bodies;
mod connections;
mod pages;
