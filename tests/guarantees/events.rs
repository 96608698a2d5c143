//! The stream of events: each change of one's own, in order, with the object; resumed without a gap; nobody else's; ended
//! with its credentials; and a slow reader costs nobody anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use sanasr_shared::message::Status;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::harness::proxy::Proxy;
use crate::harness::services::{Kind, Service};
use crate::harness::stream::{Event, Events};
use crate::harness::system::{ADMIN, PASSWORD};
use crate::harness::wait::seconds;
use crate::harness::{Client, Mode, System, both_modes, eventually};

both_modes!(
    a_message_is_followed_with_its_object,
    a_cut_stream_resumes_without_a_gap,
    an_event_of_a_later_version_is_skipped,
    everybody_hears_their_own_only,
    two_hundred_listeners_hear_all_and_stop_with_the_process,
    a_slow_reader_is_cut_off_and_resumes,
    a_stream_ends_with_its_key,
    an_admin_hears_everybody_until_the_login_ends,
);

/// Numbers whose endings mean nothing to the simulator.
fn ordinary(n: usize) -> String {
    format!("+1555400{:04}", 1000 + n)
}

async fn send_all(client: &Client, count: usize, text: &str) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let items: Vec<_> = (ids.len()..count.min(ids.len() + 100))
            .map(|n| json!({ "to": ordinary(n), "type": "text", "text": text }))
            .collect();
        let accepted = client.batch(None, &items).await;
        ids.extend(accepted.into_iter().map(|item| item.expect("accepted").id.to_string()));
    }
    ids
}

/// An event's status, as that of its message.
fn status(event: &Event) -> Status {
    let word = event.name.strip_prefix("message.").expect("a message's event");
    Status::ALL.into_iter().find(|status| status.as_str() == word).expect("a status")
}

async fn a_message_is_followed_with_its_object(mode: Mode) {
    let system = System::with(mode).apis(2).start().await;
    let client = system.client();
    let mut stream = client.events(None).await;
    // At another process, if there is one.
    let message = system.client_at(1).text("default", "+15554001001", "follow me").await;
    let events = stream.until("message.read", 1, seconds(20)).await;
    let statuses: Vec<Status> = events.iter().map(status).collect();
    assert_eq!((statuses.first(), statuses.last()), (Some(&Status::Sending), Some(&Status::Read)));
    assert!(statuses.windows(2).all(|pair| pair[0] < pair[1]), "{statuses:?}");
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert!(events.iter().all(|event| event.about() == message.id.to_string()));
    let shown = client.get(&format!("/messages/{}", message.id)).await.expect(200);
    let mut last = events.last().map(|event| event.data.clone()).expect("an event");
    assert_eq!(last.as_object_mut().and_then(|data| data.remove("status_now")), Some(json!("read")));
    assert_eq!(last, shown.body["data"], "the object as the GET shows it");
    // Who hears of it later hears of each step as it was.
    for event in client.events(Some(0)).await.until("message.read", 1, seconds(20)).await {
        let Some(step) = event.name.strip_prefix("message.") else { continue };
        let reached = |time: &str| !event.data[time].is_null();
        let told = [reached("sent_at"), reached("delivered_at"), reached("read_at")];
        let expected = match step {
            "sent" => [true, false, false],
            "delivered" => [true, true, false],
            "read" => [true, true, true],
            _ => [false; 3],
        };
        assert_eq!((told, &event.data["status_now"]), (expected, &json!("read")), "{event:?}");
    }

    client.post("/sessions/default/disconnect", &json!({})).await.expect(202);
    let event = stream.until("session.disconnected", 1, seconds(10)).await.pop().expect("an event");
    let session = client.get("/sessions/default").await.expect(200);
    let (mut told, mut now) = (event.data.clone(), session.body["data"].clone());
    assert_eq!(told.as_object_mut().and_then(|data| data.remove("status_now")).as_ref(), Some(&now["status"]));
    // The event has its own time, which the row's may be a moment beside.
    for object in [&mut told, &mut now] {
        assert!(object.as_object_mut().and_then(|data| data.remove("updated_at")).is_some());
    }
    assert_eq!(told, now);
    // Nothing is told twice: what comes next is new.
    client.connect("default").await;
    let next = stream.next(seconds(10)).await.expect("an event");
    assert!(next.id > event.id && next.name.starts_with("session."), "{next:?}");

    for wrong in ["x", "-1", ""] {
        let refused = client.raw(Method::GET, "/events", &[("last-event-id", wrong.as_bytes())], Vec::new()).await;
        assert_eq!(refused.expect("an answer").expect(400).code(), "malformed_request");
    }
    let refused = client.with_key("").get("/events").await;
    assert_eq!((refused.status, refused.code()), (401, "unauthenticated"));
}

async fn a_cut_stream_resumes_without_a_gap(mode: Mode) {
    const COUNT: usize = 500;
    let system = System::with(mode).workers(2).start().await;
    let client = system.client();
    let proxy = Proxy::to(&system.apis[0].origin).await;
    let far = client.at(&proxy.url(&system.apis[0].origin));
    let mut stream = far.events(None).await;
    let mut last = None;
    let ids = send_all(&client, COUNT, "one of many").await;
    let mut seen: Vec<Event> = Vec::new();
    // Cut in the middle, three times.
    for part in 1..4 {
        let reads = |seen: &[Event]| seen.iter().filter(|event| event.name == "message.read").count();
        while reads(&seen) < part * COUNT / 5 {
            seen.push(stream.next(seconds(30)).await.expect("the stream goes on"));
        }
        proxy.cut();
        while let Some(event) = stream.next(seconds(10)).await {
            seen.push(event);
        }
        last = stream.last.or(last);
        stream = far.events(last).await;
    }
    let mut told: BTreeMap<i64, (String, String)> = BTreeMap::new();
    let mut read: BTreeSet<String> = BTreeSet::new();
    let mut note = |event: Event| {
        let what = (event.name.clone(), event.about().to_owned());
        let before = told.insert(event.id, what.clone());
        assert!(before.is_none_or(|before| before == what), "an id names one event: {event:?}");
        if event.name == "message.read" {
            read.insert(event.about().to_owned());
        }
        read.len()
    };
    let mut count = 0;
    for event in seen {
        count = note(event);
    }
    while count < COUNT {
        count = note(stream.next(seconds(30)).await.expect("the stream goes on"));
    }
    assert_eq!(read, ids.into_iter().collect());
    // From the beginning, all is still there: each message's way is complete.
    let first = *told.keys().next().expect("events");
    let mut again = client.events(Some(first - 1)).await;
    let mut way: BTreeMap<String, BTreeSet<Status>> = BTreeMap::new();
    let every = again.until("message.read", COUNT, seconds(30)).await;
    for event in every.iter().filter(|event| event.name.starts_with("message.")) {
        way.entry(event.about().to_owned()).or_default().insert(status(event));
    }
    for (id, statuses) in &way {
        // Receipts may overtake the acknowledgement.
        let needed = [Status::Sending, Status::Read];
        assert!(needed.iter().all(|status| statuses.contains(status)), "{id}: {statuses:?}");
    }
    let numbers: BTreeSet<i64> = every.iter().map(|event| event.id).collect();
    assert_eq!(numbers.len(), every.len(), "none twice within a stream");
    assert!(told.keys().all(|n| numbers.contains(n)), "the same events as live");
}

async fn everybody_hears_their_own_only(mode: Mode) {
    let system = System::with(mode).apis(2).user("other", 1_000).start().await;
    let (mine, other) = (system.client(), system.client_of("other", 1));
    let mut streams = [mine.events(None).await, other.events(None).await];
    other.connect("default").await;
    let sent = [send_all(&mine, 30, "mine").await, send_all(&other, 30, "theirs").await];
    let sessions = [mine.session("default").await.id, other.session("default").await.id];
    let first = {
        let mut first = i64::MAX;
        for (stream, (sent, session)) in streams.iter_mut().zip(sent.iter().zip(&sessions)) {
            let events = stream.until("message.read", 30, seconds(30)).await;
            assert!(events.iter().all(|event| sent.iter().chain([session]).any(|own| own == event.about())));
            first = first.min(events[0].id);
        }
        first
    };
    // Neither does a resumed stream show what is another's, wherever it begins.
    let mut resumed = mine.events(Some(first.saturating_sub(1))).await;
    let events = resumed.until("message.read", 30, seconds(30)).await;
    assert!(events.iter().all(|event| event.data["user_id"] == events[0].data["user_id"]));
    let refused = mine.get("/events?user_id=all").await;
    assert_eq!((refused.status, refused.code()), (403, "forbidden"));
}

async fn two_hundred_listeners_hear_all_and_stop_with_the_process(mode: Mode) {
    let mut system = System::start(mode).await;
    let client = system.client();
    let mut streams: Vec<Events> = join_all((0..200).map(|_| client.events(None))).await;
    let ids: BTreeSet<String> = send_all(&client, 10, "to all").await.into_iter().collect();
    let heard = join_all(streams.iter_mut().map(|stream| stream.until("message.read", 10, seconds(30)))).await;
    for events in &heard {
        let read = events.iter().filter(|event| event.name == "message.read");
        assert_eq!(read.map(|event| event.about().to_owned()).collect::<BTreeSet<_>>(), ids);
    }
    let all: Vec<i64> = heard[0].iter().map(|event| event.id).collect();
    assert!(heard.iter().all(|events| events.iter().map(|event| event.id).eq(all.iter().copied())), "the same to all");
    let gauge = metric(&client, "sanasr_event_listeners").await;
    assert_eq!(gauge, Some(200.0));

    let start = Instant::now();
    let (stopped, ends) = tokio::join!(
        system.apis[0].process.stop(),
        join_all(streams.iter_mut().map(|stream| stream.next(seconds(10))))
    );
    assert!(ends.iter().all(Option::is_none), "the streams end");
    assert_eq!(stopped, Some(0));
    assert!(start.elapsed() < seconds(10), "{:?}", start.elapsed());
}

async fn metric(client: &Client, name: &str) -> Option<f64> {
    let page = client.root("/metrics").await.expect("an answer");
    let text = page.body.as_str().unwrap_or_default().to_owned();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

async fn a_slow_reader_is_cut_off_and_resumes(mode: Mode) {
    const COUNT: usize = 1_200;
    let system = System::start(mode).await;
    let client = system.client();
    let proxy = Proxy::to(&system.apis[0].origin).await;
    let far = client.at(&proxy.url(&system.apis[0].origin));
    let mut slow = far.events(None).await;
    let mut quick = client.events(None).await;
    proxy.freeze();
    let long = "x".repeat(4_000);
    let mut followed = BTreeSet::new();
    let (ids, ()) =
        tokio::join!(send_all(&client, COUNT, &long), follow_to_read(&client, &mut quick, &mut followed, COUNT));
    // It is let go though it doesn't read: its connection is closed after a while.
    eventually(seconds(20), "the slow reader is cut off", async || {
        (metric(&client, "sanasr_event_listeners_cut_off_total").await? >= 1.0).then_some(())
    })
    .await;
    eventually(seconds(20), "the quick one alone listens", async || {
        (metric(&client, "sanasr_event_listeners").await? <= 1.0).then_some(())
    })
    .await;
    proxy.restore().await;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut events = 0;
    while let Some(event) = slow.next(seconds(20)).await {
        events += 1;
        if event.name == "message.read" {
            seen.insert(event.about().to_owned());
        }
    }
    assert!(events > 0 && seen.len() < COUNT, "{events} events came before the end");
    let mut again = far.events(slow.last).await;
    follow_to_read(&far, &mut again, &mut seen, COUNT).await;
    let ids = ids.into_iter().collect();
    assert_eq!(seen, ids);
    assert_eq!(followed, ids);
}

/// Reads until so many messages are read, as a client app does: when it is cut off, on a busy machine, it resumes.
async fn follow_to_read(client: &Client, stream: &mut Events, seen: &mut BTreeSet<String>, count: usize) {
    while seen.len() < count {
        match stream.next(seconds(60)).await {
            Some(event) if event.name == "message.read" => {
                seen.insert(event.about().to_owned());
            }
            Some(_) => {}
            None => *stream = client.events(stream.last).await,
        }
    }
}

async fn a_stream_ends_with_its_key(mode: Mode) {
    let system = System::with(mode).user("other", 1_000).start().await;
    let (client, other) = (system.client(), system.client_of("other", 0));
    let mut stream = client.events(None).await;
    let mut resumed = client.events(Some(0)).await;
    let mut others = other.events(None).await;
    // Behind every process's back: no signal helps.
    let start = Instant::now();
    let revoke =
        "UPDATE api_keys SET is_active = false WHERE user_id = (SELECT id FROM users WHERE username = 'tester')";
    match mode {
        Mode::Distributed => {
            sqlx::query(revoke).execute(&system.database().await).await.expect("a change");
        }
        Mode::Embedded => {
            let file = sqlx_sqlite::SqliteConnectOptions::new().filename(system.data_dir().join("sanasr.db"));
            let mut connection = sqlx_sqlite::SqliteConnection::connect_with(&file).await.expect("the database");
            sqlx::query(revoke).execute(&mut connection).await.expect("a change");
        }
    }
    for stream in [&mut stream, &mut resumed] {
        while stream.next(seconds(10)).await.is_some() {}
    }
    assert!(start.elapsed() < Duration::from_millis(2_500), "ended after {:?}", start.elapsed());
    eventually(seconds(3), "no new one begins", async || (client.get("/usage").await.status == 401).then_some(()))
        .await;
    assert_eq!(client.get("/events").await.status, 401);
    other.connect("default").await;
    assert!(others.next(seconds(10)).await.is_some(), "the other user's goes on");
}

async fn an_event_of_a_later_version_is_skipped(mode: Mode) {
    let system = System::start(mode).await;
    let client = system.client();
    let mut stream = client.events(None).await;
    // As a later version may write them, of a session and of a message.
    for unknown in [
        "INSERT INTO events (at, user_id, session_id, message_id, status) SELECT 1, user_id, id, NULL, 99 FROM sessions",
        "INSERT INTO events (at, user_id, session_id, message_id, status) SELECT 1, user_id, id, id, 99 FROM sessions",
    ] {
        match mode {
            Mode::Distributed => {
                sqlx::query(unknown).execute(&system.database().await).await.expect("events");
            }
            Mode::Embedded => {
                let file = sqlx_sqlite::SqliteConnectOptions::new().filename(system.data_dir().join("sanasr.db"));
                let mut connection = sqlx_sqlite::SqliteConnection::connect_with(&file).await.expect("the database");
                sqlx::query(unknown).execute(&mut connection).await.expect("events");
            }
        }
    }
    client.text("default", "+15554001001", "follow me").await;
    let events = stream.until("message.read", 1, seconds(20)).await;
    assert!(events.iter().all(|event| event.name.starts_with("message.")), "{events:?}");
    let mut resumed = client.events(Some(0)).await;
    resumed.until("message.read", 1, seconds(20)).await;
}

async fn an_admin_hears_everybody_until_the_login_ends(mode: Mode) {
    let system = System::with(mode).apis(2).user("other", 1_000).start().await;
    system.admin().await;
    let tokens: Value = system.stranger(0).log_in(ADMIN, PASSWORD).await.expect(200).data();
    let admin = system.stranger(0).with_token(tokens["access_token"].as_str().expect("a token"));
    let mut all = admin.stream("/events?user_id=all", None).await;
    let mut own = admin.events(None).await;
    system.client_of("other", 0).connect("default").await;
    let sent =
        [send_all(&system.client(), 3, "one's").await, send_all(&system.client_of("other", 1), 3, "other's").await];
    let heard = all.until("message.read", 6, seconds(30)).await;
    let read = heard.iter().filter(|event| event.name == "message.read").map(|event| event.about().to_owned());
    assert_eq!(read.collect::<BTreeSet<_>>(), sent.concat().into_iter().collect());
    let start = Instant::now();
    admin.post("/auth/logout", &json!({ "refresh_token": tokens["refresh_token"] })).await.expect(200);
    while all.next(seconds(10)).await.is_some() {}
    assert_eq!(own.next(seconds(10)).await, None, "the admin has done nothing");
    assert!(start.elapsed() < Duration::from_millis(2_500), "ended after {:?}", start.elapsed());
}

/// Without signals, what another process did only comes a little later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_events_are_only_late() {
    let redis = Service::start(Kind::Redis).await;
    let system = System::with(Mode::Distributed).apis(2).env("REDIS_URL", redis.url()).start().await;
    let mut stream = system.client_at(0).events(None).await;
    redis.kill().await;
    let ids: BTreeSet<String> = send_all(&system.client_at(1), 20, "without signals").await.into_iter().collect();
    let events = stream.until("message.read", 20, seconds(30)).await;
    assert!(events.iter().all(|event| event.name.starts_with("session.") || ids.contains(event.about())));
}

/// A transaction that has drawn its event's number and commits long after higher ones: live, the event comes late; to
/// whoever resumes after a higher one, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_is_delivered() {
    let system = System::start(Mode::Distributed).await;
    let client = system.client();
    let message = client.text("default", "+15554001002", "the first").await;
    client.wait_status(message.id, Status::Read, seconds(20)).await;
    let mut stream = client.events(None).await;
    let pool = system.database().await;
    let mut open = pool.begin().await.expect("a transaction");
    let late: i64 = sqlx::query_scalar(
        "INSERT INTO events (at, user_id, session_id, message_id, status)
         SELECT now_ms(), user_id, session_id, id, 4 FROM messages WHERE id = $1 RETURNING n",
    )
    .bind(message.id.0)
    .fetch_one(&mut *open)
    .await
    .expect("an event");
    client.text("default", "+15554001003", "the second").await;
    let before = stream.until("message.read", 1, seconds(20)).await;
    assert!(before.iter().all(|event| event.id > late), "{before:?}");
    let last = stream.last;
    // Somebody who begins now must hear of it, too, once it is there.
    let mut begun = client.events(None).await;
    let mut resumed = client.events(last).await;
    open.commit().await.expect("a commit");
    for (who, stream) in [("live", &mut stream), ("begun since", &mut begun), ("resumed before", &mut resumed)] {
        let mut event = stream.next(seconds(10)).await.expect("an event");
        // Whoever resumes may see the last few again before.
        while event.id != late {
            event = stream.next(seconds(10)).await.expect("an event");
        }
        assert_eq!((event.id, event.name.as_str()), (late, "message.delivered"), "{who}");
    }
    let mut resumed = client.events(last).await;
    let mut seen = Vec::new();
    while !seen.contains(&late) {
        seen.push(resumed.next(seconds(10)).await.expect("an event").id);
    }
}
