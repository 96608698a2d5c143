//! Receipts of one session on their way into the store: what comes while a write is under way goes with the next one.

use std::collections::VecDeque;
use std::sync::Arc;

use sanasr_shared::ids::SessionId;
use sanasr_shared::ports::bridge::Receipts as Arrived;
use sanasr_shared::ports::store::{Receipt, ReceiptBatch};
use tokio::sync::oneshot;

use crate::life::{Life, Unwritten};
use crate::slot::Slot;

/// Receipts in one write, at most (but for one arrival that alone has more).
const BATCH_MAX: usize = 1_000;
/// Parts of a batch that the database may refuse until the rest is given up, too: some fifty tries of a second.
const REFUSED_MAX: usize = 50;
/// Receipts that wait, at most; past it the bridge isn't listened to. An arrival counts as one at least: those that bring no receipt of
/// ours take room, too.
const WAITING_MAX: usize = 10_000;
/// Characters of a WhatsApp id, at most. What is longer or not plain ASCII is no id of ours.
const ID_MAX: usize = 128;

/// Receipts that wait and that are being written.
pub(crate) struct Receipts {
    life: Arc<Life>,
    session: SessionId,
    waiting: Waiting,
    writing: Slot<Vec<oneshot::Sender<()>>>,
}

/// Arrivals that aren't being written yet.
struct Waiting {
    arrivals: VecDeque<Arrived>,
    weight: usize,
}

impl Receipts {
    pub(crate) const fn new(life: Arc<Life>, session: SessionId) -> Self {
        Self { life, session, waiting: Waiting::new(), writing: Slot::empty() }
    }

    /// Takes what a bridge has brought, and writes it as soon as the store has time.
    pub(crate) fn add(&mut self, arrived: Arrived) {
        self.waiting.add(arrived);
        self.write();
    }

    /// Whether more may be taken.
    pub(crate) const fn has_room(&self) -> bool {
        self.waiting.has_room()
    }

    /// Whether all that came is written.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_free()
    }

    /// Waits for the write under way and begins the next one. Cancel-safe.
    pub(crate) async fn advance(&mut self) {
        for taken in self.writing.next().await {
            let _ = taken.send(()); // the bridge may be gone; then the receipts come again and change nothing
        }
        self.write();
    }

    fn write(&mut self) {
        if !self.writing.is_free() || self.waiting.is_empty() {
            return;
        }
        let (receipts, takers) = self.waiting.take();
        let (life, session) = (Arc::clone(&self.life), self.session);
        self.writing.put(async move {
            match write(&life, session, receipts).await {
                Ok(()) => takers,
                Err(Lost) => Vec::new(), // not taken: WhatsApp gives them to the next owner
            }
        });
    }
}

impl Waiting {
    const fn new() -> Self {
        Self { arrivals: VecDeque::new(), weight: 0 }
    }

    fn add(&mut self, mut arrived: Arrived) {
        arrived
            .receipts
            .retain(|r| r.whatsapp_id.len() <= ID_MAX && r.whatsapp_id.bytes().all(|b| b.is_ascii_graphic()));
        self.weight += weight(&arrived);
        self.arrivals.push_back(arrived);
    }

    const fn has_room(&self) -> bool {
        self.weight < WAITING_MAX
    }

    fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// What goes with the next write, and who is told when it is written.
    fn take(&mut self) -> (Vec<Receipt>, Vec<oneshot::Sender<()>>) {
        let (mut receipts, mut takers) = (Vec::new(), Vec::new());
        while let Some(next) = self.arrivals.front()
            && (receipts.is_empty() || receipts.len() + next.receipts.len() <= BATCH_MAX)
            && let Some(next) = self.arrivals.pop_front()
        {
            self.weight -= weight(&next);
            receipts.extend(next.receipts);
            takers.extend(next.taken);
        }
        (receipts, takers)
    }
}

fn weight(arrived: &Arrived) -> usize {
    arrived.receipts.len().max(1)
}

/// The life is over.
struct Lost;

/// Writes receipts. Where the database refuses them, for a bad row of one message perhaps, they are split until the bad one
/// stands alone: that is dropped, and the others count.
async fn write(life: &Life, session: SessionId, receipts: Vec<Receipt>) -> Result<(), Lost> {
    let mut parts = vec![receipts];
    let mut refused = 0;
    while let Some(mut part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let batch = ReceiptBatch { worker: life.id, session, shard: life.shard, receipts: part.clone() };
        match life.persist("receipts", || life.store.receipts(batch.clone())).await {
            Ok(changed) => life.changes.add(changed),
            Err(Unwritten::Lost) => return Err(Lost),
            Err(Unwritten::Refused(error)) => {
                refused += 1;
                if refused == REFUSED_MAX {
                    let left = part.len() + parts.iter().map(Vec::len).sum::<usize>();
                    tracing::error!(%error, %session, receipts = left, "receipts can't be written, and are dropped");
                    return Ok(());
                }
                if let [one] = &part[..] {
                    tracing::error!(%error, %session, whatsapp_id = one.whatsapp_id, "a receipt can't be written, and is dropped");
                } else {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sanasr_shared::message::Status;
    use sanasr_shared::time::Time;

    use super::*;

    fn arrival(ids: &[&str]) -> (Arrived, oneshot::Receiver<()>) {
        let (taken, told) = oneshot::channel();
        let receipt = |id: &&str| Receipt { whatsapp_id: (*id).to_owned(), status: Status::Read, at: Time(0) };
        (Arrived { receipts: ids.iter().map(receipt).collect(), taken: Some(taken) }, told)
    }

    /// Arrivals fill the room whether they bring nothing, nothing of ours, or receipts.
    #[test]
    fn arrivals_wait_in_bounded_number() {
        for ids in [&[][..], &["no id of ours"][..], &["a", "b"][..]] {
            let mut waiting = Waiting::new();
            let mut arrivals = 0;
            while waiting.has_room() {
                waiting.add(arrival(ids).0);
                arrivals += 1;
                assert!(arrivals <= WAITING_MAX, "{ids:?} wait without an end");
            }
            while !waiting.is_empty() {
                waiting.take();
            }
            assert_eq!(waiting.weight, 0, "all room is free again");
        }
    }

    #[test]
    fn a_batch_takes_arrivals_in_order_up_to_its_size() {
        let mut waiting = Waiting::new();
        let large = vec!["large"; BATCH_MAX + 1];
        let arrivals = [&["a"][..], &[], &large, &["b"], &["c"]].map(arrival);
        let mut told = Vec::new();
        for (arrived, receiver) in arrivals {
            waiting.add(arrived);
            told.push(receiver);
        }
        let mut sizes = Vec::new();
        while !waiting.is_empty() {
            let (receipts, takers) = waiting.take();
            sizes.push((receipts.len(), takers.len()));
        }
        assert_eq!(sizes, [(1, 2), (BATCH_MAX + 1, 1), (2, 2)]);
    }
}
