//! The consuming end of one session's queue: a channel of its own, kept up by a task of its own.
//!
//! The task alone talks to the broker. The session's actor only leaves word what may be acknowledged, and is rung.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio::sync::{Mutex, Notify, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{CALL_LIMIT, CLOSE_LIMIT, Fault, Place, SOUND, within};
use crate::ids::SessionId;
use crate::lifecycle::{Backoff, keep};
use crate::ports::queue::Doorbell;

/// How long a job may be held: RabbitMQ closes a channel that holds one for 30 minutes.
const HOLD_MAX: Duration = Duration::from_secs(600);

/// What to consume.
pub(super) struct Consumption {
    pub(super) session: SessionId,
    pub(super) queue: ShortString,
    pub(super) arguments: FieldTable,
    pub(super) prefetch: u16,
}

/// The actor's end.
pub(super) struct RabbitDoorbell {
    wire: Arc<Wire>,
    task: JoinHandle<()>,
    stop: DropGuard,
}

/// What the two ends tell each other.
#[derive(Default)]
struct Wire {
    ring: Notify,
    finished: AtomicUsize,
    idle: AtomicBool,
    word: Notify,
}

impl RabbitDoorbell {
    /// Begins to consume, whatever the broker does.
    pub(super) fn start(consumption: Consumption, place: Place, stop: CancellationToken) -> Self {
        let wire = Arc::new(Wire::default());
        let consumer = Consumer { consumption, wire: Arc::clone(&wire), declares: true, complained: false };
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            let consumer = Mutex::new(consumer);
            keep("a doorbell", async || consumer.lock().await.run(&place, &ended).await).await;
        });
        Self { wire, task, stop: stop.drop_guard() }
    }
}

#[async_trait]
impl Doorbell for RabbitDoorbell {
    async fn ring(&mut self) {
        self.wire.ring.notified().await;
    }

    fn finished(&mut self) {
        self.wire.finished.fetch_add(1, Ordering::Relaxed);
        self.wire.word.notify_one();
    }

    fn idle(&mut self) {
        self.wire.idle.store(true, Ordering::Relaxed);
        self.wire.word.notify_one();
    }

    async fn close(self: Box<Self>) {
        let Self { mut task, stop, .. } = *self;
        drop(stop);
        if tokio::time::timeout(CLOSE_LIMIT, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// The task's end.
struct Consumer {
    consumption: Consumption,
    wire: Arc<Wire>,
    /// Declares the queue before it consumes.
    declares: bool,
    /// Has said that consuming doesn't work, and not yet that it does again.
    complained: bool,
}

impl Consumer {
    async fn run(&mut self, place: &Place, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let connection = tokio::select! {
                () = stop.cancelled() => return,
                connection = place.line().connection() => connection,
            };
            let Some(connection) = connection else { return };
            let since = Instant::now();
            let Err(fault) = self.consume(&connection, place, stop).await else { return };
            // The line tells of lost connections.
            if connection.status().connected() {
                self.complain(&fault);
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

    fn complain(&mut self, fault: &Fault) {
        let session = self.consumption.session;
        if std::mem::replace(&mut self.complained, true) {
            tracing::debug!(%session, %fault, "jobs still don't ring");
        } else {
            tracing::warn!(%session, %fault, "jobs don't ring; consuming again");
        }
    }

    /// Consumes on a channel of its own until the stop (`Ok`) or a fault, and closes it: what it holds goes back.
    async fn consume(&mut self, connection: &Connection, place: &Place, stop: &CancellationToken) -> Result<(), Fault> {
        let opening = async {
            let turn = place.line().set_up.acquire().await.map_err(|_| Fault::Lost("the line is closed"))?;
            let channel = within(CALL_LIMIT, "opening a channel", connection.create_channel()).await?;
            Ok::<_, Fault>((turn, channel))
        };
        let (turn, channel) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = opening => opened?,
        };
        let ended = self.serve(&channel, turn, stop).await;
        if channel.status().connected() {
            let closing = channel.close(200, "OK".into());
            if let Err(fault) = within(CLOSE_LIMIT, "closing a channel", closing).await {
                tracing::debug!(session = %self.consumption.session, %fault, "closed without the broker's answer");
            }
        }
        ended
    }

    async fn serve(
        &mut self,
        channel: &Channel,
        turn: SemaphorePermit<'_>,
        stop: &CancellationToken,
    ) -> Result<(), Fault> {
        let consumer = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            consumer = self.begin(channel) => consumer?,
        };
        drop(turn);
        if std::mem::take(&mut self.complained) {
            tracing::info!(session = %self.consumption.session, "jobs ring again");
        }
        self.listen(channel, consumer, stop).await
    }

    async fn begin(&mut self, channel: &Channel) -> Result<lapin::Consumer, Fault> {
        let Consumption { session, queue, arguments, prefetch } = &self.consumption;
        if self.declares {
            let declaring = channel.queue_declare(queue.clone(), QueueDeclareOptions::durable(), arguments.clone());
            let declared = within(CALL_LIMIT, "declaring a queue", declaring).await;
            if let Err(fault) = &declared
                && fault.is_precondition_failed()
            {
                // Made under another setting of the queue's type. It rings all the same.
                tracing::warn!(%session, %fault, "the queue is of another kind; it is used as it is");
                self.declares = false;
            }
            declared?;
        }
        // 0 would be no limit at all.
        let limiting = channel.basic_qos((*prefetch).max(1), BasicQosOptions { global: false });
        within(CALL_LIMIT, "setting the prefetch", limiting).await?;
        let consuming =
            channel.basic_consume(queue.clone(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let consumer = within(CALL_LIMIT, "consuming", consuming).await;
        if consumer.as_ref().is_err_and(Fault::is_not_found) {
            self.declares = true;
        }
        consumer
    }

    /// Rings and acknowledges until the stop (`Ok`) or a fault.
    async fn listen(
        &self,
        channel: &Channel,
        mut deliveries: lapin::Consumer,
        stop: &CancellationToken,
    ) -> Result<(), Fault> {
        let wire = &self.wire;
        let mut held = Held::default();
        // Word about jobs that an earlier channel held.
        wire.finished.store(0, Ordering::Relaxed);
        wire.idle.store(false, Ordering::Relaxed);
        wire.ring.notify_one();
        let mut stopped = false;
        while !stopped {
            let overdue_at = held.overdue_at();
            let done = tokio::select! {
                delivery = deliveries.next() => match delivery {
                    Some(delivery) => {
                        held.add(delivery?.delivery_tag, Instant::now());
                        wire.ring.notify_one();
                        None
                    }
                    // Polled once more it would hang for ever.
                    None => return Err(Fault::Lost("the queue was deleted")),
                },
                () = wire.word.notified() => held.take(wire),
                () = stop.cancelled() => {
                    stopped = true;
                    held.take(wire)
                }
                () = tokio::time::sleep_until(overdue_at.unwrap_or_else(Instant::now)), if overdue_at.is_some() => {
                    held.overdue(Instant::now())
                }
            };
            if let Some(tag) = done {
                let acknowledging = channel.basic_ack(tag, BasicAckOptions { multiple: true });
                within(CALL_LIMIT, "acknowledging", acknowledging).await?;
            }
        }
        Ok(())
    }
}

/// The jobs that a channel holds unacknowledged, the oldest first. Whatever is taken out is the oldest, so that one
/// acknowledgement of the last tag covers it.
#[derive(Default)]
struct Held(VecDeque<(u64, Instant)>);

impl Held {
    fn add(&mut self, tag: u64, now: Instant) {
        self.0.push_back((tag, now));
    }

    /// Takes out the `count` oldest; answers the last tag among them.
    fn oldest(&mut self, count: usize) -> Option<u64> {
        self.0.drain(..count.min(self.0.len())).next_back().map(|(tag, _)| tag)
    }

    /// Takes out what the actor has left word of.
    fn take(&mut self, wire: &Wire) -> Option<u64> {
        let finished = wire.finished.swap(0, Ordering::Relaxed);
        if wire.idle.swap(false, Ordering::Relaxed) { self.all() } else { self.oldest(finished) }
    }

    fn all(&mut self) -> Option<u64> {
        self.oldest(usize::MAX)
    }

    fn overdue(&mut self, now: Instant) -> Option<u64> {
        let count = self.0.partition_point(|(_, since)| *since + HOLD_MAX <= now);
        self.oldest(count)
    }

    fn overdue_at(&self) -> Option<Instant> {
        self.0.front().map(|(_, since)| *since + HOLD_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_acknowledged_first() {
        let mut held = Held::default();
        let start = Instant::now();
        (1..=6).for_each(|tag| held.add(tag, start));
        assert_eq!(held.oldest(0), None);
        assert_eq!(held.oldest(1), Some(1));
        assert_eq!(held.oldest(2), Some(3));
        assert_eq!(held.all(), Some(6));
        assert_eq!((held.all(), held.oldest(3), held.overdue_at()), (None, None, None));
    }

    #[test]
    fn no_job_is_held_for_longer_than_ten_minutes() {
        let mut held = Held::default();
        let start = Instant::now();
        let minute = |n: u64| start + Duration::from_secs(60 * n);
        held.add(1, minute(0));
        held.add(2, minute(1));
        held.add(3, minute(5));
        assert_eq!(held.overdue(minute(9)), None);
        assert_eq!(held.overdue_at(), Some(minute(10)));
        assert_eq!(held.overdue(minute(11)), Some(2));
        assert_eq!(held.overdue_at(), Some(minute(15)));
    }
}
