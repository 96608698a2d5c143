//! The harness's own promises: a test that fails must have found a fault of the system, not of these.

use std::time::Duration;

use sqlx::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::folder::Folder;
use super::ledger::Ledger;
use super::process::Launch;
use super::proxy::Proxy;
use super::services::{Kind, Service};
use super::system::find_key;
use super::wait::seconds;

/// Long enough for bytes on loopback, short enough to wait for their absence.
const SHORT: Duration = Duration::from_millis(100);

/// A server that says back what it hears.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("tcp://user:secret@{}/name", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    url
}

async fn connect(url: &str) -> TcpStream {
    let address = url.trim_start_matches("tcp://user:secret@").trim_end_matches("/name");
    TcpStream::connect(address).await.expect("a connection")
}

async fn hears(stream: &mut TcpStream) -> Option<u8> {
    match timeout(SHORT * 10, stream.read_u8()).await {
        Ok(Ok(byte)) => Some(byte),
        _ => None,
    }
}

#[tokio::test]
async fn a_proxy_passes_holds_cuts_and_refuses() {
    let server = echo().await;
    let proxy = Proxy::to(&server).await;
    let url = proxy.url(&server);
    let mut client = connect(&url).await;
    client.write_u8(1).await.expect("a write");
    assert_eq!(hears(&mut client).await, Some(1));

    proxy.freeze();
    client.write_u8(2).await.expect("a write");
    assert!(timeout(SHORT, client.read_u8()).await.is_err(), "held back");
    proxy.restore().await;
    assert_eq!(hears(&mut client).await, Some(2), "what was held back comes");

    proxy.hold_answers();
    client.write_u8(3).await.expect("a write");
    assert!(timeout(SHORT, client.read_u8()).await.is_err(), "the answer is held back");
    proxy.cut();
    assert_eq!(hears(&mut client).await, None, "cut");

    proxy.refuse().await;
    let address = url.trim_start_matches("tcp://user:secret@").trim_end_matches("/name").to_owned();
    assert!(TcpStream::connect(&address).await.is_err(), "refused");
    proxy.restore().await;
    let mut client = connect(&url).await;
    client.write_u8(4).await.expect("a write");
    assert_eq!(hears(&mut client).await, Some(4), "as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn private_services_come_back_with_what_they_kept() {
    let service = Service::start(Kind::Postgres).await;
    let mut connection = sqlx_postgres::PgConnection::connect(service.url()).await.expect("a connection");
    sqlx::query("CREATE TABLE kept AS SELECT 1 AS n").execute(&mut connection).await.expect("a table");
    service.kill().await;
    assert!(sqlx::query("SELECT 1").execute(&mut connection).await.is_err(), "killed");
    service.start_again().await;
    let mut connection = sqlx_postgres::PgConnection::connect(service.url()).await.expect("a connection again");
    sqlx::query("SELECT n FROM kept").execute(&mut connection).await.expect("what was committed");

    service.freeze().await;
    assert!(timeout(SHORT * 3, sqlx::query("SELECT 1").execute(&mut connection)).await.is_err(), "frozen");
    service.wake().await;
    drop(connection);
    let connection = sqlx_postgres::PgConnection::connect(service.url()).await.expect("a connection after the freeze");
    drop(connection);

    service.stop().await;
    service.wipe();
    service.start_again().await;
    let mut connection =
        sqlx_postgres::PgConnection::connect(service.url()).await.expect("a connection to the new one");
    assert!(sqlx::query("SELECT n FROM kept").execute(&mut connection).await.is_err(), "wiped");
}

#[tokio::test]
async fn a_process_is_heard_signalled_and_ended() {
    let folder = Folder::new("process");
    let script =
        "trap 'echo caught; exit 7' TERM; echo listening on http://127.0.0.1:80 now >&2; while :; do sleep 0.02; done";
    let mut process = Launch::program("shell", "sh", folder.path()).args(&["-c", script]).spawn();
    assert_eq!(process.address().await, "http://127.0.0.1:80");
    process.freeze();
    assert_eq!(process.poll(), None);
    process.wake();
    assert_eq!(process.stop().await, Some(7));
    assert_eq!(process.stdout(), "caught\n");
    let done = Launch::program("cat", "cat", folder.path()).stdin("given").run(seconds(5)).await;
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (Some(0), "given\n", ""));
}

#[test]
fn a_ledger_is_read_up_to_its_last_whole_line() {
    let folder = Folder::new("ledger");
    let ledger = Ledger::new(folder.join("ledger.jsonl"));
    assert!(ledger.read().0.is_empty());
    let line = |id: &str, to: &str, text: &str| {
        format!(
            r#"{{"whatsapp_id":"{id}","session_id":"s","to":"{to}","type":"text","text":"{text}","at":"2026-01-01T00:00:00.000Z"}}"#
        )
    };
    let text = format!(
        "{}\n{}\n{}\n{}\n{{\"whats",
        line("A", "+1", "a"),
        line("B", "+1", "b"),
        line("A", "+1", "a"),
        line("C", "+2", "c")
    );
    std::fs::write(ledger.path(), text).expect("a ledger");
    let seen = ledger.read();
    assert_eq!(seen.0.len(), 4);
    assert_eq!(seen.shown().len(), 3);
    assert_eq!(seen.texts()[&("s", "+1")], ["a", "b"]);
    assert_eq!(seen.repeated().into_iter().collect::<Vec<_>>(), ["A"]);
    assert_eq!((seen.of("A").len(), seen.to("+2").len()), (2, 1));
}

#[test]
fn a_key_is_found_in_what_people_read() {
    let key = "sanasr_abc123_0123456789abcdefghijABCDEFGHIJ-_0123456789a";
    assert_eq!(find_key(&format!("user admin (sanasr_x)\nkey: {key}, keep it\n")).as_deref(), Some(key));
    assert_eq!(find_key("sanasr_requests_total 5"), None);
}
