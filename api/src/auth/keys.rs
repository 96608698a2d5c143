//! API keys.
//!
//! An address past its limit is refused before its key is looked up, unless this process has found the key good within the last
//! hour: so a flood of wrong keys costs no queries, and one container with a stale key doesn't lock out the office around it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sanasr_shared::time::Time;
use sanasr_shared::user::{KeyOwner, RawApiKey};

use super::{Asker, Credential, Refused};
use crate::problem::Problem;
use crate::remembered::Remembered;
use crate::state::App;
use crate::trail::Trail;

/// Keys whose owners are remembered, at most. Keys that don't exist aren't among them: they can't push out those that do.
const REMEMBERED_MAX: usize = 50_000;
/// How long a key that was found good is looked up whatever its address has asked. At most twice as long.
const GOOD_FOR: Duration = Duration::from_secs(3_600);
/// Keys that were found good in that time, at most: 32 bytes each, twice. Past it the oldest half is forgotten.
const GOOD_MAX: usize = 100_000;

/// What is known of keys, by their public part.
pub(crate) struct Keys {
    owners: Arc<Remembered<String, Option<Arc<KeyOwner>>>>,
    good: Mutex<Good>,
}

/// The hashes of keys that were found good lately, in two halves: the older one goes when the newer one is full or old enough.
struct Good {
    newer: HashSet<[u8; 32]>,
    older: HashSet<[u8; 32]>,
    since: Instant,
    half_max: usize,
}

impl Good {
    fn new(half_max: usize) -> Self {
        Self { newer: HashSet::new(), older: HashSet::new(), since: Instant::now(), half_max }
    }

    fn contains(&mut self, hash: &[u8; 32], now: Instant) -> bool {
        self.turn(now);
        self.newer.contains(hash) || self.older.contains(hash)
    }

    fn add(&mut self, hash: [u8; 32], now: Instant) {
        self.turn(now);
        if self.newer.len() >= self.half_max && !self.newer.contains(&hash) {
            self.older = std::mem::take(&mut self.newer);
            self.since = now;
        }
        self.newer.insert(hash);
    }

    fn remove(&mut self, hash: &[u8; 32]) {
        self.newer.remove(hash);
        self.older.remove(hash);
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < GOOD_FOR {
            return;
        }
        let newer = std::mem::take(&mut self.newer);
        self.older = if age < 2 * GOOD_FOR { newer } else { HashSet::new() };
        self.since = now;
    }
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self { owners: Arc::new(Remembered::new(REMEMBERED_MAX)), good: Mutex::new(Good::new(GOOD_MAX / 2)) }
    }

    pub(crate) fn forget_all(&self) {
        self.owners.forget_all();
    }

    fn good(&self) -> MutexGuard<'_, Good> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose key this is, or why it opens nothing.
///
/// # Errors
/// The key isn't known to be good, and its address is past its limit; or the store is away.
pub(crate) async fn asker(app: &App, trail: &Trail, key: &str) -> Result<Result<Asker, Refused>, Problem> {
    let Some((lookup, hash)) = RawApiKey::parse(key) else { return Ok(Err(Refused::Unknown)) };
    let was_good = app.keys.good().contains(&hash, Instant::now());
    if !was_good && let Err(wait) = app.limits.may_ask_unknown(trail.address) {
        super::past_limit(app, trail);
        return Err(Problem::rate_limited(wait));
    }
    let read = {
        let store = Arc::clone(&app.store);
        let lookup = lookup.to_owned();
        async move { store.key_owner(&lookup).await.map(|owner| owner.map(Arc::new)) }
    };
    let owner: Option<Arc<KeyOwner>> = app.keys.owners.get(lookup.to_owned(), |owner| owner.is_some(), read).await?;
    let owner = owner.filter(|owner| is_good(owner, &hash, Time::now())).ok_or_else(|| Refused::Key(lookup.to_owned()));
    // Whoever holds a good key may know what became of its user.
    let owner = owner.and_then(|owner| if owner.user_is_active { Ok(owner) } else { Err(Refused::Inactive) });
    match (&owner, was_good) {
        (Ok(_), _) => app.keys.good().add(hash, Instant::now()),
        (Err(_), true) => app.keys.good().remove(&hash),
        (Err(_), false) => {}
    }
    Ok(owner.map(|owner| Asker {
        user: owner.user_id,
        staff: false,
        credential: Credential::Key(owner.key_id),
        until: owner.expires_at,
    }))
}

/// Whether a key is good, whatever its user is.
fn is_good(owner: &KeyOwner, hash: &[u8; 32], now: Time) -> bool {
    same(&owner.hash, hash) && owner.key_is_active && owner.expires_at.is_none_or(|expires_at| now < expires_at)
}

/// Compares in a time that doesn't depend on where the two differ.
fn same(a: &[u8], b: &[u8; 32]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use sanasr_shared::ids::{ApiKeyId, UserId};

    use super::*;

    #[test]
    fn only_the_whole_key_is_good_and_only_while_it_lives() {
        let good = KeyOwner {
            key_id: ApiKeyId(1),
            hash: vec![7; 32],
            key_is_active: true,
            expires_at: Some(Time(1000)),
            user_id: UserId(1),
            user_is_active: true,
        };
        assert!(is_good(&good, &[7; 32], Time(999)));
        assert!(!is_good(&good, &[7; 32], Time(1000)));
        assert!(!is_good(&good, &[8; 32], Time(0)));
        assert!(!is_good(&KeyOwner { key_is_active: false, ..good.clone() }, &[7; 32], Time(0)));
        assert!(!is_good(&KeyOwner { hash: Vec::new(), ..good }, &[7; 32], Time(0)));
    }

    #[test]
    fn good_keys_are_known_for_an_hour_and_only_so_many() {
        let start = Instant::now();
        let minutes = |n: u64| start + Duration::from_secs(60 * n);
        let mut good = Good::new(2);
        good.add([1; 32], start);
        assert!(good.contains(&[1; 32], minutes(59)) && good.contains(&[1; 32], minutes(61)));
        assert!(!good.contains(&[1; 32], minutes(121)));
        for n in 2..=6 {
            good.add([n; 32], minutes(122));
        }
        assert!(good.contains(&[6; 32], minutes(122)) && good.contains(&[4; 32], minutes(122)));
        assert!(!good.contains(&[2; 32], minutes(122)), "the oldest have gone");
        good.remove(&[6; 32]);
        assert!(!good.contains(&[6; 32], minutes(122)));
    }
}
