//! Starting, waiting for services, watching the parts of a process, and stopping.

mod watchdog;

use std::future::Future;
use std::time::Duration;

use rand::RngExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use watchdog::{Heartbeat, Part, STUCK_AFTER, Trouble, TroubleKind, Watchdog, caught, keep};

/// Growing pauses between attempts, with jitter, so that processes that lost a service together don't return together.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses from `first` to `max`, doubling.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, first, max }
    }

    /// The pause before the next attempt: ±20% of the doubling series.
    pub fn pause(&mut self) -> Duration {
        let pause = jitter(self.next);
        self.next = (self.next * 2).min(self.max);
        pause
    }

    /// After a success: begin again with the first pause.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// The pause before attempt number `attempt + 1` of a message: 1 s, 2 s, 4 s … 5 min, ±20%.
pub fn retry_pause(attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(0).min(9);
    jitter(Duration::from_secs(1 << doublings).min(Duration::from_secs(300)))
}

/// `around`, ±20%.
pub fn jitter(around: Duration) -> Duration {
    around.mul_f64(rand::rng().random_range(0.8..=1.2))
}

/// Tries until it works or `stop` is cancelled, saying what it waits for. `None` if stopped.
pub async fn wait_for<T, E, F>(what: &str, stop: &CancellationToken, mut attempt: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Display,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut waited = false;
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => return None,
            result = attempt() => result,
        };
        match result {
            Ok(ready) => {
                if waited {
                    tracing::info!("{what} is there now");
                }
                return Some(ready);
            }
            Err(error) => {
                waited = true;
                tracing::warn!(%error, "waiting for {what}");
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep(backoff.pause()) => {}
                }
            }
        }
    }
}

/// Says once that a service went away, and once that it is back, instead of at every attempt.
#[derive(Debug)]
pub struct Presence {
    what: String,
    here: Option<bool>,
}

impl Presence {
    /// Of `what`, which nobody has looked for yet.
    pub const fn new(what: String) -> Self {
        Self { what, here: None }
    }

    /// It is there.
    pub fn here(&mut self) {
        if self.here.replace(true) != Some(true) {
            tracing::info!("{} is connected", self.what);
        }
    }

    /// It isn't there, and is waited for.
    pub fn away(&mut self, error: &dyn std::fmt::Display) {
        if self.here.replace(false) == Some(false) {
            tracing::debug!(%error, "still waiting for {}", self.what);
        } else {
            tracing::warn!(%error, "waiting for {}", self.what);
        }
    }
}

/// A token that is cancelled at the first SIGINT or SIGTERM. A second one ends the process at once.
///
/// # Errors
/// If the handlers can't be installed.
pub fn stop_on_signals() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tracing::info!("stopping; once more to stop at once");
        stop.cancel();
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(130);
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_double_from_a_second_to_five_minutes() {
        for (attempt, seconds) in [(1, 1.0), (2, 2.0), (3, 4.0), (9, 256.0), (10, 300.0), (50, 300.0), (0, 1.0)] {
            for _ in 0..50 {
                let pause = retry_pause(attempt).as_secs_f64() / seconds;
                assert!((0.8..=1.2).contains(&pause), "attempt {attempt}: {pause}");
            }
        }
    }
}
