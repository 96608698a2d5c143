//! Users and API keys as admins handle them.

use std::sync::Arc;

use futures_util::future::join_all;

use super::World;
use super::rig::{LONG, Rig, from_now, new_user, unique};
use crate::ids::{ApiKeyId, UserId};
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::{BridgeKind, DEFAULT_SESSION};
use crate::time::Time;
use crate::user::{NewUser, RawApiKey, User, UserChange, UserFilter};

/// A user is made with all that is known of it, or not at all.
pub async fn a_user_is_made_as_asked(world: &dyn World) {
    let store = world.store().await;
    let rest = UserChange {
        email: Some("a@example.org".to_owned()),
        first_name: Some("Ada".to_owned()),
        last_name: Some("Lovelace".to_owned()),
        is_active: Some(false),
        ..UserChange::default()
    };
    let user = store.add_user(&new("as-asked"), &rest, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user");
    assert_eq!(
        (user.email.as_str(), user.first_name.as_str(), user.last_name.as_str()),
        ("a@example.org", "Ada", "Lovelace")
    );
    assert!(!user.is_active && !user.is_staff);
    assert_eq!(store.user(user.id).await.expect("a read"), Some(user.clone()));
    assert!(store.session(user.id, DEFAULT_SESSION).await.expect("a read").is_some());
    let again = NewUser { username: user.username.clone(), ..new("x") };
    let taken = store.add_user(&again, &rest, BridgeKind::Simulator, Actor::MACHINE).await;
    assert!(matches!(taken, Err(StoreError::Taken("username"))), "{taken:?}");
}

/// A change changes what is given and nothing else.
pub async fn only_what_is_given_changes(world: &dyn World) {
    let store = world.store().await;
    let mut expected = store.create_user(&new("changes"), BridgeKind::Simulator, Actor::MACHINE).await.expect("a user");
    let none = UserChange::default;
    let text = |text: &str| Some(text.to_owned());
    let changes: [(UserChange, fn(&mut User)); 9] = [
        (none(), |_| ()),
        (UserChange { email: text("e"), ..none() }, |user| user.email = "e".to_owned()),
        (UserChange { first_name: text("f"), ..none() }, |user| user.first_name = "f".to_owned()),
        (UserChange { last_name: text("l"), ..none() }, |user| user.last_name = "l".to_owned()),
        (UserChange { last_name: text(""), ..none() }, |user| user.last_name = String::new()),
        (UserChange { is_active: Some(false), ..none() }, |user| user.is_active = false),
        (UserChange { is_active: Some(true), ..none() }, |user| user.is_active = true),
        (UserChange { max_messages_per_day: Some(Some(0)), ..none() }, |user| user.max_messages_per_day = Some(0)),
        (UserChange { max_messages_per_day: Some(None), ..none() }, |user| user.max_messages_per_day = None),
    ];
    for (change, change_expected) in changes {
        let changed = done(store.change_user(expected.id, &change, None, Actor::MACHINE).await);
        change_expected(&mut expected);
        assert!(changed.updated_at >= expected.updated_at);
        expected.updated_at = changed.updated_at;
        assert_eq!(changed, expected, "{change:?}");
        assert_eq!(store.user(expected.id).await.expect("a read"), Some(changed));
    }
    let name = unique("renamed");
    done(
        store
            .change_user(expected.id, &UserChange { username: Some(name.clone()), ..none() }, None, Actor::MACHINE)
            .await,
    );
    assert_eq!(store.user_by_name(&expected.username).await.expect("a read"), None);
    assert_eq!(store.user_by_name(&name).await.expect("a read").map(|user| user.id), Some(expected.id));
    let other = store.create_user(&new("other"), BridgeKind::Simulator, Actor::MACHINE).await.expect("a user");
    let taken = store.change_user(other.id, &UserChange { username: Some(name), ..none() }, None, Actor::MACHINE).await;
    assert!(matches!(taken, Err(StoreError::Taken("username"))), "{taken:?}");
    let absent = store.change_user(UserId(i64::from(i32::MAX)), &none(), None, Actor::MACHINE).await;
    assert!(matches!(absent, Ok(Moved::Absent)), "{absent:?}");
}

/// Users are listed newest first, page by page, by what they are.
pub async fn users_are_listed(world: &dyn World) {
    let store = world.store().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let user = NewUser { is_staff: n % 2 == 0, ..new("listed") };
        ids.push(store.create_user(&user, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id);
    }
    store.set_active(ids[1], false).await.expect("a change");
    let list = async |filter: UserFilter| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (users, more) = store.list_users(&filter, after, 2).await.expect("a page");
            assert!(users.len() <= 2 && (users.len() == 2 || !more));
            found.extend(users.iter().map(|user| user.id));
            if !more {
                return found;
            }
            after = found.last().copied();
        }
    };
    let only = |wanted: &[usize]| wanted.iter().map(|n| ids[*n]).collect::<Vec<_>>();
    assert_eq!(list(UserFilter::default()).await, only(&[6, 5, 4, 3, 2, 1, 0]));
    assert_eq!(list(UserFilter { is_staff: Some(true), ..UserFilter::default() }).await, only(&[6, 4, 2, 0]));
    assert_eq!(list(UserFilter { is_active: Some(false), ..UserFilter::default() }).await, only(&[1]));
    let name = store.user(ids[3]).await.expect("a read").expect("a user").username;
    assert_eq!(list(UserFilter { username: Some(name.clone()), ..UserFilter::default() }).await, only(&[3]));
    let none = UserFilter { username: Some(name), is_staff: Some(true), is_active: None };
    assert_eq!(list(none).await, only(&[]));
}

/// The last active admin can't be deleted, deactivated or demoted; whoever isn't active or no admin doesn't count.
pub async fn the_last_admin_stays(world: &dyn World) {
    let store = world.store().await;
    let admin = admin(&store).await;
    let idle = self::admin(&store).await;
    assert!(store.set_active(idle, false).await.expect("a change"));
    new_user(&store, None).await;
    for change in [
        UserChange { is_staff: Some(false), ..UserChange::default() },
        UserChange { is_active: Some(false), email: Some("x".to_owned()), ..UserChange::default() },
    ] {
        let refused = store.change_user(admin, &change, None, Actor::MACHINE).await;
        assert!(matches!(refused, Ok(Moved::Refused(_))), "{refused:?}");
    }
    assert!(matches!(store.delete_user(admin, Actor::MACHINE).await, Ok(Moved::Refused(_))));
    let user = store.user(admin).await.expect("a read").expect("the admin is there");
    assert!(user.is_staff && user.is_active && user.email.is_empty(), "nothing of it was changed: {user:?}");
    // What doesn't make it resign is fine, and with another admin all is.
    let change = UserChange { is_staff: Some(true), is_active: Some(true), ..UserChange::default() };
    done(store.change_user(admin, &change, None, Actor::MACHINE).await);
    assert!(store.set_active(idle, true).await.expect("a change"));
    assert!(matches!(store.delete_user(admin, Actor::MACHINE).await, Ok(Moved::Done(_))));
    assert!(matches!(store.delete_user(idle, Actor::MACHINE).await, Ok(Moved::Refused(_))));
}

/// Of two admins who resign at the same time, however they do it, one stays.
pub async fn of_the_last_two_admins_one_stays(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    for round in 0..12 {
        let admins = [admin(&handles[0]).await, admin(&handles[0]).await];
        let (one, other) =
            tokio::join!(resign(&handles[0], admins[0], round % 3), resign(&handles[1], admins[1], round / 3 % 3));
        assert_ne!(one, other, "one of the two resigned, and not both: round {round}");
        let (left, more) = handles[0].list_users(&active_admins(), None, 5).await.expect("a page");
        assert_eq!((left.len(), more), (1, false), "round {round}");
        // The next round begins without admins.
        world.alter("UPDATE users SET is_staff = (1 = 0)").await;
    }
}

/// Deleting a user leaves its messages, usage and keys under its id, and nothing personal.
pub async fn deleting_keeps_the_books(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::limited(&store, Some(10)).await;
    let (sent, waits) = (rig.send(1).await, rig.send(2).await);
    let outgoing = rig.pull(1).await.messages.swap_remove(0);
    assert_eq!(outgoing.id, sent);
    rig.settle(&outgoing, Outcome::Sent).await;
    let name = store.user(rig.user).await.expect("a read").expect("a user").username;
    let (lookup, hash) = RawApiKey::generate().stored();
    let key = store.create_api_key(rig.user, "key", &lookup, &hash, None, Actor::MACHINE).await.expect("a key");
    let family = store.start_login(rig.user, "$argon2id$none", LONG).await.expect("a login").expect("a family").0;
    store.count_requests(1, &[(rig.user, 3)]).await.expect("a count");

    let deleted = done(store.delete_user(rig.user, Actor::MACHINE).await);
    assert_eq!(deleted, [rig.session]);
    assert!(matches!(store.delete_user(rig.user, Actor::MACHINE).await, Ok(Moved::Absent)), "it is gone");
    assert_eq!(store.user(rig.user).await.expect("a read"), None);
    assert_eq!(store.user_by_name(&name).await.expect("a read"), None);
    assert_eq!(store.credentials(&name).await.expect("a read"), None);
    assert_eq!(store.credentials_of(rig.user).await.expect("a read"), None);
    assert!(!store.set_active(rig.user, true).await.expect("an answer"), "nor can it be woken");
    let (users, _) = store.list_users(&UserFilter::default(), None, 10).await.expect("a page");
    assert!(users.is_empty(), "{users:?}");
    assert_eq!(store.login(family).await.expect("a read"), None);
    assert!(store.key_owner(&lookup).await.expect("a read").is_none_or(|o| !o.key_is_active && !o.user_is_active));
    assert_eq!(
        store.api_key(key).await.expect("a read").map(|key| (key.user_id, key.is_active)),
        Some((rig.user, false))
    );
    assert_eq!(store.session(rig.user, DEFAULT_SESSION).await.expect("a read"), None);
    let personal = "SELECT count(*) FROM users WHERE deleted_at IS NOT NULL AND password_hash = '' AND email = ''
        AND first_name = '' AND last_name = '' AND username LIKE 'deleted %'";
    assert_eq!(world.numbers(personal).await, [1]);

    // The books.
    let of_user = Scope::User(rig.user);
    let page = store.list_messages(of_user, &MessageFilter::default(), None, 10).await.expect("a page");
    assert_eq!(page.items.iter().map(|message| message.id).collect::<Vec<_>>(), [waits, sent]);
    let usage = rig.usage().await;
    assert_eq!((usage.messages_accepted, usage.messages_sent, usage.api_requests), (2, 1, 3));
    // Its name is free, and the new one has nothing of the old.
    let again = store
        .create_user(&NewUser { username: name, ..new("x") }, BridgeKind::Simulator, Actor::MACHINE)
        .await
        .expect("free");
    assert_ne!(again.id, rig.user);
    // What it had queued goes the way of any deleted session's.
    store.give_back(rig.worker, &[rig.session]).await.expect("a return");
    world.alter("UPDATE sessions SET deleting_at = deleting_at - 11000 WHERE deleting_at IS NOT NULL").await;
    super::rig::eventually("the queue of a deleted user is cancelled", async || {
        store.drain_deleted().await.expect("a sweep");
        (rig.status(waits).await == crate::message::Status::Cancelled).then_some(())
    })
    .await;
    assert_eq!(rig.status(sent).await, crate::message::Status::Sent);
}

/// A key is shown as what it is: made, used, ended, revoked.
pub async fn a_key_has_a_life(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let raw = RawApiKey::generate();
    let (lookup, hash) = raw.stored();
    let end = from_now(3_600);
    let id = store.create_api_key(user, "first", &lookup, &hash, Some(end), Actor::MACHINE).await.expect("a key");
    let key = async || store.api_key(id).await.expect("a read").expect("the key is there");
    let made = key().await;
    assert_eq!((made.user_id, made.name.as_str(), made.is_active), (user, "first", true));
    assert!(raw.as_str().starts_with(&format!("{}_", made.prefix)) && made.prefix == format!("sanasr_{lookup}"));
    assert_eq!((made.expires_at, made.last_used_at), (Some(end), None));

    store.mark_keys_used(&[(id, Time(2_000)), (ApiKeyId(i64::from(i32::MAX)), Time(1))]).await.expect("a mark");
    assert_eq!(key().await.last_used_at, Some(Time(2_000)));
    store.mark_keys_used(&[(id, Time(1_000))]).await.expect("a mark");
    assert_eq!(key().await.last_used_at, Some(Time(2_000)), "an earlier use changes nothing");
    store.mark_keys_used(&[(id, Time(3_000))]).await.expect("a mark");
    assert_eq!(key().await.last_used_at, Some(Time(3_000)));
    store.mark_keys_used(&[]).await.expect("nothing to mark");

    world.alter("UPDATE api_keys SET expires_at = 1").await;
    assert!(!key().await.is_active, "past its end");
    world.alter("UPDATE api_keys SET expires_at = NULL").await;
    assert!(key().await.is_active);
    for _ in 0..2 {
        assert!(store.revoke_api_key(id, Actor::MACHINE).await.expect("a change"), "revoking it again is fine");
        assert!(!key().await.is_active);
    }
    assert_eq!(store.api_key(ApiKeyId(i64::from(i32::MAX))).await.expect("a read"), None);
}

/// Keys are listed newest first, page by page, revoked ones among them: one user's or all.
pub async fn keys_are_listed(world: &dyn World) {
    let store = world.store().await;
    let users = [new_user(&store, None).await, new_user(&store, None).await];
    let mut ids = Vec::new();
    for n in 0..5 {
        let (lookup, hash) = RawApiKey::generate().stored();
        ids.push(
            store
                .create_api_key(users[n % 2], &n.to_string(), &lookup, &hash, None, Actor::MACHINE)
                .await
                .expect("a key"),
        );
    }
    store.revoke_api_key(ids[2], Actor::MACHINE).await.expect("a change");
    let list = async |user: Option<UserId>| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (keys, more) = store.list_api_keys(user, after, 2).await.expect("a page");
            found.extend(keys.iter().map(|key| key.id));
            if !more {
                return found;
            }
            after = found.last().copied();
        }
    };
    assert_eq!(list(None).await, [ids[4], ids[3], ids[2], ids[1], ids[0]]);
    assert_eq!(list(Some(users[0])).await, [ids[4], ids[2], ids[0]]);
    assert_eq!(list(Some(users[1])).await, [ids[3], ids[1]]);
    let uses: Vec<_> = ids.iter().map(|id| (*id, Time(id.0))).collect();
    let handles = [world.store().await, world.store().await];
    for marked in join_all((0..8).map(|n| handles[n % 2].mark_keys_used(&uses))).await {
        marked.expect("marks at once");
    }
}

fn new(stem: &str) -> NewUser {
    NewUser {
        username: unique(stem),
        password_hash: "$argon2id$none".to_owned(),
        is_staff: false,
        max_messages_per_day: None,
    }
}

async fn admin(store: &Arc<dyn Store>) -> UserId {
    let user = NewUser { is_staff: true, ..new("admin") };
    store.create_user(&user, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id
}

fn active_admins() -> UserFilter {
    UserFilter { username: None, is_active: Some(true), is_staff: Some(true) }
}

/// Has an admin resign in one of three ways; whether it did.
async fn resign(store: &Arc<dyn Store>, admin: UserId, way: usize) -> bool {
    let change = |is_staff, is_active| UserChange { is_staff, is_active, ..UserChange::default() };
    match way {
        0 => matches!(store.delete_user(admin, Actor::MACHINE).await.expect("an answer"), Moved::Done(_)),
        1 => matches!(
            store.change_user(admin, &change(Some(false), None), None, Actor::MACHINE).await.expect("an answer"),
            Moved::Done(_)
        ),
        _ => matches!(
            store.change_user(admin, &change(None, Some(false)), None, Actor::MACHINE).await.expect("an answer"),
            Moved::Done(_)
        ),
    }
}

fn done<T: std::fmt::Debug>(moved: Result<Moved<T>>) -> T {
    match moved {
        Ok(Moved::Done(value)) => value,
        other => panic!("{other:?}"),
    }
}
