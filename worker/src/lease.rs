//! The local deadline: until when this worker may send without having heard from the database again.
//!
//! It counts from *before* a renewal was asked for, on a clock that goes on while the machine sleeps, and ends a margin
//! before the lease that the database keeps. So a process that was frozen past its lease and wakes sees at its next check
//! that it may not send. What was checked before the freeze and sent after it rests on the one WhatsApp id.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

/// Time since the machine's start, suspends included (`CLOCK_BOOTTIME`; [`std::time::Instant`] stands still in a suspend).
pub(crate) fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A worker's lease, as it may rely on it.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// In nanoseconds since the machine's start; 0 once it is lost.
    until: AtomicU64,
    renewed: Notify,
}

impl Lease {
    /// A renewal, asked for at `asked`, has succeeded.
    pub(crate) fn renewed(&self, asked: Duration, lease: Duration) {
        let until = asked + lease - lease / 10;
        self.until.store(nanos(until), Ordering::Release);
        self.renewed.notify_waiters();
    }

    /// The worker's row is gone.
    pub(crate) fn revoke(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether something may be sent now.
    pub(crate) fn holds(&self) -> bool {
        self.holds_at(boottime())
    }

    fn holds_at(&self, now: Duration) -> bool {
        nanos(now) < self.until.load(Ordering::Acquire)
    }

    /// Waits until it holds (again).
    pub(crate) async fn held(&self) {
        loop {
            let renewed = self.renewed.notified();
            if self.holds() {
                return;
            }
            renewed.await;
        }
    }
}

/// Since when the database has been heard from without a break. Only who has been in contact for a whole lease may declare
/// others dead: after an outage they must have had the time to renew.
#[derive(Debug, Default)]
pub(crate) struct Contact {
    /// In nanoseconds since the machine's start; 0 while it is broken.
    since: AtomicU64,
    /// The last success.
    last: AtomicU64,
}

impl Contact {
    /// A renewal has succeeded at `now`.
    pub(crate) fn succeeded(&self, now: Duration, lease: Duration) {
        let last = Duration::from_nanos(self.last.swap(nanos(now), Ordering::AcqRel));
        if self.since.load(Ordering::Acquire) == 0 || now.saturating_sub(last) > lease {
            self.since.store(nanos(now), Ordering::Release);
        }
    }

    /// A renewal has failed.
    pub(crate) fn failed(&self) {
        self.since.store(0, Ordering::Release);
    }

    /// Whether it has lasted a whole lease at `now`, and still does.
    pub(crate) fn lasted(&self, now: Duration, lease: Duration) -> bool {
        let since = self.since.load(Ordering::Acquire);
        let last = Duration::from_nanos(self.last.load(Ordering::Acquire));
        since != 0
            && now.saturating_sub(Duration::from_nanos(since)) >= lease
            && now.saturating_sub(last) <= lease.mul_f64(0.9)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(1_000.0 + seconds)
    }

    #[test]
    fn it_ends_a_margin_before_the_databases_and_counts_from_the_asking() {
        let lease = Lease::default();
        assert!(!lease.holds_at(at(0.0)), "before the first renewal nothing may be sent");
        lease.renewed(at(0.0), LEASE);
        assert!(lease.holds_at(at(8.9)));
        assert!(!lease.holds_at(at(9.0)));
        lease.renewed(at(20.0), LEASE);
        assert!(lease.holds_at(at(28.0)), "a late renewal counts as long as the row exists");
        lease.revoke();
        assert!(!lease.holds_at(at(21.0)));
    }

    #[test]
    fn the_clock_runs() {
        let before = boottime();
        std::thread::sleep(Duration::from_millis(2));
        assert!(boottime() > before);
    }

    #[test]
    fn only_a_whole_lease_of_contact_entitles() {
        let contact = Contact::default();
        for second in 0..10 {
            assert!(!contact.lasted(at(f64::from(second)), LEASE));
            contact.succeeded(at(f64::from(second)), LEASE);
        }
        contact.succeeded(at(10.0), LEASE);
        assert!(contact.lasted(at(10.0), LEASE));
        assert!(!contact.lasted(at(25.0), LEASE), "a process that was frozen must hear from the database first");
        contact.succeeded(at(25.0), LEASE);
        assert!(!contact.lasted(at(25.0), LEASE));
        contact.succeeded(at(30.0), LEASE);
        contact.succeeded(at(35.0), LEASE);
        assert!(contact.lasted(at(35.0), LEASE));
        contact.failed();
        assert!(!contact.lasted(at(35.0), LEASE));
    }
}
