//! Logins: families of tokens, and how often a password may be tried.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::World;
use super::rig::{LONG, keep_all, unique};
use crate::ids::{FamilyId, UserId};
use crate::ports::audit::Actor;
use crate::ports::logins::{Attempt, Login, Reserved, Rotation};
use crate::ports::store::Store;
use crate::session::BridgeKind;
use crate::throttle::{FREE_FAILURES, FREE_NAMES, name_key};
use crate::user::{NewUser, UserChange};

const HASH: &str = "$argon2id$of a password";

/// A login is its user's while it lives: it ends by itself, by a logout, and with its user's standing.
pub async fn a_login_lives_until_it_is_ended(world: &dyn World) {
    let store = world.store().await;
    let (user, name) = new(&store).await;
    let known = store.credentials(&name).await.expect("a read").expect("the user is there");
    assert_eq!((known.user, known.password_hash.as_str(), known.is_active), (user, HASH, true));
    assert_eq!(store.credentials_of(user).await.expect("a read"), Some(known));
    assert_eq!(store.credentials("nobody").await.expect("a read"), None);

    let family = begin(&store, user).await;
    let login = async || store.login(family).await.expect("a read");
    assert_eq!(login().await, Some(Login { user, is_staff: false }));
    let staff = UserChange { is_staff: Some(true), ..UserChange::default() };
    store.change_user(user, &staff, None, Actor::MACHINE).await.expect("a change");
    assert_eq!(login().await, Some(Login { user, is_staff: true }));
    store.set_active(user, false).await.expect("a change");
    assert_eq!(login().await, None);
    assert_eq!(rotate(&store, family, 1).await, Rotation::Ended, "nor is it rotated");
    assert_eq!(store.start_login(user, HASH, LONG).await.expect("an answer"), None);
    store.set_active(user, true).await.expect("a change");
    assert_eq!(login().await, None, "deactivating has ended it for good");
    assert_eq!(rotate(&store, family, 1).await, Rotation::Ended);
    // The first user is the last admin, who stays.
    let (other, _) = new(&store).await;
    let family = begin(&store, other).await;
    let login = async || store.login(family).await.expect("a read");
    for (is_active, lives) in [(true, true), (false, false), (true, false)] {
        let change = UserChange { is_active: Some(is_active), ..UserChange::default() };
        store.change_user(other, &change, Some(family), Actor::MACHINE).await.expect("a change");
        assert_eq!(login().await.is_some(), lives, "however the user is deactivated, whoever asks");
    }

    let family = begin(&store, user).await;
    let login = async || store.login(family).await.expect("a read");
    assert_eq!(store.end_login(family).await.expect("an end"), Some(user));
    assert_eq!(store.end_login(family).await.expect("an end"), Some(user), "ending it again is harmless");
    assert_eq!(login().await, None);
    assert_eq!(rotate(&store, family, 1).await, Rotation::Ended);
    assert_eq!(store.end_login(FamilyId::generate()).await.expect("an answer"), None);

    let short = store.start_login(user, HASH, Duration::ZERO).await.expect("a login").expect("a family").0;
    assert_eq!(store.login(short).await.expect("a read"), None, "it ends by itself");
    assert_eq!(rotate(&store, short, 1).await, Rotation::Ended);
}

/// Of many rotations of one token at the same time exactly one wins. The others show that it was used twice, so the login
/// ends.
pub async fn one_of_many_rotations_wins(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let (user, _) = new(&handles[0]).await;
    let family = begin(&handles[0], user).await;
    let outcomes = join_all((0..50).map(|n| rotate(&handles[n % 2], family, 1))).await;
    let count = |wanted: Rotation| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    assert_eq!(count(Rotation::Rotated { user, generation: 2 }), 1, "{outcomes:?}");
    assert_eq!(count(Rotation::Reused(user)), 1, "the first to come too late ends it: {outcomes:?}");
    assert_eq!(count(Rotation::Ended), 48, "{outcomes:?}");
    for store in &handles {
        assert_eq!(store.login(family).await.expect("a read"), None);
        assert_eq!(rotate(store, family, 2).await, Rotation::Ended, "the winner's token is good for nothing any more");
    }
}

/// Each rotation lets the login live on; an older token ends it, and no other login.
pub async fn a_refresh_token_is_good_once(world: &dyn World) {
    let store = world.store().await;
    let (user, _) = new(&store).await;
    let (family, other) = (begin(&store, user).await, begin(&store, user).await);
    for generation in 1..5 {
        let rotated = Rotation::Rotated { user, generation: generation + 1 };
        assert_eq!(rotate(&store, family, generation).await, rotated);
    }
    assert_eq!(rotate(&store, family, 9).await, Rotation::Ended, "a token that was never given out");
    assert!(store.login(family).await.expect("a read").is_some(), "changes nothing");
    assert_eq!(rotate(&store, family, 2).await, Rotation::Reused(user));
    assert_eq!(store.login(family).await.expect("a read"), None);
    assert!(store.login(other).await.expect("a read").is_some());
    // A login lives as long as its last rotation says.
    let rotated = Rotation::Rotated { user, generation: 2 };
    assert_eq!(store.rotate(other, 1, Duration::ZERO).await.expect("a rotation"), rotated);
    assert_eq!(store.login(other).await.expect("a read"), None);
}

/// A password that was changed while it was verified opens nothing.
pub async fn a_login_needs_the_password_that_was_verified(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let (user, _) = new(&handles[0]).await;
    assert_eq!(handles[0].start_login(user, "$argon2id$another", LONG).await.expect("an answer"), None);
    // However the two meet, no login with the old password lives in the end.
    for round in 0..10 {
        let (old, new) = (format!("{HASH}{}", round), format!("{HASH}{}", round + 1));
        let set = UserChange { password_hash: Some(old.clone()), ..UserChange::default() };
        handles[0].change_user(user, &set, None, Actor::MACHINE).await.expect("a change");
        let logins = join_all((0..6).map(|n| handles[n % 2].start_login(user, &old, LONG)));
        let (logins, changed) =
            tokio::join!(logins, handles[1].change_password(user, &old, &new, None, Actor::MACHINE));
        assert!(changed.expect("a change"));
        for (family, _) in logins.into_iter().filter_map(|login| login.expect("an answer")) {
            assert_eq!(handles[0].login(family).await.expect("a read"), None);
        }
    }
}

/// A new password ends the user's logins, but for one that is kept, and nobody else's.
pub async fn a_new_password_ends_logins(world: &dyn World) {
    let store = world.store().await;
    let ((user, name), (other, _)) = (new(&store).await, new(&store).await);
    let lives = async |family| store.login(family).await.expect("a read").is_some();
    let (kept, ended, others) = (begin(&store, user).await, begin(&store, user).await, begin(&store, other).await);
    assert!(
        !store
            .change_password(user, "$argon2id$wrong", "$argon2id$new", None, Actor::MACHINE)
            .await
            .expect("an answer")
    );
    assert!(lives(kept).await && lives(ended).await);
    assert!(store.change_password(user, HASH, "$argon2id$new", Some(kept), Actor::MACHINE).await.expect("a change"));
    assert!(lives(kept).await && !lives(ended).await && lives(others).await);
    assert!(store.set_password(&name, HASH, Actor::MACHINE).await.expect("a change"));
    assert!(!lives(kept).await && lives(others).await);
    let third = begin(&store, user).await;
    let change = UserChange { password_hash: Some("$argon2id$third".to_owned()), ..UserChange::default() };
    store.change_user(user, &change, None, Actor::MACHINE).await.expect("a change");
    assert!(!lives(third).await && lives(others).await);
}

/// The first five wrong passwords cost nothing, the sixth five seconds, and each further one twice as long, for that name
/// from that address alone. A right one, or an operator, ends that.
pub async fn wrong_attempts_wait_ever_longer(world: &dyn World) {
    let store = world.store().await;
    let name = name_key(&unique("name"));
    for _ in 0..FREE_FAILURES {
        assert_eq!(may(&store, "192.0.2.1", &name).await.penalty, None);
    }
    let mut expected = Duration::from_secs(5);
    for _ in 0..4 {
        assert_eq!(may(&store, "192.0.2.1", &name).await.penalty, Some(expected));
        let wait = must_wait(&store, "192.0.2.1", &name).await;
        assert!(wait <= expected && wait > expected - Duration::from_secs(4), "{wait:?} of {expected:?}");
        assert_eq!(may(&store, "192.0.2.1", &name_key(&unique("other"))).await.penalty, None, "another name");
        assert_eq!(may(&store, &unique("address"), &name).await.penalty, None, "from another address");
        let until = "UPDATE login_failures SET blocked_until = 1 WHERE blocked_until > 0";
        world.alter(until).await;
        expected *= 2;
    }
    let reserved = may(&store, "192.0.2.1", &name).await;
    store.attempt_succeeded("192.0.2.1", &name, reserved).await.expect("a change");
    assert_eq!(may(&store, "192.0.2.1", &name).await.penalty, None, "it begins anew");

    for _ in 0..FREE_FAILURES {
        may(&store, "192.0.2.1", &name).await;
    }
    must_wait(&store, "192.0.2.1", &name).await;
    store.forget_failures(&name).await.expect("a change");
    assert_eq!(may(&store, "192.0.2.1", &name).await.penalty, None);
}

/// However many try at the same time, in however many processes, no more may than one after the other could.
pub async fn attempts_at_once_are_all_counted(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let name = name_key(&unique("name"));
    let attempts = join_all((0..40).map(|n| handles[n % 2].attempt("192.0.2.7", &name))).await;
    let attempts: Vec<Attempt> = attempts.into_iter().map(|attempt| attempt.expect("an answer")).collect();
    let free = |attempt: &&Attempt| matches!(attempt, Attempt::May(Reserved { penalty: None, .. }));
    let dear = |attempt: &&Attempt| matches!(attempt, Attempt::May(Reserved { penalty: Some(_), .. }));
    let counts = (attempts.iter().filter(free).count(), attempts.iter().filter(dear).count());
    assert_eq!(counts, (usize::try_from(FREE_FAILURES).expect("few"), 1), "{attempts:?}");
}

/// From the twenty-first name on that fails from an address, the whole address waits, and no other.
pub async fn an_address_that_tries_many_names_waits(world: &dyn World) {
    let store = world.store().await;
    let right = name_key(&unique("right"));
    for _ in 0..FREE_NAMES {
        let name = name_key(&unique("name"));
        assert_eq!(may(&store, "192.0.2.9", &name).await.penalty, None);
        // The same name again is no other name, and one that was right doesn't count.
        assert_eq!(may(&store, "192.0.2.9", &name).await.penalty, None);
        let reserved = may(&store, "192.0.2.9", &right).await;
        assert_eq!(reserved.penalty.is_some(), reserved.address_until.is_some());
        store.attempt_succeeded("192.0.2.9", &right, reserved).await.expect("a change");
    }
    let next = name_key(&unique("name"));
    assert_eq!(may(&store, "192.0.2.9", &next).await.penalty, Some(Duration::from_secs(5)));
    must_wait(&store, "192.0.2.9", &next).await;
    must_wait(&store, "192.0.2.9", &right).await;
    assert_eq!(may(&store, "192.0.2.10", &next).await.penalty, None, "another address");
    store.forget_failures(&next).await.expect("a change");
    assert!(matches!(store.attempt("192.0.2.9", &right).await, Ok(Attempt::May(_))), "an operator opens it");
}

/// After an hour without a further one failures are forgotten, and swept away with logins that have ended.
pub async fn failures_are_forgotten(world: &dyn World) {
    let store = world.store().await;
    let name = name_key(&unique("name"));
    for _ in 0..=FREE_FAILURES {
        may(&store, "192.0.2.1", &name).await;
    }
    world.alter("UPDATE login_failures SET last_at = last_at - 3600001, blocked_until = 0").await;
    assert_eq!(may(&store, "192.0.2.1", &name).await.penalty, None);
    world.alter("UPDATE login_failures SET last_at = last_at - 3600001").await;
    may(&store, "192.0.2.2", &name).await;
    let (user, _) = new(&store).await;
    let lives = begin(&store, user).await;
    store.start_login(user, HASH, Duration::ZERO).await.expect("a login").expect("a family");
    let retention = keep_all();
    super::rig::eventually("what is forgotten is swept away", async || {
        store.retire(&retention).await.expect("a sweep");
        let families = world.numbers("SELECT count(*) FROM token_families").await;
        let failures = world.numbers("SELECT count(*) FROM login_failures").await;
        (families == [1] && failures == [2]).then_some(())
    })
    .await;
    assert!(store.login(lives).await.expect("a read").is_some());
}

/// Addresses that somebody has logged in from are known, the latest first, for some months.
pub async fn addresses_of_logins_are_known(world: &dyn World) {
    let store = world.store().await;
    let (_, name) = new(&store).await;
    let addresses = async |limit| store.login_addresses(limit).await.expect("a read");
    assert!(addresses(10).await.is_empty());
    for address in ["192.0.2.1", "2001:db8::", "192.0.2.3", "192.0.2.1"] {
        let reserved = may(&store, address, &name).await;
        assert!(addresses(10).await.first().is_none_or(|known| known != address), "not before it was right");
        world.alter("UPDATE login_addresses SET last_at = last_at - 10").await;
        store.attempt_succeeded(address, &name, reserved).await.expect("a success");
    }
    assert_eq!(addresses(10).await, ["192.0.2.1", "192.0.2.3", "2001:db8::"]);
    assert_eq!(addresses(1).await, ["192.0.2.1"]);
    world.alter("UPDATE login_addresses SET last_at = last_at - 7776000000 WHERE address = '192.0.2.3'").await;
    super::rig::eventually("an old one is forgotten", async || {
        store.retire(&keep_all()).await.expect("a sweep");
        (addresses(10).await == ["192.0.2.1", "2001:db8::"]).then_some(())
    })
    .await;
}

async fn new(store: &Arc<dyn Store>) -> (UserId, String) {
    let username = unique("login");
    let user = NewUser {
        username: username.clone(),
        password_hash: HASH.to_owned(),
        is_staff: false,
        max_messages_per_day: None,
    };
    (store.create_user(&user, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id, username)
}

async fn begin(store: &Arc<dyn Store>, user: UserId) -> FamilyId {
    let hash = store.credentials_of(user).await.expect("a read").expect("the user is there").password_hash;
    let (family, of) = store.start_login(user, &hash, LONG).await.expect("a login").expect("a family");
    assert_eq!(of.id, user);
    family
}

async fn rotate(store: &Arc<dyn Store>, family: FamilyId, generation: i64) -> Rotation {
    store.rotate(family, generation, LONG).await.expect("a rotation answers")
}

async fn may(store: &Arc<dyn Store>, address: &str, name: &str) -> Reserved {
    match store.attempt(address, name).await.expect("an answer") {
        Attempt::May(reserved) => reserved,
        Attempt::Wait(wait) => panic!("{address} must wait {wait:?}"),
    }
}

async fn must_wait(store: &Arc<dyn Store>, address: &str, name: &str) -> Duration {
    match store.attempt(address, name).await.expect("an answer") {
        Attempt::Wait(wait) => wait,
        Attempt::May(reserved) => panic!("{address} may: {reserved:?}"),
    }
}
