//! What is kept of a linked phone: nothing readable, nothing that outlives it, nothing that another secret destroys.

use std::path::Path;

use sanasr_shared::message::Status;
use sanasr_shared::session::SessionStatus;
use serde_json::json;
use sqlx::Row;

use crate::harness::wait::seconds;
use crate::harness::whatsapp::start;
use crate::harness::{Mode, System, both_modes, eventually};

both_modes!(
    nothing_is_readable_at_rest,
    another_secret_opens_nothing_and_destroys_nothing,
    damaged_state_is_said_and_hurts_nobody_else,
);

const JANE: &str = "15551230501";
const SECRET_TEXT: &str = "the-word-that-nobody-may-find";

/// All that the database has kept for devices, as bytes.
async fn device_rows(system: &System) -> Vec<(i64, Vec<u8>)> {
    let text = "SELECT kind, value FROM whatsapp_state";
    match system.mode {
        Mode::Distributed => {
            let rows = sqlx::query(text).fetch_all(&system.database().await).await.expect("the rows");
            rows.iter().map(|row| (i64::from(row.get::<i16, _>("kind")), row.get("value"))).collect()
        }
        Mode::Embedded => {
            let file = system.data_dir().join("sanasr.db");
            let options = sqlx_sqlite::SqliteConnectOptions::new().filename(file).read_only(true);
            let pool = sqlx_sqlite::SqlitePoolOptions::new().connect_with(options).await.expect("the database");
            let rows = sqlx::query(text).fetch_all(&pool).await.expect("the rows");
            rows.iter().map(|row| (row.get("kind"), row.get("value"))).collect()
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

async fn nothing_is_readable_at_rest(mode: Mode) {
    let (system, server) = start(mode).await;
    let client = system.client();
    server.contact(JANE);
    client.link(&server, "shop", "15550005001").await;
    let message = client.send_any("shop", &format!("+{JANE}"), json!({ "type": "text", "text": SECRET_TEXT })).await;
    client.wait_status(message.id, Status::Read, seconds(20)).await;
    let rows = device_rows(&system).await;
    let kinds: std::collections::BTreeSet<i64> = rows.iter().map(|(kind, _)| *kind).collect();
    for (kind, what) in
        [(0, "the device"), (2, "ratchets"), (3, "one-time keys"), (17, "what was sent"), (20, "people")]
    {
        assert!(kinds.contains(&kind), "{what} are kept: {kinds:?}");
    }
    for (kind, value) in &rows {
        // What JSON and protobuf would show, were they not sealed.
        for word in [SECRET_TEXT.as_bytes(), b"noise_key", b"identity_key", b"15550005001", b"sanasr"] {
            assert!(!contains(value, word), "kind {kind} shows {:?}", String::from_utf8_lossy(word));
        }
        assert_eq!(value[0], 1, "sealed, in the first form");
    }
    let distinct: std::collections::HashSet<_> = rows.iter().map(|(_, value)| &value[5..29]).collect();
    assert_eq!(distinct.len(), rows.len(), "a nonce of its own for each");

    client.post("/sessions/shop/unlink", &json!({})).await.expect(202);
    eventually(seconds(20), "unlinking wipes all of it", async || device_rows(&system).await.is_empty().then_some(()))
        .await;
}

async fn another_secret_opens_nothing_and_destroys_nothing(mode: Mode) {
    let (mut system, server) = start(mode).await;
    let client = system.client();
    server.contact(JANE);
    client.link(&server, "shop", "15550005101").await;
    let secret_file = system.data_dir().join("secret-key");
    let right = if mode == Mode::Embedded { Some(read(&secret_file)) } else { None };
    system.stop_drivers().await;
    let before = device_rows(&system).await;
    let wrong = [("SANASR_SECRET_KEY", "another secret of sufficient length, but wrong")];
    system.add_driver(&wrong).await;
    let client = system.client();
    let session = client.wait_reason("shop", SessionStatus::Disconnected, "wrong_secret_key").await;
    assert!(session["advice"].as_str().is_some_and(|advice| advice.contains("SANASR_SECRET_KEY")), "{session}");
    system.stop_drivers().await;
    assert_eq!(device_rows(&system).await, before, "nothing was changed");
    if let Some(right) = right {
        assert_eq!(read(&secret_file), right);
    }
    system.add_driver(&[]).await;
    let client = system.client();
    client.connect("shop").await;
    let message = client.send_any("shop", &format!("+{JANE}"), json!({ "type": "text", "text": "hello" })).await;
    client.wait_status(message.id, Status::Read, seconds(20)).await;
}

/// Changes the database while nobody uses it.
async fn alter(system: &System, statement: String) {
    let statement = &statement;
    match system.mode {
        Mode::Distributed => drop(sqlx::query(statement).execute(&system.database().await).await.expect("a change")),
        Mode::Embedded => {
            let options = sqlx_sqlite::SqliteConnectOptions::new().filename(system.data_dir().join("sanasr.db"));
            let pool = sqlx_sqlite::SqlitePoolOptions::new().connect_with(options).await.expect("the database");
            sqlx::query(statement).execute(&pool).await.expect("a change");
            pool.close().await;
        }
    }
}

async fn damaged_state_is_said_and_hurts_nobody_else(mode: Mode) {
    let (mut system, server) = start(mode).await;
    let client = system.client();
    server.contact(JANE);
    let hello = json!({ "type": "text", "text": "hello" });
    for (n, name) in ["device", "ratchets", "whole"].into_iter().enumerate() {
        client.link(&server, name, &format!("1555000520{n}")).await;
        let message = client.send_any(name, &format!("+{JANE}"), hello.clone()).await;
        client.wait_status(message.id, Status::Read, seconds(20)).await;
    }
    system.stop_drivers().await;
    let of = "session_id = (SELECT id FROM sessions WHERE name = ";
    let cut = "UPDATE whatsapp_state SET value = substr(value, 1, 40) WHERE";
    alter(&system, format!("{cut} kind = 0 AND {of}'device')")).await;
    alter(&system, format!("{cut} kind <> 0 AND {of}'ratchets')")).await;
    system.add_driver(&[]).await;
    let client = system.client();
    client.wait_reason("device", SessionStatus::Disconnected, "state_damaged").await;
    client.wait_session("whole", SessionStatus::Connected, seconds(30)).await;
    let lost = client.send_any("ratchets", &format!("+{JANE}"), hello.clone()).await;
    let sent = client.send_any("whole", &format!("+{JANE}"), hello).await;
    client.wait_status(sent.id, Status::Read, seconds(30)).await;
    let lost = client.message(lost.id).await;
    assert!(lost.status < Status::Sent, "nothing is made up: {lost:?}");
    // Linked anew, all is well.
    for name in ["device", "ratchets"] {
        client.post(&format!("/sessions/{name}/unlink"), &json!({})).await.expect(202);
        client.wait_session(name, SessionStatus::LoggedOut, seconds(20)).await;
        let code = client.qr_code(name).await;
        server.scan(&code, "15550005210").await.expect("the phone takes the code");
        client.wait_session(name, SessionStatus::Connected, seconds(20)).await;
    }
    client.wait_status(lost.id, Status::Read, seconds(60)).await;
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
