//! `sanasr bench --whatsapp`: many WhatsApp sessions in one process, against the WhatsApp server of the tests, which is a
//! process of its own beside this binary.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::client::{Client, Target};
use super::report::{Aim, Report, Unit};
use super::service::{Folder, Process, Service, Urls};

/// How many sessions there are when memory is looked at.
const STEPS: [usize; 4] = [1, 100, 500, 1_000];
/// Sessions that are linked at once.
const AT_ONCE: usize = 8;
/// People who are written to.
const PEOPLE: usize = 50;
/// How long sessions rest before memory is looked at.
const REST: Duration = Duration::from_secs(5);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures, on a service of its own.
///
/// # Errors
/// If something can't be started or doesn't come about; in words.
pub(super) async fn run(urls: Urls, parent: &Path) -> Result<Report> {
    let folder = Folder::new(parent)?;
    let (whatsapp, _server) = start_server(folder.path())?;
    eprintln!("Starting a service.");
    let mut service = Service::start_with(urls, parent, vec![("SANASR_WHATSAPP_URL", whatsapp.clone())]).await?;
    let measured = measure(&mut service, &whatsapp).await;
    service.remove().await;
    measured
}

/// The server's URL and its process, which ends with its standard input.
fn start_server(folder: &Path) -> Result<(String, Process)> {
    let name = "whatsapp-test-server";
    let path = std::env::current_exe()?.with_file_name(name);
    let mut command = Command::new(&path);
    let mut server =
        Process::spawn(name, command.stdin(Stdio::piped()).stdout(Stdio::piped()), folder).with_context(|| {
            format!("{}: build it by `cargo build --release --workspace --all-features`", path.display())
        })?;
    let mut line = String::new();
    BufReader::new(server.stdout().context("its standard output")?).read_line(&mut line)?;
    Ok((line.trim().to_owned(), server))
}

async fn measure(service: &mut Service, whatsapp: &str) -> Result<Report> {
    let mut report = Report::new(&format!("{}, against a WhatsApp of the tests without TLS", service.describe()));
    let control = Target::new(&whatsapp.replace("ws://", "http://").replace("/ws/chat", ""), "none")?;
    sleep(REST).await;
    let empty = resident(service)?;
    let mut linked = 0;
    let mut pairing = Vec::new();
    for step in STEPS {
        let target = &service.target;
        let times: Vec<Duration> = stream::iter(linked..step)
            .map(|n| link(target, &control, n))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        linked = step;
        if step == 1 {
            report.row("from the scan to connected, a lone session", ms(times[0]), Unit::Milliseconds);
        } else {
            pairing.extend(times);
        }
        sleep(REST).await;
        let each = (resident(service)? - empty) * 1_024.0 / f64::from(u32::try_from(step)?);
        let what = format!("memory for each of {step} idle sessions");
        if step == 1 {
            report.row(what, each, Unit::Kilobytes);
        } else {
            report.aimed(what, each, Unit::Kilobytes, Aim::AtMost(205.0));
        }
    }
    pairing.sort();
    report.row(
        format!("from the scan to connected, {AT_ONCE} at once, p50"),
        ms(pairing[pairing.len() / 2]),
        Unit::Milliseconds,
    );

    let client = &mut service.target.connect().await?;
    send(client, 1, PEOPLE, "first").await?; // who is new is looked up first
    let mut waits = lone(client).await?;
    waits.sort_by(f64::total_cmp);
    report.row("accepted → acknowledged by WhatsApp, a lone text, p50", waits[waits.len() / 2], Unit::Milliseconds);
    report.row("the same, p99", waits[waits.len() * 99 / 100], Unit::Milliseconds);
    for (sessions, count) in [(1, 5_000), (100, 10_000)] {
        let rate = send(client, sessions, sessions * PEOPLE, "first").await?;
        if sessions > 1 {
            report.row(format!("first messages, {PEOPLE} each, through {sessions} sessions"), rate, Unit::PerSecond);
        }
        let rate = send(client, sessions, count, "text").await?;
        report.row(format!("texts to {PEOPLE} people through {sessions} sessions"), rate, Unit::PerSecond);
    }

    let begun = Instant::now();
    service.restart().await?;
    let ready = begun.elapsed();
    let client = &mut service.target.connect().await?;
    until("all sessions are connected again", async || Ok(connected(client).await? >= linked)).await?;
    report.row(
        format!("stopped and started again: all {linked} sessions connected"),
        ms(begun.elapsed()),
        Unit::Milliseconds,
    );
    report.note(format!("Of that, {:.0} ms until the new process was ready.", ms(ready)));
    Ok(report)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Megabytes of the process that drives the sessions.
fn resident(service: &Service) -> Result<f64> {
    let process = service.processes.last().context("no process")?;
    Ok(process.memory().context("the process is gone")?.0)
}

/// Makes a session and links a phone to it; how long that took from the scan on.
async fn link(target: &Target, control: &Target, n: usize) -> Result<Duration> {
    let client = &mut target.connect().await?;
    let name = format!("s{n}");
    client.call(Method::POST, "/api/v1/sessions", Some(&json!({ "name": name, "bridge": "whatsapp" }))).await?;
    let path = format!("/api/v1/sessions/{name}");
    let hasty = json!({ "pace": {
        "per_minute": null, "burst": null, "jitter_ms": 0, "first_contacts_per_minute": null, "typing": false, "warm_up": false,
    } });
    client.call(Method::PATCH, &path, Some(&hasty)).await?;
    client.call(Method::POST, &format!("{path}/connect"), None).await?;
    let mut code = None;
    until("a QR code is shown", async || {
        code = client.call(Method::GET, &path, None).await?["data"]["qr_code"].as_str().map(str::to_owned);
        Ok(code.is_some())
    })
    .await?;
    let begun = Instant::now();
    let scan = json!({ "qr": code, "phone_number": format!("1555{n:07}") });
    control.connect().await?.call(Method::POST, "/control/scan", Some(&scan)).await?;
    until("the session is connected", async || {
        Ok(client.call(Method::GET, &path, None).await?["data"]["status"] == "connected")
    })
    .await?;
    Ok(begun.elapsed())
}

/// Lone texts to somebody known: milliseconds from acceptance to WhatsApp's acknowledgement, each.
async fn lone(client: &mut Client) -> Result<Vec<f64>> {
    let mut waits = Vec::new();
    for n in 0..100 {
        let text = json!({ "session": "s0", "to": person(n % PEOPLE), "type": "text", "text": format!("lone {n}") });
        let accepted = client.call(Method::POST, "/api/v1/messages", Some(&text)).await?;
        let id = accepted["data"]["id"].as_str().context("an id")?.to_owned();
        let begun = Instant::now();
        let sent = loop {
            let message = client.call(Method::GET, &format!("/api/v1/messages/{id}"), None).await?;
            if !message["data"]["sent_at"].is_null() {
                break message;
            }
            if begun.elapsed() > PATIENCE {
                bail!("not sent: {message}");
            }
            sleep(Duration::from_millis(2)).await;
        };
        let time = |field: &str| {
            let text = sent["data"][field].as_str().context("a time")?;
            sanasr_shared::time::Time::parse(text).context("a time")
        };
        #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
        waits.push((time("sent_at")?.0 - time("created_at")?.0) as f64);
    }
    Ok(waits)
}

/// Texts through so many sessions; how many a second from the first to the last acknowledgement.
async fn send(client: &mut Client, sessions: usize, count: usize, word: &str) -> Result<f64> {
    let before = sent(client).await?;
    let begun = Instant::now();
    for batch in (0..count).collect::<Vec<_>>().chunks(1_000) {
        let items: Vec<Value> = batch
            .iter()
            .map(|n| {
                let session = format!("s{}", n % sessions);
                json!({ "session": session, "to": person(n / sessions % PEOPLE), "type": "text", "text": format!("{word} {n}") })
            })
            .collect();
        client.call(Method::POST, "/api/v1/messages/batch", Some(&json!({ "messages": items }))).await?;
    }
    let goal = before + count;
    until("all are sent", async || Ok(sent(client).await? >= goal)).await?;
    Ok(f64::from(u32::try_from(count)?) / begun.elapsed().as_secs_f64())
}

/// Messages of today that WhatsApp has.
async fn sent(client: &mut Client) -> Result<usize> {
    let usage = client.call(Method::GET, "/api/v1/usage", None).await?;
    Ok(usize::try_from(usage["data"]["days"][0]["messages_sent"].as_u64().unwrap_or(0))?)
}

/// Sessions of WhatsApp that are connected.
async fn connected(client: &mut Client) -> Result<usize> {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let page = client.call(Method::GET, &format!("/api/v1/sessions?limit=200{cursor}"), None).await?;
        let sessions = page["data"].as_array().context("a list")?;
        count += sessions.iter().filter(|s| s["bridge"] == "whatsapp" && s["status"] == "connected").count();
        match page["pagination"]["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(count),
        }
    }
}

fn person(n: usize) -> String {
    format!("+1555{:07}", 9_000_000 + n)
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !look().await? {
        if begun.elapsed() > PATIENCE {
            bail!("not within {} s: {what}", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
