//! The queue over RabbitMQ: one durable queue for each session, declared by its owner.
//!
//! What must hold: publishing and consuming use separate connections, since an alarm of the broker stops whoever publishes,
//! its acknowledgements and declarations too; every call has a time limit; whatever breaks is made again, for ever.

mod connection;
mod doorbell;
mod job;
mod publisher;
#[cfg(all(test, feature = "conformance"))]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::connection::{CLOSE_LIMIT, Fault, Line, Place, within};
use self::doorbell::{Consumption, RabbitDoorbell};
use self::publisher::Publisher;
use crate::ids::SessionId;
use crate::lifecycle::Watchdog;
use crate::ports::queue::{Doorbell, Queue};
use crate::ports::store::AcceptedJob;
use crate::settings::QueueType;

/// Doorbells on one connection, at most: RabbitMQ allows 2,047 channels, and questions need some.
const DOORBELLS_PER_CONNECTION: usize = 1_500;
/// How long a question to the broker may take.
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// Questions under way at once.
const ASKED_AT_ONCE: usize = 16;
/// Characters of a deployment's id, at most: a queue's name has 255.
const DEPLOYMENT_CHARS_MAX: usize = 128;

/// The queue over RabbitMQ.
pub struct RabbitQueue {
    uri: AMQPUri,
    names: Names,
    kind: QueueType,
    publisher: Publisher,
    publishing: Arc<Line>,
    /// Connections that consume and ask: the first is opened when it is needed, and kept.
    consuming: Mutex<Vec<Arc<Line>>>,
    asking: Semaphore,
    watchdog: Watchdog,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// How queues are called.
#[derive(Debug, Clone)]
struct Names {
    prefix: String,
}

impl Names {
    fn queue(&self, session: SessionId) -> ShortString {
        format!("{}.send.{session}", self.prefix).into()
    }
}

impl RabbitQueue {
    /// Begins to connect, in tasks of the current Tokio runtime, and goes on for ever.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn start(url: &str, deployment: &str, kind: QueueType, watchdog: &Watchdog) -> Result<Arc<Self>, String> {
        let uri = connection::read_url(url)?;
        if deployment.len() > DEPLOYMENT_CHARS_MAX {
            return Err(format!("the deployment's id is longer than {DEPLOYMENT_CHARS_MAX} characters"));
        }
        let names = Names { prefix: deployment.to_owned() };
        let stop = CancellationToken::new();
        let publishing = Line::start(&uri, "publishing", watchdog, &stop);
        Ok(Arc::new(Self {
            publisher: Publisher::start(names.clone(), Arc::clone(&publishing), watchdog, stop.child_token()),
            watchdog: watchdog.clone(),
            uri,
            names,
            kind,
            publishing,
            consuming: Mutex::default(),
            asking: Semaphore::new(ASKED_AT_ONCE),
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        }))
    }

    /// A place on a consuming connection; further ones are opened as they fill.
    fn place(&self) -> Place {
        let mut lines = self.consuming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = true;
        lines.retain(|line| std::mem::take(&mut first) || !line.is_empty());
        loop {
            if let Some(place) = lines.iter().find_map(|line| line.try_take_place(DOORBELLS_PER_CONNECTION)) {
                return place;
            }
            lines.push(self.open_line());
        }
    }

    fn first_line(&self) -> Arc<Line> {
        let mut lines = self.consuming.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            lines.push(self.open_line());
        }
        Arc::clone(&lines[0])
    }

    fn open_line(&self) -> Arc<Line> {
        Line::start(&self.uri, "consuming", &self.watchdog, &self.stop)
    }

    /// Asks the broker something on a channel of its own, since a refusal closes it; `None` if there is no connection.
    async fn ask<T>(
        &self,
        what: &'static str,
        question: impl AsyncFnOnce(Channel) -> lapin::Result<T>,
    ) -> Option<Result<T, Fault>> {
        let _turn = self.asking.acquire().await.ok()?;
        let connection: Arc<Connection> = self.first_line().connection_now(ASK_LIMIT).await?;
        let asking = async { question(connection.create_channel().await?).await };
        Some(within(ASK_LIMIT, what, asking).await)
    }
}

#[async_trait]
impl Queue for RabbitQueue {
    fn publish(&self, jobs: &[AcceptedJob]) {
        self.publisher.publish(jobs);
    }

    async fn consume(&self, session: SessionId, prefetch: u16) -> Box<dyn Doorbell> {
        let consumption =
            Consumption { session, queue: self.names.queue(session), arguments: arguments(self.kind), prefetch };
        Box::new(RabbitDoorbell::start(consumption, self.place(), self.stop.child_token()))
    }

    async fn delete(&self, session: SessionId) {
        let name = self.names.queue(session);
        let deleted = self
            .ask("deleting a queue", async |channel| channel.queue_delete(name, QueueDeleteOptions::default()).await)
            .await;
        match deleted {
            Some(Ok(jobs)) => tracing::debug!(%session, jobs, "queue deleted"),
            Some(Err(fault)) => tracing::warn!(%session, %fault, "queue not deleted"),
            None => tracing::warn!(%session, "queue not deleted: RabbitMQ can't be reached"),
        }
    }

    async fn depth(&self, session: SessionId) -> Option<u64> {
        let name = self.names.queue(session);
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = self
            .ask("asking for a queue's depth", async |channel| {
                channel.queue_declare(name, passive, FieldTable::default()).await
            })
            .await?;
        match declared {
            Ok(queue) => Some(u64::from(queue.message_count())),
            // Its session has never been connected: nothing waits here.
            Err(fault) if fault.is_not_found() => Some(0),
            Err(fault) => {
                tracing::debug!(%session, %fault, "depth unknown");
                None
            }
        }
    }

    fn is_connected(&self) -> bool {
        let lines = self.consuming.lock().unwrap_or_else(PoisonError::into_inner);
        self.publishing.is_up() && lines.iter().all(|line| line.is_up())
    }

    async fn close(&self) {
        self.publisher.close(CLOSE_LIMIT).await;
        self.stop.cancel();
        let mut lines = vec![Arc::clone(&self.publishing)];
        lines.extend(self.consuming.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
        let closed = futures_util::future::join_all(lines.iter().map(|line| line.closed()));
        // Each line has a limit of its own; this one is for a line that hangs in spite of it.
        let _ = tokio::time::timeout(CLOSE_LIMIT, closed).await;
    }
}

/// What a session's queue is like.
fn arguments(kind: QueueType) -> FieldTable {
    let (name, value) = match kind {
        // Jobs rest on disk: no memory per waiting job, and the same speed (measured).
        QueueType::Classic => ("x-queue-mode", "lazy"),
        QueueType::Quorum => ("x-queue-type", "quorum"),
    };
    let mut arguments = FieldTable::default();
    arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    arguments
}
