//! What happened: events in their order, the API log page by page, usage by day.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::World;
use super::rig::{LONG, Rig, from_now, keep_all, new_user, property, receipt, unique};
use crate::ids::{ApiKeyId, FamilyId, SessionId, UserId};
use crate::message::Status;
use crate::ports::audit::Actor;
use crate::ports::journal::*;
use crate::ports::store::*;
use crate::session::{BridgeKind, SessionStatus};
use crate::time::{Day, Time};
use crate::usage::UsageStats;
use crate::user::{NewUser, RawApiKey};

/// Events are read in the order of their numbers, page by page, one's own or everybody's.
pub async fn events_are_read_in_order(world: &dyn World) {
    let store = world.store().await;
    let (rig, other) = (Rig::new(&store).await, Rig::new(&store).await);
    let start = store.newest_events().await.expect("an answer").last;
    let id = rig.send(1).await;
    let theirs = other.send(1).await;
    let sent = rig.attempt(Outcome::Sent).await;
    other.cancel(theirs).await;
    rig.receive(vec![receipt(&sent.whatsapp_id, Status::Read, from_now(0))]).await;
    rig.report(SessionStatus::Connecting).await;

    let mut seen: Vec<Event> = Vec::new();
    loop {
        let after = seen.last().map_or(start, |event| event.n);
        let page = store.events_after(Scope::User(rig.user), after, 2).await.expect("a page");
        assert!(page.len() <= 2);
        seen.extend(&page);
        if page.len() < 2 {
            break;
        }
    }
    let changes: Vec<Change> = seen.iter().map(|event| event.change).collect();
    let of = |status| Change::Message(id, status);
    let mine = [of(Status::Sending), of(Status::Sent), of(Status::Read)];
    assert_eq!(changes, [mine.as_slice(), &[Change::Session(rig.session, SessionStatus::Connecting)]].concat());
    assert!(seen.iter().all(|event| event.user == rig.user && event.at > Time(0)));
    assert!(seen.windows(2).all(|pair| pair[0].n < pair[1].n && pair[0].at <= pair[1].at));

    let all = store.events_after(Scope::All, start, 100).await.expect("a page");
    assert_eq!(all.len(), seen.len() + 1);
    assert!(all.iter().any(|event| event.change == Change::Message(theirs, Status::Cancelled)));
    assert!(all.is_sorted_by_key(|event| event.n));
    let newest = store.newest_events().await.expect("an answer");
    assert_eq!((newest.last, newest.missing), (seen[3].n, vec![]));
    let named = store.events_numbered(&[seen[0].n, seen[2].n, i64::MAX]).await.expect("an answer");
    assert_eq!(named, [seen[0], seen[2]]);
    for scope in [Scope::User(rig.user), Scope::All] {
        assert!(store.events_back(scope, seen[2].n).await.expect("an answer") <= seen[2].n);
        assert_eq!(store.events_back(scope, i64::MAX).await.expect("an answer"), i64::MAX, "no such event");
    }
}

/// Sessions are found by their ids until they are deleted.
pub async fn sessions_are_found_by_id(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        ids.push(
            store
                .create_session(user, name, BridgeKind::Simulator, u32::MAX, Actor::MACHINE)
                .await
                .expect("a session")
                .id,
        );
    }
    let found = async || {
        let mut ids = ids.clone();
        ids.push(SessionId::generate());
        let mut names: Vec<String> =
            store.sessions_by_id(&ids).await.expect("a read").into_iter().map(|session| session.name).collect();
        names.sort();
        names
    };
    assert_eq!(found().await, ["one", "two"]);
    assert!(store.delete_session(user, "two", Actor::MACHINE).await.expect("a deletion"));
    assert_eq!(found().await, ["one"]);
    assert_eq!(store.sessions_by_id(&[]).await.expect("a read"), []);
}

/// A key stands while it is neither revoked nor past its end, and its user is active.
pub async fn keys_stand_until_they_end(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let make = async |end: Option<Time>| {
        let (lookup, hash) = RawApiKey::generate().stored();
        store.create_api_key(user, &unique("key"), &lookup, &hash, end, Actor::MACHINE).await.expect("a key")
    };
    let (good, lasting, ended, revoked) =
        (make(None).await, make(Some(from_now(60))).await, make(Some(from_now(-1))).await, make(None).await);
    store.revoke_api_key(revoked, Actor::MACHINE).await.expect("a change");
    let asked = [good, lasting, ended, revoked, ApiKeyId(i64::MAX)];
    let standing = async || {
        let mut keys = store.keys_in_standing(&asked).await.expect("an answer");
        keys.sort();
        keys
    };
    assert_eq!(standing().await, [good, lasting]);
    store.set_active(user, false).await.expect("a change");
    assert_eq!(standing().await, []);
    store.set_active(user, true).await.expect("a change");
    assert_eq!(standing().await, [good, lasting]);
}

fn line(n: i64, user: Option<UserId>) -> ApiLog {
    ApiLog {
        // Many share their time.
        at: Time(Time::now().0 / 1_000_000 * 1_000_000 - n / 7),
        user,
        endpoint: ["/api/v1/messages", "/api/v1/messages/{id}", "/api/v1/nothing's \"here\"\\"][n as usize % 3]
            .to_owned(),
        method: ["GET", "POST"][n as usize % 2].to_owned(),
        status: [200, 202, 404, 503][n as usize % 4],
        duration_us: n,
        address: ["192.0.2.1", "2001:db8::1"][n as usize % 2].parse::<IpAddr>().expect("an address"),
        // What would end a field, a line or the text in a careless format.
        request_id: Arc::from(format!("\\N\t{n}\r\n\\.")),
    }
}

/// A login stands while it lives and its user is active, and says whether that is an admin.
pub async fn logins_stand_until_they_end(world: &dyn World) {
    let store = world.store().await;
    let user = NewUser {
        username: unique("user"),
        password_hash: "$argon2id$none".to_owned(),
        is_staff: true,
        max_messages_per_day: None,
    };
    let user = store.create_user(&user, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id;
    let start = async || {
        let login = store.start_login(user, "$argon2id$none", LONG).await.expect("an answer");
        login.expect("the password is right").0
    };
    let (one, two) = (start().await, start().await);
    let asked = [one, two, FamilyId::generate()];
    let standing = async || {
        let mut logins = store.logins_in_standing(&asked).await.expect("an answer");
        logins.sort();
        logins
    };
    let mut both = vec![(one, true), (two, true)];
    both.sort();
    assert_eq!(standing().await, both);
    world.alter("UPDATE users SET is_staff = false").await;
    assert_eq!(standing().await.iter().map(|(_, staff)| *staff).collect::<Vec<_>>(), [false, false]);
    store.end_login(two).await.expect("an end");
    assert_eq!(standing().await, [(one, false)]);
    store.set_active(user, false).await.expect("a change");
    assert_eq!(standing().await, []);
    assert_eq!(store.logins_in_standing(&[]).await.expect("an answer"), []);
}

/// The log comes back as it was written, newest first, by any filter and on pages of any size.
pub async fn the_api_log_is_listed(world: &dyn World) {
    let store = world.store().await;
    let (one, two) = (new_user(&store, None).await, new_user(&store, None).await);
    let mut lines: Vec<ApiLog> = (0..150).map(|n| line(n, [Some(one), Some(two), None][n as usize % 3])).collect();
    for chunk in lines.chunks(40) {
        store.write_api_logs(chunk).await.expect("a write");
    }
    store.write_api_logs(&[]).await.expect("nothing to write is no error");
    lines.sort_by_key(|line| std::cmp::Reverse(line.at));
    let filter = (
        prop::option::of(prop::sample::select(vec![one, two, UserId(i64::MAX)])),
        prop::option::of(prop::sample::select(vec!["GET", "POST", "PUT"])),
        prop::option::of(prop::sample::select(vec![200_u16, 503, 500])),
        prop::option::of(prop::sample::select(lines.iter().map(|line| line.endpoint.clone()).collect::<Vec<_>>())),
        prop::option::of(prop::sample::select(lines.iter().map(|line| line.at).collect::<Vec<_>>())),
        prop::option::of(prop::sample::select(lines.iter().map(|line| line.at).collect::<Vec<_>>())),
    );
    property(64, &(filter, 1..60_u32), |((user, method, status, endpoint, from, until), limit)| {
        let (store, lines) = (&store, &lines);
        async move {
            let filter = ApiLogFilter { user, method: method.map(str::to_owned), status, endpoint, from, until };
            let expected: Vec<&ApiLog> = lines.iter().filter(|line| matches(&filter, line)).collect();
            let mut seen = walk_logs(store, &filter, limit).await;
            assert!(seen.windows(2).all(|pair| pair[0].at >= pair[1].at), "newest first");
            let order = |line: &ApiLog| (std::cmp::Reverse(line.at), line.duration_us);
            seen.sort_by_key(order);
            let mut expected: Vec<ApiLog> = expected.into_iter().cloned().collect();
            expected.sort_by_key(order);
            assert_eq!(seen, expected, "{filter:?}, {limit} a page");
        }
    });
}

/// A filter that matches little is answered in short pages, each with a bounded look, and gets to the end.
pub async fn a_rare_line_is_found_in_bounded_pages(world: &dyn World) {
    let store = world.store().await;
    let rare = ApiLog { status: 418, at: Time(1_000), ..line(0, None) };
    store.write_api_logs(std::slice::from_ref(&rare)).await.expect("a write");
    for chunk in 0..=LIST_SCAN_MAX / 1_000 {
        let lines: Vec<ApiLog> = (0..1_000).map(|n| line(chunk * 1_000 + n, None)).collect();
        store.write_api_logs(&lines).await.expect("a write");
    }
    let filter = ApiLogFilter { status: Some(418), ..ApiLogFilter::default() };
    let page = store.list_api_logs(&filter, None, 10).await.expect("a page");
    assert!(page.items.is_empty() && page.next.is_some(), "more to look at: {page:?}");
    assert_eq!(walk_logs(&store, &filter, 10).await, [rare]);
}

/// Lines of the log go when they are old enough, and no sooner.
pub async fn old_lines_of_the_api_log_go(world: &dyn World) {
    let store = world.store().await;
    let day = 86_400_000;
    let old: Vec<ApiLog> =
        (0..1_500).map(|n| ApiLog { at: Time(Time::now().0 - 40 * day - n), ..line(n, None) }).collect();
    let kept = ApiLog { at: Time(Time::now().0 - 20 * day), ..line(1, None) };
    let fresh = ApiLog { at: Time::now(), ..line(2, None) };
    store.write_api_logs(&old).await.expect("a write");
    store.write_api_logs(&[kept.clone(), fresh.clone()]).await.expect("a write");
    let retire = async |api_logs| {
        let retention = Retention { api_logs, ..keep_all() };
        while store.retire(&retention).await.expect("a retirement") {}
        walk_logs(&store, &ApiLogFilter::default(), 200).await
    };
    assert_eq!(retire(Duration::from_secs(60 * 86_400)).await.len(), 1_502);
    assert_eq!(retire(Duration::from_secs(30 * 86_400)).await, [fresh.clone(), kept]);
    assert_eq!(retire(Duration::from_secs(86_400)).await, [fresh]);
}

/// The log has only so many lines, however fresh they are: the oldest go first.
pub async fn the_api_log_has_only_so_many_lines(world: &dyn World) {
    let store = world.store().await;
    let (day, now) = (86_400_000, Time::now().0);
    let at = |n: i64| ApiLog { at: Time(now - 3 * day + n), ..line(n, None) };
    // Of several days, and more than one look removes.
    let (older, newer) = (25_000, 3_000);
    for chunk in (0..older).collect::<Vec<_>>().chunks(5_000) {
        store.write_api_logs(&chunk.iter().map(|n| at(*n)).collect::<Vec<_>>()).await.expect("a write");
    }
    let fresh: Vec<_> = (0..newer).map(|n| ApiLog { at: Time(now - newer + n), ..line(1, None) }).collect();
    store.write_api_logs(&fresh).await.expect("a write");
    let left = async |max| {
        let api_logs = Duration::from_secs(30 * 86_400);
        let retention = Retention { api_logs, api_log_lines: max, ..keep_all() };
        while store.retire(&retention).await.expect("a retirement") {}
        walk_logs(&store, &ApiLogFilter::default(), 200).await
    };
    // Numbers that were drawn ahead and not used make it a few less.
    const ABOUT: usize = 1_000;
    let half = left(15_000).await;
    assert!((15_000 - ABOUT..=15_200).contains(&half.len()), "{}", half.len());
    assert!(half.iter().zip(fresh.iter().rev()).all(|(kept, fresh)| kept.at == fresh.at), "the newest stay");
    let few = left(2_000).await;
    assert!((2_000 - ABOUT..=2_200).contains(&few.len()), "{}", few.len());
    assert!(few.iter().zip(fresh.iter().rev()).all(|(kept, fresh)| kept.at == fresh.at), "the newest stay");
    assert_eq!(left(10_000).await.len(), few.len());
}

/// Usage is listed by day and user, newest day first, and is what each user's own list says.
pub async fn usage_is_listed_by_day_and_user(world: &dyn World) {
    let store = world.store().await;
    let rigs = Rig::several(&store, 3, None).await;
    let today = Time::now().day();
    for rig in &rigs {
        rig.send(1).await;
        rig.attempt(Outcome::Sent).await;
    }
    // Counted by several processes; the last user has sent nothing on any day.
    let idle = new_user(&store, None).await;
    for shard in 1..4 {
        let counts: Vec<(UserId, i64)> =
            rigs.iter().map(|rig| rig.user).chain([idle]).map(|user| (user, shard)).collect();
        store.count_requests(shard, &counts).await.expect("a count");
    }
    for statement in [
        "INSERT INTO quotas (user_id, day, used, accepted) SELECT q.user_id, q.day - d.n, d.n, d.n + 1
         FROM quotas q CROSS JOIN (SELECT 1 AS n UNION SELECT 2 UNION SELECT 40) d WHERE true",
        "INSERT INTO usage_stats (user_id, day, shard, sent, failed, media_sent, api_requests)
         SELECT u.user_id, u.day - 2, u.shard, 5, 6, 7, 8 FROM usage_stats u WHERE u.shard > 0",
    ] {
        world.alter(statement).await;
    }
    let everything = UsageFilter { user: None, from: Day(0), until: Day(i64::MAX) };
    let all = walk_usage(&store, everything, 200).await;
    assert_eq!(all.len(), 4 * 3 + 2, "four days of three users, two of the last");
    let place = |stats: &UsageStats| (stats.day, stats.user_id);
    assert!(all.windows(2).all(|pair| place(&pair[0]) > place(&pair[1])), "newest day first, none twice");
    assert_eq!(all[0].api_requests, 6, "all shards: {:?}", all[0]);
    assert_eq!((all[0].user_id, all[1].messages_accepted, all[1].messages_sent), (idle, 1, 1));
    for user in rigs.iter().map(|rig| rig.user).chain([idle]) {
        let own = store.usage_days(user, Day(0), Day(i64::from(i32::MAX))).await.expect("a read");
        let listed: Vec<UsageStats> = all.iter().filter(|stats| stats.user_id == user).copied().collect();
        assert_eq!(listed, own);
        assert_eq!(walk_usage(&store, UsageFilter { user: Some(user), ..everything }, 1).await, own);
    }
    for limit in 1..6 {
        assert_eq!(walk_usage(&store, everything, limit).await, all, "{limit} a page");
    }
    let some = UsageFilter { user: None, from: Day(today.0 - 2), until: today };
    let expected: Vec<UsageStats> = all.iter().filter(|s| s.day >= some.from && s.day < some.until).copied().collect();
    assert_eq!(walk_usage(&store, some, 2).await, expected);
    assert_eq!(expected.len(), 7);
}

async fn walk_logs(store: &Arc<dyn Store>, filter: &ApiLogFilter, limit: u32) -> Vec<ApiLog> {
    let (mut lines, mut after) = (Vec::new(), None);
    loop {
        let page = store.list_api_logs(filter, after, limit).await.expect("a page");
        assert!(page.items.len() <= limit as usize);
        lines.extend(page.items);
        let Some(next) = page.next else { return lines };
        assert!(after.is_none_or(|after| next < after), "every page gets further");
        after = Some(next);
    }
}

async fn walk_usage(store: &Arc<dyn Store>, filter: UsageFilter, limit: u32) -> Vec<UsageStats> {
    let (mut days, mut after) = (Vec::new(), None);
    loop {
        let page = store.list_usage(&filter, after, limit).await.expect("a page");
        assert!(page.items.len() <= limit as usize);
        days.extend(page.items);
        let Some(next) = page.next else { return days };
        after = Some(next);
    }
}

fn matches(filter: &ApiLogFilter, line: &ApiLog) -> bool {
    filter.user.is_none_or(|user| line.user == Some(user))
        && filter.method.as_ref().is_none_or(|method| line.method == *method)
        && filter.status.is_none_or(|status| line.status == status)
        && filter.endpoint.as_ref().is_none_or(|endpoint| line.endpoint == *endpoint)
        && filter.from.is_none_or(|from| line.at >= from)
        && filter.until.is_none_or(|until| line.at < until)
}
