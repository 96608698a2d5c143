//! Clients that hang up, stall, half-close and repeat, while API and worker processes are killed: the books agree to the unit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sanasr_shared::ids::MessageId;
use sanasr_shared::message::Status;
use serde_json::Value;

use super::check_forward;
use super::crowd::{Crowd, Fate, Known};
use crate::harness::system::Server;
use crate::harness::wait::seconds;
use crate::harness::{Client, Message, Mode, System, both_modes, eventually};

both_modes!(bad_clients_and_kills_leave_the_books_right);

const CLIENTS: usize = 16;
const KILLS: usize = 6;

/// A new seed for each run, unless one is given.
fn seed() -> u64 {
    let given = std::env::var("SANASR_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("SANASR_TEST_SEED={seed}");
    seed
}

async fn bad_clients_and_kills_leave_the_books_right(mode: Mode) {
    let builder = System::with(mode).apis(2).workers(2).env("SANASR_LEASE", "1s").env("SANASR_ADDRESS_BURST", "10000");
    let mut system = builder.start().await;
    let mut crowd = Crowd::start(origins(&system), system.key(), CLIENTS, seed());
    let mut dead = Vec::new();
    for kill in 1..=KILLS {
        // Its predecessor's heir is at work.
        let (steps, seen) = (crowd.steps(), system.ledger.read().0.len());
        eventually(seconds(60), &format!("the crowd gets on before kill {kill}"), async || {
            let far_enough = crowd.steps() >= steps + 2 * CLIENTS && system.ledger.read().0.len() >= seen + CLIENTS;
            (far_enough || crowd.has_ended()).then_some(())
        })
        .await;
        dead.push(kill_and_replace(&mut system, kill).await);
        crowd.move_to(origins(&system));
    }
    let known = crowd.stop().await;
    assert!(crowd.was_bad(), "the crowd behaved");

    let client = &system.client();
    let all = wait_settled(client, &known).await;
    check_fates(&all, &known);
    check_phones(&system, client, &all, &known).await;
    check_usage(client, &all).await;
    check_events(client, &all).await;
    if mode == Mode::Distributed {
        check_database(&system).await;
    }
    for server in system.apis.iter().chain(&system.workers).chain(&dead) {
        check_log(server);
    }
}

fn origins(system: &System) -> Vec<String> {
    system.apis.iter().map(|api| api.origin.clone()).collect()
}

/// Kills a process where it stands and starts another in its place.
async fn kill_and_replace(system: &mut System, kill: usize) -> Server {
    let servers = match (system.mode, kill % 2) {
        (Mode::Distributed, 0) => &mut system.workers,
        _ => &mut system.apis,
    };
    servers[0].process.kill().await;
    // The other one comes first at the next kill.
    let dead = servers.remove(0);
    match (system.mode, kill % 2) {
        (Mode::Distributed, 0) => system.add_worker(&[]).await,
        _ => system.add_api(&[]).await,
    };
    dead
}

/// Waits until every message has come to its end: all that there are, newest first.
async fn wait_settled(client: &Client, known: &[Vec<Known>]) -> Vec<Message> {
    let count: usize = known.iter().map(Vec::len).sum();
    println!("{count} messages are accepted");
    let over = |message: &Message| matches!(message.status, Status::Read | Status::Cancelled);
    let end = Instant::now() + seconds(60);
    loop {
        let all = client.list("").await;
        if all.len() >= count && all.iter().all(over) {
            return all;
        }
        let open: Vec<_> = all.iter().filter(|message| !over(message)).take(5).collect();
        assert!(Instant::now() < end, "{} of {count} are there, and these aren't over: {open:#?}", all.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Every accepted message is there, and no other; each has come to the end that its client made certain.
fn check_fates(all: &[Message], known: &[Vec<Known>]) {
    let there: BTreeMap<MessageId, &Message> = all.iter().map(|message| (message.id, message)).collect();
    let mut ids = BTreeSet::new();
    for Known { message, fate } in known.iter().flatten() {
        assert!(ids.insert(message.id), "two keys, one message: {message:?}");
        let now = there.get(&message.id).unwrap_or_else(|| panic!("accepted and lost: {message:?}"));
        assert_eq!(now.whatsapp_id, message.whatsapp_id);
        let wanted: &[Status] = match fate {
            Fate::Sent => &[Status::Read],
            Fate::Cancelled => &[Status::Cancelled],
            Fate::Either => &[Status::Read, Status::Cancelled],
        };
        assert!(wanted.contains(&now.status), "{fate:?}: {now:?}");
    }
    let others: Vec<_> = all.iter().filter(|message| !ids.contains(&message.id)).collect();
    assert!(others.is_empty(), "a key with more than one message: {others:#?}");
}

/// Phones show what was sent, each message once and each client's in their order, and nothing that was cancelled. Only what a kill
/// left in doubt came again, under its one id.
async fn check_phones(system: &System, client: &Client, all: &[Message], known: &[Vec<Known>]) {
    let seen = system.ledger.read();
    let there: BTreeMap<MessageId, &Message> = all.iter().map(|message| (message.id, message)).collect();
    let is_read = |message: &Message| there[&message.id].status == Status::Read;
    let shown: BTreeSet<_> = seen.shown().into_iter().map(|arrival| arrival.whatsapp_id.as_str()).collect();
    let sent: BTreeSet<_> = all.iter().filter(|m| is_read(m)).map(|m| m.whatsapp_id.as_str()).collect();
    let differing: Vec<_> = shown.symmetric_difference(&sent).take(5).map(|id| seen.of(id)).collect();
    let messages = all.iter().filter(|m| shown.contains(&*m.whatsapp_id) != is_read(m)).take(5).collect::<Vec<_>>();
    assert_eq!(shown, sent, "what is shown isn't what was sent: {differing:#?}, {messages:#?}");
    assert_eq!(seen.shown().len(), sent.len());
    let attempts: BTreeMap<_, _> = all.iter().map(|m| (m.whatsapp_id.as_str(), m.attempts)).collect();
    for id in seen.repeated() {
        assert!(attempts[id] > 1, "{id} came twice by one attempt");
    }
    println!("{} were in doubt and came again", seen.repeated().len());

    let session = client.session("default").await.id;
    let texts = seen.texts();
    let mut expected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Known { message, .. } in known.iter().flatten().filter(|known| is_read(&known.message)) {
        expected.entry(&message.to).or_default().push(message.text.as_deref().unwrap_or(""));
    }
    for (to, expected) in expected {
        assert_eq!(texts[&(session.as_str(), to)], expected, "to {to}");
    }
}

/// The quota is what was accepted and not taken back, and the day's counts are those of the messages.
async fn check_usage(client: &Client, all: &[Message]) {
    let count = |matches: &dyn Fn(&Message) -> bool| {
        i64::try_from(all.iter().filter(|message| matches(message)).count()).expect("a small number")
    };
    let cancelled = count(&|m| m.status == Status::Cancelled);
    let accepted = count(&|_| true);
    println!("{cancelled} of {accepted} were cancelled");
    assert_eq!(client.quota().await.used, accepted - cancelled, "a unit for each that wasn't taken back");
    let usage: Value = client.get("/usage").await.expect(200).data();
    let total = |name: &str| -> i64 {
        usage["days"].as_array().into_iter().flatten().filter_map(|day| day[name].as_i64()).sum()
    };
    let is_file = |m: &Message| m.status == Status::Read && m.text.is_none();
    assert_eq!(total("messages_accepted"), accepted);
    assert_eq!(total("messages_sent"), accepted - cancelled);
    assert_eq!(total("messages_failed"), 0);
    assert_eq!(total("media_sent"), count(&is_file));
}

/// The events tell each message's way up to its last status, which is told once.
async fn check_events(client: &Client, all: &[Message]) {
    const LIMIT: Duration = seconds(60);
    let last = |message: &Message| format!("message.{}", message.status.as_str());
    let mut open: BTreeSet<String> = all.iter().map(|message| message.id.to_string()).collect();
    let ends: BTreeMap<String, String> = all.iter().map(|message| (message.id.to_string(), last(message))).collect();
    let mut told: BTreeMap<i64, (String, String)> = BTreeMap::new();
    let mut stream = client.events(Some(0)).await;
    while !open.is_empty() {
        match stream.next(LIMIT).await {
            Some(event) if event.name.starts_with("message.") => {
                let id = event.about().to_owned();
                if ends.get(&id).unwrap_or_else(|| panic!("of no message: {event:?}")) == &event.name {
                    open.remove(&id);
                }
                // The last few may come twice, under the same number.
                told.insert(event.id, (id, event.name));
            }
            Some(_) => {}
            None => stream = client.events(stream.last).await,
        }
    }
    let mut ways: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, name) in told.values() {
        ways.entry(id).or_default().push(name);
    }
    for (id, way) in ways {
        let end = ends[id].as_str();
        assert_eq!(way.iter().filter(|name| **name == end).count(), 1, "{id}: {way:?}");
        assert_eq!(way.last(), Some(&end), "{id}: {way:?}");
        assert!(!(way.contains(&"message.sent") && way.contains(&"message.cancelled")), "{id}: {way:?}");
    }
}

/// What only the database can tell: that no call was left in the middle, and that no unit was given back that wasn't taken.
async fn check_database(system: &System) {
    let database = system.database().await;
    check_forward(&database).await;
    let number = async |query: &'static str| -> i64 {
        sqlx::query_scalar(query).fetch_one(&database).await.unwrap_or_else(|e| panic!("{query}: {e}"))
    };
    eventually(seconds(10), "no connection stays in a transaction", async || {
        let idle = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        (number(idle).await == 0).then_some(())
    })
    .await;
    assert_eq!(number("SELECT sum(short)::bigint FROM quotas").await, 0, "units that had not been taken");
}

fn check_log(server: &Server) {
    let log = server.process.stderr() + &server.process.stdout();
    for line in log.lines() {
        let bad = ["panicked", "crashed", "already a transaction", " ERROR "].iter().any(|word| line.contains(word));
        assert!(!bad, "{}: {line}", server.origin);
    }
}
