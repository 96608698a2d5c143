//! Whether what writes moves: a small write now and then, made when somebody asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ports::store::{Result, StoreError};

/// How long nothing may have been written before the store says that it stands still. Slow isn't still.
pub(crate) const STILL_AFTER: Duration = Duration::from_secs(10);
/// How long a success serves whoever asks next.
const REMEMBERED: Duration = Duration::from_secs(2);

/// What the last writes for this purpose came to.
#[derive(Default)]
pub(crate) struct Pulse(Mutex<State>);

#[derive(Default)]
struct State {
    /// When the last one succeeded.
    succeeded: Option<Instant>,
    /// When the first one since then was begun.
    trying_since: Option<Instant>,
    under_way: bool,
    error: Option<StoreError>,
}

impl Pulse {
    /// Judges by what is known, and has `probe` made if that is old: one at a time, which is never waited for.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no probe has succeeded for [`STILL_AFTER`].
    pub(crate) fn check(self: &Arc<Self>, probe: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
        let mut state = self.lock();
        if state.succeeded.is_some_and(|at| at.elapsed() < REMEMBERED) {
            return Ok(());
        }
        let since = *state.trying_since.get_or_insert_with(Instant::now);
        if !std::mem::replace(&mut state.under_way, true) {
            // Ends by itself, by the time limits of what it calls.
            let pulse = Arc::clone(self);
            tokio::spawn(async move {
                let ended = Ended(&pulse);
                let result = probe.await;
                ended.with(result);
            });
        }
        if since.elapsed() < STILL_AFTER {
            return Ok(());
        }
        let seconds = since.elapsed().as_secs();
        Err(StoreError::Unavailable(match &state.error {
            Some(error) => format!("nothing could be written for {seconds} s: {error}"),
            None => format!("a write has been under way for {seconds} s"),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A probe, which may panic.
struct Ended<'p>(&'p Pulse);

impl Ended<'_> {
    fn with(self, result: Result<()>) {
        let mut state = self.0.lock();
        match result {
            Ok(()) => *state = State { succeeded: Some(Instant::now()), ..State::default() },
            Err(error) => state.error = Some(error),
        }
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_not_succeeded_for_long_stands_still() {
        let pulse = Arc::new(Pulse::default());
        let full = || async { Err(StoreError::Unavailable("the disk is full".to_owned())) };
        assert!(pulse.check(full()).is_ok(), "slow isn't still");
        while pulse.lock().error.is_none() {
            tokio::task::yield_now().await;
        }
        pulse.lock().trying_since = Instant::now().checked_sub(STILL_AFTER);
        let said = pulse.check(full()).expect_err("nothing moves").to_string();
        assert!(said.contains("the disk is full"), "{said}");
        // A probe that crashes is one that failed.
        while pulse.lock().under_way {
            tokio::task::yield_now().await;
        }
        assert!(pulse.check(async { panic!("a probe crashes") }).is_err());
        while pulse.lock().under_way {
            tokio::task::yield_now().await;
        }
        assert!(pulse.check(async { Ok(()) }).is_err());
        while pulse.lock().succeeded.is_none() {
            tokio::task::yield_now().await;
        }
        assert!(pulse.check(full()).is_ok());
    }
}
