//! Everything that goes wrong between a client and WhatsApp.

use std::time::Duration;

use whatsapp_rust::types::events::Event;
use whatsapp_test_server::{Garbage, Server};

use crate::client::{Client, within};

const OWNER: &str = "15550000001";
const CONTACT: &str = "15551230001";

#[tokio::test]
async fn a_dropped_socket() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    account.drop_socket();
    assert!(!account.is_connected());
    client.connected().await;
    within(account.wait_connected()).await;
    assert_eq!(account.logins(), 2);
    let id = client.text(&contact.jid(), "back").await;
    assert_eq!(client.ack(&id).await, None);
}

#[tokio::test]
async fn a_restart() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    let id = client.text(&contact.jid(), "before").await;
    assert_eq!(client.ack(&id).await, None);
    let backend = client.backend.clone();
    client.stop().await;
    let client = Client::with(&server, backend).await;
    client.connected().await;
    let id = client.text(&contact.jid(), "after").await;
    assert_eq!(client.ack(&id).await, None);
    assert_eq!((account.logins(), contact.messages().len()), (2, 2));
    assert!(contact.decrypt_errors().is_empty());
}

#[tokio::test]
async fn replaced() {
    let server = Server::start().await;
    let (client, account) = Client::paired(&server, OWNER).await;
    account.replace();
    client.event(|event| matches!(event, Event::StreamReplaced(_)).then_some(())).await;
    assert!(account.is_linked());
}

#[tokio::test]
async fn replaced_by_another_process() {
    let server = Server::start().await;
    let (client, account) = Client::paired(&server, OWNER).await;
    let other = Client::with(&server, client.backend.clone()).await;
    other.connected().await;
    client.event(|event| matches!(event, Event::StreamReplaced(_)).then_some(())).await;
    assert!(account.is_connected());
    assert_eq!(account.logins(), 2);
}

#[tokio::test]
async fn banned_for_a_time() {
    let server = Server::start().await;
    let (client, account) = Client::paired(&server, OWNER).await;
    account.ban(Duration::from_secs(3600));
    let left = client.event(|event| match event {
        Event::TemporaryBan(ban) => Some(ban.expire.num_seconds()),
        _ => None,
    });
    let left = left.await;
    assert!((3500..=3600).contains(&left), "{left}");
    let backend = client.backend.clone();
    client.stop().await;
    account.unban();
    Client::with(&server, backend).await.connected().await;
}

#[tokio::test]
async fn a_version_that_is_too_old() {
    let server = Server::start().await;
    let (client, account) = Client::paired(&server, OWNER).await;
    server.refuse_version(true);
    account.drop_socket();
    client.event(|event| matches!(event, Event::ClientOutdated(_)).then_some(())).await;
}

#[tokio::test]
async fn another_server_with_the_same_client() {
    let (first, second) = (Server::start().await, Server::start().await);
    let (client, _account) = Client::paired(&first, OWNER).await;
    let backend = client.backend.clone();
    client.stop().await;
    // It speaks to a key it doesn't expect, and is then unknown there.
    let client = Client::with(&second, backend).await;
    client.event(|event| matches!(event, Event::LoggedOut(_)).then_some(())).await;
}

/// A client that gets garbage neither falls over nor stays away.
async fn survives_on_a_connection(garbage: Garbage) {
    let server = Server::start().await;
    let (client, account) = Client::paired(&server, OWNER).await;
    server.corrupt_next_frames(garbage);
    account.drop_socket();
    client.connected().await;
}

async fn survives_in_a_handshake(garbage: Garbage) {
    let server = Server::start().await;
    let (client, account) = Client::paired(&server, OWNER).await;
    server.corrupt_next_connection(garbage);
    account.drop_socket();
    client.connected().await;
    within(account.wait_connected()).await;
}

#[tokio::test]
async fn garbage_on_a_connection() {
    tokio::join!(
        survives_on_a_connection(Garbage::Bytes),
        survives_on_a_connection(Garbage::Oversize),
        survives_on_a_connection(Garbage::Truncated),
        survives_on_a_connection(Garbage::Stanza),
    );
}

#[tokio::test]
async fn garbage_in_a_handshake() {
    tokio::join!(
        survives_in_a_handshake(Garbage::Bytes),
        survives_in_a_handshake(Garbage::Truncated),
        survives_in_a_handshake(Garbage::Stanza),
    );
}

#[tokio::test]
async fn the_server_ends() {
    let server = Server::start().await;
    let (client, account) = Client::paired(&server, OWNER).await;
    server.stop();
    client.event(|event| matches!(event, Event::Disconnected(_)).then_some(())).await;
    within(account.wait_disconnected()).await;
}
