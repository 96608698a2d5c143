//! The server, tried with a real client.

mod client;

mod failures;
mod pairing;
mod process;
mod sending;
