//! An account's receipts: those to be given now, those that fall due later, and those that nobody took.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::message::Status;
use crate::ports::store::Receipt;
use crate::time::Time;

/// Receipts that an account keeps, at most. Past it the oldest are forgotten; a link that opens later is told which
/// messages still await theirs.
const RECEIPTS_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct Mailbox(Mutex<Receipts>);

#[derive(Default)]
struct Receipts {
    due: VecDeque<Receipt>,
    /// By when they fall due; the number tells apart those of one moment, and keeps their order.
    later: BTreeMap<(Instant, u64), (String, Status)>,
    later_n: u64,
    untaken: Vec<Receipt>,
    /// Of the link that opened last.
    ring: Arc<Notify>,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Receipts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the mailbox: from now on this one is told of receipts that come.
    pub(super) fn take_over(&self) -> Arc<Notify> {
        let ring = Arc::new(Notify::new());
        self.lock().ring = Arc::clone(&ring);
        ring
    }

    /// Adds a message's receipts, due at once.
    pub(super) fn push(&self, whatsapp_id: &str, statuses: &[Status]) {
        if statuses.is_empty() {
            return;
        }
        let at = Time::now();
        let mut receipts = self.lock();
        for status in statuses {
            receipts.make_room();
            receipts.due.push_back(Receipt { whatsapp_id: whatsapp_id.to_owned(), status: *status, at });
        }
        receipts.ring.notify_one();
    }

    /// Adds a receipt that falls due at `when`.
    pub(super) fn push_later(&self, whatsapp_id: &str, status: Status, when: Instant) {
        let mut receipts = self.lock();
        receipts.make_room();
        let n = receipts.later_n;
        receipts.later_n += 1;
        receipts.later.insert((when, n), (whatsapp_id.to_owned(), status));
        receipts.ring.notify_one();
    }

    /// Up to `limit` receipts that are due; if there are none, when the next will be.
    pub(super) fn collect(&self, now: Instant, limit: usize) -> Result<Vec<Receipt>, Option<Instant>> {
        let mut receipts = self.lock();
        while let Some(first) = receipts.later.first_entry()
            && first.key().0 <= now
        {
            let (whatsapp_id, status) = first.remove();
            receipts.due.push_back(Receipt { whatsapp_id, status, at: Time::now() });
        }
        if receipts.due.is_empty() {
            return Err(receipts.later.first_key_value().map(|((when, _), _)| *when));
        }
        let count = limit.min(receipts.due.len());
        Ok(receipts.due.drain(..count).collect())
    }

    /// Puts back receipts that were given but not taken: they come again after the next connect.
    pub(super) fn put_back(&self, untaken: Vec<Receipt>) {
        self.lock().untaken.extend(untaken);
    }

    /// The connection is there (again): what wasn't taken is due.
    pub(super) fn connected(&self) {
        let mut receipts = self.lock();
        let untaken = std::mem::take(&mut receipts.untaken);
        for receipt in untaken.into_iter().rev() {
            receipts.due.push_front(receipt);
        }
    }

    /// The messages whose receipts are here.
    pub(super) fn whatsapp_ids(&self) -> HashSet<String> {
        let receipts = self.lock();
        let given = receipts.due.iter().chain(&receipts.untaken).map(|r| r.whatsapp_id.clone());
        given.chain(receipts.later.values().map(|(id, _)| id.clone())).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().len() == 0
    }
}

impl Receipts {
    fn len(&self) -> usize {
        self.due.len() + self.later.len() + self.untaken.len()
    }

    fn make_room(&mut self) {
        while self.len() >= RECEIPTS_MAX {
            if self.due.pop_front().is_none() && self.untaken.pop().is_none() {
                self.later.pop_first();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(receipts: &[Receipt]) -> Vec<&str> {
        receipts.iter().map(|r| r.whatsapp_id.as_str()).collect()
    }

    #[tokio::test]
    async fn what_was_not_taken_comes_first_after_the_next_connect() {
        let mailbox = Mailbox::default();
        for id in ["a", "b", "c"] {
            mailbox.push(id, &[Status::Delivered]);
        }
        let given = mailbox.collect(Instant::now(), 2).expect("two are due");
        assert_eq!(ids(&given), ["a", "b"]);
        mailbox.put_back(given);
        assert_eq!(ids(&mailbox.collect(Instant::now(), 9).expect("one is due")), ["c"]);
        assert_eq!(mailbox.collect(Instant::now(), 9), Err(None));
        mailbox.connected();
        assert_eq!(ids(&mailbox.collect(Instant::now(), 9).expect("they come again")), ["a", "b"]);
    }

    #[tokio::test]
    async fn later_ones_come_in_the_order_of_their_time() {
        let (mailbox, now) = (Mailbox::default(), Instant::now());
        let after = |ms| now + std::time::Duration::from_millis(ms);
        mailbox.push_later("second", Status::Read, after(20));
        mailbox.push_later("first", Status::Read, after(10));
        assert_eq!(mailbox.collect(now, 9), Err(Some(after(10))));
        assert_eq!(ids(&mailbox.collect(after(20), 9).expect("both are due")), ["first", "second"]);
    }

    #[tokio::test]
    async fn it_never_holds_more_than_its_limit() {
        let mailbox = Mailbox::default();
        for n in 0..RECEIPTS_MAX + 5 {
            mailbox.push(&n.to_string(), &[Status::Read]);
        }
        let all = mailbox.collect(Instant::now(), usize::MAX).expect("many");
        assert_eq!((all.len(), all[0].whatsapp_id.as_str()), (RECEIPTS_MAX, "5"));
    }
}
