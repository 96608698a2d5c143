//! Linking, by QR and by code, and what ends a link.

use whatsapp_rust::pair_code::PairCodeOptions;
use whatsapp_rust::types::events::Event;
use whatsapp_test_server::{PairingRefusal, Server};

use crate::client::{Client, eventually, within};

const OWNER: &str = "15550000001";

#[tokio::test]
async fn by_qr() {
    let server = Server::start().await;
    let (_client, account) = Client::paired(&server, OWNER).await;
    assert!(account.is_connected() && account.is_linked());
    assert_eq!(account.number(), OWNER);
    assert_eq!(account.logins(), 1);
    assert!(server.account(OWNER).is_some());
    assert!(account.phone_decrypt_errors().is_empty());
}

#[tokio::test]
async fn a_qr_code_is_good_for_its_own_connection_only() {
    let server = Server::start().await;
    let client = Client::start(&server).await;
    let qr = client.qr().await;
    let forged = qr.replacen("2@", "2@x", 1);
    assert!(server.scan(&forged, OWNER).await.is_err());
    client.stop().await;
    within(server.scan(&qr, OWNER)).await.expect_err("nobody shows it any more");
}

#[tokio::test]
async fn by_code() {
    let server = Server::start().await;
    let client = Client::start(&server).await;
    client.qr().await;
    let options = PairCodeOptions { phone_number: OWNER.to_owned(), ..Default::default() };
    let code = client.inner.pair_with_code(options).await.expect("a code");
    assert!(server.enter_code("15550000002", &code).await.is_err(), "another number");
    let wrong = if code.starts_with('A') { code.replacen('A', "B", 1) } else { format!("A{}", &code[1..]) };
    assert_eq!(server.enter_code(OWNER, &wrong).await.expect_err("refused"), "the code is wrong");
    let typed = format!("{}-{}", &code[..4], &code[4..]);
    let account = server.enter_code(OWNER, &typed).await.expect("paired");
    client.connected().await;
    assert_eq!(account.logins(), 1);
}

#[tokio::test]
async fn refused() {
    let server = Server::start().await;
    server.refuse_pairing(Some(PairingRefusal::Code(429)));
    let client = Client::start(&server).await;
    let qr = client.qr().await;
    let options = PairCodeOptions { phone_number: OWNER.to_owned(), ..Default::default() };
    let error = client.inner.pair_with_code(options).await.expect_err("refused");
    assert!(error.rejection().is_some_and(|rejection| rejection.is_throttled()), "{error}");

    server.refuse_pairing(Some(PairingRefusal::Forged));
    assert!(server.scan(&qr, OWNER).await.is_err());
    client.event(|event| matches!(event, Event::PairError(_)).then_some(())).await;

    server.refuse_pairing(None);
    server.scan(&qr, OWNER).await.expect("paired after all");
    client.connected().await;
}

#[tokio::test]
async fn given_up_by_the_client() {
    let server = Server::start().await;
    let (client, account) = Client::paired(&server, OWNER).await;
    client.inner.logout().await;
    eventually("unlinked", || (!account.is_linked()).then_some(())).await;
}

#[tokio::test]
async fn given_up_by_the_owner() {
    let server = Server::start().await;
    let (client, account) = Client::paired(&server, OWNER).await;
    account.log_out();
    client.event(|event| matches!(event, Event::LoggedOut(_)).then_some(())).await;
    let backend = client.backend.clone();
    client.stop().await;
    // The server doesn't know it any more.
    let again = Client::with(&server, backend).await;
    again.event(|event| matches!(event, Event::LoggedOut(out) if out.on_connect).then_some(())).await;
    assert_eq!(account.logins(), 1);
}

#[tokio::test]
async fn a_second_device_of_the_number() {
    let server = Server::start().await;
    let (_first, account) = Client::paired(&server, OWNER).await;
    let (_second, other) = Client::paired(&server, OWNER).await;
    assert!(account.is_connected() && other.is_connected());
}
