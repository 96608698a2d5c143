//! Bodies must arrive at a least rate, so that nobody holds a place by sending a byte now and then.
//!
//! Only the time for which the client is waited for counts: neither waiting for room nor writing to disk does.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::Body as _;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes a second that a body brings at least.
const RATE: u32 = 4 << 10;
/// How long a body may take before it must keep to the rate.
const GRACE: Duration = Duration::from_secs(5);
/// How long nothing may come from a client that was ahead of the rate.
const AHEAD_MAX: Duration = Duration::from_secs(20);

/// A body that is cut when it comes too slowly.
pub(crate) struct Paced {
    body: Body,
    /// How long it may be waited for.
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// Why a body ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    /// The client or the connection has gone.
    #[error("the connection broke off")]
    Off,
    /// It came too slowly.
    #[error("too slow")]
    Slow,
}

impl Paced {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, left: GRACE, waiting: None }
    }

    /// The next piece; `None` at the end.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => {
                    let (_, sleep) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(self.left))));
                    return sleep.as_mut().poll(context).map(|()| Some(Err(Cut::Slow)));
                }
                Poll::Ready(frame) => {
                    if let Some((since, _)) = self.waiting.take() {
                        self.left = self.left.saturating_sub(since.elapsed());
                    }
                    let Some(frame) = frame else { return Poll::Ready(None) };
                    let Ok(frame) = frame else { return Poll::Ready(Some(Err(Cut::Off))) };
                    let Ok(data) = frame.into_data() else { continue };
                    self.left = after(self.left, data.len());
                    return Poll::Ready(Some(Ok(data)));
                }
            }
        }
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Cut>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn into_inner(self) -> Body {
        self.body
    }
}

/// How long a body may be waited for once it has brought so many bytes.
fn after(left: Duration, bytes: usize) -> Duration {
    let earned = Duration::from_secs(1).saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX)) / RATE;
    // What it had in the beginning isn't taken away.
    left.saturating_add(earned).min(AHEAD_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_brings_is_time_for_the_rest() {
        let kb = 1 << 10;
        assert_eq!(after(GRACE, 4 * kb), GRACE + Duration::from_secs(1));
        assert_eq!(after(Duration::ZERO, 1), Duration::from_secs(1) / RATE);
        assert_eq!(after(GRACE, 16 << 20), AHEAD_MAX);
        // A byte each second: the beginning's grace is soon used up.
        let second = Duration::from_secs(1);
        let left = (0..6).try_fold(GRACE, |left, _| left.checked_sub(second).map(|left| after(left, 1)));
        assert_eq!(left, None);
    }

    #[tokio::test]
    async fn a_body_that_is_there_is_read_as_it_is() {
        let mut body = Paced::new(Body::from("hello"));
        assert_eq!(body.next().await, Some(Ok(Bytes::from("hello"))));
        assert_eq!(body.next().await, None);
        assert!(body.is_end_stream());
    }
}
