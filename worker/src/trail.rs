//! A lower bound for scans: below it there is nothing unfinished.
//!
//! It trails the oldest unfinished message by a minute at least. A number is drawn before its transaction commits, so a
//! message may appear below ones that were seen already; no transaction lasts a minute.

use tokio::time::{Duration, Instant};

const BUCKET: Duration = Duration::from_secs(60);

/// Remembers where the oldest unfinished message was.
#[derive(Debug)]
pub(crate) struct Trail {
    low: i64,
    /// The least that was seen in the bucket before `since`.
    before: Option<i64>,
    /// The least that was seen since `since`.
    seen: Option<i64>,
    since: Instant,
}

impl Trail {
    /// Nothing is known: scans begin at the very start.
    pub(crate) const fn new(now: Instant) -> Self {
        Self { low: 0, before: None, seen: None, since: now }
    }

    /// The bound.
    pub(crate) const fn low(&self) -> i64 {
        self.low
    }

    /// At `now` the oldest unfinished message was `seq`, or would have been had there been one.
    pub(crate) fn observe(&mut self, seq: i64, now: Instant) {
        let age = now.duration_since(self.since);
        if age >= BUCKET {
            // What was seen before `since` is a minute old by now, and after two minutes all is.
            let old = if age >= 2 * BUCKET { self.seen.take().or(self.before) } else { self.before };
            self.low = self.low.max(old.unwrap_or(0));
            self.before = self.seen.take();
            self.since = now;
        }
        self.seen = Some(self.seen.map_or(seq, |seen| seen.min(seq)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_trails_by_a_minute_at_least() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut trail = Trail::new(start);
        trail.observe(100, at(0));
        trail.observe(150, at(59));
        assert_eq!(trail.low(), 0);
        trail.observe(200, at(60));
        assert_eq!(trail.low(), 0, "150 was seen a second ago");
        trail.observe(120, at(90)); // appeared late
        trail.observe(300, at(121));
        assert_eq!(trail.low(), 100);
        trail.observe(310, at(182));
        assert_eq!(trail.low(), 120);
        trail.observe(900, at(1_000));
        assert_eq!(trail.low(), 310, "after a rest all that was seen before it is old enough");
    }
}
