//! Work that is carried to its end though its client leaves: every request that may change something.
//!
//! A handler changes the store, and then tells others of it: whoever may leave between the two leaves it half done. So such
//! handlers run in tasks of their own, which nobody drops. What they wait for on their client's account they give up when it has
//! left: see [`while_here`].

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Requests that are carried out at once, at most: those whose clients have left are no longer bounded by connections.
const MOST: usize = 1 << 16;

/// What is being carried out.
#[derive(Clone)]
pub(crate) struct Work(Arc<Semaphore>);

/// Leave to carry something out.
pub(crate) struct Leave {
    _permit: OwnedSemaphorePermit,
}

impl Work {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }

    /// Leave to begin; `None` if too much is under way.
    pub(crate) fn leave(&self) -> Option<Leave> {
        Arc::clone(&self.0).try_acquire_owned().ok().map(|permit| Leave { _permit: permit })
    }

    /// Ends when nothing is under way, and lets nothing begin until then.
    pub(crate) async fn done(&self) {
        let _ = self.0.acquire_many(u32::try_from(MOST).unwrap_or(u32::MAX)).await;
    }
}

impl Leave {
    /// Carries work to its end, whether or not this future is polled to its own; `None` if the work panicked.
    pub(crate) async fn carry_out<T: Send + 'static>(
        self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let left = CancellationToken::new();
        let _here = left.clone().drop_guard();
        let carried = tokio::spawn(LEFT.scope(left, async move {
            let done = work.await;
            drop(self);
            done
        }));
        carried.await.ok()
    }
}

tokio::task_local! {
    /// The client of what is being carried out has left.
    static LEFT: CancellationToken;
}

/// Waits on the client's account: `None` once it has left.
pub(crate) async fn while_here<T>(wait: impl Future<Output = T>) -> Option<T> {
    match LEFT.try_with(CancellationToken::clone) {
        Ok(left) => left.run_until_cancelled_owned(wait).await,
        // Its task ends with it.
        Err(_) => Some(wait.await),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_ends_though_nobody_waits_for_it() {
        let work = Work::new();
        let (go, told) = oneshot::channel::<()>();
        let (done, end) = oneshot::channel();
        let carried = work.leave().expect("leave").carry_out(async move {
            told.await.expect("the word");
            done.send(()).expect("somebody who listens");
        });
        assert!(tokio::time::timeout(Duration::from_millis(5), carried).await.is_err(), "its caller leaves");
        assert!(work.done().now_or_never().is_none());
        go.send(()).expect("the work goes on");
        end.await.expect("it comes to its end");
        work.done().await;
    }

    #[tokio::test]
    async fn who_has_left_is_waited_for_no_longer() {
        let work = Work::new();
        let (begun, wait) = oneshot::channel();
        let (done, end) = oneshot::channel();
        let carried = tokio::spawn(work.leave().expect("leave").carry_out(async move {
            begun.send(()).expect("somebody who listens");
            done.send(while_here(std::future::pending::<()>()).await).expect("somebody who listens");
        }));
        wait.await.expect("it begins");
        carried.abort();
        assert_eq!(end.await, Ok(None));
        assert_eq!(while_here(async { 5 }).await, Some(5), "outside of such work it is waited for as ever");
    }

    #[tokio::test]
    async fn a_panic_is_told_and_frees_its_place() {
        let work = Work::new();
        let panicked: Option<()> = work.leave().expect("leave").carry_out(async { panic!("as tested") }).await;
        assert!(panicked.is_none());
        work.done().await;
    }
}
