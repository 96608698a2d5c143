//! The thread that hashes passwords.
//!
//! There is one for each process, so that a flood of logins has one hash's memory (19 MiB) and a third of a core. Its
//! priority is the lowest: on a busy machine Linux prefers whatever accepts and sends, in this process and beside it, and
//! logins wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::problem::Problem;

/// What waits, at most: some seconds of work. Waiting costs less than being refused and coming again.
const WAITING_MAX: usize = 256;
/// The thread's niceness: about a seventieth of the share that other threads get.
const NICENESS: i32 = 19;

/// While others wait, the thread rests this many times as long as a hash took: what it does to caches and memory, and what
/// each login writes, slows sends even on an idle core.
const RESTS: u32 = 2;

type Work = Box<dyn FnOnce() + Send>;

/// Where passwords are hashed.
pub(crate) struct Passwords(mpsc::Sender<Work>);

/// A place among those that wait.
pub(crate) struct Place(mpsc::OwnedPermit<Work>);

impl Passwords {
    /// Starts the thread, which ends with this.
    pub(crate) fn start() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let started = std::thread::Builder::new().name("passwords".to_owned()).spawn(move || work(receiver));
        if let Err(error) = started {
            tracing::error!(%error, "nobody can log in: the thread that hashes passwords doesn't start");
        }
        Self(sender)
    }

    /// Takes a place, before anything else is done for a login.
    ///
    /// # Errors
    /// Too many wait.
    pub(crate) fn place(&self) -> Result<Place, Problem> {
        let permit = self.0.clone().try_reserve_owned();
        permit.map(Place).map_err(|_| Problem::overloaded("Too many passwords wait to be checked. Try again soon."))
    }
}

impl Place {
    /// Has something done on the thread. What nobody waits for any longer isn't done.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Box::new(move || {
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        }));
        answered.await.map_err(|_| Problem::internal("hashing a password failed"))
    }
}

fn work(mut waiting: mpsc::Receiver<Work>) {
    // On Linux these are the calling thread's alone.
    let already = rustix::process::getpriority_process(None).unwrap_or(0);
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS.max(already)) {
        tracing::warn!(%error, "the thread that hashes passwords keeps its priority");
    }
    while let Some(work) = waiting.blocking_recv() {
        let began = Instant::now();
        let _ = catch_unwind(AssertUnwindSafe(work));
        if !waiting.is_empty() {
            std::thread::sleep(began.elapsed() * RESTS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_its_own_answer_only() {
        let passwords = Passwords::start();
        assert!(passwords.place().expect("a place").run(|| panic!("as tested")).await.is_err());
        assert_eq!(passwords.place().expect("a place").run(|| 5).await.ok(), Some(5));
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let passwords = Passwords::start();
        let places: Vec<_> = std::iter::from_fn(|| passwords.place().ok()).take(WAITING_MAX + 1).collect();
        assert_eq!(places.len(), WAITING_MAX);
        drop(places);
        assert!(passwords.place().is_ok());
    }

    #[tokio::test]
    async fn the_thread_yields_to_others() {
        let of_thread = || rustix::process::getpriority_process(None).expect("a priority");
        let before = of_thread();
        let there = Passwords::start().place().expect("a place").run(of_thread).await.ok();
        assert_eq!(there, Some(NICENESS.max(before)));
        assert_eq!(of_thread(), before, "this thread keeps its own");
    }
}
