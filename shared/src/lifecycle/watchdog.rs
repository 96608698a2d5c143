//! The owner of long-lived tasks: a task that panics is started again, or the process ends. Readiness asks here whether the
//! parts of the process live and move.
//!
//! What must hold: a panic is never the end of a part while the process as a whole looks well.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Backoff;

/// How long a part that has work may make no progress before it counts as stuck. Longer than any statement or call may last.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);
/// A part that crashed so often in a row counts as failed, although it is started again.
const CRASHES_MAX: u32 = 3;
/// A part that ran for so long has recovered: its earlier crashes count no more.
const STEADY: Duration = Duration::from_secs(60);
/// Pauses before a crashed part is started again.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(30);

/// Knows the parts of one process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Watchdog(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    parts: Mutex<Vec<Heartbeat>>,
    failure: OnceLock<String>,
    failed: CancellationToken,
}

/// What is wrong with a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The part's name.
    pub part: &'static str,
    /// What it is.
    pub kind: TroubleKind,
}

/// How a part fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// It has work and has made no progress for so long.
    Stuck(Duration),
    /// It has crashed so often in a row.
    Crashes(u32),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TroubleKind::Stuck(since) => write!(f, "{}: no progress for {} s", self.part, since.as_secs()),
            TroubleKind::Crashes(count) => write!(f, "{}: crashed {count} times in a row", self.part),
        }
    }
}

impl Watchdog {
    /// Adds a part that its caller runs itself. It is idle, and watched until the answer is dropped.
    pub fn part(&self, name: &'static str) -> Part {
        let heartbeat = Heartbeat { name, state: Arc::default() };
        self.parts().push(heartbeat.clone());
        Part { watchdog: self.clone(), heartbeat }
    }

    /// Runs a part until its job returns; a job that panics is started again after a pause. The job gets its heartbeat; it
    /// needn't use it, and then only its crashes are noticed.
    ///
    /// Whoever waits for an answer of a job that panics must learn it by itself, by a channel that closes, for example.
    pub async fn keep<F: Future<Output = ()>>(&self, name: &'static str, mut job: impl FnMut(Heartbeat) -> F) {
        let part = self.part(name);
        again(name, Some(&part), || job(part.heartbeat.clone())).await;
    }

    /// Runs a part that can't be started again: if it panics, the process ends (see [`Self::failed`]).
    pub async fn vital(&self, name: &'static str, job: impl Future<Output = ()>) {
        if let Err(panic) = caught(job).await {
            self.fail(format!("{name} crashed: {panic}"));
        }
    }

    /// Ends the process, for this reason. The first reason counts.
    pub fn fail(&self, why: String) {
        let _ = self.0.failure.set(why);
        self.0.failed.cancel();
    }

    /// Waits until the process must end, and answers why. Only the composition root asks.
    pub async fn failed(&self) -> String {
        self.0.failed.cancelled().await;
        self.0.failure.get().cloned().unwrap_or_default()
    }

    /// The parts that don't do their work: those without progress for [`STUCK_AFTER`], and those that crash again and again.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.troubles_at(Instant::now())
    }

    fn troubles_at(&self, now: Instant) -> Vec<Trouble> {
        self.parts().iter().filter_map(|part| part.trouble(now)).collect()
    }

    /// Logs parts that get into trouble and out of it, and counts those in trouble. Runs for ever.
    pub async fn report(&self) {
        let mut known = Vec::new();
        loop {
            let troubles = self.troubles();
            for trouble in troubles.iter().filter(|trouble| !known.contains(&trouble.part)) {
                tracing::error!("{trouble}");
            }
            // A part that has ended doesn't work again.
            let alive: Vec<_> = self.parts().iter().map(|part| part.name).collect();
            let recovered =
                |part: &&&str| alive.contains(*part) && !troubles.iter().any(|trouble| trouble.part == **part);
            for part in known.iter().filter(recovered) {
                tracing::info!("{part} works again");
            }
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; a process has some dozen parts")]
            metrics::gauge!("sanasr_parts_failing").set(troubles.len() as f64);
            known = troubles.into_iter().map(|trouble| trouble.part).collect();
            tokio::time::sleep(STUCK_AFTER / 2).await;
        }
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Heartbeat>> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a job until it returns, and starts it again when it panics: for what there are thousands of, and what readiness
/// therefore doesn't ask for.
pub async fn keep<F: Future<Output = ()>>(name: &'static str, job: impl FnMut() -> F) {
    again(name, None, job).await;
}

async fn again<F: Future<Output = ()>>(name: &'static str, part: Option<&Part>, mut job: impl FnMut() -> F) {
    let mut backoff = Backoff::new(RESTART_FIRST, RESTART_MAX);
    loop {
        let begun = Instant::now();
        // Making the future runs code of the job, too.
        let Err(panic) = caught(async { job().await }).await else { return };
        if begun.elapsed() >= STEADY {
            backoff.reset();
        }
        if let Some(part) = part {
            part.crashed(begun);
        }
        let pause = backoff.pause();
        tracing::error!("{name} crashed and is started again in {pause:.1?}: {panic}");
        metrics::counter!("sanasr_crashes_total", "part" => name).increment(1);
        tokio::time::sleep(pause).await;
        if let Some(part) = part {
            part.restarted();
        }
    }
}

/// A watched part: not watched any more once this is dropped, as its end is then its owner's wish.
#[derive(Debug)]
pub struct Part {
    watchdog: Watchdog,
    heartbeat: Heartbeat,
}

impl std::ops::Deref for Part {
    type Target = Heartbeat;

    fn deref(&self) -> &Heartbeat {
        &self.heartbeat
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let state = &self.heartbeat.state;
        self.watchdog.parts().retain(|part| !Arc::ptr_eq(&part.state, state));
    }
}

/// Says how a part is doing. Clones speak for the same part.
///
/// A part calls [`begin`](Self::begin) when it has work, [`progress`](Self::progress) when it has got on with it, and
/// [`idle`](Self::idle) when it waits for more. After a failure that will be tried again it says nothing, so that the time since
/// the last success counts.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    name: &'static str,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when it has had work without progress; `None` while it has none.
    working: Option<Instant>,
    crashes: u32,
    /// When it was last started again.
    restarted: Option<Instant>,
}

impl Heartbeat {
    /// It has work. Said again before progress is made, the first time counts.
    pub fn begin(&self) {
        self.lock().working.get_or_insert_with(Instant::now);
    }

    /// It has got on, and goes on.
    pub fn progress(&self) {
        self.lock().working = Some(Instant::now());
    }

    /// It waits for work.
    pub fn idle(&self) {
        self.lock().working = None;
    }

    /// It had run since `begun`.
    fn crashed(&self, begun: Instant) {
        let mut state = self.lock();
        if begun.elapsed() >= STEADY {
            state.crashes = 0;
        }
        state.crashes += 1;
        state.restarted = None;
        state.working.get_or_insert_with(Instant::now);
    }

    fn restarted(&self) {
        let mut state = self.lock();
        state.restarted = Some(Instant::now());
        state.working = None;
    }

    fn trouble(&self, now: Instant) -> Option<Trouble> {
        let state = self.lock();
        let recovered = state.restarted.is_some_and(|at| now.saturating_duration_since(at) >= STEADY);
        let stuck = state.working.map(|since| now.saturating_duration_since(since)).filter(|time| *time >= STUCK_AFTER);
        let kind = match stuck {
            _ if state.crashes >= CRASHES_MAX && !recovered => TroubleKind::Crashes(state.crashes),
            Some(time) => TroubleKind::Stuck(time),
            None => return None,
        };
        Some(Trouble { part: self.name, kind })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a future answers, or the words of its panic. What it worked on must not be used after a panic, unless that is safe.
///
/// # Errors
/// The words of the panic.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| said(&*panic).to_owned())
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_part_that_has_work_must_move() {
        let watchdog = Watchdog::default();
        let part = watchdog.part("writing");
        let start = Instant::now();
        // It begins later than `start`, so a second more is too long in any case.
        let late = start + STUCK_AFTER + Duration::from_secs(1);
        assert_eq!(watchdog.troubles_at(late), [], "an idle part isn't stuck");
        part.begin();
        part.begin();
        assert_eq!(watchdog.troubles_at(start + STUCK_AFTER / 2), []);
        let troubles = watchdog.troubles_at(late);
        assert!(matches!(troubles[..], [Trouble { part: "writing", kind: TroubleKind::Stuck(_) }]), "{troubles:?}");
        part.lock().working = Some(start - STUCK_AFTER);
        part.begin();
        assert_eq!(watchdog.troubles().len(), 1, "to begin again is no progress");
        part.progress();
        assert_eq!(watchdog.troubles(), []);
        part.idle();
        assert_eq!(watchdog.troubles_at(late), []);
        part.begin();
        drop(part);
        assert_eq!(watchdog.troubles_at(late), [], "a part that was ended isn't watched");
    }

    #[tokio::test]
    async fn a_part_that_panics_is_started_again_and_noticed_if_that_does_not_help() {
        let watchdog = Watchdog::default();
        let starts = Arc::new(AtomicU32::new(0));
        let (counted, owner) = (Arc::clone(&starts), watchdog.clone());
        let task = tokio::spawn(async move {
            owner
                .keep("hearing", |heartbeat| {
                    let start = counted.fetch_add(1, Ordering::Relaxed) + 1;
                    async move {
                        heartbeat.begin();
                        assert!(start > 4, "start {start}");
                        heartbeat.idle();
                        std::future::pending::<()>().await;
                    }
                })
                .await;
        });
        let mut seen = Vec::new();
        while starts.load(Ordering::Relaxed) < 5 {
            seen.extend(watchdog.troubles().into_iter().map(|trouble| trouble.kind));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(seen.first(), Some(&TroubleKind::Crashes(3)));
        assert_eq!(seen.last(), Some(&TroubleKind::Crashes(4)));
        assert_eq!(watchdog.troubles_at(Instant::now() + STEADY), [], "it has recovered");
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
        assert!(watchdog.parts().is_empty());
    }

    #[tokio::test]
    async fn a_vital_part_that_panics_ends_the_process() {
        let watchdog = Watchdog::default();
        watchdog.vital("serving", async {}).await;
        assert!(watchdog.failed().now_or_never().is_none(), "an end in good order isn't a failure");
        watchdog.vital("serving", async { panic!("out of {}", "ideas") }).await;
        watchdog.fail("another".to_owned());
        assert_eq!(watchdog.failed().await, "serving crashed: out of ideas");
    }
}
