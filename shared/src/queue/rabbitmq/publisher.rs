//! Sends jobs to the broker, many confirms in flight.
//!
//! Nobody waits for it and nothing depends on it: the store is the outbox. What it can't send, or what comes back, it counts
//! and drops.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, PublisherConfirm};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connection::{CALL_LIMIT, Fault, Line, SOUND, within};
use super::{Names, job};
use crate::lifecycle::{Backoff, Watchdog};
use crate::message::MAX_LIFE;
use crate::ports::store::AcceptedJob;
use crate::queue::{count_dropped, count_published};

/// Jobs that wait to be sent, at most: some 25 MB.
const WAITING_MAX: usize = 100_000;
/// Jobs sent and not confirmed, at most. More make nothing faster (measured).
const IN_FLIGHT_MAX: usize = 512;
/// Jobs that are written together, at most.
const BATCH_MAX: usize = 128;
/// How long the broker may take to confirm; a quorum queue that has lost its majority never does.
const CONFIRM_LIMIT: Duration = Duration::from_secs(30);

/// The callers' end.
pub(super) struct Publisher {
    outbox: Arc<Outbox>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Publisher {
    /// Begins to send over this line.
    pub(super) fn start(names: Names, line: Arc<Line>, watchdog: &Watchdog, stop: CancellationToken) -> Self {
        let outbox = Arc::new(Outbox::default());
        let (waiting, watchdog) = (Arc::clone(&outbox), watchdog.clone());
        let task = tokio::spawn(async move {
            watchdog.keep("publishing jobs", |_| run(&waiting, &names, &line, &stop)).await;
        });
        Self { outbox, task: Mutex::new(Some(task)) }
    }

    /// Takes what there is room for, and drops the rest.
    pub(super) fn publish(&self, jobs: &[AcceptedJob]) {
        self.outbox.add(jobs);
    }

    /// Takes nothing more, and sends what waits, for `limit` at most.
    pub(super) async fn close(&self, limit: Duration) {
        self.outbox.close();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout(limit, &mut task).await.is_err() {
            task.abort();
            count_dropped(self.outbox.lock().waiting.len(), "closed");
        }
    }
}

/// Jobs that wait to be sent.
#[derive(Default)]
struct Outbox {
    jobs: Mutex<Jobs>,
    changed: Notify,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Waiting>,
    closed: bool,
}

struct Waiting {
    job: AcceptedJob,
    until: Instant,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, new: &[AcceptedJob]) {
        let now = Instant::now();
        let (dropped, reason) = {
            let mut jobs = self.lock();
            let room = if jobs.closed { 0 } else { WAITING_MAX - jobs.waiting.len() };
            let reason = if jobs.closed { "closed" } else { "overflow" };
            let (taken, dropped) = new.split_at(room.min(new.len()));
            let waiting = taken.iter().map(|job| Waiting { until: now + job.life.min(MAX_LIFE), job: job.clone() });
            jobs.waiting.extend(waiting);
            (dropped.len(), reason)
        };
        count_dropped(dropped, reason);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits until there is something to send; `false` when there is nothing and never will be.
    async fn wait(&self) -> bool {
        loop {
            {
                let jobs = self.lock();
                if !jobs.waiting.is_empty() {
                    return true;
                }
                if jobs.closed {
                    return false;
                }
            }
            self.changed.notified().await;
        }
    }

    fn take(&self, most: usize) -> Vec<Waiting> {
        let mut jobs = self.lock();
        let count = most.min(jobs.waiting.len());
        jobs.waiting.drain(..count).collect()
    }
}

async fn run(outbox: &Outbox, names: &Names, line: &Line, stop: &CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        // With nothing left to send a stop needn't wait for the broker.
        let connection = tokio::select! {
            () = stop.cancelled() => return,
            connection = line.connection() => connection,
            () = drained(outbox) => return,
        };
        let Some(connection) = connection else { return };
        let since = Instant::now();
        let sent = tokio::select! {
            sent = send_over(outbox, names, &connection) => sent,
            () = line.gone(&connection) => Err(Fault::Lost("the connection is gone")),
        };
        match sent {
            Ok(()) => return,
            Err(fault) => tracing::debug!(%fault, "publishing begins again"),
        }
        if since.elapsed() > SOUND {
            backoff.reset();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
}

async fn drained(outbox: &Outbox) {
    while outbox.wait().await {
        // Something waits: it is for the broker to take, so this isn't the end.
        std::future::pending::<()>().await;
    }
}

/// Jobs under way on one channel. What is still under way when it is dropped was lost with the channel, or wasn't: it isn't
/// sent again.
struct Window(Semaphore);

impl Drop for Window {
    fn drop(&mut self) {
        count_dropped(IN_FLIGHT_MAX - self.0.available_permits(), "unconfirmed");
    }
}

/// Sends over a channel of its own until the outbox is closed and empty.
async fn send_over(outbox: &Outbox, names: &Names, connection: &Connection) -> Result<(), Fault> {
    let channel = within(CALL_LIMIT, "opening a channel", connection.create_channel()).await?;
    within(CALL_LIMIT, "asking for confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let window = Window(Semaphore::new(IN_FLIGHT_MAX));
    // Bounded by the window: a batch is one job at least.
    let (to_confirm, unconfirmed) = mpsc::channel(IN_FLIGHT_MAX);
    let sending = send(outbox, names, &channel, &window.0, to_confirm);
    tokio::try_join!(sending, confirm(&window.0, unconfirmed)).map(|_| ())
}

struct Batch {
    confirms: Vec<PublisherConfirm>,
    sent_at: tokio::time::Instant,
}

async fn send(
    outbox: &Outbox,
    names: &Names,
    channel: &Channel,
    room: &Semaphore,
    to_confirm: mpsc::Sender<Batch>,
) -> Result<(), Fault> {
    while outbox.wait().await {
        let Ok(first) = room.acquire().await else { return Ok(()) };
        let more = room.available_permits().min(BATCH_MAX - 1);
        let jobs = outbox.take(1 + more);
        first.forget();
        room.forget_permits(jobs.len().saturating_sub(1));
        let sent_at = tokio::time::Instant::now();
        let confirms = within(CALL_LIMIT, "publishing", write(channel, names, room, jobs)).await?;
        if to_confirm.send(Batch { confirms, sent_at }).await.is_err() {
            return Err(Fault::Lost("nobody takes confirms"));
        }
    }
    Ok(())
}

/// Writes jobs in their order, together: a call's answer takes a round through the client's own thread.
async fn write(
    channel: &Channel,
    names: &Names,
    room: &Semaphore,
    jobs: Vec<Waiting>,
) -> lapin::Result<Vec<PublisherConfirm>> {
    let now = Instant::now();
    let mut calls = Vec::with_capacity(jobs.len());
    let mut expired = 0;
    for Waiting { job, until } in jobs {
        let life = until.saturating_duration_since(now);
        if life < Duration::from_millis(1) {
            expired += 1;
            continue;
        }
        let mut call: Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send>> = Box::pin(async move {
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let body = job::body(&job);
            let queue = names.queue(job.session);
            channel.basic_publish("".into(), queue, options, &body, job::properties(&job, life)).await
        });
        // The first poll puts it into the client's queue.
        let begun = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        calls.push(match begun {
            Poll::Ready(answer) => Call::Answered(answer),
            Poll::Pending => Call::UnderWay(call),
        });
    }
    room.add_permits(expired);
    count_dropped(expired, "expired");
    let mut confirms = Vec::with_capacity(calls.len());
    for call in calls {
        confirms.push(match call {
            Call::Answered(answer) => answer?,
            Call::UnderWay(call) => call.await?,
        });
    }
    Ok(confirms)
}

enum Call<'a> {
    Answered(lapin::Result<PublisherConfirm>),
    UnderWay(Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send + 'a>>),
}

/// Counts what the broker says of each batch. A return may sit on a neighbour's confirm, so only their number counts.
async fn confirm(room: &Semaphore, mut unconfirmed: mpsc::Receiver<Batch>) -> Result<(), Fault> {
    while let Some(batch) = unconfirmed.recv().await {
        let jobs = batch.confirms.len();
        let (mut stored, mut returned, mut refused) = (0, 0, 0);
        let all = async {
            for confirm in batch.confirms {
                match confirm.await? {
                    Confirmation::Ack(None) | Confirmation::NotRequested => stored += 1,
                    Confirmation::Ack(Some(_)) => returned += 1,
                    Confirmation::Nack(_) => refused += 1,
                }
            }
            Ok::<_, lapin::Error>(())
        };
        let ended = tokio::time::timeout_at(batch.sent_at + CONFIRM_LIMIT, all).await;
        room.add_permits(stored + returned + refused);
        count_published(stored);
        count_dropped(returned, "unroutable");
        count_dropped(refused, "refused");
        match ended {
            Ok(Ok(())) => debug_assert_eq!(jobs, stored + returned + refused),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Fault::Late { what: "confirming", limit: CONFIRM_LIMIT }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MessageId, SessionId};

    fn jobs(count: usize) -> Vec<AcceptedJob> {
        let session = SessionId::generate();
        let job =
            |_| AcceptedJob { message: MessageId::generate(), session, life: Duration::MAX, request_id: String::new() };
        (0..count).map(job).collect()
    }

    #[test]
    fn the_outbox_is_bounded_and_keeps_order() {
        let outbox = Outbox::default();
        let all = jobs(WAITING_MAX + 10);
        outbox.add(&all[..5]);
        outbox.add(&all[5..]);
        assert_eq!(outbox.lock().waiting.len(), WAITING_MAX);
        let taken = outbox.take(BATCH_MAX);
        assert!(taken.iter().map(|w| &w.job).eq(&all[..BATCH_MAX]));
        assert_eq!(outbox.lock().waiting.len(), WAITING_MAX - BATCH_MAX);
    }

    #[tokio::test]
    async fn a_closed_outbox_gives_what_it_has_and_takes_no_more() {
        let outbox = Outbox::default();
        outbox.add(&jobs(1));
        outbox.close();
        outbox.add(&jobs(1));
        assert!(outbox.wait().await);
        assert_eq!(outbox.take(10).len(), 1);
        assert!(!outbox.wait().await);
    }
}
