//! WhatsApp itself, but for the network: a server that speaks its protocol, phones that are linked, people who decrypt.

mod care;
mod faults;
mod linking;
mod proxies;
mod sending;
mod state;
