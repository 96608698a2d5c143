//! When each session is looked at without another cause: every five seconds.
//!
//! The sessions of a process are spread over slots of 100 ms, and those of one slot go together: so a thousand idle
//! sessions wake the process ten times a second, and their pulls share transactions.

use std::sync::LazyLock;

use sanasr_shared::ids::SessionId;
use tokio::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(5);
const SLOT: Duration = Duration::from_millis(100);
const SLOTS: u128 = PERIOD.as_millis() / SLOT.as_millis();

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The session's next turn after `now`.
pub(crate) fn next(session: SessionId, now: Instant) -> Instant {
    // The low bits of a UUIDv7 are random.
    let slot = u32::try_from(session.0.as_u128() % SLOTS).unwrap_or(0);
    let first = *START + SLOT * slot;
    let turns = now.saturating_duration_since(first).as_millis() / PERIOD.as_millis();
    first + PERIOD * u32::try_from(turns + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_five_seconds_in_its_own_slot() {
        let session = SessionId::generate();
        let mut at = next(session, Instant::now());
        for _ in 0..5 {
            let then = next(session, at);
            assert_eq!(then - at, PERIOD);
            assert_eq!(next(session, then - Duration::from_millis(1)), then);
            at = then;
        }
    }
}
