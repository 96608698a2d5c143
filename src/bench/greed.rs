//! What one greedy client costs the others: lists without end, and requests that never come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use sanasr_shared::ids::SessionId;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::{Client, Target};
use super::latency::Latencies;
use super::load::MESSAGES;
use super::report::{Aim, Report, Unit};
use super::service::{Process, Service};

/// Connections with an unfinished head.
const HALF_OPEN: u32 = 2_000;
/// Bytes of an unfinished head: about as many as a head may have.
const HEAD_BYTES: usize = 20_000;
/// Messages of the greedy user.
const ROWS: i64 = 30_000;
/// Lists at once by the greedy user's key.
const LISTS: u32 = 60;
/// Reads of the other user.
const READS: u32 = 1_500;

/// What a connection costs whose request's head never ends.
pub(super) async fn half_open(service: &Service, report: &mut Report) -> Result<()> {
    let memory = || service.processes.first().and_then(Process::memory).map_or(0.0, |(now, _)| now);
    let before = memory();
    let unfinished = format!("GET {MESSAGES} HTTP/1.1\r\nhost: localhost\r\nx-long: {}", "x".repeat(HEAD_BYTES));
    let mut open = Vec::new();
    for _ in 0..HALF_OPEN {
        let mut stream = TcpStream::connect(service.target.authority()).await?;
        stream.write_all(unfinished.as_bytes()).await?;
        open.push(stream);
    }
    sleep(Duration::from_secs(1)).await;
    let each = (memory() - before) * 1024.0 / f64::from(HALF_OPEN);
    let what = format!("memory for each of {HALF_OPEN} half-open connections");
    report.aimed(what, each, Unit::Kilobytes, Aim::AtMost(40.0));
    Ok(())
}

/// How long another user's reads take beside a key's endless filtered lists over many messages of its own.
pub(super) async fn lists(service: &mut Service, session: &str, report: &mut Report) -> Result<()> {
    eprintln!("Making {ROWS} old messages of a greedy user.");
    let mut client = service.target.connect().await?;
    let data = client.call(Method::GET, &format!("/api/v1/sessions/{session}"), None).await?["data"].take();
    let id: SessionId = serde_json::from_value(data["id"].clone()).context("the session's id")?;
    let user = data["user_id"].as_i64().context("the session's user")?;
    service.stop().await;
    service.database.seed(user, id, 0, ROWS).await?;
    let key = service.make_user("calm")?;
    service.restart().await?;
    let calm = service.target.with_key(&key)?;
    let mut client = calm.connect().await?;
    let message = json!({"to": "+15551237777", "type": "text", "text": "Your code is 123456."});
    let sent = client.call(Method::POST, MESSAGES, Some(&message)).await?;
    let path = format!("{MESSAGES}/{}", sent["data"]["id"].as_str().context("the message's id")?);

    // Once to warm up.
    reads(&mut client, &path).await?;
    let alone = reads(&mut client, &path).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Arc::new(Counts::default());
    let mut greedy = JoinSet::new();
    for _ in 0..LISTS {
        greedy.spawn(keep_listing(service.target.clone(), Arc::clone(&stop), Arc::clone(&counts)));
    }
    // Once it is in full swing.
    sleep(Duration::from_secs(1)).await;
    let began = (Instant::now(), counts.lists.load(Ordering::Relaxed));
    let beside = reads(&mut client, &path).await;
    let listed = (counts.lists.load(Ordering::Relaxed) - began.1) as f64 / began.0.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    while greedy.join_next().await.is_some() {}
    report.row("another user's read, p99", alone, Unit::Milliseconds);
    let what = format!("the same beside {LISTS} filtered lists at once by one key over {ROWS} messages, p99");
    report.aimed(what, beside?, Unit::Milliseconds, Aim::AtMost(3.0 * alone));
    report.row("lists that the greedy key was answered meanwhile", listed, Unit::PerSecond);
    let refused = counts.refused.load(Ordering::Relaxed);
    if refused > 0 {
        report.note(format!("Of the greedy key's lists {refused} were refused."));
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    lists: AtomicU64,
    refused: AtomicU64,
}

/// Lists what isn't there, over and over: the filter fits no message.
async fn keep_listing(target: Target, stop: Arc<AtomicBool>, counts: Arc<Counts>) -> Result<()> {
    let mut client = target.connect().await?;
    while !stop.load(Ordering::Relaxed) {
        let path = format!("{MESSAGES}?status=failed&type=image&limit=200");
        let (status, _) = client.request(Method::GET, &path, Bytes::new()).await?;
        let counted = if status == StatusCode::OK { &counts.lists } else { &counts.refused };
        counted.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads a message over and over: p99 in milliseconds.
async fn reads(client: &mut Client, path: &str) -> Result<f64> {
    let mut latencies = Latencies::default();
    for _ in 0..READS {
        let begin = Instant::now();
        let (status, _) = client.request(Method::GET, path, Bytes::new()).await?;
        latencies.add(begin.elapsed());
        if status != StatusCode::OK {
            bail!("reading a message was answered {status}");
        }
    }
    Ok(latencies.percentile_ms(99.0))
}
