//! Where a client's tasks run, and how many of them haven't begun.
//!
//! The client handles most of what it reads in tasks of their own. A task that hasn't begun is a frame that was read and not
//! yet handled: who reads the connection waits while there are many.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use wacore::runtime::{AbortHandle, Runtime};
use whatsapp_rust::TokioRuntime;

type Task = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Tasks that may wait for their first turn while the connection is still read.
const WAITING_MAX: usize = 64;

/// Tokio's runtime, for the tasks of one session.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    count: AtomicUsize,
    fewer: Notify,
}

impl Tasks {
    /// Waits until no more than a few tasks wait for their first turn. Once a task has begun it counts no more, however long it
    /// takes: it may wait for what is yet to be read.
    pub(super) async fn few_wait(&self) {
        loop {
            let fewer = self.0.fewer.notified();
            if self.0.count.load(Ordering::Acquire) < WAITING_MAX {
                return;
            }
            fewer.await;
        }
    }

    /// The task, counted until it has had its first turn or is dropped.
    fn counted(&self, mut task: Task) -> Task {
        let mut turn = Some(Turn::new(&self.0));
        Box::pin(poll_fn(move |context| {
            let polled = task.as_mut().poll(context);
            turn.take();
            polled
        }))
    }
}

/// A task's first turn, which is yet to come.
struct Turn(Arc<Waiting>);

impl Turn {
    fn new(waiting: &Arc<Waiting>) -> Self {
        waiting.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(waiting))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == WAITING_MAX {
            self.0.fewer.notify_waiters();
        }
    }
}

#[async_trait]
impl Runtime for Tasks {
    fn spawn(&self, task: Task) -> AbortHandle {
        TokioRuntime.spawn(self.counted(task))
    }

    fn spawn_detached(&self, task: Task) {
        TokioRuntime.spawn_detached(self.counted(task));
    }

    fn sleep(&self, duration: Duration) -> Task {
        TokioRuntime.sleep(duration)
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send + 'static>) -> Task {
        TokioRuntime.spawn_blocking(work)
    }

    fn yield_now(&self) -> Option<Task> {
        TokioRuntime.yield_now()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn tasks_count_until_their_first_turn() {
        let tasks = Tasks::default();
        let few = || tasks.few_wait().now_or_never().is_some();
        for _ in 0..WAITING_MAX {
            assert!(few());
            tasks.spawn_detached(Box::pin(std::future::pending()));
        }
        assert!(!few());
        // They never end, but they begin.
        tasks.few_wait().await;
        assert!(few());
        tokio::task::yield_now().await;
        assert_eq!(tasks.0.count.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn a_task_that_is_dropped_counts_no_more() {
        let tasks = Tasks::default();
        drop(tasks.counted(Box::pin(async {})));
        assert_eq!(tasks.0.count.load(Ordering::Acquire), 0);
    }
}
