//! What WhatsApp does to an account: logged out, replaced, banned, cut off. The queue is kept, the user told.

use std::time::Duration;

use sanasr_shared::message::{BlockedBy, Status};
use sanasr_shared::session::SessionStatus;
use serde_json::{Value, json};
use whatsapp_test_server::Garbage;

use crate::harness::wait::seconds;
use crate::harness::whatsapp::{start, start_with};
use crate::harness::{Client, Message, Mode, System, both_modes, eventually};

both_modes!(
    what_whatsapp_does_is_told_and_the_queue_kept,
    a_session_comes_back_without_a_code,
    garbage_from_the_server_is_got_over,
);

const JANE: &str = "15551230401";

async fn send(client: &Client, session: &str) -> Message {
    client.send_any(session, &format!("+{JANE}"), json!({ "type": "text", "text": "hello" })).await
}

async fn what_whatsapp_does_is_told_and_the_queue_kept(mode: Mode) {
    let (system, server) = start(mode).await;
    let client = system.client();
    server.contact(JANE);

    let replaced = client.link(&server, "replaced", "15550004001").await;
    replaced.replace();
    let session = client.wait_reason("replaced", SessionStatus::Disconnected, "replaced").await;
    assert!(session["advice"].is_string());
    let waiting = send(&client, "replaced").await;
    eventually(seconds(10), "it says what it waits for", async || {
        (client.message(waiting.id).await.blocked_by == Some(BlockedBy::SessionNotConnected)).then_some(())
    })
    .await;
    let logins = replaced.logins();
    client.connect("replaced").await;
    client.wait_status(waiting.id, Status::Read, seconds(20)).await;
    assert_eq!(replaced.logins(), logins + 1, "nobody fought for the place meanwhile");

    let gone = client.link(&server, "gone", "15550004002").await;
    gone.log_out();
    client.wait_reason("gone", SessionStatus::LoggedOut, "logged_out_on_phone").await;
    let waiting = send(&client, "gone").await;
    let code = client.qr_code("gone").await;
    server.scan(&code, "15550004003").await.expect("the phone takes the code");
    client.wait_status(waiting.id, Status::Read, seconds(30)).await;

    let banned = client.link(&server, "banned", "15550004004").await;
    banned.ban(Duration::from_secs(3600));
    let session = client.wait_reason("banned", SessionStatus::Banned, "banned").await;
    assert!(session["blocked_until"].is_string(), "when it ends is told: {session}");
    let waiting = send(&client, "banned").await;
    banned.unban();
    // Its user may try before the end.
    client.connect("banned").await;
    client.wait_status(waiting.id, Status::Read, seconds(20)).await;
    let session: Value = client.get("/sessions/banned").await.expect(200).data();
    assert_eq!((&session["blocked_reason"], &session["blocked_until"]), (&Value::Null, &Value::Null));
    banned.ban(Duration::from_secs(3));
    client.wait_reason("banned", SessionStatus::Banned, "banned").await;
    banned.unban();
    // After the end it goes on by itself.
    client.wait_session("banned", SessionStatus::Connected, seconds(20)).await;
}

async fn a_session_comes_back_without_a_code(mode: Mode) {
    let (mut system, server) = start(mode).await;
    let client = system.client();
    let jane = server.contact(JANE);
    let account = client.link(&server, "shop", "15550004101").await;
    for _ in 0..3 {
        let logins = account.logins();
        account.drop_socket();
        let message = send(&client, "shop").await;
        client.wait_status(message.id, Status::Read, seconds(30)).await;
        assert!(account.logins() > logins);
    }
    // A new process has all that the last one knew.
    system.stop_drivers().await;
    account.wait_disconnected().await;
    system.add_driver(&[]).await;
    let client = system.client();
    client.wait_session("shop", SessionStatus::Connected, seconds(40)).await;
    let message = send(&client, "shop").await;
    client.wait_status(message.id, Status::Read, seconds(30)).await;
    assert_eq!(jane.decrypt_errors(), Vec::<String>::new());
    assert_eq!(jane.reused_counters(), 0);
    assert_eq!(jane.messages().len(), 4);
}

/// A broken frame leaves a connection that looks alive and isn't: a message that nobody acknowledges makes for a new one.
async fn garbage_from_the_server_is_got_over(mode: Mode) {
    let (system, server) = start_with(System::with(mode).env("SANASR_SEND_TIMEOUT", "2s")).await;
    let client = system.client();
    let jane = server.contact(JANE);
    let all = [Garbage::Bytes, Garbage::Oversize, Garbage::Truncated, Garbage::Stanza];
    for (n, garbage) in all.into_iter().enumerate() {
        let name = format!("shop{n}");
        client.link(&server, &name, &format!("1555000420{n}")).await;
        server.corrupt_next_frames(garbage);
        let message = send(&client, &name).await;
        client.wait_status(message.id, Status::Read, seconds(60)).await;
        client.wait_session(&name, SessionStatus::Connected, seconds(20)).await;
        client.post(&format!("/sessions/{name}/disconnect"), &json!({})).await.expect(202);
    }
    for (n, garbage) in all.into_iter().enumerate() {
        server.corrupt_next_connection(garbage);
        let name = format!("shop{n}");
        client.post(&format!("/sessions/{name}/connect"), &json!({})).await.expect(202);
        client.wait_session(&name, SessionStatus::Connected, seconds(60)).await;
        client.post(&format!("/sessions/{name}/disconnect"), &json!({})).await.expect(202);
    }
    assert_eq!(jane.messages().len(), all.len());
    assert!(jane.decrypt_errors().is_empty());
}
