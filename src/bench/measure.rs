//! What is measured, and in which order.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use sanasr_shared::ids::SessionId;
use sanasr_shared::time::Time;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::BenchArgs;
use super::client::{Client, Target};
use super::flood::flood;
use super::floor::{Floor, bare_commits};
use super::greed;
use super::latency::{Latencies, median, slope};
use super::load::{Accepted, Dice, Load, MESSAGES, Sent, list};
use super::report::{Aim, Report, Unit};
use super::service::{Service, memory};

/// Turns that ours and the floor take.
const ROUNDS: u32 = 3;
/// Rows that a small table has.
const FEW_ROWS: i64 = 10_000;
/// Reads of a message by id.
const READS: usize = 2_000;
/// Growth of the backlog, as a part of the load, that is noise.
const GROWTH_MAX: f64 = 0.02;
/// Difference between two medians of reads that is noise.
const READ_NOISE: f64 = 0.2;
/// Who listens to events at once.
const LISTENERS: usize = 5_000;
/// Messages in the page that is read.
const PAGE: u32 = 50;
/// How long a session may take to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// Measures a service of the benchmark's own.
pub(super) async fn own(args: &BenchArgs, service: &mut Service) -> Result<Report> {
    let mut report = Report::new(service.describe());
    let single = service.processes.len() == 1;
    let again = service.restart().await?;
    let ready = format!("ready after the start ({} ms on an empty database)", service.first_ready.as_millis());
    report_bounded(&mut report, single, ready, again.as_secs_f64() * 1000.0, Unit::Milliseconds, 200.0);
    sleep(Duration::from_secs(1)).await;
    for process in &service.processes {
        if let Some((now, _)) = process.memory() {
            let what = format!("memory, idle: {}", process.name);
            report_bounded(&mut report, single, what, now, Unit::Megabytes, 40.0);
        }
    }

    let mut load = prepare(args, service.target.clone()).await?;
    let mut few = 0.0;
    if args.rows.is_some() {
        few = reads_among(service, &load.sessions[0], 0, FEW_ROWS).await?;
        report.row(format!("reading a message by id among {FEW_ROWS}, p50"), few, Unit::Milliseconds);
        load = prepare(args, service.target.clone()).await?;
    }
    let floor = if args.floor {
        let bytes = answer_bytes(&load).await?;
        Some(Floor::start(service, bytes).await?)
    } else {
        None
    };
    let lone_bare = match &floor {
        Some(floor) => {
            let commit = bare_commits(service).await?.percentile_ms(50.0);
            let round_trip = floor.bare_round_trips().await?.percentile_ms(50.0);
            report.row("one bare commit, p50", commit, Unit::Milliseconds);
            report.row("one bare HTTP round trip, p50", round_trip, Unit::Milliseconds);
            Some(commit + round_trip)
        }
        None => None,
    };
    listeners(service, &mut report).await?;
    let ledger = service.ledger();
    let top = loads(args, &load, floor.as_ref(), lone_bare, Some(&ledger), &mut report).await?;
    drop(floor);
    let from = Time::now();
    let duration = Duration::from_secs(args.seconds.into());
    flood(&load, args.clients, top / 10.0, duration, service.processes.first(), &mut report).await?;
    load.until_read(from).await?;
    for process in &service.processes {
        if let Some((_, highest)) = process.memory() {
            report.row(format!("memory, at its highest under these loads: {}", process.name), highest, Unit::Megabytes);
        }
    }
    greed::lists(service, &load.sessions[0], &mut report).await?;
    if let Some(rows) = args.rows {
        let many = reads_among(service, &load.sessions[0], FEW_ROWS, rows - FEW_ROWS).await?;
        let aim = Aim::AtMost(few * (1.0 + READ_NOISE));
        report.aimed(
            format!("reading a message by id among {rows} and the loads' own, p50"),
            many,
            Unit::Milliseconds,
            aim,
        );
    }
    // In a fresh process: memory that others have given back would be taken first.
    service.restart().await?;
    greed::half_open(service, &mut report).await?;
    Ok(report)
}

/// Measures a running service.
pub(super) async fn running(args: &BenchArgs, target: Target) -> Result<Report> {
    let mut report = Report::new("a running service");
    let tell_memory = |report: &mut Report, when: &str| {
        for pid in &args.pids {
            if let Some((now, _)) = memory(*pid) {
                report.row(format!("memory, {when}: process {pid}"), now, Unit::Megabytes);
            }
        }
    };
    tell_memory(&mut report, "before");
    let load = prepare(args, target).await?;
    loads(args, &load, None, None, None, &mut report).await?;
    tell_memory(&mut report, "afterwards");
    Ok(report)
}

/// A bound holds for one process alone.
fn report_bounded(report: &mut Report, bounded: bool, what: String, value: f64, unit: Unit, limit: f64) {
    if bounded {
        report.aimed(what, value, unit, Aim::AtMost(limit));
    } else {
        report.row(what, value, unit);
    }
}

/// Makes the sessions and connects them.
async fn prepare(args: &BenchArgs, target: Target) -> Result<Load> {
    let mut client = target.connect().await?;
    let sessions: Vec<_> = (1..=args.sessions).map(|n| format!("bench-{n}")).collect();
    for name in &sessions {
        let body = json!({"name": name, "bridge": "simulator"}).to_string().into();
        let (status, answer) = client.request(Method::POST, "/api/v1/sessions", body).await?;
        if !status.is_success() && status != StatusCode::CONFLICT {
            bail!("making a session was answered {status}: {}", String::from_utf8_lossy(&answer));
        }
        client.call(Method::POST, &format!("/api/v1/sessions/{name}/resume"), None).await?;
        client.call(Method::POST, &format!("/api/v1/sessions/{name}/connect"), None).await?;
    }
    let give_up = Instant::now() + CONNECT_LIMIT;
    for name in &sessions {
        loop {
            let session = client.call(Method::GET, &format!("/api/v1/sessions/{name}"), None).await?;
            if session["data"]["status"] == "connected" {
                break;
            }
            if Instant::now() > give_up {
                bail!("session {name} doesn't connect: {}", session["data"]["status"]);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(Load { target, sessions, recipients: args.recipients })
}

/// How long an accept's answer is.
async fn answer_bytes(load: &Load) -> Result<usize> {
    let mut client = load.target.connect().await?;
    let body = json!({
        "to": "+15551237777", "type": "text", "session": load.sessions[0],
        "text": "Your code is 123456. It is valid for five minutes.",
    });
    let (status, answer) = client.request(Method::POST, MESSAGES, body.to_string().into()).await?;
    if status != StatusCode::ACCEPTED {
        bail!("a message was answered {status}: {}", String::from_utf8_lossy(&answer));
    }
    Ok(answer.len())
}

async fn command(load: &Load, command: &str) -> Result<()> {
    let mut client = load.target.connect().await?;
    for name in &load.sessions {
        client.call(Method::POST, &format!("/api/v1/sessions/{name}/{command}"), None).await?;
    }
    Ok(())
}

/// The loads, from accepting alone to the whole way. Answers the accepts a second.
async fn loads(
    args: &BenchArgs,
    load: &Load,
    floor: Option<&Floor>,
    lone_bare: Option<f64>,
    ledger: Option<&Path>,
    report: &mut Report,
) -> Result<f64> {
    let duration = Duration::from_secs(args.seconds.into());
    let from = Time::now();
    command(load, "pause").await?;
    lone(args, load, lone_bare, report).await?;
    let top = accepting(args, load, floor, report).await?;

    let resumed = Time::now();
    command(load, "resume").await?;
    let all = load.until_read(from).await?;
    let what = format!("sending a backlog of {} messages, each to `read`", all.len());
    report.row(what, rate_until_read(&all, resumed), Unit::PerSecond);

    let from = Time::now();
    let both = load.closed(args.clients, duration / 2).await?;
    report.row(format!("accepting at {} clients while sending", args.clients), both.rate, Unit::PerSecond);
    tell_refusals(&both, report);
    load.until_read(from).await?;

    tenth(args, load, top, ledger, report).await?;
    half(args, load, top, report).await?;

    let mut client = load.target.connect().await?;
    let ids: Vec<_> = list(&mut client, from).await?.into_iter().map(|message| message.id).collect();
    let read = reads(&mut client, &ids).await?;
    report.row("reading a message by id, p50", read, Unit::Milliseconds);
    let mut latencies = Latencies::default();
    for _ in 0..READS / 4 {
        let begin = Instant::now();
        client.call(Method::GET, &format!("{MESSAGES}?limit={PAGE}"), None).await?;
        latencies.add(begin.elapsed());
    }
    report.row(format!("reading a page of {PAGE} messages, p50"), latencies.percentile_ms(50.0), Unit::Milliseconds);
    Ok(top)
}

/// What an idle listener to events costs the process that serves it.
async fn listeners(service: &Service, report: &mut Report) -> Result<()> {
    let memory = || service.processes.first().and_then(super::service::Process::memory).map_or(0.0, |(now, _)| now);
    let before = memory();
    let mut listening = Vec::with_capacity(LISTENERS);
    for _ in 0..LISTENERS {
        listening.push(service.target.connect().await?.listen().await?);
    }
    sleep(Duration::from_secs(1)).await;
    let each = (memory() - before) * 1024.0 / LISTENERS as f64;
    report.row(format!("memory for each of {LISTENERS} idle listeners to events"), each, Unit::Kilobytes);
    Ok(())
}

/// One client, one request after another, nothing else going on.
async fn lone(args: &BenchArgs, load: &Load, bare: Option<f64>, report: &mut Report) -> Result<()> {
    let mut sent = load.closed(1, Duration::from_secs(args.seconds.min(5).into())).await?;
    tell_refusals(&sent, report);
    let (half, most) = (sent.latencies.percentile_ms(50.0), sent.latencies.percentile_ms(99.0));
    match bare {
        Some(bare) => report.aimed("a lone accept, p50", half, Unit::Milliseconds, Aim::AtMost(1.5 * bare)),
        None => report.row("a lone accept, p50", half, Unit::Milliseconds),
    }
    report.row("a lone accept, p99", most, Unit::Milliseconds);
    Ok(())
}

/// As much as all clients manage, in turns with the floor. Answers the accepts a second.
async fn accepting(args: &BenchArgs, load: &Load, floor: Option<&Floor>, report: &mut Report) -> Result<f64> {
    let turn = Duration::from_secs(args.seconds.into()) / ROUNDS;
    let (mut ours, mut theirs, mut latencies) = (Vec::new(), Vec::new(), Latencies::default());
    for _ in 0..ROUNDS {
        let sent = load.closed(args.clients, turn).await?;
        tell_refusals(&sent, report);
        ours.push(sent.rate);
        latencies.extend(sent.latencies);
        if let Some(floor) = floor {
            let bare = Load { target: floor.target.clone(), ..load.clone() };
            theirs.push(bare.closed(args.clients, turn).await?.rate);
        }
    }
    let top = median(&ours);
    report.row(format!("accepting at {} clients, nothing being sent", args.clients), top, Unit::PerSecond);
    report.row("the same, p50", latencies.percentile_ms(50.0), Unit::Milliseconds);
    report.row("the same, p99", latencies.percentile_ms(99.0), Unit::Milliseconds);
    if floor.is_some() {
        let bare = median(&theirs);
        report.row(format!("the floor at {} clients", args.clients), bare, Unit::PerSecond);
        report.aimed("ours as a part of the floor", 100.0 * top / bare.max(1.0), Unit::Percent, Aim::AtLeast(60.0));
    }
    Ok(top)
}

/// A tenth of the top rate: how long a message takes from its acceptance to the bridge.
async fn tenth(args: &BenchArgs, load: &Load, top: f64, ledger: Option<&Path>, report: &mut Report) -> Result<()> {
    let rate = top / 10.0;
    let from = Time::now();
    let end_of_ledger = ledger.map(|path| std::fs::metadata(path).map_or(0, |file| file.len()));
    let sent = load.at_rate(args.clients, rate, Duration::from_secs(args.seconds.into())).await?;
    tell_refusals(&sent, report);
    let all = load.until_read(from).await?;
    let received = match (ledger, end_of_ledger) {
        (Some(path), Some(offset)) => received_at(path, offset)?,
        _ => HashMap::new(),
    };
    let mut latencies = Latencies::default();
    for message in &all {
        // Without the ledger: the acknowledgement, as written, which is later.
        if let Some(at) = received.get(&message.whatsapp_id).copied().or(message.sent_at) {
            latencies.add(at.since(message.created_at));
        }
    }
    let what = if ledger.is_some() { "accepted → bridge" } else { "accepted → sent" };
    let (half, most) = (latencies.percentile_ms(50.0), latencies.percentile_ms(99.0));
    report.aimed(format!("{what} at {:.0}/s, p50", sent.rate), half, Unit::Milliseconds, Aim::AtMost(5.0));
    report.row(format!("{what} at {:.0}/s, p99", sent.rate), most, Unit::Milliseconds);
    Ok(())
}

/// Half of the top rate, the whole way: whether sending falls behind.
async fn half(args: &BenchArgs, load: &Load, top: f64, report: &mut Report) -> Result<()> {
    let duration = Duration::from_secs(args.seconds.into());
    let from = Time::now();
    let sent = load.at_rate(args.clients, top / 2.0, duration).await?;
    let until = Time::now();
    tell_refusals(&sent, report);
    let all = load.until_read(from).await?;
    report.row("end to end at half of the top rate: accepted", sent.rate, Unit::PerSecond);
    report.row("end to end at half of the top rate: read", rate_until_read(&all, from), Unit::PerSecond);
    let mut lags = Latencies::default();
    for message in &all {
        lags.add(message.read_at.unwrap_or(until).since(message.created_at));
    }
    report.row("accepted → read at half of the top rate, p50", lags.percentile_ms(50.0), Unit::Milliseconds);
    report.row("accepted → read at half of the top rate, p99", lags.percentile_ms(99.0), Unit::Milliseconds);
    let growth = slope(&backlog(&all, from, until));
    let limit = Aim::AtMost(GROWTH_MAX * sent.rate);
    report.aimed("growth of its backlog meanwhile, messages a second", growth, Unit::Messages, limit);
    Ok(())
}

/// Messages accepted and not yet read, each tenth of a second after the first fifth of a load: (seconds, messages).
fn backlog(all: &[Accepted], from: Time, until: Time) -> Vec<(f64, f64)> {
    const STEP_MS: usize = 100;
    let sorted = |of: fn(&Accepted) -> Option<Time>| {
        let mut times: Vec<_> = all.iter().filter_map(of).collect();
        times.sort_unstable();
        times
    };
    let (created, read) = (sorted(|message| Some(message.created_at)), sorted(|message| message.read_at));
    let start = from.0 + (until.0 - from.0) / 5;
    let before = |times: &[Time], at: i64| times.partition_point(|time| time.0 <= at) as f64;
    let steps = (start..until.0).step_by(STEP_MS);
    steps.map(|at| ((at - from.0) as f64 / 1000.0, before(&created, at) - before(&read, at))).collect()
}

/// Messages a second from `from` until the last of them was read.
fn rate_until_read(all: &[Accepted], from: Time) -> f64 {
    let last = all.iter().filter_map(|message| message.read_at).max().unwrap_or(from);
    all.len() as f64 / last.since(from).as_secs_f64().max(0.001)
}

/// When the simulated WhatsApp received each message first, from `offset` in its ledger on.
fn received_at(ledger: &Path, offset: u64) -> Result<HashMap<String, Time>> {
    #[derive(Deserialize)]
    struct Line {
        whatsapp_id: String,
        at: Time,
    }
    let mut file = std::fs::File::open(ledger).with_context(|| format!("open {}", ledger.display()))?;
    file.seek(SeekFrom::Start(offset))?;
    let mut received = HashMap::new();
    for line in BufReader::new(file).lines() {
        let line: Line = serde_json::from_str(&line?).context("the simulator's ledger")?;
        received.entry(line.whatsapp_id).or_insert(line.at);
    }
    Ok(received)
}

fn tell_refusals(sent: &Sent, report: &mut Report) {
    let refusals = sent.refusals();
    if !refusals.is_empty() {
        report.note(format!("Not accepted (count × status; 0 is a broken connection): {refusals}."));
    }
}

/// Reads messages by id, one after another: p50 in milliseconds.
async fn reads(client: &mut Client, ids: &[String]) -> Result<f64> {
    let mut dice = Dice::new(0);
    let mut latencies = Latencies::default();
    for _ in 0..READS {
        let id = &ids[dice.below(ids.len() as u64) as usize];
        let begin = Instant::now();
        let (status, _) = client.request(Method::GET, &format!("{MESSAGES}/{id}"), Bytes::new()).await?;
        latencies.add(begin.elapsed());
        if status != StatusCode::OK {
            bail!("reading a message was answered {status}");
        }
    }
    Ok(latencies.percentile_ms(50.0))
}

/// Adds old messages to a session and reads them by id: p50 in milliseconds.
async fn reads_among(service: &mut Service, session: &str, first: i64, count: i64) -> Result<f64> {
    eprintln!("Making {count} old messages.");
    let mut client = service.target.connect().await?;
    let data = client.call(Method::GET, &format!("/api/v1/sessions/{session}"), None).await?["data"].take();
    let id: SessionId = serde_json::from_value(data["id"].clone()).context("the session's id")?;
    let user = data["user_id"].as_i64().context("the session's user")?;
    service.stop().await;
    let ids = service.database.seed(user, id, first, count).await?;
    service.restart().await?;
    let ids: Vec<_> = ids.into_iter().map(|id| id.to_string()).collect();
    let mut client = service.target.connect().await?;
    // Once to warm up: the question is the size of the table, not of the cache.
    reads(&mut client, &ids).await?;
    reads(&mut client, &ids).await
}
