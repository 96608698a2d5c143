//! Group commit: while one transaction is under way, the next batch gathers. A request that is alone waits for nobody,
//! and there is no timer.
//!
//! The committer is a task of its own that is never cancelled: dropping a caller's future doesn't stop its write, and a
//! statement is never left half sent on a connection. A panic ends the batch that it happened in, and nothing more: see
//! [`survives`].

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::ports::store::StoreError;

/// A request that waits to be committed, and the way back to its caller.
pub struct Pending<Req, Resp> {
    /// What is asked.
    pub request: Req,
    weight: usize,
    answer: oneshot::Sender<Result<Resp, StoreError>>,
}

impl<Req, Resp> Pending<Req, Resp> {
    /// Answers the caller, who may have gone.
    pub fn answer(self, result: Result<Resp, StoreError>) {
        let _ = self.answer.send(result);
    }

    /// Splits into the request and what answers it.
    pub fn into_parts(self) -> (Req, Answer<Resp>) {
        (self.request, Answer(self.answer))
    }
}

/// The way back to a caller.
pub struct Answer<Resp>(oneshot::Sender<Result<Resp, StoreError>>);

impl<Resp> Answer<Resp> {
    /// Answers the caller, who may have gone.
    pub fn send(self, result: Result<Resp, StoreError>) {
        let _ = self.0.send(result);
    }
}

/// The callers' end.
pub struct Group<Req, Resp> {
    requests: mpsc::Sender<Pending<Req, Resp>>,
    closed: CancellationToken,
    bell: Option<Arc<Notify>>,
}

impl<Req, Resp> Clone for Group<Req, Resp> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), closed: self.closed.clone(), bell: self.bell.clone() }
    }
}

/// The committers' end; several may share it.
pub struct Gather<Req, Resp> {
    requests: Mutex<mpsc::Receiver<Pending<Req, Resp>>>,
    closed: CancellationToken,
    weight_max: usize,
}

/// A group of which at most `capacity` requests wait, and whose batches weigh `weight_max` at most (but for one request
/// that alone weighs more).
pub fn group<Req, Resp>(capacity: usize, weight_max: usize) -> (Group<Req, Resp>, Gather<Req, Resp>) {
    let (sender, receiver) = mpsc::channel(capacity);
    let closed = CancellationToken::new();
    let gather = Gather { requests: Mutex::new(receiver), closed: closed.clone(), weight_max };
    (Group { requests: sender, closed, bell: None }, gather)
}

/// A [`group`] that rings with each request: for a committer that gathers from several, by [`Gather::waiting`].
pub fn ringing_group<Req, Resp>(
    capacity: usize,
    weight_max: usize,
    bell: Arc<Notify>,
) -> (Group<Req, Resp>, Gather<Req, Resp>) {
    let (mut group, gather) = group(capacity, weight_max);
    group.bell = Some(bell);
    (group, gather)
}

impl<Req, Resp> Group<Req, Resp> {
    /// Takes no more requests; those that wait are still committed.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Has a request committed, or refuses it at once if too many wait. For what comes from outside.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`]; what the commit answers; [`StoreError::OutcomeUnknown`] if the committer crashed on the
    /// batch; [`StoreError::Unavailable`] when the store is closed.
    pub async fn offer(&self, request: Req, weight: usize) -> Result<Resp, StoreError> {
        let (answer, answered) = oneshot::channel();
        match self.requests.try_send(Pending { request, weight, answer }) {
            Ok(()) => {
                self.ring();
                answered.await.unwrap_or_else(|_| Err(crashed()))
            }
            Err(mpsc::error::TrySendError::Full(_)) => Err(StoreError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(closed()),
        }
    }

    /// Has a request committed, waiting for room. For a worker's own writes, whose number is bounded already.
    ///
    /// # Errors
    /// As for [`Self::offer`], but for [`StoreError::Overloaded`].
    pub async fn commit(&self, request: Req, weight: usize) -> Result<Resp, StoreError> {
        let (answer, answered) = oneshot::channel();
        match self.requests.send(Pending { request, weight, answer }).await {
            Ok(()) => {
                self.ring();
                answered.await.unwrap_or_else(|_| Err(crashed()))
            }
            Err(_) => Err(closed()),
        }
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.notify_one();
        }
    }
}

/// Requests that are deferred, at most, before a batch is filled up no further: far more than there are retries of one request.
const DEFERRED_MAX: usize = 4_096;

/// Batches of requests that one statement can speak for together: the others wait for the next one.
pub struct Batches<Req, Resp> {
    gather: Arc<Gather<Req, Resp>>,
    deferred: Vec<Pending<Req, Resp>>,
}

impl<Req, Resp> Batches<Req, Resp> {
    /// Batches of what `gather` gathers; several may share it.
    pub const fn new(gather: Arc<Gather<Req, Resp>>) -> Self {
        Self { gather, deferred: Vec::new() }
    }

    /// The next batch: the first request that waits, and those of the others which `together` takes beside those that it
    /// took before. What was deferred doesn't hold the others up: the batch is filled from what waits behind it. `None` when
    /// nothing will come any more.
    pub async fn next(&mut self, mut together: impl FnMut(&Req) -> bool) -> Option<Vec<Pending<Req, Resp>>> {
        let mut waiting = std::mem::take(&mut self.deferred);
        if waiting.is_empty() {
            waiting = self.gather.next().await?;
        }
        let weight_max = self.gather.weight_max;
        let mut batch = Vec::with_capacity(waiting.len());
        let mut weight = 0;
        loop {
            for pending in waiting {
                if (weight < weight_max || batch.is_empty()) && together(&pending.request) {
                    weight += pending.weight;
                    batch.push(pending);
                } else {
                    self.deferred.push(pending);
                }
            }
            if weight >= weight_max || self.deferred.len() >= DEFERRED_MAX {
                return Some(batch);
            }
            waiting = self.gather.waiting_up_to(weight_max - weight);
            if waiting.is_empty() {
                return Some(batch);
            }
        }
    }
}

/// Runs a batch; `false` if it panicked. Its callers then hear that the outcome is unknown, and the committer goes on with a
/// connection of its own making.
pub async fn survives(batch: impl Future<Output = ()>) -> bool {
    let panicked = AssertUnwindSafe(batch).catch_unwind().await.is_err();
    if panicked {
        tracing::error!("the commit of a batch crashed: what became of it is unknown to its callers");
    }
    !panicked
}

fn crashed() -> StoreError {
    StoreError::OutcomeUnknown("the commit crashed".to_owned())
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

impl<Req, Resp> Gather<Req, Resp> {
    /// Waits for a request and takes with it all that wait already, up to the weight; `None` when all callers are gone, or
    /// the group is closed and nothing waits any more.
    pub async fn next(&self) -> Option<Vec<Pending<Req, Resp>>> {
        let mut requests = self.requests.lock().await;
        let first = tokio::select! {
            first = requests.recv() => first?,
            () = self.closed.cancelled() => {
                requests.close();
                requests.recv().await?
            }
        };
        let mut weight = first.weight;
        let mut batch = vec![first];
        while weight < self.weight_max {
            match requests.try_recv() {
                Ok(next) => {
                    weight += next.weight;
                    batch.push(next);
                }
                Err(_) => break,
            }
        }
        Some(batch)
    }

    /// Takes what waits already, up to the weight, without waiting.
    pub fn waiting(&self) -> Vec<Pending<Req, Resp>> {
        self.waiting_up_to(self.weight_max)
    }

    fn waiting_up_to(&self, weight_max: usize) -> Vec<Pending<Req, Resp>> {
        let mut batch = Vec::new();
        if let Ok(mut requests) = self.requests.try_lock() {
            let mut weight = 0;
            while weight < weight_max
                && let Ok(next) = requests.try_recv()
            {
                weight += next.weight;
                batch.push(next);
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn twins_wait() -> impl FnMut(&u32) -> bool {
        let mut seen = HashSet::new();
        move |request| seen.insert(*request)
    }

    fn requests(batch: &[Pending<u32, ()>]) -> Vec<u32> {
        batch.iter().map(|pending| pending.request).collect()
    }

    #[tokio::test]
    async fn what_is_deferred_holds_nobody_else_up() {
        let (group, gather) = group::<u32, ()>(1_000, 50);
        let mut batches = Batches::new(Arc::new(gather));
        let offer = |request: u32| {
            let (answer, _) = oneshot::channel();
            group.requests.try_send(Pending { request, weight: 1, answer }).map_err(|_| "no room")
        };
        // Retries of one request, and others behind them.
        (0..100).try_for_each(|_| offer(7)).expect("room");
        (10..20).try_for_each(offer).expect("room");
        let first = batches.next(twins_wait()).await.expect("a batch");
        assert_eq!(requests(&first), [7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
        (20..100).try_for_each(offer).expect("room");
        let second = batches.next(twins_wait()).await.expect("a batch");
        assert_eq!(requests(&second), [7].into_iter().chain(20..69).collect::<Vec<_>>(), "full, and no fuller");
        let third = batches.next(twins_wait()).await.expect("a batch");
        assert_eq!(requests(&third), [7].into_iter().chain(69..100).collect::<Vec<_>>());
        assert_eq!(requests(&batches.next(twins_wait()).await.expect("a batch")), [7]);
    }
}
