//! Messages, and what comes back.

use std::time::Duration;

use whatsapp_rust::Jid;
use whatsapp_rust::download::MediaType;
use whatsapp_rust::media::{DocumentOptions, ImageOptions, document_message, image_message};
use whatsapp_rust::send::SendOptions;
use whatsapp_rust::types::events::Event;
use whatsapp_rust::types::presence::ReceiptType;
use whatsapp_rust::upload::UploadOptions;
use whatsapp_test_server::{Behaviour, Server, wa};

use crate::client::{Client, eventually, within};

const OWNER: &str = "15550000001";
const CONTACT: &str = "15551230001";

fn text(message: &wa::Message) -> &str {
    let extended = message.extended_text_message.as_option().and_then(|extended| extended.text.as_deref());
    message.conversation.as_deref().or(extended).unwrap_or_default()
}

async fn receipt(client: &Client, id: &str, kind: ReceiptType) -> bool {
    client
        .event(|event| match event {
            Event::Receipt(receipt) if receipt.r#type == kind && receipt.message_ids.iter().any(|of| of == id) => {
                Some(receipt.offline)
            }
            _ => None,
        })
        .await
}

#[tokio::test]
async fn texts() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    for n in 0..20 {
        let id = client.text(&contact.jid(), &format!("text {n}")).await;
        assert_eq!(client.ack(&id).await, None);
        receipt(&client, &id, ReceiptType::Read).await;
    }
    let messages = contact.messages();
    let texts: Vec<&str> = messages.iter().map(|received| text(&received.message)).collect();
    assert_eq!(texts, (0..20).map(|n| format!("text {n}")).collect::<Vec<_>>());
    assert_eq!(account.wire().len(), 20);
    assert!(contact.decrypt_errors().is_empty());
    assert_eq!(contact.reused_counters(), 0);
    assert!(account.phone_decrypt_errors().is_empty(), "{:?}", account.phone_decrypt_errors());
}

#[tokio::test]
async fn by_lid_once_the_account_is_migrated() {
    let server = Server::start().await;
    server.lid_migrated(true);
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    let id = client.text(&contact.jid(), "hello").await;
    assert_eq!(client.ack(&id).await, None);
    receipt(&client, &id, ReceiptType::Read).await;
    assert_eq!(contact.messages().len(), 1);
    assert_eq!(account.wire()[0].to, CONTACT);
}

#[tokio::test]
async fn an_image() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, _account) = Client::paired(&server, OWNER).await;
    server.expire_media_auth();
    let image = vec![42; 70_000];
    let upload = client.inner.upload(image.clone(), MediaType::Image, UploadOptions::new()).await.expect("uploaded");
    let message = image_message(upload, ImageOptions { caption: Some("a caption".into()), ..Default::default() });
    let id = client.inner.send_message(contact.jid(), message).await.expect("sent").message_id;
    assert_eq!(client.ack(&id).await, None);
    let received = eventually("shown", || contact.messages().pop()).await;
    assert_eq!(contact.download(&received).await.expect("the file"), image);
}

#[tokio::test]
async fn a_large_document() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, _account) = Client::paired(&server, OWNER).await;
    let file: Vec<u8> = (0..6_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    server.refuse_uploads(Some(503));
    client.inner.upload(file.clone(), MediaType::Document, UploadOptions::new()).await.expect_err("refused");
    server.refuse_uploads(None);
    let upload = client.inner.upload(file.clone(), MediaType::Document, UploadOptions::new()).await.expect("uploaded");
    let message = document_message(upload, DocumentOptions { file_name: Some("a.bin".into()), ..Default::default() });
    let id = client.inner.send_message(contact.jid(), message).await.expect("sent").message_id;
    assert_eq!(client.ack(&id).await, None);
    let received = eventually("shown", || contact.messages().pop()).await;
    assert!(contact.download(&received).await.expect("the file") == file);
    // What the client was never sent can't be fetched.
    let mut other = received.clone();
    other.message.document_message = Default::default();
    assert!(contact.download(&other).await.is_err());
}

#[tokio::test]
async fn refused() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, _account) = Client::paired(&server, OWNER).await;
    server.on_send(CONTACT, Behaviour::Nack(463));
    let id = client.text(&contact.jid(), "hello").await;
    assert_eq!(client.ack(&id).await.as_deref(), Some("463"));
    assert!(contact.messages().is_empty());
}

#[tokio::test]
async fn acknowledged_late_or_without_receipts() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    let wait = Duration::from_millis(150);
    server.on_send(CONTACT, Behaviour::AckAfter(wait));
    let id = client.text(&contact.jid(), "hello").await;
    assert_eq!(client.ack(&id).await, None);
    assert!(account.wire()[0].at.elapsed() >= wait);

    server.on_send(CONTACT, Behaviour::HoldReceipts);
    let held = client.text(&contact.jid(), "held").await;
    assert_eq!(client.ack(&held).await, None);
    account.release_receipts();
    assert!(!receipt(&client, &held, ReceiptType::Delivered).await, "not offline");
}

#[tokio::test]
async fn lost() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    server.on_send(CONTACT, Behaviour::NeverAck);
    let lost = client.text(&contact.jid(), "lost").await;
    eventually("sent", || account.wire().pop()).await;
    server.on_send(CONTACT, Behaviour::AckOnly);
    let acknowledged = client.text(&contact.jid(), "acknowledged").await;
    // The first word on any message is about the second one.
    let first = client.event(|event| match event {
        Event::ServerAck(ack) if ack.class.as_deref() == Some("message") => Some(ack.id.clone()),
        Event::Receipt(receipt) => panic!("{receipt:?}"),
        _ => None,
    });
    assert_eq!(first.await, acknowledged);
    let ids: Vec<String> = contact.messages().into_iter().map(|received| received.id).collect();
    assert_eq!(ids, [acknowledged]);
    assert_eq!(account.wire()[0].id, lost);
}

#[tokio::test]
async fn dropped_before_the_acknowledgement() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    server.on_send(CONTACT, Behaviour::DropBeforeAck);
    let message = wa::Message { conversation: Some("once".to_owned()), ..Default::default() };
    let options = || SendOptions::default().with_message_id("AAAA0001".to_owned());
    let sent = client.inner.send_message_with_options(contact.jid(), message.clone(), options()).await;
    sent.expect("written");
    client.event(|event| matches!(event, Event::Disconnected(_)).then_some(())).await;
    client.connected().await;
    client.inner.send_message_with_options(contact.jid(), message, options()).await.expect("written again");
    assert_eq!(client.ack("AAAA0001").await, None);
    let messages = contact.messages();
    assert_eq!((messages.len(), messages[0].copies), (1, 2));
    assert_eq!(account.wire().len(), 2);
    assert_eq!(account.logins(), 2);
    assert_eq!(contact.reused_counters(), 0);
}

#[tokio::test]
async fn asked_for_again() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    server.on_send(CONTACT, Behaviour::RetryOnce);
    let id = client.text(&contact.jid(), "hello").await;
    assert_eq!(client.ack(&id).await, None);
    receipt(&client, &id, ReceiptType::Read).await;
    assert_eq!(contact.messages().len(), 1);
    assert_eq!(account.wire().len(), 2);
    assert!(contact.decrypt_errors().is_empty(), "{:?}", contact.decrypt_errors());
}

#[tokio::test]
async fn to_a_contact_with_a_new_phone() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    contact.write(&account, "hello").await;
    received(&client, "hello").await;
    let id = client.text(&contact.jid(), "before").await;
    receipt(&client, &id, ReceiptType::Read).await;
    contact.reinstall();
    let id = client.text(&contact.jid(), "after").await;
    assert_eq!(client.ack(&id).await, None);
    receipt(&client, &id, ReceiptType::Read).await;
    let messages = contact.messages();
    let texts: Vec<&str> = messages.iter().map(|received| text(&received.message)).collect();
    assert_eq!(texts, ["before", "after"]);
    assert_eq!(contact.decrypt_errors().len(), 1);
}

#[tokio::test]
async fn numbers_that_are_not_on_whatsapp() {
    let server = Server::start().await;
    server.contact(CONTACT);
    let (client, _account) = Client::paired(&server, OWNER).await;
    let asked = [Jid::pn(CONTACT), Jid::pn("15559999999")];
    let answers = client.inner.contacts().is_on_whatsapp(&asked).await.expect("answered");
    let registered: Vec<bool> = answers.iter().map(|answer| answer.is_registered).collect();
    assert_eq!(registered, [true, false]);
    assert_eq!(server.lookups(), [CONTACT, "15559999999"]);
}

#[tokio::test]
async fn to_a_group() {
    let server = Server::start().await;
    let members = ["15551230001", "15551230002", "15551230003"].map(|number| server.contact(number));
    let group = server.group(&members.each_ref());
    let (client, account) = Client::paired(&server, OWNER).await;
    group.add_account(&account);
    let to: Jid = group.id().parse().expect("an address");
    for n in 0..3 {
        if n == 1 {
            server.on_send(&group.id(), Behaviour::RetryOnce);
        }
        let id = client.text(&to, &format!("text {n}")).await;
        assert_eq!(client.ack(&id).await, None);
        let mut readers = Vec::new();
        while readers.len() < members.len() {
            let reader = client.event(|event| match event {
                Event::Receipt(receipt) if receipt.r#type == ReceiptType::Read && receipt.message_ids[0] == id => {
                    Some(receipt.source.sender.clone())
                }
                _ => None,
            });
            readers.push(reader.await);
        }
        readers.sort_by_key(ToString::to_string);
        assert_eq!(readers, members.each_ref().map(|member| member.lid()));
    }
    for member in &members {
        let messages = member.messages();
        assert_eq!(messages.len(), 3, "{:?}", member.decrypt_errors());
        assert_eq!(messages[2].group.as_deref(), Some(group.id().as_str()));
        assert_eq!(text(&messages[2].message), "text 2");
        assert!(member.decrypt_errors().is_empty(), "{:?}", member.decrypt_errors());
        assert_eq!(member.reused_counters(), 0);
    }
}

#[tokio::test]
async fn from_a_contact() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    contact.write(&account, "first").await;
    received(&client, "first").await;
    let id = client.text(&contact.jid(), "answer").await;
    receipt(&client, &id, ReceiptType::Read).await;
    contact.write(&account, "second").await;
    received(&client, "second").await;
    assert!(contact.decrypt_errors().is_empty());
}

async fn received(client: &Client, expected: &str) {
    client
        .event(|event| match event {
            Event::Messages(batch) => batch.iter().any(|inbound| text(&inbound.message) == expected).then_some(()),
            Event::UndecryptableMessage(_) => panic!("undecryptable"),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn while_the_client_is_away() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    server.on_send(CONTACT, Behaviour::HoldReceipts);
    let id = client.text(&contact.jid(), "hello").await;
    assert_eq!(client.ack(&id).await, None);
    let backend = client.backend.clone();
    client.stop().await;
    within(account.wait_disconnected()).await;
    contact.write(&account, "are you there?").await;
    account.release_receipts();

    let client = Client::with(&server, backend).await;
    let (mut message, mut receipts) = (false, 0);
    while !message || receipts < 2 {
        client
            .event(|event| match event {
                Event::Receipt(receipt) if receipt.message_ids[0] == id => {
                    assert!(receipt.offline);
                    receipts += 1;
                    Some(())
                }
                Event::Messages(_) => {
                    message = true;
                    Some(())
                }
                _ => None,
            })
            .await;
    }
    assert_eq!(account.logins(), 2);
}

#[tokio::test]
async fn what_a_client_has_not_acknowledged_comes_again() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    contact.write(&account, "lost on the way").await;
    // Both happen before the client can answer: nothing here gives way to it.
    account.drop_socket();
    client.connected().await;
    eventually("it came again", || (account.logins() == 2 && account.unsettled() == 0).then_some(())).await;
}

#[tokio::test]
async fn typing() {
    let server = Server::start().await;
    let contact = server.contact(CONTACT);
    let (client, account) = Client::paired(&server, OWNER).await;
    client.inner.chatstate().send_composing(&contact.jid()).await.expect("sent");
    eventually("typing", || (account.typing() == [CONTACT]).then_some(())).await;
}
