//! Ownership: a session has one owner at most, and finds a new one when that is gone.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;

use super::World;
use super::rig::{LONG, Rig, bury, eventually, new_user, new_worker, report, take_all, want};
use crate::ids::{SessionId, WorkerId};
use crate::link_code::LinkCode;
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::{BridgeKind, DEFAULT_SESSION, Pace, Session, SessionStatus};

/// Workers that take at once never get the same session, and together get all that need an owner.
pub async fn takes_are_disjoint(world: &dyn World) {
    let handles = [world.store().await, world.store().await, world.store().await];
    let user = new_user(&handles[0], None).await;
    let mut wanted = HashSet::new();
    for n in 0..40 {
        let name = format!("s-{n}");
        handles[0]
            .create_session(user, &name, BridgeKind::Simulator, u32::MAX, Actor::MACHINE)
            .await
            .expect("a session");
        wanted.insert(want(&handles[0], user, &name).await);
    }
    let workers = [new_worker(&handles[0]).await, new_worker(&handles[1]).await, new_worker(&handles[2]).await];
    let mut taken: Vec<SessionId> = Vec::new();
    while taken.len() < wanted.len() {
        let takes = (0..12).map(|n| handles[n % 3].take(workers[n % 3], 3));
        let round: Vec<OwnedSession> =
            join_all(takes).await.into_iter().flat_map(|taken| taken.expect("a take")).collect();
        assert!(!round.is_empty(), "somebody gets something");
        taken.extend(round.iter().map(|session| session.id));
    }
    assert_eq!(taken.len(), wanted.len(), "no session twice");
    assert_eq!(taken.into_iter().collect::<HashSet<_>>(), wanted);
    assert_eq!(handles[0].take(workers[0], 10).await.expect("a take"), []);
    let mut owned = 0;
    for worker in workers {
        owned += handles[0].renew(worker, LONG).await.expect("a renewal").sessions.len();
    }
    assert_eq!(owned, wanted.len());
}

/// A take stops at its count, and leaves alone what needs no owner: unwanted, owned, and marked sessions.
pub async fn a_take_leaves_what_needs_no_owner(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let make = async |name: &str| {
        store.create_session(user, name, BridgeKind::Simulator, u32::MAX, Actor::MACHINE).await.expect("a session").id
    };
    make("unwanted").await;
    for name in ["a", "b", "c", "marked"] {
        make(name).await;
        want(&store, user, name).await;
    }
    store.delete_session(user, "marked", Actor::MACHINE).await.expect("a deletion");
    let (first, second) = (new_worker(&store).await, new_worker(&store).await);
    assert_eq!(store.take(first, 0).await.expect("a take"), []);
    assert_eq!(names(&store.take(first, 2).await.expect("a take")).len(), 2);
    assert_eq!(store.take(second, 10).await.expect("a take").len(), 1);
    assert_eq!(store.take(second, 10).await.expect("a take"), []);
}

/// A renewal tells what its worker owns, what a fair share is, and how many sessions are free.
pub async fn a_renewal_tells_share_and_free(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    for n in 0..7 {
        store
            .create_session(user, &format!("s-{n}"), BridgeKind::Simulator, u32::MAX, Actor::MACHINE)
            .await
            .expect("a session");
        want(&store, user, &format!("s-{n}")).await;
    }
    let first = new_worker(&store).await;
    let renewed = store.renew(first, LONG).await.expect("a renewal");
    assert_eq!((renewed.sessions.len(), renewed.share, renewed.free), (0, 7, 7));
    store.take(first, 5).await.expect("a take");
    let second = new_worker(&store).await;
    let renewed = store.renew(first, LONG).await.expect("a renewal");
    assert_eq!((renewed.sessions.len(), renewed.share, renewed.free), (5, 4, 2), "seven of two, rounded up");
    store.take(second, 9).await.expect("a take");
    let renewed = store.renew(second, LONG).await.expect("a renewal");
    assert_eq!((renewed.sessions.len(), renewed.share, renewed.free), (2, 4, 0));
    store.leave(second).await.expect("leaving");
    let renewed = store.renew(first, LONG).await.expect("a renewal");
    assert_eq!((renewed.sessions.len(), renewed.share, renewed.free), (5, 7, 2));
}

/// What users and operators change reaches the owner with its next renewal.
pub async fn a_renewal_tells_what_changed(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let owned = async || {
        let sessions = store.renew(rig.worker, LONG).await.expect("a renewal").sessions;
        assert_eq!(sessions.len(), 1);
        sessions[0].clone()
    };
    let command =
        async |command| drop(store.command(rig.user, &rig.name, command, Actor::MACHINE).await.expect("a command"));
    let expected = OwnedSession {
        id: rig.session,
        user_id: rig.user,
        name: rig.name.clone(),
        bridge: BridgeKind::Simulator,
        status: SessionStatus::Connected,
        wanted: true,
        logout: false,
        paused: false,
        deleting: false,
        user_active: true,
        paired: true,
        phone_number: Some("+15550000000".to_owned()),
        pair_phone: None,
        paired_at: owned().await.paired_at,
        blocked_until: None,
        connects: 1,
        proxy: None,
        pace: Pace::default(),
    };
    assert_eq!(owned().await, expected);
    assert!(expected.paired_at.is_some(), "it was paired");
    let pace = Pace {
        per_minute: Some(20),
        burst: Some(3),
        jitter_ms: 250,
        first_contacts_per_minute: Some(2),
        typing: true,
        warm_up: true,
    };
    store.set_pace(rig.user, &rig.name, &pace, Actor::MACHINE).await.expect("a change");
    let proxy = Some((vec![1, 2], "socks5://host:1080".to_owned()));
    let shown =
        store.set_proxy(rig.user, &rig.name, proxy, Actor::MACHINE).await.expect("a change").expect("the session");
    assert_eq!(shown.proxy.as_deref(), Some("socks5://host:1080"));
    command(SessionCommand::Pause).await;
    store.set_active(rig.user, false).await.expect("a change");
    let changed = OwnedSession { paused: true, user_active: false, pace, proxy: Some(vec![1, 2]), ..expected };
    assert_eq!(owned().await, changed);
    command(SessionCommand::Resume).await;
    store.set_active(rig.user, true).await.expect("a change");
    command(SessionCommand::Disconnect).await;
    let changed = OwnedSession { paused: false, user_active: true, wanted: false, ..changed };
    assert_eq!(owned().await, changed, "a disconnect takes effect by the owner");
    command(SessionCommand::Connect).await;
    assert_eq!(owned().await.connects, 2, "it was asked for again");
    command(SessionCommand::Logout).await;
    assert!(owned().await.logout, "and so does a logout");
    store.delete_session(rig.user, &rig.name, Actor::MACHINE).await.expect("a deletion");
    assert!(owned().await.deleting, "a marked session is still its owner's, who gives it back");
}

/// A worker whose lease is over is declared dead once, by one of those who look, and its sessions are free; the living
/// aren't.
pub async fn the_dead_are_buried_once(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let (dead, alive) = (Rig::new(&handles[0]).await, Rig::new(&handles[0]).await);
    let undertakers = [new_worker(&handles[0]).await, new_worker(&handles[1]).await];
    assert_eq!(handles[0].bury(undertakers[0], false).await.expect("a burial"), []);
    handles[0].renew(dead.worker, Duration::ZERO).await.expect("a renewal");
    let mut buried = Vec::new();
    eventually("the dead worker is buried", || {
        let burials = (0..8_usize).map(|n| handles[n % 2].bury(undertakers[n % 2], n % 3 == 0));
        async {
            join_all(burials)
                .await
                .into_iter()
                .flat_map(|b| b.expect("a burial"))
                .reduce(|a, b| if a == b { a } else { b })
        }
    })
    .await;
    buried.extend(handles[0].bury(undertakers[0], true).await.expect("a burial"));
    assert_eq!(buried, [], "once");
    assert!(matches!(handles[0].renew(dead.worker, LONG).await, Err(StoreError::Fenced)));
    assert_ne!(session(&dead).await.status, SessionStatus::Connected, "nobody holds its connection");
    let freed = handles[1].take(undertakers[1], 10).await.expect("a take");
    assert_eq!(freed.iter().map(|session| session.id).collect::<Vec<_>>(), [dead.session]);
    assert_eq!(handles[0].renew(alive.worker, LONG).await.expect("a renewal").sessions.len(), 1);
}

/// Of many burials at once only one reports a dead worker.
pub async fn burials_at_once_report_a_worker_once(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let undertaker = new_worker(&handles[0]).await;
    for _ in 0..5 {
        let mut dead = HashSet::new();
        for _ in 0..6 {
            let worker = WorkerId::generate();
            handles[0].register(worker, Duration::from_millis(1)).await.expect("a worker");
            dead.insert(worker);
        }
        let mut buried: Vec<WorkerId> = Vec::new();
        let start = std::time::Instant::now();
        while buried.len() < dead.len() {
            let burials = (0..6_usize).map(|n| handles[n % 2].bury(undertaker, n % 2 == 0));
            buried.extend(join_all(burials).await.into_iter().flat_map(|b| b.expect("a burial")));
            assert!(start.elapsed() < Duration::from_secs(20), "{buried:?} of {dead:?}");
        }
        assert_eq!(buried.len(), dead.len(), "each once");
        assert_eq!(buried.into_iter().collect::<HashSet<_>>(), dead);
    }
}

/// A lease that was renewed late, as the database was away, is as good as any: the row was still there.
pub async fn a_late_renewal_keeps_the_sessions(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    store.renew(rig.worker, Duration::ZERO).await.expect("a renewal");
    let over = rig.clock().await;
    rig.past(over).await;
    let renewed = store.renew(rig.worker, LONG).await.expect("a late renewal");
    assert_eq!(renewed.sessions.len(), 1);
    let undertaker = new_worker(&store).await;
    assert_eq!(store.bury(undertaker, true).await.expect("a burial"), []);
    rig.send(1).await;
    rig.attempt(Outcome::Sent).await;
}

/// A session that is given back is free at once and shows what it is: wanted ones are on their way to a connection,
/// unwanted ones disconnected; logged out and banned ones stay so. None shows a QR code any more.
pub async fn a_session_given_back_shows_what_it_is(world: &dyn World) {
    let store = world.store().await;
    use SessionStatus::*;
    for reported in SessionStatus::ALL {
        for wanted in [true, false] {
            let rig = Rig::new(&store).await;
            let qr = (reported == WaitingForScan).then(|| ("2@qr".to_owned(), rig_time(60)));
            let report = SessionReport { qr, ..report(reported) };
            assert!(store.report(rig.worker, rig.session, &report).await.expect("a report"));
            if !wanted {
                store
                    .command(rig.user, &rig.name, SessionCommand::Disconnect, Actor::MACHINE)
                    .await
                    .expect("a command");
            }
            store.give_back(rig.worker, &[rig.session]).await.expect("giving back");
            let session = session(&rig).await;
            let expected = match reported {
                LoggedOut | Banned => reported,
                _ if wanted => Connecting,
                _ => Disconnected,
            };
            assert_eq!(session.status, expected, "{reported:?}, wanted: {wanted}");
            assert_eq!((session.qr_code, session.qr_expires_at), (None, None));
            assert_eq!(store.renew(rig.worker, LONG).await.expect("a renewal").sessions, []);
            store.delete_session(rig.user, &rig.name, Actor::MACHINE).await.expect("a deletion");
        }
    }
}

/// Giving back what isn't the caller's does nothing.
pub async fn only_ones_own_is_given_back(world: &dyn World) {
    let store = world.store().await;
    let (rig, other) = (Rig::new(&store).await, Rig::new(&store).await);
    store.give_back(rig.worker, &[other.session, SessionId::generate()]).await.expect("giving back");
    store.give_back(rig.worker, &[]).await.expect("giving back nothing");
    assert_eq!(session(&other).await.status, SessionStatus::Connected);
    assert_eq!(store.renew(other.worker, LONG).await.expect("a renewal").sessions.len(), 1);
    other.send(1).await;
    other.attempt(Outcome::Sent).await;
}

/// A worker that leaves frees what it has, and is nobody any more.
pub async fn a_worker_leaves_with_nothing(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    store.leave(rig.worker).await.expect("leaving");
    assert_eq!(session(&rig).await.status, SessionStatus::Connecting);
    assert!(matches!(store.renew(rig.worker, LONG).await, Err(StoreError::Fenced)));
    assert!(matches!(store.pull(rig.pull_request(1)).await, Err(StoreError::Fenced)));
    let next = new_worker(&store).await;
    take_all(&store, next, [rig.session]).await;
    assert_eq!(store.bury(next, true).await.expect("a burial"), [], "it left in order");
}

/// What a session's owner reports is what its user sees.
pub async fn reports_are_shown(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let id = want(&store, user, DEFAULT_SESSION).await;
    let worker = new_worker(&store).await;
    take_all(&store, worker, [id]).await;
    let shown = async || store.session(user, DEFAULT_SESSION).await.expect("a read").expect("the session is there");
    let tell = async |report: &SessionReport| assert!(store.report(worker, id, report).await.expect("a report"));

    let qr = ("2@abc,def==".to_owned(), rig_time(20));
    tell(&SessionReport { qr: Some(qr.clone()), ..report(SessionStatus::WaitingForScan) }).await;
    let session = shown().await;
    assert_eq!(
        (session.status, session.qr_code, session.qr_expires_at),
        (SessionStatus::WaitingForScan, Some(LinkCode::Sealed(qr.0)), Some(qr.1))
    );
    assert_eq!((session.phone_number, session.connected_at), (None, None));

    let pairing = Some(Pairing::Paired("+15551112222".to_owned()));
    tell(&SessionReport { pairing, ..report(SessionStatus::Connected) }).await;
    let session = shown().await;
    assert_eq!((session.status, session.qr_code, session.qr_expires_at), (SessionStatus::Connected, None, None));
    assert_eq!(session.phone_number.as_deref(), Some("+15551112222"));
    let connected_at = session.connected_at.expect("it connected");

    let blocked_reason = Some("replaced".to_owned());
    tell(&SessionReport { blocked_reason: blocked_reason.clone(), ..report(SessionStatus::Connecting) }).await;
    let session = shown().await;
    assert_eq!((session.status, session.blocked_reason), (SessionStatus::Connecting, blocked_reason));
    assert_eq!((session.connected_at, session.phone_number.is_some()), (Some(connected_at), true));

    tell(&SessionReport { pairing: Some(Pairing::Unlinked), ..report(SessionStatus::LoggedOut) }).await;
    let session = shown().await;
    assert_eq!((session.status, session.phone_number, session.blocked_reason), (SessionStatus::LoggedOut, None, None));
    let owned = store.renew(worker, LONG).await.expect("a renewal").sessions;
    let states = owned.iter().map(|s| (s.paired, s.wanted, s.logout)).collect::<Vec<_>>();
    assert_eq!(states, [(false, false, false)], "unlinked: not wanted any more");
}

/// One worker at a time is the housekeeper, and stays it until its term is over.
pub async fn one_worker_leads(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let workers = [new_worker(&handles[0]).await, new_worker(&handles[1]).await];
    let term = Duration::from_secs(2);
    let leads = join_all((0..8).map(|n| handles[n % 2].lead(workers[n % 2], term))).await;
    let leads: Vec<bool> = leads.into_iter().map(|leads| leads.expect("an answer")).collect();
    let leader = usize::from(!leads[0]);
    assert!(leads.iter().enumerate().all(|(n, leads)| *leads == (n % 2 == leader)), "{leads:?}");
    let (leader, other) = (workers[leader], workers[1 - leader]);
    assert!(handles[0].lead(leader, term).await.expect("an answer"), "it stays the leader");
    assert!(!handles[1].lead(other, term).await.expect("an answer"));
    let taken_over = || async { handles[1].lead(other, LONG).await.expect("an answer").then_some(()) };
    eventually("another leads after the term", taken_over).await;
    assert!(!handles[0].lead(leader, term).await.expect("an answer"));
}

/// After a take-over the session is the new owner's alone.
pub async fn a_taken_session_has_one_owner(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    bury(&store, rig.worker).await;
    let next = new_worker(&store).await;
    let taken = store.take(next, 10).await.expect("a take");
    assert_eq!(names(&taken), [DEFAULT_SESSION]);
    assert_eq!((taken[0].id, taken[0].paired, taken[0].wanted), (rig.session, true, true));
    assert_eq!(store.take(new_worker(&store).await, 10).await.expect("a take"), []);
    let told = store.report(rig.worker, rig.session, &report(SessionStatus::Connected)).await;
    assert!(matches!(told, Err(StoreError::Fenced) | Ok(false)), "{told:?}");
}

/// A command that needs an owner's hand brings one: a paired session that nobody owns is taken to be unlinked.
pub async fn a_logout_without_an_owner_ends_it(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    store.give_back(rig.worker, &[rig.session]).await.expect("giving back");
    let session = store.command(rig.user, &rig.name, SessionCommand::Logout, Actor::MACHINE).await.expect("a command");
    let status = session.expect("the session is there").status;
    assert!(matches!(status, SessionStatus::LoggedOut | SessionStatus::Disconnected), "{status:?}");
    for owned in store.take(rig.worker, 10).await.expect("a take") {
        assert!(owned.logout && !owned.wanted, "taken to be unlinked, if at all: {owned:?}");
    }
}

async fn session(rig: &Rig) -> Session {
    rig.store.session(rig.user, &rig.name).await.expect("a read").expect("the session is there")
}

fn names(sessions: &[OwnedSession]) -> Vec<String> {
    sessions.iter().map(|session| session.name.clone()).collect()
}

fn rig_time(seconds: i64) -> crate::time::Time {
    super::rig::from_now(seconds)
}
