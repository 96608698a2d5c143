//! How much one caller may ask: for each API key and each logged-in user, and for each address without credentials.
//!
//! Each API process counts for itself. The headers are those of draft-ietf-httpapi-ratelimit-headers-10.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use sanasr_shared::ids::{ApiKeyId, UserId};
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::settings::HttpSettings;
use tokio_util::sync::CancellationToken;

/// Time between two clean-ups of who hasn't asked lately.
const CLEAN_EVERY: Duration = Duration::from_secs(30);
/// Addresses that are remembered as past their limit, at most: some 10 MB. Each stays for the time of one request, 50 ms by
/// default, so that only an attack from more addresses at once than this goes beyond it, and costs a look-up each.
const EXHAUSTED_MAX: usize = 100_000;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Account {
    /// An API key's.
    Key(ApiKeyId),
    /// A logged-in user's.
    User(UserId),
}

type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// The limits of this process.
pub(crate) struct Limits {
    accounts: Limiter<Account>,
    addresses: Limiter<IpAddr>,
    /// Addresses that may not ask anything before a time.
    exhausted: Mutex<HashMap<IpAddr, Instant>>,
    clock: DefaultClock,
    quota: Quota,
    address_quota: Quota,
}

/// What an account may still ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    burst: u32,
    /// Seconds in which a burst is refilled.
    window_s: u64,
    pub(crate) remaining: u32,
    /// Seconds until a whole burst is there again.
    full_in_s: u64,
}

/// Too much was asked: wait so long.
pub(crate) type Refused = Duration;

impl Limits {
    pub(crate) fn start(settings: &HttpSettings, watchdog: &Watchdog, life: CancellationToken) -> Arc<Self> {
        let quota = quota(settings.key_rate, settings.key_burst);
        let address_quota = self::quota(settings.address_rate, settings.address_burst);
        let limits = Arc::new(Self {
            accounts: RateLimiter::dashmap(quota).with_middleware(),
            addresses: RateLimiter::dashmap(address_quota).with_middleware(),
            exhausted: Mutex::default(),
            clock: DefaultClock::default(),
            quota,
            address_quota,
        });
        let (cleaned, watchdog) = (Arc::clone(&limits), watchdog.clone());
        tokio::spawn(async move {
            let clean = async |_| {
                while life.run_until_cancelled(tokio::time::sleep(CLEAN_EVERY)).await.is_some() {
                    cleaned.accounts.retain_recent();
                    cleaned.addresses.retain_recent();
                    let now = Instant::now();
                    cleaned.lock().retain(|_, until| *until > now);
                }
            };
            watchdog.keep("forgetting who asked", clean).await;
        });
        limits
    }

    /// Counts a request of an account: what it may still ask, and whether this was too much.
    pub(crate) fn ask(&self, account: Account) -> (Rate, Result<(), Refused>) {
        match self.accounts.check_key(&account) {
            Ok(state) => (self.rate(state.remaining_burst_capacity()), Ok(())),
            Err(refused) => (self.rate(0), Err(refused.wait_time_from(self.clock.now()))),
        }
    }

    /// Counts a request without valid credentials.
    pub(crate) fn ask_unknown(&self, address: IpAddr) -> Result<(), Refused> {
        let address = network(address);
        match self.addresses.check_key(&address) {
            Ok(state) => {
                if state.remaining_burst_capacity() == 0 {
                    self.exhaust(address, self.address_quota.replenish_interval());
                }
                Ok(())
            }
            Err(refused) => {
                let wait = refused.wait_time_from(self.clock.now());
                self.exhaust(address, wait);
                Err(wait)
            }
        }
    }

    /// Whether a request without valid credentials would be too much now. Counts nothing.
    pub(crate) fn may_ask_unknown(&self, address: IpAddr) -> Result<(), Refused> {
        let until = self.lock().get(&network(address)).copied();
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    fn exhaust(&self, address: IpAddr, wait: Duration) {
        let now = Instant::now();
        let mut exhausted = self.lock();
        if exhausted.len() >= EXHAUSTED_MAX && !exhausted.contains_key(&address) {
            exhausted.retain(|_, until| *until > now);
            if exhausted.len() >= EXHAUSTED_MAX {
                return;
            }
        }
        exhausted.insert(address, now + wait);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.exhausted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rate(&self, remaining: u32) -> Rate {
        let burst = self.quota.burst_size().get();
        let seconds = |cells: u32| self.quota.replenish_interval().saturating_mul(cells).as_secs_f64().ceil() as u64;
        Rate { burst, window_s: seconds(burst).max(1), remaining, full_in_s: seconds(burst - remaining) }
    }
}

fn quota(rate: u32, burst: u32) -> Quota {
    let at_least_one = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(at_least_one(rate)).allow_burst(at_least_one(burst))
}

/// Whoever has an IPv6 address has a whole network of them: it counts as one.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl Rate {
    /// Says it in an answer's headers.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let policy = format!("\"default\";q={};w={}", self.burst, self.window_s);
        let limit = format!("\"default\";r={};t={}", self.remaining, self.full_in_s);
        for (name, value) in [(POLICY, policy), (LIMIT, limit)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sanasr_shared::settings::defaults;

    use super::*;

    #[tokio::test]
    async fn each_account_has_its_own_limit() {
        let settings = HttpSettings { key_rate: 1, key_burst: 3, ..defaults() };
        let limits = Limits::start(&settings, &Watchdog::default(), CancellationToken::new());
        let one = Account::Key(ApiKeyId(1));
        let remaining: Vec<_> = (0..3).map(|_| limits.ask(one).0.remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        let (rate, refused) = limits.ask(one);
        assert_eq!(rate, Rate { burst: 3, window_s: 3, remaining: 0, full_in_s: 3 });
        let wait = refused.expect_err("too much");
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(limits.ask(Account::User(UserId(1))).1.is_ok());
        let mut headers = HeaderMap::new();
        rate.tell(&mut headers);
        assert_eq!(headers[LIMIT], "\"default\";r=0;t=3");
        assert_eq!(headers[POLICY], "\"default\";q=3;w=3");
    }

    #[tokio::test]
    async fn a_network_of_ipv6_addresses_is_one() {
        let settings = HttpSettings { address_rate: 1, address_burst: 1, ..defaults() };
        let limits = Limits::start(&settings, &Watchdog::default(), CancellationToken::new());
        let ask = |text: &str| limits.ask_unknown(text.parse().expect("an address")).is_ok();
        assert!(ask("2001:db8::1") && !ask("2001:db8::2") && ask("2001:db8:0:1::1"));
        assert!(ask("192.0.2.1") && !ask("::ffff:192.0.2.1") && ask("192.0.2.2"));
    }

    #[tokio::test]
    async fn an_address_past_its_limit_is_known_without_counting() {
        let settings = HttpSettings { address_rate: 1, address_burst: 3, ..defaults() };
        let limits = Limits::start(&settings, &Watchdog::default(), CancellationToken::new());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..3 {
            assert!((0..10).all(|_| limits.may_ask_unknown(one).is_ok()), "asking whether it may doesn't count");
            assert!(limits.ask_unknown(one).is_ok());
        }
        let wait = limits.may_ask_unknown(one).expect_err("it has none left");
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        assert!(limits.ask_unknown(one).is_err());
        assert!(limits.may_ask_unknown(other).is_ok());
    }
}
