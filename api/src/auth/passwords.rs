//! The thread that hashes passwords.
//!
//! What waits for it is bounded, for all and for each network, and who has logged in before goes first: guessers, however many
//! addresses they have, don't keep an admin with the right password out.
//!
//! There is one for each process, so that a flood of logins has one hash's memory (19 MiB) and a third of a core. Its
//! priority is the lowest: on a busy machine Linux prefers whatever accepts and sends, in this process and beside it, and
//! logins wait.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sanasr_shared::ids::UserId;
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::priority;
use tokio::sync::oneshot;

use crate::problem::Problem;
use crate::work::while_here;

/// What waits from addresses that nobody has logged in from, at most: some seconds of work. Waiting costs less than being refused
/// and coming again.
const STRANGERS_MAX: usize = 192;
/// Places beside those for users who are logged in, and for addresses that somebody has logged in from: they are served first.
const RESERVE_MAX: usize = 64;
/// Places of each kind that one network (/24 or /48) or one user may hold: so it takes several networks to fill the queue.
const SHARE_MAX: usize = 32;
/// The thread's niceness: about a seventieth of the share that other threads get.
const NICENESS: i32 = 19;

/// While others wait, the thread rests this many times as long as a hash took: what it does to caches and memory, and what
/// each login writes, slows sends even on an idle core.
const RESTS: u32 = 2;

type Work = Box<dyn FnOnce() + Send>;

/// For whom a password is hashed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum For {
    /// Somebody at an address that nobody has logged in from lately.
    Stranger(IpAddr),
    /// Somebody at an address that somebody has logged in from.
    Regular(IpAddr),
    /// A user who is logged in.
    User(UserId),
}

/// Whose places are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Share {
    Site(IpAddr),
    User(UserId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Reserve,
    Stranger,
}

impl Kind {
    const fn max(self) -> usize {
        match self {
            Self::Reserve => RESERVE_MAX,
            Self::Stranger => STRANGERS_MAX,
        }
    }
}

/// Where passwords are hashed.
pub(crate) struct Passwords(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    reserve: VecDeque<(Seat, Work)>,
    strangers: VecDeque<(Seat, Work)>,
    /// Places taken, by kind and whose they are: until their work begins.
    taken: HashMap<(Kind, Share), usize>,
    closed: bool,
}

/// A place among those that wait.
pub(crate) struct Place(Seat);

/// Gives the place back when it is dropped.
struct Seat {
    queue: Arc<Queue>,
    kind: Kind,
    share: Share,
}

impl Passwords {
    /// Starts the thread, which ends with this. If it doesn't start, the process ends: nobody could log in.
    pub(crate) fn start(watchdog: &Watchdog) -> Self {
        let queue = Arc::new(Queue::default());
        let served = Arc::clone(&queue);
        let started = std::thread::Builder::new().name("passwords".to_owned()).spawn(move || work(&served));
        if let Err(error) = started {
            watchdog.fail(format!("the thread that hashes passwords doesn't start: {error}"));
        }
        Self(queue)
    }

    /// Takes a place, before anything else is done for a login.
    ///
    /// # Errors
    /// Too many wait.
    pub(crate) fn place(&self, whom: For) -> Result<Place, Problem> {
        let (kinds, share) = match whom {
            For::Stranger(address) => (&[Kind::Stranger][..], Share::Site(site(address))),
            For::Regular(address) => (&[Kind::Reserve, Kind::Stranger][..], Share::Site(site(address))),
            For::User(user) => (&[Kind::Reserve, Kind::Stranger][..], Share::User(user)),
        };
        let mut state = self.0.lock();
        let kind = kinds.iter().copied().find(|kind| state.take(*kind, share));
        drop(state);
        let seat = kind.map(|kind| Seat { queue: Arc::clone(&self.0), kind, share });
        seat.map(Place).ok_or_else(|| Problem::overloaded("Too many passwords wait to be checked. Try again soon."))
    }
}

impl Drop for Passwords {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.news.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next work, and whether more waits behind it; `None` when nothing will come any more.
    fn next(&self) -> Option<(Work, bool)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                // Their seats lock the state, too.
                let (reserve, strangers) = (std::mem::take(&mut state.reserve), std::mem::take(&mut state.strangers));
                drop(state);
                drop((reserve, strangers));
                return None;
            }
            let next = state.reserve.pop_front().or_else(|| state.strangers.pop_front());
            if let Some((seat, work)) = next {
                let more = !state.reserve.is_empty() || !state.strangers.is_empty();
                drop(state);
                drop(seat);
                return Some((work, more));
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn take(&mut self, kind: Kind, share: Share) -> bool {
        let all: usize = self.taken.iter().filter(|((taken, _), _)| *taken == kind).map(|(_, count)| count).sum();
        let own = self.taken.get(&(kind, share)).copied().unwrap_or(0);
        let room = !self.closed && all < kind.max() && own < SHARE_MAX;
        if room {
            self.taken.insert((kind, share), own + 1);
        }
        room
    }
}

impl Place {
    /// Has something done on the thread. What nobody waits for any longer isn't done.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move || {
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        });
        let queue = Arc::clone(&self.0.queue);
        {
            let mut state = queue.lock();
            if state.closed {
                drop(state);
                return Err(Problem::unavailable("This process stops."));
            }
            match self.0.kind {
                Kind::Reserve => state.reserve.push_back((self.0, work)),
                Kind::Stranger => state.strangers.push_back((self.0, work)),
            }
        }
        queue.news.notify_one();
        let answered = while_here(answered).await.ok_or_else(|| Problem::unavailable("The client has left."))?;
        answered.map_err(|_| Problem::internal("hashing a password failed"))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if let Entry::Occupied(mut taken) = state.taken.entry((self.kind, self.share)) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}

fn work(queue: &Queue) {
    if let Err(error) = priority::lower(NICENESS) {
        tracing::warn!(%error, "the thread that hashes passwords keeps its priority");
    }
    while let Some((work, more)) = queue.next() {
        let began = Instant::now();
        let _ = catch_unwind(AssertUnwindSafe(work));
        if more {
            std::thread::sleep(began.elapsed() * RESTS);
        }
    }
}

/// The network that an address is probably given out of: a /24 or a /48.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() >> 8 << 8)),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const HERE: For = For::Stranger(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn stranger(n: usize) -> For {
        For::Stranger(IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(n).expect("small"))))
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_answer_only() {
        let passwords = Passwords::start(&Watchdog::default());
        assert!(passwords.place(HERE).expect("a place").run(|| panic!("as tested")).await.is_err());
        assert_eq!(passwords.place(HERE).expect("a place").run(|| 5).await.ok(), Some(5));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_for_each_network_and_for_all() {
        let passwords = Passwords::start(&Watchdog::default());
        // Several addresses of one network, and of one IPv6 site.
        let of_one: Vec<_> = (0..STRANGERS_MAX).map_while(|n| passwords.place(stranger(n % 256)).ok()).collect();
        assert_eq!(of_one.len(), SHARE_MAX);
        let v6 = |n: u16| For::Stranger(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, n, 0, 0, 0, 1)));
        let of_site: Vec<_> = (0..=u16::MAX).map_while(|n| passwords.place(v6(n)).ok()).collect();
        assert_eq!(of_site.len(), SHARE_MAX);
        drop(of_site);
        // Guessers everywhere: 300 of them, each in a network of its own.
        let everywhere: Vec<_> = (1..=300).filter_map(|n| passwords.place(stranger(n << 8)).ok()).collect();
        assert_eq!(of_one.len() + everywhere.len(), STRANGERS_MAX);
        // There is a place for those who have logged in before, and it is none of the strangers'.
        let known = For::Regular(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
        let reserved: Vec<_> = std::iter::from_fn(|| passwords.place(known).ok()).collect();
        assert_eq!(reserved.len(), SHARE_MAX);
        assert!(passwords.place(For::User(UserId(1))).is_ok());
        drop(everywhere);
        assert!(passwords.place(stranger(1 << 8)).is_ok());
        drop((of_one, reserved));
        assert!(passwords.0.lock().taken.is_empty());
    }

    #[tokio::test]
    async fn those_who_have_logged_in_before_go_first() {
        let passwords = Passwords::start(&Watchdog::default());
        let (release, held) = mpsc::channel::<()>();
        let (began, begun) = oneshot::channel();
        let first = tokio::spawn(passwords.place(HERE).expect("a place").run(move || {
            let _ = began.send(());
            let _ = held.recv();
        }));
        begun.await.expect("it begins");
        let order = Arc::new(Mutex::new(Vec::new()));
        let noted = |what: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().expect("no panic").push(what)
        };
        let strangers: Vec<_> = (0..3)
            .map(|n| Box::pin(passwords.place(stranger(n << 8)).expect("a place").run(noted("stranger"))))
            .collect();
        let known = For::Regular(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
        let known = passwords.place(known).expect("a place").run(noted("known"));
        let all = tokio::spawn(async move { tokio::join!(futures_util::future::join_all(strangers), known) });
        let waiting = || {
            let state = passwords.0.lock();
            state.strangers.len() + state.reserve.len()
        };
        while waiting() < 4 {
            tokio::task::yield_now().await;
        }
        release.send(()).expect("it waits");
        let (_, _) = (first.await, all.await);
        assert_eq!(*order.lock().expect("no panic"), ["known", "stranger", "stranger", "stranger"]);
    }

    #[tokio::test]
    async fn the_thread_yields_to_others() {
        let of_thread = || rustix::process::getpriority_process(None).expect("a priority");
        let before = of_thread();
        let there = Passwords::start(&Watchdog::default()).place(HERE).expect("a place").run(of_thread).await.ok();
        assert_eq!(there, Some(NICENESS.max(before)));
        assert_eq!(of_thread(), before, "this thread keeps its own");
    }
}
