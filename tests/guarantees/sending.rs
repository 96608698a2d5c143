//! Sent once, in order, and followed to `read`; and the simulator's table of recipients, row by row.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use sanasr_shared::message::{BlockedBy, Status};
use sanasr_shared::session::SessionStatus;
use sanasr_shared::time::Time;
use serde_json::json;

use crate::harness::wait::seconds;
use crate::harness::{Client, Message, Mode, System, both_modes, eventually};

both_modes!(a_thousand_messages_arrive_once_and_in_order, each_special_recipient_does_what_its_row_says);

/// Numbers whose endings mean nothing to the simulator.
fn ordinary(n: usize) -> String {
    format!("+1555300{:04}", 1000 + n)
}

async fn a_thousand_messages_arrive_once_and_in_order(mode: Mode) {
    const SESSIONS: [&str; 4] = ["default", "orders", "codes", "reminders"];
    let system = System::with(mode).apis(2).workers(2).start().await;
    let client = system.client();
    for name in &SESSIONS[1..] {
        client.new_session(name).await;
    }

    // 800 by one app in batches, over sessions and recipients: the order in which it was answered is the order.
    let mut sent: Vec<Message> = Vec::new();
    for batch in 0..8_usize {
        let items: Vec<_> = (batch * 100..batch * 100 + 100)
            .map(|n| {
                json!({ "session": SESSIONS[n % 4], "to": ordinary(n / 4 % 30), "type": "text", "text": n.to_string() })
            })
            .collect();
        let answers = system.client_at(batch).batch(None, &items).await;
        sent.extend(answers.into_iter().map(|item| item.unwrap_or_else(|e| panic!("refused: {e}"))));
    }
    // 200 one by one, by ten apps at once, each with a recipient of its own.
    let apps = (0..10_usize).map(|app| {
        let client = system.client_at(app);
        async move {
            let mut sent = Vec::new();
            for n in 0..20 {
                sent.push(client.text(SESSIONS[app % 4], &ordinary(100 + app), &n.to_string()).await);
            }
            sent
        }
    });
    sent.extend(join_all(apps).await.into_iter().flatten());
    assert_eq!(sent.iter().map(|m| m.id).collect::<BTreeSet<_>>().len(), 1000, "1,000 different messages");

    let all = client.wait_count("", Status::Read, 1000, seconds(90)).await;
    let seen = system.ledger.read();
    assert_eq!(seen.repeated().len(), 0, "arrived more than once");
    assert_eq!(seen.0.len(), 1000, "arrivals");
    let ids: BTreeSet<_> = seen.0.iter().map(|a| a.whatsapp_id.as_str()).collect();
    assert_eq!(ids, sent.iter().map(|m| m.whatsapp_id.as_str()).collect(), "the ids fixed at acceptance");

    let mut expected: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut session_ids = BTreeMap::new();
    for name in SESSIONS {
        session_ids.insert(name, client.session(name).await.id);
    }
    for message in &sent {
        let session = session_ids[message.session.as_str()].clone();
        expected.entry((session, message.to.clone())).or_default().push(message.text.clone().unwrap_or_default());
    }
    let texts = seen.texts();
    assert_eq!(texts.len(), expected.len(), "recipients");
    for ((session, to), expected) in &expected {
        assert_eq!(&texts[&(session.as_str(), to.as_str())], expected, "to {to} in session {session}");
    }
    for message in &all {
        assert_eq!((message.attempts, &message.error), (1, &None), "{message:?}");
        let times = [Some(message.created_at), message.sent_at, message.delivered_at, message.read_at];
        assert!(times.iter().all(Option::is_some) && times.is_sorted(), "times in order: {message:?}");
    }
    assert_eq!(client.quota().await.used, 1000);
}

async fn each_special_recipient_does_what_its_row_says(mode: Mode) {
    // Longer than the 2 s that `0003` takes, short enough to see attempts in doubt repeated.
    let system = System::with(mode).env("SANASR_SEND_TIMEOUT", "3s").user("rows", 1000).start().await;
    let client = &system.client_of("rows", 0);
    // A session for each row: a dropped connection is nobody else's affair then.
    join_all((1..=10).map(|row| async move { client.new_session(&format!("row{row}")).await })).await;
    tokio::join!(
        async { not_on_whatsapp(client).await },
        async { transient_twice(client).await },
        async { slow(client).await },
        async { dropped(client, &system).await },
        async { never_delivered(client).await },
        async { receipts_out_of_order(client).await },
        async { restricted(client).await },
        async { never_acknowledged(client, &system).await },
        async { fails_for_ten_seconds(client, &system).await },
        async { read_after_its_end(client).await },
    );
    // Only 0005 is not expected to go on; by now it has had time enough to.
    let silent = &client.list("session=row5").await[0];
    assert_eq!((silent.status, silent.delivered_at), (Status::Sent, None));
    // 0001 and 0007 were given back; 0008 and 0010, which may have been sent, weren't. 0009 had five, and two rows had an
    // ordinary one beside.
    assert_eq!(client.quota().await.used, 14, "units of the messages that were or may have been sent");
}

fn special(row: usize) -> String {
    format!("+1555301{row:04}")
}

async fn send(client: &Client, row: usize) -> Message {
    client.text(&format!("row{row}"), &special(row), "hello").await
}

async fn send_expiring(client: &Client, row: usize, life: Duration) -> Message {
    let expires_at = Time::now().plus(life).to_string();
    let body = json!({ "session": format!("row{row}"), "to": special(row), "type": "text", "text": "x", "expires_at": expires_at });
    client.send(&body).await.expect(202).data()
}

fn error_code(message: &Message) -> &str {
    message.error.as_ref().map_or("", |e| e.code.as_str())
}

async fn not_on_whatsapp(client: &Client) {
    let message = client.wait_status(send(client, 1).await.id, Status::Failed, seconds(20)).await;
    assert_eq!(error_code(&message), "not_on_whatsapp");
    assert!(message.error.is_some_and(|e| !e.retryable));
    assert_eq!((message.attempts, message.sent_at), (1, None));
}

async fn transient_twice(client: &Client) {
    let message = client.wait_status(send(client, 2).await.id, Status::Read, seconds(30)).await;
    assert_eq!((message.attempts, message.error), (3, None));
}

async fn slow(client: &Client) {
    let message = client.wait_status(send(client, 3).await.id, Status::Read, seconds(20)).await;
    let took = message.sent_at.expect("a time").since(message.created_at);
    assert!(took >= Duration::from_millis(1_900), "acknowledged after {took:?}");
    assert_eq!(message.attempts, 1);
}

async fn dropped(client: &Client, system: &System) {
    let message = client.wait_status(send(client, 4).await.id, Status::Read, seconds(30)).await;
    let seen = system.ledger.read();
    assert_eq!(seen.of(&message.whatsapp_id).len(), 2, "arrived twice under one id");
    assert_eq!(seen.to(&special(4)).len(), 2, "and under no other");
}

async fn never_delivered(client: &Client) {
    client.wait_status(send(client, 5).await.id, Status::Sent, seconds(20)).await;
}

async fn receipts_out_of_order(client: &Client) {
    let message = client.wait_status(send(client, 6).await.id, Status::Read, seconds(20)).await;
    assert!(message.sent_at.is_some() && message.read_at.is_some());
    eventually(seconds(10), "the late delivery fills its time", async || {
        let message = client.message(message.id).await;
        assert_eq!(message.status, Status::Read, "a status never moves backwards");
        message.delivered_at
    })
    .await;
}

async fn restricted(client: &Client) {
    let id = send_expiring(client, 7, seconds(8)).await.id;
    eventually(seconds(6), "it is held as restricted", async || {
        let message = client.message(id).await;
        (message.blocked_by == Some(BlockedBy::Restricted)).then_some(())
    })
    .await;
    assert_eq!(client.message(id).await.status, Status::Accepted);
    assert_eq!(client.session("row7").await.status, SessionStatus::Connected, "the session stays connected");
    // Others of the session go out.
    let other = client.text("row7", &ordinary(7), "not restricted").await;
    client.wait_status(other.id, Status::Read, seconds(10)).await;
    let message = client.wait_status(id, Status::Expired, seconds(30)).await;
    assert_eq!((message.blocked_by, message.sent_at), (None, None));
}

async fn never_acknowledged(client: &Client, system: &System) {
    let message = send_expiring(client, 8, seconds(14)).await;
    client.wait_status(message.id, Status::Sending, seconds(10)).await;
    let refused = client.cancel(message.id).await.expect(409);
    assert_eq!(refused.code(), "conflict", "what may have been sent can't be cancelled");
    eventually(seconds(14), "it is sent again under the same id", async || {
        (system.ledger.read().of(&message.whatsapp_id).len() >= 2).then_some(())
    })
    .await;
    let message = client.wait_status(message.id, Status::Failed, seconds(40)).await;
    assert_eq!(error_code(&message), "unknown_outcome");
    assert!(Time::now() >= message.expires_at, "not before its expiry");
    let seen = system.ledger.read();
    assert_eq!(seen.to(&special(8)).len(), seen.of(&message.whatsapp_id).len(), "never under another id");
}

async fn fails_for_ten_seconds(client: &Client, system: &System) {
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(client.text("row9", &special(9), &n.to_string()).await.id);
    }
    eventually(seconds(8), "the later ones wait for the first", async || {
        (client.message(ids[4]).await.blocked_by == Some(BlockedBy::EarlierMessage)).then_some(())
    })
    .await;
    // The session's other recipients don't wait with them.
    let other = client.text("row9", &ordinary(9), "at once").await;
    client.wait_status(other.id, Status::Read, seconds(5)).await;
    for id in ids {
        client.wait_status(id, Status::Read, seconds(60)).await;
    }
    let seen = system.ledger.read();
    let texts: Vec<_> = seen.to(&special(9)).iter().map(|a| a.text.clone().unwrap_or_default()).collect();
    assert_eq!(texts, ["0", "1", "2", "3", "4"], "in the order of acceptance");
}

async fn read_after_its_end(client: &Client) {
    let message = send_expiring(client, 10, seconds(8)).await;
    let message = client.wait_status(message.id, Status::Read, seconds(60)).await;
    assert!(message.read_at.is_some_and(|at| at >= message.expires_at), "read after its expiry");
    assert_eq!(message.error, None, "the receipt has disproved the failure");
}
