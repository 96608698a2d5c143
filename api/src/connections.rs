//! Which connections are open, and which of them give way when they run short.
//!
//! What must hold: whatever clients do, health is answered, and a connection whose client does nothing ends. A few places are
//! reserved for health. The others are shared: when they are used up, the address with the most connections gives way, its idle
//! ones first; its busy ones only while it has more than half of the limit. Loopback and trusted proxies stand for many clients:
//! only their idle connections give way, and only to their own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use crate::limits::network;

/// How long a request's head may take to arrive, from its first byte on; for a connection's first one, from the beginning on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// From then on a connection whose head hasn't come counts as idle, if connections run short.
const HEAD_COMES: Duration = Duration::from_secs(1);
/// How long a connection may be idle between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take nothing of what is written to it.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The same, for the head of a request in one of the places for health, which are few.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections are looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// Places that are reserved for health, at most.
const RESERVE_MAX: usize = 16;
/// Idle connections that give way at once: looking for them costs more than closing them.
const GIVE_WAY_MAX: usize = 64;

/// The bounds of a server's connections.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Connections, at most.
    pub connections: usize,
    /// Proxies, which stand for many clients.
    pub trusted: Vec<IpNet>,
}

/// The open connections of a server.
pub(crate) struct Connections {
    general: usize,
    reserve: usize,
    /// Of one address, when connections run short.
    share: usize,
    trusted: Vec<IpNet>,
    began: Instant,
    open: Mutex<Open>,
    changed: Notify,
}

#[derive(Default)]
struct Open {
    last_id: u64,
    general: Part,
    reserve: Part,
}

/// Connections by their address and number.
#[derive(Default)]
struct Part {
    count: usize,
    addresses: HashMap<IpAddr, HashMap<u64, Arc<Watch>>>,
}

/// An open connection's place.
pub(crate) struct Seat {
    connections: Arc<Connections>,
    address: IpAddr,
    id: u64,
    pub(crate) watch: Arc<Watch>,
    /// In one of the places for health: nothing else is answered.
    pub(crate) reserved: bool,
}

/// What a connection does: noted by its own task, looked at by others.
pub(crate) struct Watch {
    began: Instant,
    phase: AtomicU8,
    /// When the phase began, in milliseconds.
    since: AtomicU64,
    /// When its client last took something of what is being written; [`NEVER`] if nothing is.
    blocked: AtomicU64,
    /// Closes it.
    pub(crate) hangup: CancellationToken,
}

const NEVER: u64 = u64::MAX;

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Nothing, between two requests.
    Idle,
    /// A request's head arrives.
    Head,
    /// A request is answered.
    Busy,
}

impl Watch {
    fn new(began: Instant) -> Self {
        let watch = Self {
            began,
            phase: AtomicU8::new(Phase::Head as u8),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(NEVER),
            hangup: CancellationToken::new(),
        };
        watch.since.store(watch.now(), Ordering::Relaxed);
        watch
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    fn enter(&self, phase: Phase) {
        self.since.store(self.now(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Something arrived.
    pub(crate) fn read(&self) {
        if self.is(Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// A request has arrived; it is being answered until the guard is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.enter(Phase::Busy);
        Busy(Arc::clone(self))
    }

    /// The client takes nothing more for now.
    pub(crate) fn blocked(&self) {
        if self.blocked.load(Ordering::Relaxed) == NEVER {
            self.blocked.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The client took something.
    pub(crate) fn written(&self) {
        if self.blocked.swap(NEVER, Ordering::Relaxed) != NEVER && self.is(Phase::Idle) {
            // Its time begins when it has all of the last answer.
            self.enter(Phase::Idle);
        }
    }

    /// Whether nothing is under way: a head that doesn't come isn't.
    fn is_idle(&self) -> bool {
        let age = || Duration::from_millis(self.now().saturating_sub(self.since.load(Ordering::Relaxed)));
        self.asks_nothing() && (self.is(Phase::Idle) || age() >= HEAD_COMES)
    }

    fn asks_nothing(&self) -> bool {
        !self.is(Phase::Busy) && self.blocked.load(Ordering::Relaxed) == NEVER
    }

    /// Whether its client has had all the time it may have.
    fn is_over(&self, now: u64, reserved: bool) -> bool {
        let age = |since: u64| Duration::from_millis(now.saturating_sub(since));
        let blocked = self.blocked.load(Ordering::Relaxed);
        if blocked != NEVER {
            return age(blocked) >= WRITE_TIMEOUT;
        }
        let age = age(self.since.load(Ordering::Relaxed));
        let (head, idle) = if reserved { (RESERVE_TIMEOUT, RESERVE_TIMEOUT) } else { (HEAD_TIMEOUT, IDLE_TIMEOUT) };
        (self.is(Phase::Head) && age >= head) || (self.is(Phase::Idle) && age >= idle)
    }
}

/// A request that is being answered.
pub(crate) struct Busy(Arc<Watch>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

impl Connections {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        let limit = bounds.connections.max(2);
        let reserve = (limit / 8).clamp(1, RESERVE_MAX);
        Arc::new(Self {
            general: limit - reserve,
            reserve,
            share: limit / 2,
            trusted: bounds.trusted,
            began: Instant::now(),
            open: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// A place for a new connection from this address; `None` if even those for health are in use.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = self.owner(address);
        let mut open = self.lock();
        if open.general.count >= self.general {
            self.give_way(&mut open.general, address);
        }
        let reserved = open.general.count >= self.general;
        if reserved && open.reserve.count >= self.reserve {
            // Of the few, those whose request hasn't come yet give way.
            let addresses = open.reserve.most_first();
            addresses.into_iter().any(|(_, address)| open.reserve.drop_oldest(address, 1, Watch::asks_nothing));
            if open.reserve.count >= self.reserve {
                return None;
            }
        }
        open.last_id += 1;
        let id = open.last_id;
        let watch = Arc::new(Watch::new(self.began));
        let part = if reserved { &mut open.reserve } else { &mut open.general };
        part.count += 1;
        part.addresses.entry(address).or_default().insert(id, Arc::clone(&watch));
        Some(Seat { connections: Arc::clone(self), address, id, watch, reserved })
    }

    /// Has connections closed so that one from this address has a place, if others have more of them.
    fn give_way(&self, part: &mut Part, newcomer: IpAddr) {
        let own = part.count_of(newcomer);
        for (count, address) in part.most_first() {
            if address != newcomer && (count <= own + 1 || self.stands_for_many(address)) {
                continue;
            }
            if part.drop_oldest(address, GIVE_WAY_MAX.min(count / 8).max(1), Watch::is_idle)
                || (address != newcomer && count > self.share && part.drop_oldest(address, 1, |_| true))
            {
                return;
            }
        }
    }

    /// As whose connection one from this address counts.
    fn owner(&self, address: IpAddr) -> IpAddr {
        let address = address.to_canonical();
        if self.stands_for_many(address) { address } else { network(address) }
    }

    fn stands_for_many(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Closes, for as long as it is polled, the connections whose clients have had all the time they may have.
    pub(crate) async fn watch(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let open = self.lock();
            for (part, reserved) in [(&open.general, false), (&open.reserve, true)] {
                for watch in part.addresses.values().flat_map(HashMap::values) {
                    if watch.is_over(now, reserved) {
                        watch.hangup.cancel();
                    }
                }
            }
        }
    }

    /// Ends when a connection has ended after this call, whenever it is first polled.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Ends when no connection is open.
    pub(crate) async fn all_gone(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let open = self.lock();
                if open.general.count + open.reserve.count == 0 {
                    return;
                }
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn count_of(&self, address: IpAddr) -> usize {
        self.addresses.get(&address).map_or(0, HashMap::len)
    }

    /// The addresses, those with the most connections first.
    fn most_first(&self) -> Vec<(usize, IpAddr)> {
        let mut addresses: Vec<_> = self.addresses.iter().map(|(address, its)| (its.len(), *address)).collect();
        addresses.sort_unstable_by(|a, b| b.cmp(a));
        addresses
    }

    /// Has an address's oldest connections closed, of those of this kind; whether there were any.
    fn drop_oldest(&mut self, address: IpAddr, most: usize, kind: impl Fn(&Watch) -> bool) -> bool {
        let Some(its) = self.addresses.get_mut(&address) else { return false };
        let found = its.iter().filter(|(_, watch)| kind(watch));
        let mut found: Vec<(u64, u64)> = found.map(|(id, watch)| (watch.since.load(Ordering::Relaxed), *id)).collect();
        found.sort_unstable();
        found.truncate(most);
        for (_, id) in &found {
            if let Some(watch) = its.remove(id) {
                watch.hangup.cancel();
                self.count -= 1;
                metrics::counter!("sanasr_connections_given_way_total").increment(1);
            }
        }
        if its.is_empty() {
            self.addresses.remove(&address);
        }
        !found.is_empty()
    }

    fn remove(&mut self, address: IpAddr, id: u64) {
        let Some(its) = self.addresses.get_mut(&address) else { return };
        if its.remove(&id).is_some() {
            self.count -= 1;
        }
        if its.is_empty() {
            self.addresses.remove(&address);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        let part = if self.reserved { &mut open.reserve } else { &mut open.general };
        part.remove(self.address, self.id);
        drop(open);
        self.connections.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// 16 places, 2 of them for health.
    fn connections() -> Arc<Connections> {
        Connections::new(Bounds { connections: 16, trusted: vec!["10.0.0.0/8".parse().expect("a network")] })
    }

    fn filled(connections: &Arc<Connections>, from: &str, count: usize) -> Vec<(Seat, Busy)> {
        let seat = || connections.admit(address(from)).filter(|seat| !seat.reserved).expect("a place");
        let busy = |seat: Seat| {
            let busy = seat.watch.busy();
            (seat, busy)
        };
        (0..count).map(|_| busy(seat())).collect()
    }

    fn closed(seats: &[(Seat, Busy)]) -> usize {
        seats.iter().filter(|(seat, _)| seat.watch.hangup.is_cancelled()).count()
    }

    #[test]
    fn an_address_may_have_all_while_nobody_else_comes() {
        let all = connections();
        let greedy = filled(&all, "192.0.2.1", 14);
        assert_eq!(closed(&greedy), 0);
        let health = all.admit(address("192.0.2.1")).expect("a place for health");
        assert!(health.reserved);
        // Half of the limit is its own: up to there its busy ones give way.
        let others = filled(&all, "198.51.100.1", 6);
        assert_eq!((closed(&greedy), closed(&others)), (6, 0));
        assert!(all.admit(address("198.51.100.1")).expect("a place for health").reserved);
    }

    #[test]
    fn idle_ones_give_way_first_and_the_oldest_of_them() {
        let all = connections();
        let mut seats = filled(&all, "192.0.2.1", 14);
        std::thread::sleep(Duration::from_millis(3));
        let (idle, busy) = seats.remove(5);
        drop(busy);
        let newcomer = all.admit(address("198.51.100.1")).expect("a place");
        assert!(idle.watch.hangup.is_cancelled() && !newcomer.reserved);
        assert_eq!(closed(&seats), 0);
    }

    #[test]
    fn the_address_with_the_most_gives_way_and_never_one_with_fewer() {
        let all = connections();
        let (_few, few_busy): (Vec<_>, Vec<_>) = filled(&all, "192.0.2.1", 4).into_iter().unzip();
        let (many, many_busy): (Vec<_>, Vec<_>) = filled(&all, "192.0.2.2", 10).into_iter().unzip();
        drop((few_busy, many_busy));
        let newcomer = all.admit(address("192.0.2.3")).expect("a place");
        assert!(!newcomer.reserved);
        assert_eq!(many.iter().filter(|seat| seat.watch.hangup.is_cancelled()).count(), 1);
        drop(newcomer);
        // An address that has the most makes room of its own.
        let own = all.admit(address("192.0.2.2")).expect("a place");
        assert!(!own.reserved);
    }

    #[test]
    fn proxies_and_loopback_stand_for_many() {
        for many in ["127.0.0.1", "10.1.2.3", "::1"] {
            let all = connections();
            let (seats, busy): (Vec<_>, Vec<_>) = filled(&all, many, 14).into_iter().unzip();
            let stranger = all.admit(address("192.0.2.1")).expect("a place for health");
            assert!(stranger.reserved);
            drop(busy);
            assert!(all.admit(address("192.0.2.1")).expect("a place for health").reserved, "not even idle ones");
            assert!(!all.admit(address(many)).expect("a place").reserved, "its own idle ones");
            assert_eq!(seats.iter().filter(|seat| seat.watch.hangup.is_cancelled()).count(), 1);
        }
    }

    #[test]
    fn a_place_is_given_back_once() {
        let all = connections();
        let seats = filled(&all, "192.0.2.1", 14);
        let newcomers: Vec<_> = (0..3).map(|_| all.admit(address("192.0.2.2")).expect("a place")).collect();
        drop((seats, newcomers));
        let open = all.lock();
        assert_eq!((open.general.count, open.general.addresses.len(), open.reserve.count), (0, 0, 0));
    }

    #[test]
    fn a_place_for_health_isnt_held_by_who_asks_nothing() {
        let all = connections();
        let _filled = filled(&all, "127.0.0.1", 14);
        let silent: Vec<_> = (0..5).map(|_| all.admit(address("192.0.2.1")).expect("a place")).collect();
        assert_eq!(silent.iter().filter(|seat| seat.watch.hangup.is_cancelled()).count(), 3);
        let asking: Vec<_> = silent[3..].iter().map(|seat| seat.watch.busy()).collect();
        assert!(all.admit(address("192.0.2.1")).is_none());
        drop(asking);
    }

    #[test]
    fn each_phase_has_its_time() {
        let watch = Arc::new(Watch::new(Instant::now()));
        let at = |seconds: u64| seconds * 1_000 + 500;
        assert!(!watch.is_over(at(14), false) && watch.is_over(at(15), false) && watch.is_over(at(3), true));
        let busy = watch.busy();
        assert!(!watch.is_over(at(100_000), false));
        watch.blocked();
        assert!(!watch.is_over(at(29), false) && watch.is_over(at(30), false));
        drop(busy);
        assert!(!watch.is_idle(), "what isn't written yet is under way");
        watch.written();
        assert!(watch.is_idle() && !watch.is_over(at(59), false) && watch.is_over(at(60), false));
        watch.read();
        assert!(watch.is_over(at(15), false));
    }
}
