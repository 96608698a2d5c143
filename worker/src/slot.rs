//! Room for one piece of work that is under way.

use std::future::poll_fn;
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// At most one future under way, to be awaited beside others. Never dropped before its end, unless its owner is: a claim
/// whose answer is thrown away would be nobody's.
pub(crate) struct Slot<T>(Option<BoxFuture<'static, T>>);

impl<T> Slot<T> {
    /// Nothing under way.
    pub(crate) const fn empty() -> Self {
        Self(None)
    }

    /// Whether nothing is under way.
    pub(crate) const fn is_free(&self) -> bool {
        self.0.is_none()
    }

    /// Puts work into a free slot.
    pub(crate) fn put(&mut self, work: impl Future<Output = T> + Send + 'static) {
        debug_assert!(self.is_free(), "one at a time");
        self.0 = Some(work.boxed());
    }

    /// What the work answers; waits for ever while there is none. Cancel-safe.
    pub(crate) async fn next(&mut self) -> T {
        poll_fn(|cx| match &mut self.0 {
            None => Poll::Pending,
            Some(work) => work.poll_unpin(cx).map(|answer| {
                self.0 = None;
                answer
            }),
        })
        .await
    }
}
