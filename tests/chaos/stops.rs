//! Graceful stops under load: nothing is lost, nothing is sent twice.

use std::time::{Duration, Instant};

use sanasr_shared::message::Status;

use super::load::{Answer, App, Load};
use super::{check_all_read, check_forward, check_shown, ordinary, send_all, special, text, wait_connected, wait_seen};
use crate::harness::services::{Kind, Service};
use crate::harness::system::Server;
use crate::harness::wait::seconds;
use crate::harness::{Mode, System};

/// The stop's five seconds, and what it takes to notice the end.
const STOP_MAX: Duration = Duration::from_millis(5_500);
/// What a worker says that couldn't wait for an acknowledgement.
const LEFT: &str = "left in doubt";

/// Ends it in good order (SIGTERM), and checks that it takes no longer than promised.
async fn stop(server: &mut Server) {
    let asked = Instant::now();
    assert_eq!(server.process.stop().await, Some(0), "the exit code of a graceful stop");
    let took = asked.elapsed();
    assert!(took < STOP_MAX, "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_hands_over() {
    const SESSIONS: [&str; 4] = ["default", "orders", "codes", "reminders"];
    let mut system = System::with(Mode::Distributed).workers(2).start().await;
    let (client, database) = (system.client(), system.database().await);
    for name in &SESSIONS[1..] {
        client.new_session(name).await;
    }
    let load = Load::start((0..8).map(|n| App {
        client: system.client(),
        session: SESSIONS[n % 4].to_owned(),
        to: ordinary(n),
        keyed: false,
    }));
    load.accepts(50, seconds(20)).await;
    let slow: Vec<_> = (0..8).map(|n| text(SESSIONS[n % 4], &special("0003", n), "slow")).collect();
    let slow = send_all(&client, &slow).await;
    wait_seen(&system, &slow, seconds(20)).await;
    stop(&mut system.workers[0]).await;
    load.accepts(50, seconds(20)).await;
    let (owners,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM workers").fetch_one(&database).await.expect("the workers");
    assert_eq!(owners, 1, "it has left");
    let sent = [slow, load.stop_all_accepted().await].concat();
    let seen = check_all_read(&system, &client, &sent, seconds(60)).await;
    if system.workers[0].process.line(LEFT).is_none() {
        assert_eq!(seen.repeated().len(), 0, "handed over, not sent twice");
    }
    check_forward(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_service_that_stops_goes_on_where_it_was() {
    let mut system = System::start(Mode::Embedded).await;
    let client = system.client();
    let load = Load::start((0..6).map(|n| App {
        client: client.clone(),
        session: "default".to_owned(),
        to: ordinary(n),
        keyed: n % 2 == 0,
    }));
    load.accepts(50, seconds(20)).await;
    let slow: Vec<_> = (0..16).map(|n| text("default", &special("0003", n % 8), &format!("slow {n}"))).collect();
    let slow = send_all(&client, &slow).await;
    wait_seen(&system, &slow[..8], seconds(20)).await;
    stop(&mut system.apis[0]).await;
    let attempts = load.stop().await;

    let again = system.add_api(&[]).await;
    let client = system.client_at(again);
    wait_connected(&client, "default").await;
    let mut sent = slow;
    let mut unanswered = Vec::new();
    for attempt in attempts {
        match &attempt.answer {
            Answer::Accepted(message) => sent.push((**message).clone()),
            Answer::Refused(status, code) => assert_eq!((*status, code.as_str()), (503, "unavailable"), "{attempt:?}"),
            Answer::Lost => unanswered.push(attempt),
        }
    }
    // What had no answer may be there: under its key, asking again tells.
    for attempt in unanswered.iter().filter(|a| a.key.is_some()) {
        sent.push(super::load::insist(&client, attempt).await);
    }
    wait_seen(&system, &sent, seconds(60)).await;
    let all = client.wait_count("", Status::Read, client.list("").await.len(), seconds(60)).await;
    for message in &sent {
        assert!(all.iter().any(|m| m.id == message.id), "lost: {message:?}");
    }
    let extra = all.len() - sent.len();
    assert!(extra <= unanswered.len(), "{extra} messages that nobody sent");
    assert_eq!(client.quota().await.used, i64::try_from(all.len()).expect("a small number"));
    let seen = system.ledger.read();
    if system.apis[0].process.line(LEFT).is_none() {
        assert_eq!(seen.repeated().len(), 0, "taken up again, not sent twice");
    }
    // Newest first: the order of acceptance is the other way round.
    let accepted: Vec<_> = all.into_iter().rev().collect();
    check_shown(&seen, &client, &accepted).await;
}

/// Whatever it is that is away: what can't be written any more is left to the end of the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_without_the_database_stays_within_its_time() {
    let database = Service::start(Kind::Postgres).await;
    let mut system = System::with(Mode::Distributed).env("DATABASE_URL", database.url()).start().await;
    let client = system.client();
    let load = Load::start((0..4).map(|n| App {
        client: system.client(),
        session: "default".to_owned(),
        to: ordinary(n),
        keyed: false,
    }));
    load.accepts(50, seconds(20)).await;
    let slow: Vec<_> = (0..8).map(|n| text("default", &special("0003", n), "slow")).collect();
    let slow = send_all(&client, &slow).await;
    wait_seen(&system, &slow, seconds(20)).await;
    // Frozen, it answers nothing, but its connections stay open: that is the hardest.
    database.freeze().await;
    stop(&mut system.workers[0]).await;
    stop(&mut system.apis[0]).await;
    drop(load);
    database.wake().await;
}
