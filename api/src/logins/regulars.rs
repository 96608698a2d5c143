//! Addresses that somebody has logged in from lately: they have places of their own in the queue of passwords to be checked.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sanasr_shared::ports::store::Store;
use tokio_util::sync::CancellationToken;

use crate::limits::network;

/// Time between two looks at what other processes have added.
const EVERY: Duration = Duration::from_secs(60);
/// Addresses that are remembered, the latest: some hundred kB.
const MAX: u32 = 10_000;

/// The addresses; an IPv6 one stands for its network.
pub(crate) struct Regulars(RwLock<HashSet<IpAddr>>);

impl Regulars {
    /// Reads them from the store, again and again until `life` ends.
    pub(crate) fn start(store: Arc<dyn Store>, life: CancellationToken) -> Arc<Self> {
        let regulars = Arc::new(Self(RwLock::default()));
        let kept = Arc::clone(&regulars);
        tokio::spawn(async move {
            loop {
                match store.login_addresses(MAX).await {
                    Ok(addresses) => {
                        let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
                        *kept.0.write().unwrap_or_else(PoisonError::into_inner) = addresses;
                    }
                    Err(error) => tracing::debug!(%error, "the addresses of earlier logins can't be read now"),
                }
                if life.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                    return;
                }
            }
        });
        regulars
    }

    /// Whether somebody has logged in from there.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&network(address))
    }

    /// Somebody has logged in from there just now.
    pub(crate) fn add(&self, address: IpAddr) {
        let mut regulars = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if regulars.len() < MAX as usize {
            regulars.insert(network(address));
        }
    }
}
