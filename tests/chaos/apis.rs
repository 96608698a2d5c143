//! One process that stands still must not hold the others up.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sqlx::ConnectOptions;
use sqlx_postgres::PgConnectOptions;

use super::load::{Answer, App, Load};
use super::{check_all_read, ordinary, special, text, time_to_whatsapp};
use crate::harness::wait::seconds;
use crate::harness::{Message, Mode, System, eventually};

/// How long others may wait for one that stands still: the server's time limits are below it.
const PATIENCE: Duration = Duration::from_secs(8);
/// Longer than a lock may be waited for, or held by an idle transaction.
const FREEZE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_api_holds_nobody_up() {
    let mut system = System::with(Mode::Distributed).apis(2).user("shared", 1_000_000).start().await;
    let client = system.client_of("shared", 1);
    client.connect("default").await;
    let load = Load::start((0..20).map(|n| App {
        client: system.client_of("shared", n),
        session: "default".to_owned(),
        to: ordinary(n),
        keyed: false,
    }));
    load.accepts(100, seconds(20)).await;
    system.apis[0].process.freeze();
    let frozen = Instant::now();
    load.accepts(100, seconds(20)).await;
    eventually(seconds(10), "any lock it held is given up", async || (frozen.elapsed() > FREEZE).then_some(())).await;
    let (_, took) = time_to_whatsapp(&system, &system.client_at(1), &special("1001", 0)).await;
    assert!(took < PATIENCE, "sending went on: {took:?}");
    system.apis[0].process.wake();
    let woken = Instant::now();
    load.accepts(100, seconds(20)).await;
    let attempts = load.stop().await;

    let mut sent: Vec<Message> = Vec::new();
    for attempt in attempts {
        let at_the_other = attempt.app % 2 == 1 && attempt.asked < woken;
        assert!(!at_the_other || attempt.took < PATIENCE, "held up: {attempt:?}");
        match attempt.answer {
            Answer::Accepted(message) => sent.push(*message),
            Answer::Refused(..) | Answer::Lost => panic!("every request was answered in the end: {attempt:?}"),
        }
    }
    assert_eq!(sent.iter().map(|m| m.id).collect::<BTreeSet<_>>().len(), sent.len());
    // The tester's own message isn't the shared user's.
    let limit = seconds(90);
    let all = client.wait_count("", sanasr_shared::message::Status::Read, sent.len(), limit).await;
    assert_eq!(
        all.iter().map(|m| m.id).collect::<BTreeSet<_>>(),
        sent.iter().map(|m| m.id).collect::<BTreeSet<_>>(),
        "every 202 exists, and nothing else"
    );
    assert_eq!(client.quota().await.used, i64::try_from(sent.len()).expect("a small number"), "a unit for each");
    assert_eq!(system.ledger.read().shown().len(), sent.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_quota_row_holds_nobody_up_for_long() {
    let system = System::with(Mode::Distributed).apis(2).start().await;
    let client = system.client();
    // The row begins with the first message of the day.
    let mut sent = vec![client.text("default", &ordinary(0), "first").await];
    let options = PgConnectOptions::from_str(system.database_url()).expect("a URL").options([
        ("lock_timeout", "2s"),
        ("statement_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "2s"),
    ]);
    let mut frozen = options.connect().await.expect("a connection");
    sqlx::raw_sql("BEGIN").execute(&mut frozen).await.expect("a transaction");
    let locked = sqlx::query("SELECT used FROM quotas FOR UPDATE").fetch_all(&mut frozen).await.expect("the row");
    assert_eq!(locked.len(), 1);

    let asked = Instant::now();
    let sends = (1..=10).map(|n| {
        let client = system.client_at(n);
        async move { client.send(&text("default", &ordinary(n), "meanwhile")).await }
    });
    for reply in join_all(sends).await {
        sent.push(reply.expect(202).data());
    }
    let took = asked.elapsed();
    assert!(took < PATIENCE, "accepted after {took:?}");
    assert!(sqlx::query("SELECT 1").execute(&mut frozen).await.is_err(), "the idle transaction was ended");
    check_all_read(&system, &client, &sent, seconds(30)).await;
}
