//! Users and their keys.

use futures_util::future::join_all;

use super::World;
use super::rig::{from_now, new_user, unique};
use crate::ids::{ApiKeyId, UserId};
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::{BridgeKind, DEFAULT_SESSION, Pace, SessionStatus};
use crate::user::{KeyOwner, NewUser, RawApiKey};

/// A user is made as asked, with a session `default` that is disconnected, and found by its name.
pub async fn a_user_comes_with_a_session(world: &dyn World) {
    let store = world.store().await;
    assert!(!store.any_user().await.expect("a read"), "a database begins without users");
    let asked = NewUser { is_staff: true, max_messages_per_day: Some(5), ..new() };
    let user = store.create_user(&asked, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user");
    assert!(store.any_user().await.expect("a read"));
    assert_eq!((user.username.as_str(), user.is_staff, user.is_active), (asked.username.as_str(), true, true));
    assert_eq!((user.max_messages_per_day, user.created_at), (Some(5), user.updated_at));
    assert_eq!((user.email.as_str(), user.first_name.as_str(), user.last_name.as_str()), ("", "", ""));
    assert_eq!(store.user_by_name(&asked.username).await.expect("a read"), Some(user.clone()));
    assert_eq!(store.user_by_name("nobody").await.expect("a read"), None);

    let session = store.session(user.id, DEFAULT_SESSION).await.expect("a read").expect("every user has one");
    assert_eq!((session.user_id, session.name.as_str()), (user.id, DEFAULT_SESSION));
    assert_eq!(
        (session.bridge, session.status, session.paused),
        (BridgeKind::Simulator, SessionStatus::Disconnected, false)
    );
    assert_eq!((session.waiting, session.pace), (0, Pace::default()));
}

/// A name is given once, however many ask at the same time; who comes too late leaves no trace.
pub async fn a_username_is_given_once(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let asked = new();
    let made =
        join_all((0..8).map(|n| handles[n % 2].create_user(&asked, BridgeKind::Simulator, Actor::MACHINE))).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
    for refused in made.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, StoreError::Taken(_)), "{refused:?}");
    }
    let sessions = handles[0].list_sessions(Scope::All, None, 10).await.expect("a page");
    assert_eq!(sessions.items.len(), 1);
}

/// Changes of a user are made, or told to have found nobody.
pub async fn changes_of_a_user_are_told(world: &dyn World) {
    let store = world.store().await;
    let asked = new();
    let id = store.create_user(&asked, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id;
    let user = async || store.user_by_name(&asked.username).await.expect("a read").expect("the user is there");
    assert!(store.set_active(id, false).await.expect("a change"));
    assert!(!user().await.is_active);
    assert!(store.set_active(id, true).await.expect("a change"));
    assert!(user().await.is_active);
    for limit in [Some(7), Some(0), None] {
        assert!(store.set_limit(id, limit).await.expect("a change"));
        assert_eq!(user().await.max_messages_per_day, limit);
    }
    assert!(store.set_password(&asked.username, "$argon2id$other", Actor::MACHINE).await.expect("a change"));
    let nobody = UserId(i64::from(i32::MAX));
    assert!(!store.set_active(nobody, false).await.expect("an answer"));
    assert!(!store.set_limit(nobody, None).await.expect("an answer"));
    assert!(!store.set_password("nobody", "$argon2id$other", Actor::MACHINE).await.expect("an answer"));
}

/// A key leads to its owner as both stand: revoked, ended, deactivated or not.
pub async fn a_key_leads_to_its_owner(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let (lookup, hash) = RawApiKey::generate().stored();
    let (second_lookup, second_hash) = RawApiKey::generate().stored();
    let end = Some(from_now(60));
    let id = store.create_api_key(user, "first", &lookup, &hash, end, Actor::MACHINE).await.expect("a key");
    let second =
        store.create_api_key(user, "second", &second_lookup, &second_hash, None, Actor::MACHINE).await.expect("a key");
    assert_ne!(id, second);
    let owner = async |lookup: &str| store.key_owner(lookup).await.expect("a read");
    let expected = KeyOwner {
        key_id: id,
        hash: hash.to_vec(),
        key_is_active: true,
        expires_at: end,
        user_id: user,
        user_is_active: true,
    };
    assert_eq!(owner(&lookup).await, Some(expected.clone()));
    assert_eq!(owner("nothing").await, None);
    assert!(store.set_active(user, false).await.expect("a change"));
    assert_eq!(owner(&lookup).await, Some(KeyOwner { user_is_active: false, ..expected.clone() }));
    assert!(store.set_active(user, true).await.expect("a change"));
    assert!(store.revoke_api_key(id, Actor::MACHINE).await.expect("a change"));
    assert!(owner(&lookup).await.is_none_or(|owner| !owner.key_is_active));
    assert!(owner(&second_lookup).await.is_some_and(|owner| owner.key_is_active), "the other key is another");
    assert!(!store.revoke_api_key(ApiKeyId(i64::from(i32::MAX)), Actor::MACHINE).await.expect("an answer"));
    let taken = store.create_api_key(user, "third", &second_lookup, &hash, None, Actor::MACHINE).await;
    assert!(matches!(taken, Err(StoreError::Taken(_))), "{taken:?}");
}

/// The store answers, and every process knows the same deployment.
pub async fn the_deployment_has_one_name(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    for store in &handles {
        store.ping().await.expect("the database answers");
    }
    assert!(!handles[0].deployment().is_empty());
    assert_eq!(handles[0].deployment(), handles[1].deployment());
    // Handles that are one and the same process's close together; what is closed doesn't answer as if it were open.
    handles[0].close().await;
}

fn new() -> NewUser {
    NewUser {
        username: unique("Käthe O'Hara"),
        password_hash: "$argon2id$none".to_owned(),
        is_staff: false,
        max_messages_per_day: None,
    }
}
