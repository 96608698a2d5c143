//! Workers that are killed, or frozen past their lease and woken.

use std::collections::BTreeSet;

use sanasr_shared::message::Status;
use sqlx_postgres::PgPool;
use uuid::Uuid;

use super::load::{App, Load};
use super::{check_all_read, check_forward, in_flight, ordinary, send_all, special, text, wait_seen};
use crate::harness::wait::seconds;
use crate::harness::{Message, Mode, System, eventually};

/// Recipients whose messages take two seconds to be acknowledged: they are in flight when something happens.
const SLOW: usize = 20;

/// A system whose first worker owns the session, and whose second one has none: one session is a fair share.
async fn owner_and_heir() -> System {
    let mut system = System::with(Mode::Distributed).env("SANASR_LEASE", "2s").start().await;
    system.add_worker(&[]).await;
    wait_workers(&system.database().await, 2).await;
    system
}

async fn wait_workers(database: &PgPool, count: i64) {
    eventually(seconds(20), &format!("{count} workers are registered"), async || {
        let (workers,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM workers").fetch_one(database).await.expect("the workers");
        (workers == count).then_some(())
    })
    .await;
}

async fn owner(database: &PgPool) -> Option<Uuid> {
    let (owner,) = sqlx::query_as("SELECT owner FROM sessions WHERE name = 'default' AND wanted")
        .fetch_one(database)
        .await
        .expect("the session");
    owner
}

/// Waits until somebody else owns the session.
async fn wait_taken_over(database: &PgPool, from: Option<Uuid>) {
    eventually(seconds(30), "the session is taken over", async || {
        owner(database).await.filter(|owner| Some(*owner) != from)
    })
    .await;
}

fn apps(system: &System, count: usize) -> impl Iterator<Item = App> {
    (0..count).map(|n| App {
        client: system.client_at(n),
        session: "default".to_owned(),
        to: ordinary(n),
        keyed: false,
    })
}

/// Two messages to each slow recipient: the first is in flight once WhatsApp has seen it, the second waits for it.
async fn send_slow(system: &System) -> Vec<Message> {
    let slow = |n| text("default", &special("0003", n % SLOW), &format!("slow {n}"));
    let sent = send_all(&system.client(), &(0..2 * SLOW).map(slow).collect::<Vec<_>>()).await;
    wait_seen(system, &sent[..SLOW], seconds(20)).await;
    sent
}

/// All that a late write could have changed.
async fn rows(database: &PgPool) -> Vec<(Uuid, i16, i32, i32, Option<i64>, Option<i64>, Option<i64>, i64)> {
    sqlx::query_as(
        "SELECT id, status, attempts, unknown_attempts, sent_at, delivered_at, read_at, updated_at
         FROM messages ORDER BY id",
    )
    .fetch_all(database)
    .await
    .expect("the rows")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_messages_are_finished_by_another() {
    let mut system = owner_and_heir().await;
    let (client, database) = (system.client(), system.database().await);
    let dead = owner(&database).await;
    let load = Load::start(apps(&system, 4));
    let slow = send_slow(&system).await;
    system.workers[0].process.kill().await;
    let lost = in_flight(&database).await;
    assert!(!lost.is_empty(), "it held messages in flight");
    wait_taken_over(&database, dead).await;
    load.accepts(50, seconds(20)).await;
    let sent = [slow, load.stop_all_accepted().await].concat();
    let seen = check_all_read(&system, &client, &sent, seconds(60)).await;
    for id in seen.repeated() {
        assert!(lost.contains(id), "{id} wasn't in doubt, and was sent again");
        assert_eq!(seen.of(id).len(), 2, "{id} was sent again more than once");
    }
    check_forward(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_worker_that_wakes_has_no_say_any_more() {
    let mut system = owner_and_heir().await;
    let (client, database) = (system.client(), system.database().await);
    let former = owner(&database).await;
    let load = Load::start(apps(&system, 4));
    let slow = send_slow(&system).await;
    system.workers[0].process.freeze();
    let doubtful = in_flight(&database).await;
    assert!(!doubtful.is_empty(), "it held messages in flight");
    wait_taken_over(&database, former).await;
    load.accepts(50, seconds(20)).await;
    let mut sent = [slow, load.stop_all_accepted().await].concat();
    let asleep = check_all_read(&system, &client, &sent, seconds(60)).await.0.len();

    let before = rows(&database).await;
    system.workers[0].process.wake();
    system.workers[0].process.wait_for_line("declared dead: beginning again", seconds(30)).await;
    wait_workers(&database, 2).await;
    assert_eq!(rows(&database).await, before, "its late writes changed nothing");
    let new = send_all(&client, &(0..40).map(|n| text("default", &ordinary(n), "new")).collect::<Vec<_>>()).await;
    sent.extend(new.iter().cloned());
    let seen = check_all_read(&system, &client, &sent, seconds(60)).await;
    let new: BTreeSet<_> = new.iter().map(|m| m.whatsapp_id.as_str()).collect();
    for arrival in &seen.0[asleep..] {
        let id = arrival.whatsapp_id.as_str();
        assert!(new.contains(id) || doubtful.contains(id), "sent after the wake: {arrival:?}");
    }
    for id in seen.repeated() {
        assert!(doubtful.contains(id), "{id} wasn't in flight at the freeze, and was sent twice");
    }
    check_forward(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_worker_that_wakes_before_its_heir_has_begun_has_no_say_either() {
    let mut system = owner_and_heir().await;
    let (client, database) = (system.client(), system.database().await);
    let former = owner(&database).await;
    let sent = send_slow(&system).await;
    system.workers[0].process.freeze();
    // The heir takes a paused session over, but touches none of its messages.
    client.pause("default").await;
    let doubtful = in_flight(&database).await;
    assert!(!doubtful.is_empty(), "it held messages in flight");
    wait_taken_over(&database, former).await;
    assert_eq!(in_flight(&database).await, doubtful, "nobody has touched them");

    let before = rows(&database).await;
    system.workers[0].process.wake();
    system.workers[0].process.wait_for_line("declared dead: beginning again", seconds(30)).await;
    wait_workers(&database, 2).await;
    assert_eq!(rows(&database).await, before, "its late writes changed nothing");
    client.resume("default").await;
    let seen = check_all_read(&system, &client, &sent, seconds(60)).await;
    for id in seen.repeated() {
        assert!(doubtful.contains(id), "{id} wasn't in flight at the freeze, and was sent twice");
    }
    check_forward(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_worker_that_nobody_missed_goes_on() {
    let mut system = System::with(Mode::Distributed).env("SANASR_LEASE", "2s").start().await;
    let (client, database) = (system.client(), system.database().await);
    let sent = send_slow(&system).await;
    system.workers[0].process.freeze();
    assert!(!in_flight(&database).await.is_empty(), "it held messages in flight");
    eventually(seconds(20), "its lease is over", async || {
        let (over,): (bool,) = sqlx::query_as(
            "SELECT lease_until < floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM workers",
        )
        .fetch_one(&database)
        .await
        .expect("the worker");
        over.then_some(())
    })
    .await;
    system.workers[0].process.wake();
    let seen = check_all_read(&system, &client, &sent, seconds(60)).await;
    assert_eq!(seen.repeated().len(), 0, "it still had its sessions: nothing was in doubt");
    let all = client.list("").await;
    assert!(all.iter().all(|m| m.status == Status::Read && m.attempts == 1), "{all:#?}");
}
