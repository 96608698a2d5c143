//! How far all users' events have been read.
//!
//! Numbers are given in the order of the writing, but committed in any: a number that is missing between two others is
//! looked up again for as long as its transaction may last, and is rolled back after that. So nothing is skipped, and nothing
//! is read twice.

use std::collections::BTreeMap;
use std::time::Instant;

use sanasr_shared::ports::journal::{Event, Newest, UNDER_WAY_MAX};

/// Missing numbers that are looked up again, at most. The highest are kept: they are the youngest.
const MISSING_MAX: usize = 20_000;

/// Read up to here, but for what is missing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Position {
    last: i64,
    /// Numbers that weren't there, and when that was first seen.
    missing: BTreeMap<i64, Instant>,
}

impl Position {
    /// From now on.
    pub(super) fn new(newest: Newest, now: Instant) -> Self {
        let mut position = Self { last: newest.last, missing: newest.missing.into_iter().map(|n| (n, now)).collect() };
        position.bound();
        position
    }

    /// Read on after this number.
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    /// Look these numbers up again.
    pub(super) fn missing(&self) -> Vec<i64> {
        self.missing.keys().copied().collect()
    }

    /// Takes in what was found: `late` of the missing numbers, which were all looked up at `now` or later, and `new`, which
    /// follows on the last number, in order.
    pub(super) fn take(&mut self, late: &[Event], new: &[Event], now: Instant) {
        for event in late {
            self.missing.remove(&event.n);
        }
        self.missing.retain(|_, since| now.duration_since(*since) < UNDER_WAY_MAX);
        for event in new {
            let lowest = event.n.saturating_sub(i64::try_from(MISSING_MAX).unwrap_or(i64::MAX));
            self.missing.extend((lowest.max(self.last + 1)..event.n).map(|n| (n, now)));
            self.last = event.n;
        }
        self.bound();
    }

    fn bound(&mut self) {
        while self.missing.len() > MISSING_MAX {
            self.missing.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sanasr_shared::ids::{MessageId, UserId};
    use sanasr_shared::message::Status;
    use sanasr_shared::ports::journal::Change;
    use sanasr_shared::time::Time;

    use super::*;

    fn events(numbers: &[i64]) -> Vec<Event> {
        let change = Change::Message(MessageId::generate(), Status::Sent);
        numbers.iter().map(|n| Event { n: *n, at: Time(0), user: UserId(1), change }).collect()
    }

    #[test]
    fn a_late_commit_is_looked_for_until_it_comes() {
        let start = Instant::now();
        let mut position = Position::new(Newest { last: 10, missing: vec![8] }, start);
        assert_eq!((position.last(), position.missing()), (10, vec![8]));
        position.take(&[], &events(&[11, 14]), start);
        assert_eq!((position.last(), position.missing()), (14, vec![8, 12, 13]));
        position.take(&events(&[12]), &events(&[15]), start);
        assert_eq!((position.last(), position.missing()), (15, vec![8, 13]));
        position.take(&events(&[8, 13]), &[], start);
        assert_eq!((position.last(), position.missing()), (15, vec![]));
    }

    #[test]
    fn what_was_rolled_back_is_given_up_only_when_it_cant_come_any_more() {
        let start = Instant::now();
        let mut position = Position::new(Newest { last: 10, missing: vec![] }, start);
        position.take(&[], &events(&[12]), start);
        position.take(&[], &[], start + UNDER_WAY_MAX - Duration::from_millis(1));
        assert_eq!(position.missing(), [11]);
        position.take(&[], &[], start + UNDER_WAY_MAX);
        assert!(position.missing().is_empty());
    }

    #[test]
    fn a_jump_of_the_numbers_costs_a_bounded_memory() {
        let start = Instant::now();
        let mut position = Position::new(Newest { last: 0, missing: vec![] }, start);
        position.take(&[], &events(&[1_000_000_000]), start);
        assert_eq!(position.last(), 1_000_000_000);
        assert_eq!(position.missing().len(), MISSING_MAX);
        assert_eq!(position.missing().last(), Some(&999_999_999));
    }
}
