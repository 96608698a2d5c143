//! Addresses that somebody has logged in from lately: they have places of their own in the queue of passwords to be checked.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::limits::network;

/// Addresses that are remembered, the latest: some hundred kB.
const MAX: usize = 10_000;

/// The addresses; an IPv6 one stands for its network.
pub(crate) struct Regulars(RwLock<HashSet<IpAddr>>);

impl Regulars {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(RwLock::default()))
    }

    /// Whether somebody has logged in from there.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&network(address))
    }

    /// Somebody has logged in from there just now.
    pub(crate) fn add(&self, address: IpAddr) {
        let mut regulars = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if regulars.len() < MAX {
            regulars.insert(network(address));
        }
    }
}
