//! The queue: send jobs ring a session's owner and are its backlog to see. A lost job costs seconds, never a message.

use async_trait::async_trait;

use crate::ids::SessionId;
use crate::ports::store::AcceptedJob;

/// A queue of send jobs for each session.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Hands jobs over for sending, in order. It never blocks: what can't be sent, for want of room or of a broker, is
    /// counted and dropped.
    fn publish(&self, jobs: &[AcceptedJob]);

    /// Begins to consume a session's jobs, at most `prefetch` unacknowledged at a time, declaring its queue first. It
    /// answers at once, whatever the broker does: the doorbell connects, and reconnects, by itself.
    async fn consume(&self, session: SessionId, prefetch: u16) -> Box<dyn Doorbell>;

    /// Deletes a session's queue with what is in it, if the broker can be reached.
    async fn delete(&self, session: SessionId);

    /// Jobs that wait at the broker, if it tells; those that a doorbell holds aren't counted.
    async fn depth(&self, session: SessionId) -> Option<u64>;

    /// Whether the broker can be reached.
    fn is_connected(&self) -> bool;

    /// Sends what is still waiting, for two seconds at most, and closes.
    async fn close(&self);
}

/// The consuming end of a session's queue. Dropping it closes it; jobs that it holds go back to the queue's head.
#[async_trait]
pub trait Doorbell: Send {
    /// Waits until a job has come since the last call, or consuming has begun (again): what was published before that may
    /// have found no queue. Cancel-safe. Many jobs may be one ring.
    async fn ring(&mut self);

    /// A message of the session has finished while its places are full: acknowledges the oldest job held.
    fn finished(&mut self);

    /// A pull has left places free: acknowledges all jobs held, so that the next one rings.
    fn idle(&mut self);

    /// Closes it in good order, with what was acknowledged before: when this answers, another worker may consume.
    async fn close(self: Box<Self>);
}
