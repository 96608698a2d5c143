//! What must hold while something breaks: processes and services are killed, wiped, frozen and woken under load.

mod apis;
mod clients;
mod crowd;
mod doubt;
mod held;
mod load;
mod phones;
mod services;
mod stops;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sanasr_shared::message::Status;
use sanasr_shared::session::SessionStatus;
use serde_json::{Value, json};

use crate::harness::ledger::Arrivals;
use crate::harness::wait::seconds;
use crate::harness::{Client, Message, System, eventually};

/// Numbers whose endings mean nothing to the simulator.
fn ordinary(n: usize) -> String {
    format!("+1555330{:04}", 1000 + n)
}

/// Numbers of different recipients with the same ending, which says what the simulator does.
fn special(ending: &str, n: usize) -> String {
    format!("+1555{:03}{ending}", 400 + n)
}

fn text(session: &str, to: &str, text: &str) -> Value {
    json!({ "session": session, "to": to, "type": "text", "text": text })
}

/// Posts a batch of which every item is accepted.
async fn send_all(client: &Client, items: &[Value]) -> Vec<Message> {
    let answers = client.batch(None, items).await;
    answers.into_iter().map(|item| item.unwrap_or_else(|problem| panic!("refused: {problem}"))).collect()
}

/// Waits until WhatsApp has seen these messages.
async fn wait_seen(system: &System, messages: &[Message], limit: Duration) {
    eventually(limit, &format!("WhatsApp sees {} messages", messages.len()), async || {
        let seen = system.ledger.read();
        let ids: BTreeSet<_> = seen.0.iter().map(|a| a.whatsapp_id.as_str()).collect();
        messages.iter().all(|m| ids.contains(m.whatsapp_id.as_str())).then_some(())
    })
    .await;
}

/// Checks that these messages, and no others, are a user's of today; that all end `read`; that recipients saw each once, in
/// the order in which it stands here; and that each took one unit.
async fn check_all_read(system: &System, client: &Client, sent: &[Message], limit: Duration) -> Arrivals {
    wait_seen(system, sent, limit).await;
    let all = client.wait_count("", Status::Read, sent.len(), limit).await;
    let ids = |messages: &[Message]| messages.iter().map(|m| m.id).collect::<BTreeSet<_>>();
    assert_eq!(ids(&all), ids(sent), "every accepted message is there, and no other");
    let seen = system.ledger.read();
    check_shown(&seen, client, sent).await;
    let units = i64::try_from(sent.len()).expect("a small number");
    assert_eq!(client.quota().await.used, units, "a unit for each");
    seen
}

/// Checks that WhatsApp showed exactly these messages, each under its own id, in order to each recipient.
async fn check_shown(seen: &Arrivals, client: &Client, sent: &[Message]) {
    let shown: BTreeSet<_> = seen.shown().into_iter().map(|a| a.whatsapp_id.as_str()).collect();
    let expected: BTreeSet<_> = sent.iter().map(|m| m.whatsapp_id.as_str()).collect();
    assert_eq!(shown, expected, "the ids fixed at acceptance, and no others");
    let mut sessions = BTreeMap::new();
    let mut order: BTreeMap<(String, &str), Vec<&str>> = BTreeMap::new();
    for message in sent {
        if !sessions.contains_key(&message.session) {
            sessions.insert(message.session.clone(), client.session(&message.session).await.id);
        }
        let session = sessions[&message.session].clone();
        order.entry((session, &message.to)).or_default().push(message.text.as_deref().unwrap_or(""));
    }
    let texts = seen.texts();
    for ((session, to), expected) in &order {
        assert_eq!(&texts[&(session.as_str(), *to)], expected, "to {to}");
    }
}

/// Checks that no message's status has ever moved backwards, but for the step back after a transient fault.
async fn check_forward(database: &sqlx_postgres::PgPool) {
    let back: Vec<(uuid::Uuid, i16, i16)> = sqlx::query_as(
        "SELECT message_id, was, status
         FROM (SELECT message_id, status, lag(status) OVER (PARTITION BY message_id ORDER BY n) AS was
               FROM events WHERE message_id IS NOT NULL) e
         WHERE status <= was AND NOT (was = $1 AND status = $2)",
    )
    .bind(Status::Sending as i16)
    .bind(Status::Accepted as i16)
    .fetch_all(database)
    .await
    .expect("the events");
    assert_eq!(back, [], "moved backwards: message, from, to");
}

/// The messages that are being sent now, by WhatsApp id.
async fn in_flight(database: &sqlx_postgres::PgPool) -> BTreeSet<String> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT whatsapp_id FROM messages WHERE status = $1")
        .bind(Status::Sending as i16)
        .fetch_all(database)
        .await
        .expect("the rows");
    rows.into_iter().map(|(id,)| id).collect()
}

/// Waits until everything that serves says this of its health.
async fn wait_health(system: &System, wanted: &str) {
    for server in system.apis.iter().chain(&system.workers) {
        let client = Client::new(&server.origin, "");
        eventually(seconds(30), &format!("{} is {wanted}", server.origin), async || {
            let reply = client.root("/health/ready").await.ok()?;
            (reply.body["status"] == wanted).then_some(())
        })
        .await;
    }
}

/// Waits until a session that was connected is so again.
async fn wait_connected(client: &Client, session: &str) {
    client.wait_session(session, SessionStatus::Connected, seconds(30)).await;
}

/// From acceptance to WhatsApp, of a new message.
async fn time_to_whatsapp(system: &System, client: &Client, to: &str) -> (Message, Duration) {
    let message = client.text("default", to, "how long?").await;
    let arrived = eventually(seconds(20), "WhatsApp sees it", async || {
        system.ledger.read().of(&message.whatsapp_id).first().map(|a| a.at)
    })
    .await;
    let took = arrived.since(message.created_at);
    (message, took)
}
