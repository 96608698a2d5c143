//! How fast a session may send: the generic cell rate algorithm (GCRA), on a clock that is passed in.
//!
//! Places are counted before a pull and taken after it, when it is known how many messages there were: so nothing is
//! claimed before it may go. (That is why it isn't a limiter that takes while it asks.)

use rand::RngExt;
use sanasr_shared::session::Pace;
use tokio::time::{Duration, Instant};

/// Jobs that a doorbell holds, at most.
const PREFETCH_MAX: u32 = 200;

/// A session's pace and where it stands.
#[derive(Debug)]
pub(crate) struct Pacing {
    pace: Pace,
    /// The theoretical arrival time: when all that was sent would have been sent at an even pace.
    even: Option<Instant>,
    /// The end of the random extra wait.
    jitter: Option<Instant>,
}

impl Pacing {
    /// A session that has rested.
    pub(crate) const fn new(pace: Pace) -> Self {
        Self { pace, even: None, jitter: None }
    }

    /// Changes the pace; what was sent already still counts, within the new limits.
    pub(crate) fn set(&mut self, pace: Pace, now: Instant) {
        if self.pace == pace {
            return;
        }
        self.pace = pace;
        self.even = match (self.even, self.interval()) {
            (Some(even), Some(interval)) => Some(even.min(now + interval * self.burst())),
            _ => None,
        };
        self.jitter = self.jitter.map(|until| until.min(now + Duration::from_millis(pace.jitter_ms.into())));
    }

    /// Messages that may go at once now, of `wanted`.
    pub(crate) fn places(&self, wanted: u32, now: Instant) -> u32 {
        let wanted = if self.pace.jitter_ms > 0 {
            // One at a time, as each is preceded by a wait of its own.
            if self.jitter.is_some_and(|until| until > now) { 0 } else { wanted.min(1) }
        } else {
            wanted
        };
        let Some(interval) = self.interval() else { return wanted };
        let debt = self.even.map_or(Duration::ZERO, |even| even.saturating_duration_since(now));
        let room = (interval * self.burst()).saturating_sub(debt).as_nanos() / interval.as_nanos().max(1);
        wanted.min(u32::try_from(room).unwrap_or(u32::MAX))
    }

    /// When at least one may go.
    pub(crate) fn next_at(&self, now: Instant) -> Instant {
        let even = match (self.even, self.interval()) {
            (Some(even), Some(interval)) => {
                let lead = interval * (self.burst() - 1);
                now + even.saturating_duration_since(now).saturating_sub(lead)
            }
            _ => now,
        };
        self.jitter.map_or(even, |until| even.max(until))
    }

    /// `count` messages go now.
    pub(crate) fn take(&mut self, count: u32, now: Instant) {
        if count == 0 {
            return;
        }
        if let Some(interval) = self.interval() {
            let from = self.even.map_or(now, |even| even.max(now));
            self.even = Some(from + interval * count);
        }
        if self.pace.jitter_ms > 0 {
            let wait = rand::rng().random_range(0..=self.pace.jitter_ms);
            self.jitter = Some(now + Duration::from_millis(wait.into()));
        }
    }

    /// `count` messages that were taken didn't go after all.
    pub(crate) fn put_back(&mut self, count: u32) {
        if let (Some(even), Some(interval)) = (self.even, self.interval()) {
            self.even = even.checked_sub(interval * count);
        }
        self.jitter = None;
    }

    /// What can go out in a minute: what a doorbell should hold.
    pub(crate) fn prefetch(&self) -> u16 {
        let a_minute = self.pace.per_minute.unwrap_or(PREFETCH_MAX).clamp(1, PREFETCH_MAX);
        u16::try_from(a_minute).unwrap_or(u16::MAX)
    }

    fn interval(&self) -> Option<Duration> {
        self.pace.per_minute.map(|n| Duration::from_nanos(60_000_000_000_u64.div_ceil(n.max(1).into())))
    }

    /// Without a burst of its own a session may send a minute's worth at once.
    fn burst(&self) -> u32 {
        self.pace.burst.or(self.pace.per_minute).unwrap_or(1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(per_minute: u32, burst: u32) -> Pace {
        Pace { per_minute: Some(per_minute), burst: Some(burst), ..Pace::default() }
    }

    #[test]
    fn no_limit_is_no_limit() {
        let now = Instant::now();
        let mut pacing = Pacing::new(Pace::default());
        assert_eq!(pacing.places(64, now), 64);
        pacing.take(64, now);
        assert_eq!(pacing.places(64, now), 64);
        assert_eq!(pacing.next_at(now), now);
        assert_eq!(pacing.prefetch(), 200);
    }

    #[test]
    fn a_burst_then_an_even_pace() {
        let start = Instant::now();
        let mut pacing = Pacing::new(pace(60, 3));
        assert_eq!(pacing.places(64, start), 3);
        pacing.take(3, start);
        assert_eq!(pacing.places(64, start), 0);
        assert_eq!(pacing.next_at(start), start + Duration::from_secs(1));
        assert_eq!(pacing.places(64, start + Duration::from_secs(1)), 1);
        assert_eq!(pacing.places(64, start + Duration::from_secs(60)), 3);
        assert_eq!(pacing.prefetch(), 60);
    }

    #[test]
    fn what_is_put_back_may_go_again() {
        let now = Instant::now();
        let mut pacing = Pacing::new(Pace { jitter_ms: 500, ..pace(60, 3) });
        pacing.take(3, now);
        pacing.put_back(2);
        assert_eq!(pacing.places(64, now), 1, "one at a time");
        pacing.take(2, now);
        assert_eq!(pacing.places(64, now + Duration::from_millis(500)), 0);
    }

    #[test]
    fn jitter_lets_one_go_at_a_time() {
        let now = Instant::now();
        let mut pacing = Pacing::new(Pace { jitter_ms: 500, ..Pace::default() });
        assert_eq!(pacing.places(64, now), 1);
        pacing.take(1, now);
        let next = pacing.next_at(now);
        assert!(next <= now + Duration::from_millis(500));
        assert_eq!(pacing.places(64, next), 1);
    }

    #[test]
    fn a_faster_pace_counts_at_once() {
        let now = Instant::now();
        let mut pacing = Pacing::new(pace(1, 1));
        pacing.take(1, now);
        assert_eq!(pacing.next_at(now), now + Duration::from_secs(60));
        pacing.set(pace(600, 1), now);
        assert!(pacing.next_at(now) <= now + Duration::from_millis(100));
        pacing.set(Pace::default(), now);
        assert_eq!(pacing.next_at(now), now);
    }

    proptest! {
        /// In no window of a minute more than a minute's worth and a burst; and when it says that one may go, one may.
        #[test]
        fn the_limit_holds(per_minute in 1_u32..1_000_000, burst in 1_u32..100_000,
                           steps in prop::collection::vec((0_u64..20_000, 0_u32..2_000), 1..60)) {
            let mut now = Instant::now();
            let mut pacing = Pacing::new(pace(per_minute, burst));
            let mut sent: Vec<(Instant, u64)> = Vec::new();
            for (pause_ms, wanted) in steps {
                now += Duration::from_millis(pause_ms);
                let places = pacing.places(wanted, now);
                prop_assert!(places <= wanted);
                if wanted > 0 && places == 0 {
                    let next = pacing.next_at(now);
                    prop_assert!(next > now);
                    prop_assert_eq!(pacing.places(1, next), 1);
                }
                pacing.take(places, now);
                sent.push((now, places.into()));
                let minute: u64 = sent.iter().filter(|(at, _)| now.duration_since(*at) < Duration::from_secs(60)).map(|(_, n)| n).sum();
                prop_assert!(minute <= u64::from(per_minute) + u64::from(burst) + 1, "{} in a minute", minute);
            }
        }
    }
}
