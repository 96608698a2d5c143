//! What may have been sent: no unit comes back, no second message is shown, it can't be cancelled, and a late receipt counts.

use std::time::Duration;

use sanasr_shared::message::Status;
use sanasr_shared::time::Time;
use serde_json::{Value, json};

use super::{special, wait_seen};
use crate::harness::wait::seconds;
use crate::harness::{Client, Message, Mode, System, both_modes, eventually};

both_modes!(what_may_have_been_sent_stays_spent);

/// Messages that are read after their expiry; enough that one at least is seen to have failed before.
const LATE: usize = 6;

async fn what_may_have_been_sent_stays_spent(mode: Mode) {
    let system = System::with(mode).env("SANASR_SEND_TIMEOUT", "2s").user("doubt", 1_000).start().await;
    let client = &system.client_of("doubt", 0);
    for name in ["dropped", "cut", "silent", "late"] {
        client.new_session(name).await;
    }
    let (_, cut_failed, ..) = tokio::join!(
        dropped(&system, client),
        cut_short(&system, client),
        silent(&system, client),
        late(&system, client),
    );
    let sent = i64::try_from(3 + LATE).expect("a small number");
    assert_eq!(client.quota().await.used, sent, "no unit came back");
    let usage: Value = client.get("/usage").await.expect(200).data();
    let days = usage["days"].as_array().expect("days");
    let failed: i64 = days.iter().filter_map(|day| day["messages_failed"].as_i64()).sum();
    assert_eq!(failed, 1 + i64::from(cut_failed), "failures that no receipt has lifted");
    let seen = system.ledger.read();
    assert_eq!(seen.shown().len(), 3 + LATE, "no second message");
}

async fn send_expiring(client: &Client, session: &str, to: &str, life: Duration) -> Message {
    let expires_at = Time::now().plus(life).to_string();
    let body = json!({ "session": session, "to": to, "type": "text", "text": "x", "expires_at": expires_at });
    client.send(&body).await.expect(202).data()
}

async fn cannot_be_cancelled(client: &Client, message: &Message) {
    assert_eq!(client.cancel(message.id).await.expect(409).code(), "conflict");
}

fn error_code(message: &Message) -> &str {
    message.error.as_ref().map_or("", |e| e.code.as_str())
}

/// Taken, the connection lost, sent again.
async fn dropped(system: &System, client: &Client) {
    let message = send_expiring(client, "dropped", &special("0004", 0), seconds(30)).await;
    wait_seen(system, std::slice::from_ref(&message), seconds(20)).await;
    cannot_be_cancelled(client, &message).await;
    client.wait_status(message.id, Status::Read, seconds(30)).await;
    cannot_be_cancelled(client, &message).await;
    assert_eq!(system.ledger.read().of(&message.whatsapp_id).len(), 2, "twice under one id");
}

/// Taken, the connection lost, and the session paused before it could be sent again. Whether it has ended as failed: the
/// pause may have come too late.
async fn cut_short(system: &System, client: &Client) -> bool {
    let message = send_expiring(client, "cut", &special("0004", 1), seconds(6)).await;
    wait_seen(system, std::slice::from_ref(&message), seconds(20)).await;
    client.pause("cut").await;
    cannot_be_cancelled(client, &message).await;
    let ended = eventually(seconds(30), "it has ended", async || {
        let message = client.message(message.id).await;
        [Status::Read, Status::Failed].contains(&message.status).then_some(message)
    })
    .await;
    let arrived = system.ledger.read().of(&message.whatsapp_id).len();
    if ended.status == Status::Failed {
        assert_eq!((error_code(&ended), arrived), ("unknown_outcome", 1));
        assert!(Time::now() >= ended.expires_at, "not before its expiry");
    } else {
        assert_eq!(arrived, 2);
    }
    cannot_be_cancelled(client, &message).await;
    ended.status == Status::Failed
}

/// Taken and never acknowledged, again and again.
async fn silent(system: &System, client: &Client) {
    let message = send_expiring(client, "silent", &special("0008", 0), seconds(12)).await;
    wait_seen(system, std::slice::from_ref(&message), seconds(20)).await;
    cannot_be_cancelled(client, &message).await;
    let ended = client.wait_status(message.id, Status::Failed, seconds(40)).await;
    assert_eq!(error_code(&ended), "unknown_outcome");
    assert!(Time::now() >= ended.expires_at, "not before its expiry");
    cannot_be_cancelled(client, &message).await;
    assert!(system.ledger.read().of(&message.whatsapp_id).len() >= 2, "it was sent again under the same id");
}

/// Taken, never acknowledged, and read after its expiry all the same.
async fn late(system: &System, client: &Client) {
    let mut messages = Vec::new();
    for n in 0..LATE {
        // Apart from each other, so that the sweep for what expired meets one at least before its receipt comes.
        let life = Duration::from_millis(8_000 + 350 * u64::try_from(n).expect("a small number"));
        messages.push(send_expiring(client, "late", &special("0010", n), life).await);
    }
    wait_seen(system, &messages, seconds(20)).await;
    cannot_be_cancelled(client, &messages[0]).await;
    let follow = messages.iter().map(|message| async move {
        let path = format!("/messages/{}?wait=30&known=sending", message.id);
        let next: Message = client.get(&path).await.expect(200).data();
        let failed = next.status == Status::Failed;
        assert!(!failed || error_code(&next) == "unknown_outcome", "{next:?}");
        cannot_be_cancelled(client, message).await;
        let read = client.wait_status(message.id, Status::Read, seconds(30)).await;
        assert!(read.read_at.is_some_and(|at| at >= read.expires_at), "read after its expiry: {read:?}");
        assert_eq!(read.error, None, "the receipt has disproved the failure");
        cannot_be_cancelled(client, message).await;
        failed
    });
    let failed = futures_util::future::join_all(follow).await.into_iter().filter(|failed| *failed).count();
    println!("{failed} of {LATE} were seen as failed before their receipt");
    assert!(failed > 0, "none was seen as failed before its receipt came");
}
