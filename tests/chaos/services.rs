//! RabbitMQ wiped, Redis killed, PostgreSQL killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use reqwest::Method;
use sanasr_shared::message::Status;

use super::load::{Answer, App, Load, insist};
use super::{
    check_all_read, check_forward, check_shown, ordinary, send_all, text, time_to_whatsapp, wait_connected,
    wait_health, wait_seen,
};
use crate::harness::services::{Kind, Service};
use crate::harness::wait::seconds;
use crate::harness::{Client, Message, Mode, System, eventually};

fn apps(system: &System, count: usize, keyed: impl Fn(usize) -> bool) -> Vec<App> {
    let app = |n| App { client: system.client_at(n), session: "default".to_owned(), to: ordinary(n), keyed: keyed(n) };
    (0..count).map(app).collect()
}

/// A counter of a process.
async fn metric(client: &Client, name: &str) -> f64 {
    let page = client.root("/metrics").await.expect("an answer").body;
    let line = page.as_str().and_then(|page| page.lines().find(|line| line.split([' ', '{']).next() == Some(name)));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_wiped_costs_nothing() {
    let broker = Service::start(Kind::RabbitMq).await;
    let system = System::with(Mode::Distributed).env("AMQP_URL", broker.url()).start().await;
    let client = system.client();
    client.new_session("resting").await;
    client.pause("resting").await;
    wait_health(&system, "ok").await;
    // Some rest in the broker, confirmed; others are being accepted when it goes.
    let items: Vec<_> = (0..100).map(|n| text("resting", &ordinary(n % 20), &n.to_string())).collect();
    let mut sent = send_all(&client, &items).await;
    eventually(seconds(20), "their jobs are confirmed", async || {
        (metric(&client, "sanasr_jobs_published_total").await >= 100.0).then_some(())
    })
    .await;
    let load = Load::start(apps(&system, 4, |_| false));
    load.accepts(40, seconds(20)).await;
    broker.kill().await;
    broker.wipe();
    load.accepts(40, seconds(20)).await;
    wait_health(&system, "degraded").await;

    // Sending goes on while it is away, from the store.
    client.resume("resting").await;
    let alone = client.text("resting", &ordinary(50), "accepted while it was away").await;
    wait_seen(&system, &sent, seconds(30)).await;
    client.wait_status(alone.id, Status::Read, seconds(20)).await;
    sent.push(alone);
    load.accepts(40, seconds(20)).await;

    broker.start_again().await;
    wait_health(&system, "ok").await;
    sent.extend(load.stop_all_accepted().await);
    // Without a ring a message waits up to five seconds: five in a row aren't luck.
    let mut in_a_row = 0;
    let end = Instant::now() + seconds(30);
    while in_a_row < 5 {
        let (message, took) = time_to_whatsapp(&system, &client, &ordinary(60)).await;
        sent.push(message);
        in_a_row = if took < seconds(1) { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < end, "jobs don't ring again: the last message took {took:?}");
    }
    let seen = check_all_read(&system, &client, &sent, seconds(60)).await;
    assert_eq!(seen.repeated().len(), 0, "nothing was ever in doubt");
    check_forward(&system.database().await).await;
}

/// Long polls end, by a change or by their time, and messages are read, through every API.
async fn check_polls(system: &System, sent: &mut Vec<Message>) {
    let client = system.client();
    client.pause("default").await;
    let waiting = client.text("default", &ordinary(0), "waits").await;
    let asked = Instant::now();
    let path = format!("/messages/{}?wait=1&known=accepted", waiting.id);
    let message: Message = client.get(&path).await.expect(200).data();
    let took = asked.elapsed();
    assert_eq!(message.status, Status::Accepted);
    assert!(took >= Duration::from_millis(900) && took < seconds(5), "the poll ended after {took:?}");

    // The renewal tells the worker, the poll looks again by itself: seconds at most, each.
    let other = system.client_at(1);
    let poll = tokio::spawn(async move {
        let path = format!("/messages/{}?wait=60&known=accepted", waiting.id);
        let reply = other.attempt(Method::GET, &path, None, None).await.expect("an answer").expect(200);
        (reply.data::<Message>().status, Instant::now())
    });
    let resumed = Instant::now();
    client.resume("default").await;
    let (status, ended) = poll.await.expect("no panic");
    assert_ne!(status, Status::Accepted, "the poll ends by a change");
    let took = ended - resumed;
    assert!(took < seconds(15), "the poll ended {took:?} after the session was resumed");
    sent.push(waiting);
    for n in 0..10 {
        let client = system.client_at(n);
        let message = client.text("default", &ordinary(n), &format!("{} of {}", n, sent.len())).await;
        client.wait_status(message.id, Status::Read, seconds(20)).await;
        sent.push(message);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_costs_only_time() {
    let redis = Service::start(Kind::Redis).await;
    let mut system = System::with(Mode::Distributed).apis(2).env("REDIS_URL", redis.url()).start().await;
    wait_health(&system, "ok").await;
    let mut sent = Vec::new();
    let load =
        Load::start([App { client: system.client(), session: "default".to_owned(), to: ordinary(100), keyed: false }]);
    load.accepts(5, seconds(20)).await;
    redis.kill().await;
    wait_health(&system, "degraded").await;
    check_polls(&system, &mut sent).await;
    redis.start_again().await;
    wait_health(&system, "ok").await;
    check_polls(&system, &mut sent).await;
    sent.extend(load.stop_all_accepted().await);
    let seen = check_all_read(&system, &system.client(), &sent, seconds(60)).await;
    assert_eq!(seen.repeated().len(), 0);
    for server in system.apis.iter_mut().chain(&mut system.workers) {
        assert_eq!(server.process.poll(), None, "nobody exits because a service blinked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_database_loses_nothing_that_was_accepted() {
    const APPS: usize = 12;
    let postgres = Service::durable(Kind::Postgres).await;
    let mut system = System::with(Mode::Distributed).apis(2).env("DATABASE_URL", postgres.url()).start().await;
    let client = system.client();
    let load = Load::start(apps(&system, APPS, |n| n >= APPS / 2));
    load.accepts(100, seconds(30)).await;
    postgres.kill().await;
    // Away for so long that clients hear of it.
    load.is_refused(APPS, seconds(60)).await;
    wait_health(&system, "unavailable").await;
    postgres.start_again().await;
    load.accepts(100, seconds(60)).await;
    let attempts = load.stop().await;
    wait_health(&system, "ok").await;
    wait_connected(&client, "default").await;

    let stored: BTreeMap<_, _> = client.list("").await.into_iter().map(|m| (m.text.clone(), m)).collect();
    let is_stored = |body: &serde_json::Value| stored.contains_key(&body["text"].as_str().map(str::to_owned));
    let mut refused = BTreeMap::new();
    for attempt in &attempts {
        match &attempt.answer {
            Answer::Accepted(message) => {
                let found = stored.get(&message.text).unwrap_or_else(|| panic!("lost: {message:?}"));
                assert_eq!(found.id, message.id, "accepted twice: {message:?}");
            }
            Answer::Refused(503, code) => {
                *refused.entry(code.as_str()).or_insert(0) += 1;
                match code.as_str() {
                    "unavailable" | "overloaded" => assert!(!is_stored(&attempt.body), "not refused: {attempt:?}"),
                    "commit_unknown" => {}
                    _ => panic!("{attempt:?}"),
                }
            }
            Answer::Refused(..) | Answer::Lost => panic!("neither accepted nor an honest 503: {attempt:?}"),
        }
    }
    println!("{} tried, refused: {refused:?}", attempts.len());
    // Under its key a message is repeated until it is accepted, and is there once.
    let mut ids = BTreeSet::new();
    for attempt in attempts.iter().filter(|a| a.key.is_some()) {
        let message = match &attempt.answer {
            Answer::Accepted(message) => (**message).clone(),
            Answer::Refused(..) | Answer::Lost => insist(&client, attempt).await,
        };
        assert_eq!(message.text.as_deref(), attempt.body["text"].as_str());
        assert!(ids.insert(message.id), "two keys, one message: {message:?}");
        assert_eq!(insist(&client, attempt).await.id, message.id, "the same key, another message");
    }

    let count = client.list("").await.len();
    let mut all = client.wait_count("", Status::Read, count, seconds(60)).await;
    let texts: BTreeSet<_> = all.iter().map(|m| m.text.clone()).collect();
    assert_eq!(texts.len(), count, "each message once");
    all.reverse();
    check_shown(&system.ledger.read(), &client, &all).await;
    assert_eq!(client.quota().await.used, i64::try_from(count).expect("a small number"), "a unit for each row");
    check_forward(&system.database().await).await;
    for server in system.apis.iter_mut().chain(&mut system.workers) {
        assert_eq!(server.process.poll(), None, "nobody exits because a service blinked");
    }
}
