//! The README's promise: one command, nothing to install, and a first message in a minute. And what is said when the
//! start can't succeed.

use std::path::Path;
use std::time::Instant;

use reqwest::Method;
use sanasr_shared::message::Status;
use serde_json::Value;

use crate::harness::folder::Folder;
use crate::harness::ledger::Ledger;
use crate::harness::process::{Launch, Process};
use crate::harness::system::find_key;
use crate::harness::wait::seconds;
use crate::harness::{Client, eventually};

/// What a newcomer types, on a port that is free.
fn newcomer(folder: &Path) -> Launch {
    Launch::sanasr("sanasr", &[], folder).env("SANASR_LISTEN", "127.0.0.1:0")
}

/// Pastes a printed line into a shell. Gives the HTTP status and the body.
async fn paste(line: &str, folder: &Path) -> (String, Value) {
    // Read by every curl: the status comes after the body.
    std::fs::write(folder.join(".curlrc"), "write-out = \"\\n%{http_code}\"\nno-progress-meter\n").expect("a .curlrc");
    let home = folder.to_str().expect("a path in UTF-8");
    let done = Launch::program("a pasted line", "sh", folder).args(&["-c", line]).env("CURL_HOME", home);
    let done = done.run(seconds(30)).await;
    assert_eq!(done.code, Some(0), "{line}\n{}", done.stderr);
    let (body, status) = done.stdout.trim_end().rsplit_once('\n').unwrap_or(("", done.stdout.trim_end()));
    let body = serde_json::from_str(body).unwrap_or_else(|e| panic!("{line}\n{e} in {body:?}"));
    (status.to_owned(), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_first_start_prints_works_when_pasted() {
    let folder = Folder::new("first");
    let mut process = newcomer(folder.path()).spawn();
    process.address().await;
    let printed = process.stdout();
    assert!(printed.contains("admin"), "the admin's name: {printed}");
    assert!(printed.to_lowercase().contains("password"), "the admin's password: {printed}");
    assert!(find_key(&printed).is_some(), "a key: {printed}");
    let lines: Vec<_> = printed.lines().map(str::trim).filter(|line| line.starts_with("curl ")).collect();
    let [send, poll] = lines.as_slice() else { panic!("two curl lines: {printed}") };

    let (status, body) = paste(send, folder.path()).await;
    assert_eq!((status.as_str(), &body["success"]), ("202", &Value::Bool(true)), "{body}");
    let id = body["data"]["id"].as_str().expect("the message's id").to_owned();
    eventually(seconds(10), "the pasted line shows the message as read", async || {
        let (status, body) = paste(poll, folder.path()).await;
        assert_eq!(status, "200", "{body}");
        let message = if body["data"].is_array() { &body["data"][0] } else { &body["data"] };
        (message["id"] == id && message["status"] == "read").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_start_keeps_everything() {
    let folder = Folder::new("second");
    let mut process = newcomer(folder.path()).spawn();
    let address = process.address().await;
    let key = find_key(&process.stdout()).expect("a key");
    let client = Client::new(&address, &key);
    let message = client.text("default", "+15553001001", "kept").await;
    let before = client.wait_status(message.id, Status::Read, seconds(20)).await;
    let session = client.session("default").await;
    process.interrupt();
    assert_eq!(process.exited(seconds(5)).await.code(), Some(0), "the exit code after Ctrl-C");

    let mut process = newcomer(folder.path()).spawn();
    let client = Client::new(&process.address().await, &key);
    assert_eq!(find_key(&process.stdout()), None, "a second start makes no second key");
    let after = client.message(message.id).await;
    assert_eq!((after.status, after.read_at, after.whatsapp_id), (Status::Read, before.read_at, before.whatsapp_id));
    assert_eq!(client.session("default").await.id, session.id);
    assert_eq!(client.quota().await.used, 1);
    // Still paired: it connects by itself and sends.
    let second = client.text("default", "+15553001001", "and more").await;
    client.wait_status(second.id, Status::Read, seconds(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_stops_within_five_seconds_and_loses_nothing() {
    let folder = Folder::new("interrupted");
    let ledger = Ledger::new(folder.join("ledger.jsonl"));
    let start =
        || newcomer(folder.path()).env("SANASR_SIMULATOR_LEDGER", ledger.path().to_str().expect("UTF-8")).spawn();
    let mut process = start();
    let address = process.address().await;
    let key = find_key(&process.stdout()).expect("a key");
    let client = Client::new(&address, &key);
    client.connect("default").await;
    // Two seconds each until acknowledged: some are on their way when Ctrl-C comes, the others wait behind them.
    for n in 0..30 {
        client.text("default", &format!("+15553{:02}0003", n % 10), &format!("{n}")).await;
    }
    eventually(seconds(10), "a send is under way", async || (!ledger.read().0.is_empty()).then_some(())).await;
    // A long poll must not hold the stop up.
    let id = client.list("").await[0].id;
    let poll = tokio::spawn({
        let client = client.clone();
        async move { client.raw(Method::GET, &format!("/messages/{id}?wait=60"), &[], Vec::new()).await.map(|r| r.status) }
    });

    let pressed = Instant::now();
    process.interrupt();
    let status = process.exited(seconds(5)).await;
    assert_eq!(status.code(), Some(0), "the exit code after Ctrl-C, {:?} later", pressed.elapsed());
    let answered = poll.await.expect("no panic");
    assert!(answered.is_err() || answered.is_ok_and(|status| status == 200), "a long poll ends with an answer or none");

    let mut process = start();
    let client = Client::new(&process.address().await, &key);
    client.wait_count("", Status::Read, 30, seconds(40)).await;
    let seen = ledger.read();
    assert_eq!(seen.shown().len(), 30);
    for ((_, to), texts) in seen.texts() {
        let numbers: Vec<u32> = texts.iter().map(|t| t.parse().expect("a number")).collect();
        assert!(numbers.is_sorted(), "in order to {to}: {numbers:?}");
    }
}

/// Starts what can't succeed: exit code 2, nothing on standard output, and one line on standard error that names the cause.
async fn refused(launch: Launch, named: &str) {
    let done = launch.run(seconds(10)).await;
    let said: Vec<_> = done.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{named}: {}", done.stderr);
    assert_eq!(said.len(), 1, "{named}: one clear line, not {said:#?}");
    assert!(said[0].contains(named), "the line names {named}: {}", said[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_setting_is_said_in_one_line() {
    let folder = Folder::new("bad-setting");
    for (name, value) in [
        ("SANASR_LISTEN", "nowhere"),
        ("SANASR_LEASE", "banana"),
        ("SANASR_LEASE", "10ms"),
        ("SANASR_BACKLOG_LIMIT", "0"),
        ("SANASR_BACKLOG_USER_PERCENT", "101"),
        ("SANASR_DEFAULT_BRIDGE", "pigeon"),
        ("SANASR_LOG_FORMAT", "runes"),
        ("SANASR_LOG", "info,=,="),
        ("SANASR_SIMULATOR_SCAN_AFTER", "2"),
        ("SANASR_SECRET_KEY", "short"),
        ("SANASR_SECRET_KEY", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        ("SANASR_SECRET_KEY", "changemechangemechangemechangeme"),
        ("SANASR_METRICS_ALLOW", "everybody"),
        ("SANASR_LOGIN_LIFE", "0s"),
        ("SANASR_ADMIN_PASSWORD", "password123"),
        ("SANASR_ADMIN_USERNAME", "two words"),
        ("SANASR_SIMULATOR_LEDGER", "/proc/no/such/folder"),
        ("DATABASE_URL", "mysql://localhost/sanasr"),
    ] {
        refused(newcomer(folder.path()).env(name, value), name).await;
    }
    let with_database = newcomer(folder.path()).env("DATABASE_URL", "postgres://127.0.0.1:1/none");
    refused(with_database, "SANASR_SECRET_KEY").await;
    for role in ["api", "worker"] {
        refused(Launch::sanasr(role, &[role], folder.path()), "DATABASE_URL").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_said_in_one_line() {
    let folder = Folder::new("taken-port");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    refused(newcomer(folder.path()).env("SANASR_LISTEN", &address), &address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unusable_data_dir_is_said_in_one_line() {
    let folder = Folder::new("data-dir");
    // Not writable for anybody: root isn't stopped by a mode.
    let file = folder.join("file");
    std::fs::write(&file, "in the way").expect("a file");
    for dir in [file.clone(), file.join("below"), "/proc/sanasr".into()] {
        let dir = dir.to_str().expect("UTF-8").to_owned();
        refused(newcomer(folder.path()).env("SANASR_DATA_DIR", &dir), &dir).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_dir_has_one_process_at_a_time() {
    let folder = Folder::new("locked");
    let mut first: Process = newcomer(folder.path()).spawn();
    let client = Client::new(&first.address().await, &find_key(&first.stdout()).expect("a key"));
    refused(newcomer(folder.path()), "data").await;
    let message = client.text("default", "+15553001001", "still here").await;
    client.wait_status(message.id, Status::Read, seconds(20)).await;
    // Killed, it leaves nothing that would stop the next one.
    first.kill().await;
    let mut second = newcomer(folder.path()).spawn();
    second.address().await;
}
