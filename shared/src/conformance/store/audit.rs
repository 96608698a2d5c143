//! The audit trail.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::World;
use super::rig::{Rig, from_now, keep_all, new_user, request, unique};
use crate::ids::{MediaId, MessageId, UserId};
use crate::message::NewMessage;
use crate::ports::audit::{Action, Actor, AuditEntry, AuditFilter, AuditLine, Target};
use crate::ports::files::NewFile;
use crate::ports::journal::LogPlace;
use crate::ports::operations::CancelFilter;
use crate::ports::store::*;
use crate::session::{BridgeKind, DEFAULT_SESSION, Pace};
use crate::time::Time;
use crate::user::{NewUser, RawApiKey, UserChange};

const ADDRESS: &str = "2001:db8::7";

fn actor(user: UserId) -> Actor {
    Actor { user: Some(user), address: Some(ADDRESS.parse::<IpAddr>().expect("an address")) }
}

fn new(prefix: &str, is_staff: bool) -> NewUser {
    let password_hash = "$argon2id$none".to_owned();
    NewUser { username: unique(prefix), password_hash, is_staff, max_messages_per_day: None }
}

/// All lines that match, newest first, on pages of this size.
async fn all(store: &Arc<dyn Store>, filter: &AuditFilter, limit: u32) -> Vec<AuditLine> {
    let (mut lines, mut after): (_, Option<LogPlace>) = (Vec::new(), None);
    loop {
        let page = store.list_audit(filter, after, limit).await.expect("a page");
        assert!(page.items.len() <= usize::try_from(limit).expect("a small number"));
        lines.extend(page.items);
        assert!(lines.len() < 10_000, "the pages don't end");
        match page.next {
            Some(next) => after = Some(next),
            None => return lines,
        }
    }
}

/// What lines say, oldest first: what, to whom or what, by whom, from where.
fn told(lines: &[AuditLine]) -> Vec<(&str, Option<&str>, Option<UserId>, Option<&str>)> {
    lines.iter().rev().map(|l| (l.action.as_str(), l.target.as_deref(), l.actor, l.address.as_deref())).collect()
}

/// Each change of users, keys and proxies has its line, with who, what and whom; what was refused has none. Nothing personal and
/// nothing secret is in it.
pub async fn changes_have_their_lines(world: &dyn World) {
    let store = world.store().await;
    let boss = store.create_user(&new("boss", true), BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id;
    let by = actor(boss);
    let rest = UserChange { email: Some("secret@example.org".to_owned()), ..UserChange::default() };
    let user = store.add_user(&new("audited", false), &rest, BridgeKind::Simulator, by).await.expect("a user");
    let change = UserChange {
        email: Some("other@example.org".to_owned()),
        first_name: Some("Grace".to_owned()),
        password_hash: Some("$argon2id$other".to_owned()),
        max_messages_per_day: Some(Some(5)),
        is_active: Some(true),
        ..UserChange::default()
    };
    assert!(matches!(store.change_user(user.id, &change, None, by).await, Ok(Moved::Done(_))));
    let own = actor(user.id);
    assert!(store.change_password(user.id, "$argon2id$other", "$argon2id$own", None, own).await.expect("a change"));
    let (lookup, hash) = RawApiKey::generate().stored();
    let key = store.create_api_key(user.id, "a name", &lookup, &hash, None, by).await.expect("a key");
    assert!(store.revoke_api_key(key, by).await.expect("a change"));
    let proxy = Some((b"sealed".to_vec(), "socks5://shown".to_owned()));
    let session = store.set_proxy(user.id, DEFAULT_SESSION, proxy, by).await.expect("a change").expect("the session");
    assert!(store.set_password(&user.username, "$argon2id$third", Actor::MACHINE).await.expect("a change"));
    // Refused.
    let resign = UserChange { is_staff: Some(false), ..UserChange::default() };
    assert!(matches!(store.change_user(boss, &resign, None, by).await, Ok(Moved::Refused(_))));
    assert!(matches!(store.delete_user(boss, by).await, Ok(Moved::Refused(_))));
    let nobody = UserId(i64::from(i32::MAX));
    assert!(matches!(store.change_user(nobody, &resign, None, by).await, Ok(Moved::Absent)));
    assert!(!store.change_password(user.id, "$argon2id$wrong", "$argon2id$new", None, own).await.expect("an answer"));
    let taken = NewUser { username: user.username.clone(), ..new("x", false) };
    assert!(store.add_user(&taken, &UserChange::default(), BridgeKind::Simulator, by).await.is_err());
    assert!(matches!(store.delete_user(user.id, by).await, Ok(Moved::Done(_))));

    let lines = all(&store, &AuditFilter::default(), 50).await;
    let (target, key) = (Target::User(user.id).to_string(), Target::Key(key).to_string());
    let (boss_target, session) = (Target::User(boss).to_string(), Target::Session(session.id).to_string());
    let (admin, address) = (Some(boss), Some(ADDRESS));
    let expected = [
        ("user_created", Some(boss_target.as_str()), None, None),
        ("user_created", Some(&*target), admin, address),
        ("user_changed", Some(&*target), admin, address),
        ("password_changed", Some(&*target), Some(user.id), address),
        ("api_key_created", Some(&*key), admin, address),
        ("api_key_revoked", Some(&*key), admin, address),
        ("proxy_changed", Some(&*session), admin, address),
        ("user_changed", Some(&*target), None, None),
        ("user_deleted", Some(&*target), admin, address),
    ];
    assert_eq!(told(&lines), expected);
    let said = serde_json::json!({
        "changed": ["password", "email", "first_name", "is_active", "max_messages_per_day"],
        "is_active": true, "max_messages_per_day": 5,
    });
    assert_eq!(serde_json::Value::Object(lines[lines.len() - 3].detail.clone()), said);
    let text = format!("{lines:?}");
    for hidden in ["example.org", "Grace", "argon2id", &user.username, "a name", "sealed", "shown"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
}

/// What an admin does to another user's sessions, messages and files has its line; what users do to their own has none, and
/// neither has what was refused or changed nothing.
pub async fn what_is_done_for_others_has_its_line(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::limited(&store, Some(10)).await;
    let (owner, admin) = (rig.user, new_user(&store, None).await);
    let before = all(&store, &AuditFilter::default(), 200).await.len();
    // As an admin, and as the owner: the same calls.
    for by in [actor(admin), actor(owner)] {
        let name = unique("other");
        store.create_session(owner, &name, BridgeKind::Simulator, 10, by).await.expect("a session");
        store.set_pace(owner, &name, &Pace::default(), by).await.expect("a change").expect("the session");
        store.command(owner, &name, SessionCommand::Pause, by).await.expect("a change").expect("the session");
        let paired = store.request_pair_code(owner, &name, "+15550000001", by).await;
        assert!(matches!(paired, Ok(Moved::Done(_))), "{paired:?}");
        assert!(store.delete_session(owner, &name, by).await.expect("a change"));
        assert!(!store.delete_session(owner, &name, by).await.expect("an answer"), "it is gone");
        let later = |to| NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(to) };
        let drafts = [later(1), later(2)];
        let ids = drafts.each_ref().map(|draft| draft.id);
        let accepted = store.accept(AcceptRequest { by, ..request(owner, None, drafts.to_vec()) }).await;
        assert!(matches!(accepted.as_deref(), Ok([AcceptOutcome::Accepted { .. }, AcceptOutcome::Accepted { .. }])));
        assert!(matches!(store.cancel(Scope::All, ids[0], by).await, Ok(Moved::Done(_))));
        assert!(matches!(store.cancel(Scope::All, ids[0], by).await, Ok(Moved::Refused(_))), "it is cancelled");
        while store.cancel_waiting(owner, &CancelFilter::default(), None, by).await.expect("a cancel").0.more {}
        let file = NewFile { id: MediaId::generate(), mime_type: "a/b".to_owned(), size: 1, filename: None };
        store.add_files(owner, std::slice::from_ref(&file), Duration::from_secs(60), 10, by).await.expect("a file");
        assert!(matches!(store.remove_file(Scope::All, file.id, by).await, Ok(Moved::Done(_))));
        // A dead letter is replayed by admins only, their own ones too.
        let letter = MessageId::generate();
        let replay = NewMessage { replayed_from: Some(letter), ..later(3) };
        store.accept(AcceptRequest { by, ..request(owner, None, vec![replay]) }).await.expect("outcomes");
    }
    let mut lines = all(&store, &AuditFilter::default(), 200).await;
    lines.truncate(lines.len() - before);
    let expected = [
        "session_created",
        "session_changed",
        "session_commanded",
        "session_commanded",
        "session_deleted",
        "message_sent",
        "message_sent",
        "message_cancelled",
        "messages_cancelled",
        "file_added",
        "file_removed",
        "dead_letter_replayed",
        "dead_letter_replayed",
    ];
    assert_eq!(told(&lines).iter().map(|line| line.0).collect::<Vec<_>>(), expected);
    let by: Vec<_> = lines.iter().rev().map(|line| line.actor).collect();
    assert_eq!(by[..12], [Some(admin); 12]);
    assert_eq!(by[12], Some(owner));
    assert!(lines.iter().all(|line| line.detail["user_id"] == owner.0 && line.address.as_deref() == Some(ADDRESS)));
    let commands: Vec<_> = lines.iter().rev().filter_map(|line| line.detail.get("command")).collect();
    assert_eq!(commands, ["pause", "pair_code"]);
    let cancelled = lines.iter().find(|line| line.action == "messages_cancelled").expect("a line");
    assert_eq!((cancelled.detail["messages"].as_i64(), &cancelled.target), (Some(1), &Some(format!("user/{owner}"))));
}

/// A refused message has no line, and one that is accepted again has one.
pub async fn a_message_has_its_line_once(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::limited(&store, Some(2)).await;
    let by = actor(new_user(&store, None).await);
    let drafts: Vec<_> = (1..=4).map(|to| rig.draft(to)).collect();
    let ids: Vec<_> = drafts.iter().map(|draft| Target::Message(draft.id).to_string()).collect();
    for _ in 0..2 {
        store.accept(AcceptRequest { by, ..request(rig.user, None, drafts.clone()) }).await.expect("outcomes");
    }
    let filter = AuditFilter { action: Some(Action::MessageSent), ..AuditFilter::default() };
    let mut targets: Vec<_> = all(&store, &filter, 50).await.into_iter().filter_map(|line| line.target).collect();
    targets.sort_by_key(|target| ids.iter().position(|id| id == target));
    assert_eq!(targets, ids[..2], "the quota lets two through");
}

/// A change and its line are one: without its line there is no change.
pub async fn a_change_without_its_line_isnt_made(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::limited(&store, None).await;
    let (owner, by) = (rig.user, actor(new_user(&store, None).await));
    world.alter("ALTER TABLE audit RENAME TO audit_is_away").await;
    let change = UserChange { email: Some("e@example.org".to_owned()), ..UserChange::default() };
    assert!(store.change_user(owner, &change, None, by).await.is_err());
    assert_eq!(store.user(owner).await.expect("a read").expect("the user").email, "");
    assert!(store.command(owner, &rig.name, SessionCommand::Pause, by).await.is_err());
    assert!(!store.session(owner, &rig.name).await.expect("a read").expect("the session").paused);
    world.alter("ALTER TABLE audit_is_away RENAME TO audit").await;
    assert!(matches!(store.change_user(owner, &change, None, by).await, Ok(Moved::Done(_))));
}

/// Lines come back as they were written, newest first, by any filter and on pages of any size.
pub async fn the_trail_is_listed(world: &dyn World) {
    let store = world.store().await;
    let start = Time::now().0;
    let actions = [Action::Login, Action::LoginRefused, Action::FileAdded];
    let entries: Vec<AuditEntry> = (0..120_i64)
        .zip(actions.into_iter().cycle())
        .map(|(n, action)| {
            let by = if n % 4 == 0 { Actor::MACHINE } else { actor(UserId(n % 4)) };
            let target = (n % 5 != 0).then_some(Target::User(UserId(n % 5)));
            let entry = AuditEntry::new(by, action, target).with("n", n).with("text", "\u{1F512} \"\\ \t'");
            // Many share their time.
            AuditEntry { at: Some(Time(start + n / 7)), ..entry }
        })
        .collect();
    for chunk in entries.chunks(50) {
        store.write_audit(chunk).await.expect("a write");
    }
    store.write_audit(&[]).await.expect("nothing to do");
    let mine = AuditFilter { since: Some(Time(start)), ..AuditFilter::default() };
    let numbers =
        |lines: &[AuditLine]| lines.iter().map(|line| line.detail["n"].as_i64().expect("a number")).collect::<Vec<_>>();
    for limit in [1, 7, 50, 200] {
        let mut lines = all(&store, &mine, limit).await;
        assert!(lines.is_sorted_by(|a, b| (a.at, a.id) > (b.at, b.id)), "newest first");
        lines.sort_by_key(|line| line.detail["n"].as_i64());
        assert_eq!(numbers(&lines), (0..120).collect::<Vec<_>>());
        for (line, entry) in lines.iter().zip(&entries) {
            let AuditEntry { at, actor, action, target, detail, .. } = entry;
            assert_eq!((Some(line.at), line.actor, line.action.as_str()), (*at, actor.user, action.as_str()));
            assert_eq!((&line.detail, line.count), (detail, 1));
            assert_eq!(line.target, target.map(|target| target.to_string()));
            assert_eq!(line.address.as_deref(), actor.address.map(|_| ADDRESS));
        }
    }
    let of_target = |n: i64| AuditFilter { target: Some(format!("user/{n}")), ..mine.clone() };
    let cases: [(AuditFilter, fn(i64) -> bool); 8] = [
        (AuditFilter { actor: Some(UserId(3)), ..mine.clone() }, |n| n % 4 == 3),
        (AuditFilter { action: Some(Action::FileAdded), ..mine.clone() }, |n| n % 3 == 2),
        (of_target(2), |n| n % 5 == 2),
        (of_target(99), |_| false),
        (AuditFilter { until: Some(Time(start + 5)), ..mine.clone() }, |n| n / 7 < 5),
        (AuditFilter { since: Some(Time(start + 5)), ..mine.clone() }, |n| n / 7 >= 5),
        (AuditFilter { actor: Some(UserId(1)), action: Some(Action::Login), ..mine.clone() }, |n| n % 12 == 9),
        (AuditFilter { actor: Some(UserId(1)), action: Some(Action::Login), ..of_target(4) }, |n| {
            n % 12 == 9 && n % 5 == 4
        }),
    ];
    for (filter, fits) in cases {
        let mut found = numbers(&all(&store, &filter, 10).await);
        found.sort_unstable();
        assert_eq!(found, (0..120).filter(|n| fits(*n)).collect::<Vec<_>>(), "{filter:?}");
    }
}

/// What is counted is one line, however many processes count, and adds up.
pub async fn counts_add_up(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let counting = |name: &str, count: i64| AuditEntry {
        counted: Some((name.to_owned(), count)),
        ..AuditEntry::new(Actor::MACHINE, Action::RequestsRefused, None)
    };
    let (one, two) = (unique("one"), unique("two"));
    let writes = (0..20).map(|n| {
        let mut entries = vec![counting(&one, 3), counting(&two, 1)];
        if n % 3 == 0 {
            entries.reverse();
        }
        let store = Arc::clone(&handles[n % 2]);
        async move { store.write_audit(&entries).await }
    });
    for written in join_all(writes).await {
        written.expect("a write");
    }
    let filter = AuditFilter { action: Some(Action::RequestsRefused), ..AuditFilter::default() };
    let mut counts: Vec<_> = all(&handles[0], &filter, 50).await.iter().map(|line| line.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [20, 60]);
}

/// Each class is bounded for itself by its number of lines, and all are by their age.
pub async fn the_trail_is_bounded(world: &dyn World) {
    let store = world.store().await;
    let now = Time::now();
    let entry = |action: Action, n: i64, at: Time| {
        let entry = AuditEntry::new(Actor::MACHINE, action, None).with("n", n);
        AuditEntry { at: Some(at), ..entry }
    };
    // More than one chunk.
    let refusals: Vec<_> = (0..SWEEP_CHUNK + 50).map(|n| entry(Action::LoginRefused, n, now)).collect();
    for chunk in refusals.chunks(500) {
        store.write_audit(chunk).await.expect("a write");
    }
    let changes: Vec<_> = (0..7).map(|n| entry(Action::UserChanged, n, now)).collect();
    store.write_audit(&changes).await.expect("a write");
    let old = Time(now.0 - 7_200_000);
    store.write_audit(&[entry(Action::UserChanged, 100, old), entry(Action::Login, 101, old)]).await.expect("a write");
    let numbers = async |action: Action| {
        let filter = AuditFilter { action: Some(action), ..AuditFilter::default() };
        let lines = all(&store, &filter, 200).await;
        let mut numbers: Vec<_> = lines.iter().filter_map(|line| line.detail["n"].as_i64()).collect();
        numbers.sort_unstable();
        numbers
    };
    while store.retire(&keep_all()).await.expect("a sweep") {}
    assert_eq!(numbers(Action::LoginRefused).await.len(), refusals.len(), "there may be so many");
    assert_eq!(numbers(Action::UserChanged).await, (0..7).collect::<Vec<_>>(), "what is too old goes");
    assert_eq!(numbers(Action::Login).await, [] as [i64; 0]);
    let few = Retention { audit_lines: 7, ..keep_all() };
    while store.retire(&few).await.expect("a sweep") {}
    let newest: Vec<_> = (SWEEP_CHUNK + 43..SWEEP_CHUNK + 50).collect();
    assert_eq!(numbers(Action::LoginRefused).await, newest, "the newest stay");
    assert_eq!(numbers(Action::UserChanged).await, (0..7).collect::<Vec<_>>(), "others aren't pushed out");
}
