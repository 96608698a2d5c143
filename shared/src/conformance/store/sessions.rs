//! Sessions as their users see them.

use futures_util::future::join_all;

use super::World;
use super::rig::{Rig, new_user, new_worker, report, take_all, want};
use crate::ids::UserId;
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::{BridgeKind, DEFAULT_SESSION, Pace, Session, SessionStatus};

/// A session is made as asked and found by its name; a name is given once per user, however many ask.
pub async fn a_session_name_is_given_once_per_user(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let (one, two) = (new_user(&handles[0], None).await, new_user(&handles[0], None).await);
    let made = join_all(
        (0..8).map(|n| handles[n % 2].create_session(one, "shop", BridgeKind::Simulator, u32::MAX, Actor::MACHINE)),
    )
    .await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1, "{made:?}");
    assert!(made.iter().all(|made| matches!(made, Ok(_) | Err(StoreError::Taken(_)))), "{made:?}");
    let taken = handles[0].create_session(one, DEFAULT_SESSION, BridgeKind::Simulator, u32::MAX, Actor::MACHINE).await;
    assert!(matches!(taken, Err(StoreError::Taken(_))), "{taken:?}");
    let other = handles[0]
        .create_session(two, "shop", BridgeKind::Simulator, u32::MAX, Actor::MACHINE)
        .await
        .expect("another user's session");
    let mine = session(&handles[0], one, "shop").await.expect("the session is there");
    assert_ne!(mine.id, other.id);
    assert_eq!((mine.user_id, mine.name.as_str(), mine.bridge), (one, "shop", BridgeKind::Simulator));
    assert_eq!((mine.status, mine.paused, mine.waiting), (SessionStatus::Disconnected, false, 0));
    assert_eq!((mine.blocked_reason, mine.phone_number, mine.qr_code), (None, None, None));
    assert_eq!((mine.connected_at, mine.last_active_at, mine.pace), (None, None, Pace::default()));
    assert_eq!(session(&handles[0], one, "none").await, None);
}

/// A user has only so many sessions, however many ask at once: a deleted one makes room once it is drained.
pub async fn a_user_has_only_so_many_sessions(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let (one, two) = (new_user(&handles[0], None).await, new_user(&handles[0], None).await);
    let names: Vec<String> = (0..30).map(|n| format!("s-{n}")).collect();
    let asked = names.iter().enumerate().map(|(n, name)| {
        let store = &handles[n % 2];
        async move { store.create_session(one, name, BridgeKind::Simulator, 10, Actor::MACHINE).await }
    });
    let made = join_all(asked).await;
    let full = |made: &Result<Session>| matches!(made, Err(StoreError::Full { what: Bounded::Sessions, limit: 10 }));
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 9, "with the one that every user has: {made:?}");
    assert!(made.iter().all(|made| made.is_ok() || full(made)), "{made:?}");
    handles[0].create_session(two, "s-1", BridgeKind::Simulator, 10, Actor::MACHINE).await.expect("another user's");
    let name = made.iter().flatten().next().map(|session| session.name.clone()).unwrap_or_default();
    assert!(handles[0].delete_session(one, &name, Actor::MACHINE).await.expect("a deletion"));
    let again = || handles[1].create_session(one, "again", BridgeKind::Simulator, 10, Actor::MACHINE);
    assert!(full(&again().await), "it isn't drained yet");
    super::rig::eventually("it is drained", async || {
        let (_, removed) = handles[0].drain_deleted().await.expect("a drain");
        (!removed.is_empty()).then_some(())
    })
    .await;
    again().await.expect("there is room");
    assert!(full(&handles[0].create_session(one, "more", BridgeKind::Simulator, 10, Actor::MACHINE).await));
}

/// A pace is kept as set.
pub async fn a_pace_is_kept(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let full = Pace {
        per_minute: Some(1_000_000),
        burst: Some(1),
        jitter_ms: 900,
        first_contacts_per_minute: Some(1),
        typing: true,
        warm_up: true,
    };
    for pace in [full, Pace { burst: None, ..full }, Pace::default()] {
        let changed = store.set_pace(user, DEFAULT_SESSION, &pace, Actor::MACHINE).await.expect("a change");
        assert_eq!(changed.map(|session| session.pace), Some(pace));
        assert_eq!(session(&store, user, DEFAULT_SESSION).await.map(|session| session.pace), Some(pace));
    }
    assert_eq!(store.set_pace(user, "none", &full, Actor::MACHINE).await.expect("an answer"), None);
}

/// What a user wants is written down whatever the state, and doing it twice is doing it once. Without an owner it takes
/// effect at once.
pub async fn commands_are_idempotent(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    for (wanted, status) in [
        (SessionCommand::Disconnect, SessionStatus::Disconnected),
        (SessionCommand::Connect, SessionStatus::Connecting),
        (SessionCommand::Connect, SessionStatus::Connecting),
        (SessionCommand::Disconnect, SessionStatus::Disconnected),
        (SessionCommand::Disconnect, SessionStatus::Disconnected),
        (SessionCommand::Connect, SessionStatus::Connecting),
    ] {
        assert_eq!(command(&store, user, wanted).await.status, status, "{wanted:?}");
    }
    for (wanted, paused) in [
        (SessionCommand::Resume, false),
        (SessionCommand::Pause, true),
        (SessionCommand::Pause, true),
        (SessionCommand::Resume, false),
    ] {
        let session = command(&store, user, wanted).await;
        assert_eq!((session.paused, session.status), (paused, SessionStatus::Connecting), "{wanted:?}");
    }
    for wanted in [SessionCommand::Connect, SessionCommand::Disconnect, SessionCommand::Logout, SessionCommand::Pause] {
        assert_eq!(store.command(user, "none", wanted, Actor::MACHINE).await.expect("an answer"), None);
    }
}

/// A connect brings back what was logged out or banned; a session that is on its way or connected stays as it is.
pub async fn a_connect_starts_what_is_down(world: &dyn World) {
    let store = world.store().await;
    for status in SessionStatus::ALL {
        let rig = Rig::new(&store).await;
        rig.report(status).await;
        let after = command(&store, rig.user, SessionCommand::Connect).await.status;
        let expected = match status {
            SessionStatus::Disconnected | SessionStatus::LoggedOut | SessionStatus::Banned => SessionStatus::Connecting,
            _ => status,
        };
        assert_eq!(after, expected, "a connect of a session that is {status:?}");
    }
}

/// With an owner a disconnect waits for it: the session shows what it is until the owner says otherwise.
pub async fn a_disconnect_takes_effect_by_the_owner(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    for wanted in [SessionCommand::Disconnect, SessionCommand::Logout] {
        assert_eq!(command(&store, rig.user, wanted).await.status, SessionStatus::Connected, "{wanted:?}");
    }
    rig.report(SessionStatus::Disconnected).await;
    let shown = session(&store, rig.user, DEFAULT_SESSION).await.expect("the session is there");
    assert_eq!(shown.status, SessionStatus::Disconnected);
}

/// A deleted session is gone for its user at once, and its name is free.
pub async fn a_deleted_session_is_gone(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let first =
        store.create_session(user, "shop", BridgeKind::Simulator, u32::MAX, Actor::MACHINE).await.expect("a session");
    want(&store, user, "shop").await;
    let worker = new_worker(&store).await;
    take_all(&store, worker, [first.id]).await;
    assert!(store.report(worker, first.id, &report(SessionStatus::Connected)).await.expect("a report"));
    assert!(
        !store.delete_session(UserId(i64::from(i32::MAX)), "shop", Actor::MACHINE).await.expect("an answer"),
        "nobody else's"
    );
    assert!(store.delete_session(user, "shop", Actor::MACHINE).await.expect("a deletion"));
    assert!(!store.delete_session(user, "shop", Actor::MACHINE).await.expect("an answer"), "once");
    assert!(!store.delete_session(user, "none", Actor::MACHINE).await.expect("an answer"));
    assert_eq!(session(&store, user, "shop").await, None);
    assert_eq!(store.command(user, "shop", SessionCommand::Connect, Actor::MACHINE).await.expect("an answer"), None);
    assert_eq!(store.set_pace(user, "shop", &Pace::default(), Actor::MACHINE).await.expect("an answer"), None);
    let listed = store.list_sessions(Scope::User(user), None, 10).await.expect("a page");
    assert_eq!(listed.items.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), [DEFAULT_SESSION]);
    let again = store
        .create_session(user, "shop", BridgeKind::Simulator, u32::MAX, Actor::MACHINE)
        .await
        .expect("the name is free");
    assert_ne!(again.id, first.id);
    assert_eq!(session(&store, user, "shop").await.map(|session| session.id), Some(again.id));
}

/// Another user's session can't be seen or commanded by its name.
pub async fn names_lead_to_ones_own_sessions(world: &dyn World) {
    let store = world.store().await;
    let (one, two) = (new_user(&store, None).await, new_user(&store, None).await);
    store.create_session(one, "mine", BridgeKind::Simulator, u32::MAX, Actor::MACHINE).await.expect("a session");
    assert_eq!(session(&store, two, "mine").await, None);
    assert_eq!(store.command(two, "mine", SessionCommand::Pause, Actor::MACHINE).await.expect("an answer"), None);
    command(&store, two, SessionCommand::Pause).await;
    for name in ["mine", DEFAULT_SESSION] {
        assert!(session(&store, one, name).await.is_some_and(|session| !session.paused));
    }
}

async fn session(store: &std::sync::Arc<dyn Store>, user: UserId, name: &str) -> Option<Session> {
    store.session(user, name).await.expect("a read")
}

async fn command(store: &std::sync::Arc<dyn Store>, user: UserId, command: SessionCommand) -> Session {
    store
        .command(user, DEFAULT_SESSION, command, Actor::MACHINE)
        .await
        .expect("a command")
        .expect("the session is there")
}
