//! Receipts of one session on their way into the store: what comes while a write is under way goes with the next one.

use std::collections::VecDeque;
use std::sync::Arc;

use sanasr_shared::ids::SessionId;
use sanasr_shared::ports::bridge::Receipts as Arrived;
use sanasr_shared::ports::store::ReceiptBatch;
use tokio::sync::oneshot;

use crate::life::Life;
use crate::slot::Slot;

/// Receipts in one write, at most (but for one arrival that alone has more).
const BATCH_MAX: usize = 1_000;
/// Receipts that wait, at most; past it the bridge isn't listened to.
const WAITING_MAX: usize = 10_000;
/// Characters of a WhatsApp id, at most. What is longer or not plain ASCII is no id of ours.
const ID_MAX: usize = 128;

/// Receipts that wait and that are being written.
pub(crate) struct Receipts {
    life: Arc<Life>,
    session: SessionId,
    waiting: VecDeque<Arrived>,
    count: usize,
    writing: Slot<Vec<oneshot::Sender<()>>>,
}

impl Receipts {
    pub(crate) const fn new(life: Arc<Life>, session: SessionId) -> Self {
        Self { life, session, waiting: VecDeque::new(), count: 0, writing: Slot::empty() }
    }

    /// Takes what a bridge has brought, and writes it as soon as the store has time.
    pub(crate) fn add(&mut self, mut arrived: Arrived) {
        arrived.receipts.retain(|r| r.whatsapp_id.len() <= ID_MAX && r.whatsapp_id.bytes().all(|b| b.is_ascii_graphic()));
        self.count += arrived.receipts.len();
        self.waiting.push_back(arrived);
        self.write();
    }

    /// Whether more may be taken.
    pub(crate) const fn has_room(&self) -> bool {
        self.count < WAITING_MAX
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
        let (mut receipts, mut takers) = (Vec::new(), Vec::new());
        while let Some(next) = self.waiting.front()
            && (receipts.is_empty() || receipts.len() + next.receipts.len() <= BATCH_MAX)
            && let Some(next) = self.waiting.pop_front()
        {
            receipts.extend(next.receipts);
            takers.extend(next.taken);
        }
        self.count -= receipts.len();
        let (life, session) = (Arc::clone(&self.life), self.session);
        self.writing.put(async move {
            if !receipts.is_empty() {
                let batch = ReceiptBatch { worker: life.id, session, shard: life.shard, receipts };
                match life.persist("receipts", || life.store.receipts(batch.clone())).await {
                    Ok(changed) => life.changes.add(changed),
                    Err(_) => return Vec::new(), // not taken: WhatsApp gives them to the next owner
                }
            }
            takers
        });
    }
}
