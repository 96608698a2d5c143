//! WhatsApp sessions whose workers are killed and frozen while they send: nothing lost, nothing shown twice, no key used
//! twice, nothing that can't be decrypted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sanasr_shared::message::Status;
use sanasr_shared::session::SessionStatus;
use serde_json::json;
use whatsapp_test_server::{Account, Contact, Server};

use super::{send_all, text};
use crate::harness::wait::seconds;
use crate::harness::whatsapp::{hasty, start_with};
use crate::harness::{Client, Message, Mode, System, both_modes, eventually};

both_modes!(a_thousand_texts_survive_twenty_kills);

const PEOPLE: usize = 50;
const TEXTS: usize = 1_000;
const KILLS: usize = 20;
const SESSIONS: [&str; 2] = ["shop", "desk"];

fn number(n: usize) -> String {
    format!("1555124{n:04}")
}

/// Two linked sessions, and people to write to.
async fn linked(client: &Client, server: &Server, per_minute: u32) -> (Vec<Account>, Vec<Contact>) {
    let people = (0..PEOPLE).map(|n| server.contact(&number(n))).collect();
    let mut accounts = Vec::new();
    for (n, name) in SESSIONS.into_iter().enumerate() {
        accounts.push(client.link(server, name, &format!("1555000600{n}")).await);
        let mut pace = hasty();
        pace["per_minute"] = per_minute.into();
        pace["burst"] = 5.into();
        client.patch(&format!("/sessions/{name}"), &json!({ "pace": pace })).await.expect(200);
    }
    (accounts, people)
}

/// Texts to everybody in turn, by both sessions.
async fn send_texts(client: &Client, count: usize, word: &str) -> Vec<Message> {
    let items: Vec<_> = (0..count)
        .map(|n| text(SESSIONS[n % 2], &format!("+{}", number(n / 2 % PEOPLE)), &format!("{word} {n}")))
        .collect();
    send_all(client, &items).await
}

/// Checks what people have: each text once, in the order in which it was accepted, all of it decrypted.
fn check_shown(people: &[Contact], accounts: &[Account], sent: &[Message]) {
    let numbers: BTreeMap<&str, String> = SESSIONS.iter().copied().zip(accounts.iter().map(Account::number)).collect();
    let mut expected: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for message in sent {
        let chat = (numbers[message.session.as_str()].clone(), message.to.clone());
        expected.entry(chat).or_default().push(message.text.clone().expect("a text"));
    }
    for person in people {
        assert_eq!(person.decrypt_errors(), Vec::<String>::new(), "{} can decrypt all", person.number());
        assert_eq!(person.reused_counters(), 0, "no key is used twice for {}", person.number());
        let mut shown: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for received in person.messages() {
            let text = received.message.conversation.clone().expect("a text");
            shown.entry(received.from_account.clone()).or_default().push(text);
        }
        for (from, texts) in shown {
            let chat = (from, format!("+{}", person.number()));
            assert_eq!(expected.remove(&chat).unwrap_or_default(), texts, "in chat {chat:?}");
        }
    }
    assert!(expected.is_empty(), "lost: {expected:?}");
}

/// Waits until all are sent. A receipt may be lost with a process that dies just then; what was sent is known as sent.
async fn wait_sent(client: &Client, sent: &[Message]) {
    let wanted: BTreeSet<_> = sent.iter().map(|message| message.id).collect();
    eventually(seconds(120), "all are sent", async || {
        let all = client.list("").await;
        let done = all.iter().filter(|message| wanted.contains(&message.id) && message.status >= Status::Sent);
        let done = done.filter(|message| message.status <= Status::Read).count();
        (done == wanted.len()).then_some(())
    })
    .await;
}

fn on_the_wire(accounts: &[Account]) -> usize {
    accounts.iter().map(|account| account.wire().len()).sum()
}

async fn a_thousand_texts_survive_twenty_kills(mode: Mode) {
    let builder = System::with(mode).workers(2).env("SANASR_LEASE", "1s").env("SANASR_SEND_TIMEOUT", "5s");
    let (mut system, server) = start_with(builder).await;
    let client = system.client();
    let (accounts, people) = linked(&client, &server, 1_800).await;
    let sent = send_texts(&client, TEXTS, "text").await;
    let mut seen = 0;
    for kill in 0..KILLS {
        eventually(seconds(60), &format!("messages go out after {kill} kills"), async || {
            let now = on_the_wire(&accounts);
            (now >= seen + 10 || now >= TEXTS).then_some(())
        })
        .await;
        match mode {
            Mode::Embedded => {
                system.apis[0].process.kill().await;
                system.apis.clear();
                system.add_api(&[]).await;
            }
            Mode::Distributed => {
                let worker = kill % 2;
                system.workers[worker].process.kill().await;
                system.workers.remove(worker);
                system.add_worker(&[]).await;
            }
        }
        seen = on_the_wire(&accounts);
    }
    let client = system.client();
    wait_sent(&client, &sent).await;
    check_shown(&people, &accounts, &sent);
    assert_eq!(client.quota().await.used, i64::try_from(TEXTS).expect("a number"));
}

/// A worker that sleeps past its lease and wakes while another drives its sessions writes nothing of their state and sends
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_worker_that_wakes_leaves_the_phones_alone() {
    let builder = System::with(Mode::Distributed).env("SANASR_LEASE", "2s").env("SANASR_SEND_TIMEOUT", "5s");
    let (mut system, server) = start_with(builder).await;
    let client = system.client();
    let (accounts, people) = linked(&client, &server, 3_000).await;
    let mut sent = send_texts(&client, 200, "before").await;
    eventually(seconds(30), "it sends", async || (on_the_wire(&accounts) > 20).then_some(())).await;
    system.workers[0].process.freeze();
    system.add_worker(&[]).await;
    wait_sent(&client, &sent).await;
    let (wire, state) = (on_the_wire(&accounts), settled_state(&system).await);

    system.workers[0].process.wake();
    system.workers[0].process.wait_for_line("declared dead: beginning again", seconds(30)).await;
    assert_eq!(on_the_wire(&accounts), wire, "it sent nothing");
    assert!(device_state(&system).await == state, "it wrote nothing");
    sent.extend(send_texts(&client, 100, "after").await);
    wait_sent(&client, &sent).await;
    check_shown(&people, &accounts, &sent);
    for name in SESSIONS {
        client.wait_session(name, SessionStatus::Connected, seconds(20)).await;
    }
}

/// Ratchets and keys once the last message's are written: the client does it within 25 ms after the message is out.
async fn settled_state(system: &System) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut before = Vec::new();
    eventually(seconds(20), "nothing is written any more", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = device_state(system).await;
        (std::mem::replace(&mut before, now.clone()) == now).then_some(now)
    })
    .await
}

/// Ratchets and keys as they are kept.
async fn device_state(system: &System) -> Vec<(Vec<u8>, Vec<u8>)> {
    sqlx::query_as("SELECT key, value FROM whatsapp_state WHERE kind BETWEEN 1 AND 5 ORDER BY session_id, kind, key")
        .fetch_all(&system.database().await)
        .await
        .expect("the state")
}
