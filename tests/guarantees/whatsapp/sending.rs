//! Every type of message arrives as it was sent; receipts; what WhatsApp refuses.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sanasr_shared::message::{BlockedBy, Status};
use sanasr_shared::session::SessionStatus;
use serde_json::{Value, json};
use whatsapp_test_server::{Behaviour, Contact, Received};

use crate::harness::files;
use crate::harness::wait::seconds;
use crate::harness::whatsapp::{start, start_with};
use crate::harness::{Mode, System, both_modes, eventually};

both_modes!(
    every_type_arrives_as_it_was_sent,
    a_group_has_a_message_once_all_have,
    refusals_say_what_was_refused,
    receipts_come_whenever_they_come,
    a_message_in_doubt_is_sent_again_under_its_id,
);

const JANE: &str = "15551230001";

/// What somebody has received under an id.
async fn received(contact: &Contact, id: &str) -> Received {
    eventually(seconds(20), &format!("{id} arrives"), async || contact.messages().into_iter().find(|m| m.id == id))
        .await
}

async fn every_type_arrives_as_it_was_sent(mode: Mode) {
    let (system, server) = start(mode).await;
    let client = system.client();
    client.link(&server, "shop", "15550002001").await;
    let jane = server.contact(JANE);
    let to = format!("+{JANE}");
    let send = async |message: Value| client.send_any("shop", &to, message).await;
    let file = |bytes: &[u8], kind: &str| json!({ "base64": STANDARD.encode(bytes), "mime_type": kind });

    let text = send(json!({ "type": "text", "text": "Grüße 👋\nzwei Zeilen" })).await;
    let png = files::file(files::PNG);
    let image = send(json!({ "type": "image", "media": file(&png, "image/png"), "caption": "a picture" })).await;
    let mp4 = files::file(files::MP4);
    let video = send(json!({ "type": "video", "media": file(&mp4, "video/mp4") })).await;
    let ogg = files::file(files::OGG);
    let mut note = file(&ogg, "audio/ogg");
    note["voice"] = true.into();
    let voice = send(json!({ "type": "audio", "media": note })).await;
    let pdf = files::file(files::PDF);
    let mut sheet = file(&pdf, "application/pdf");
    sheet["filename"] = "offer.pdf".into();
    let document = send(json!({ "type": "document", "media": sheet })).await;
    let webp = files::file(files::WEBP);
    let sticker = send(json!({ "type": "sticker", "media": file(&webp, "image/webp") })).await;
    let place = json!({ "latitude": 52.5, "longitude": 13.4, "name": "Here", "address": "A street" });
    let location = send(json!({ "type": "location", "location": place })).await;
    let card = send(json!({ "type": "contact", "contact": { "name": "Doe", "phone": "+15557654321" } })).await;
    let reply = send(json!({ "type": "text", "text": "as I said", "reply_to": text.id })).await;
    for message in [&text, &image, &video, &voice, &document, &sticker, &location, &card, &reply] {
        let read = client.wait_status(message.id, Status::Read, seconds(30)).await;
        assert_eq!((read.attempts, &read.error), (1, &None), "{read:?}");
        assert!(read.sent_at.is_some() && read.delivered_at.is_some() && read.read_at.is_some());
    }
    assert_eq!(jane.decrypt_errors(), Vec::<String>::new());
    assert!(jane.messages().iter().all(|m| m.copies == 1));
    assert_eq!(server.lookups(), [JANE], "asked once");

    let got = received(&jane, &text.whatsapp_id).await;
    assert_eq!(got.message.conversation.as_deref(), Some("Grüße 👋\nzwei Zeilen"));
    let got = received(&jane, &image.whatsapp_id).await;
    let shown = got.message.image_message.as_option().expect("an image");
    assert_eq!((shown.caption.as_deref(), shown.mimetype.as_deref()), (Some("a picture"), Some("image/png")));
    assert_eq!(jane.download(&got).await.expect("the image"), png);
    let got = received(&jane, &video.whatsapp_id).await;
    assert!(got.message.video_message.is_set());
    assert_eq!(jane.download(&got).await.expect("the video"), mp4);
    let got = received(&jane, &voice.whatsapp_id).await;
    let heard = got.message.audio_message.as_option().expect("audio");
    assert_eq!((heard.ptt, heard.mimetype.as_deref()), (Some(true), Some("audio/ogg; codecs=opus")));
    assert_eq!(jane.download(&got).await.expect("the voice note"), ogg);
    let got = received(&jane, &document.whatsapp_id).await;
    assert_eq!(got.message.document_message.as_option().expect("a document").file_name.as_deref(), Some("offer.pdf"));
    assert_eq!(jane.download(&got).await.expect("the document"), pdf);
    let got = received(&jane, &sticker.whatsapp_id).await;
    assert!(got.message.sticker_message.is_set());
    assert_eq!(jane.download(&got).await.expect("the sticker"), webp);
    let got = received(&jane, &location.whatsapp_id).await;
    let seen = got.message.location_message.as_option().expect("a place");
    assert_eq!((seen.degrees_latitude, seen.degrees_longitude), (Some(52.5), Some(13.4)));
    assert_eq!((seen.name.as_deref(), seen.address.as_deref()), (Some("Here"), Some("A street")));
    let got = received(&jane, &card.whatsapp_id).await;
    let seen = got.message.contact_message.as_option().expect("a card");
    assert!(seen.vcard.as_deref().is_some_and(|vcard| vcard.contains("waid=15557654321")));
    let got = received(&jane, &reply.whatsapp_id).await;
    let answer = got.message.extended_text_message.as_option().expect("a reply");
    let context = answer.context_info.as_option().expect("what it answers");
    assert_eq!(
        (answer.text.as_deref(), context.stanza_id.as_deref()),
        (Some("as I said"), Some(text.whatsapp_id.as_str()))
    );
}

async fn a_group_has_a_message_once_all_have(mode: Mode) {
    let (system, server) = start(mode).await;
    let client = system.client();
    let account = client.link(&server, "shop", "15550002101").await;
    let members: Vec<_> = ["15551230101", "15551230102", "15551230103"].map(|n| server.contact(n)).into();
    let group = server.group(&members.iter().collect::<Vec<_>>());
    group.add_account(&account);
    let id = group.id();
    let first = client.send_any("shop", &id, json!({ "type": "text", "text": "hello, all" })).await;
    client.wait_status(first.id, Status::Read, seconds(30)).await;
    for member in &members {
        let got = received(member, &first.whatsapp_id).await;
        assert_eq!(
            (got.message.conversation.as_deref(), got.group.as_deref()),
            (Some("hello, all"), Some(id.as_str()))
        );
    }
    server.on_send(&id, Behaviour::HoldReceipts);
    let second = client.send_any("shop", &id, json!({ "type": "text", "text": "again" })).await;
    client.wait_status(second.id, Status::Sent, seconds(30)).await;
    // Two have got it, the third has not. What comes later of others shows that this has been heard.
    account.release_first_receipts(4);
    let between = client.send_any("shop", "+15551230101", json!({ "type": "text", "text": "between" })).await;
    client.wait_status(between.id, Status::Read, seconds(30)).await;
    assert_eq!(client.message(second.id).await.status, Status::Sent);
    account.release_first_receipts(1);
    client.wait_status(second.id, Status::Delivered, seconds(30)).await;
    account.release_receipts();
    client.wait_status(second.id, Status::Read, seconds(30)).await;
    assert!(members.iter().all(|member| member.decrypt_errors().is_empty() && member.reused_counters() == 0));

    let strange = client.send_any("shop", "120363000000000001@g.us", json!({ "type": "text", "text": "who?" })).await;
    let failed = client.wait_status(strange.id, Status::Failed, seconds(30)).await;
    assert_eq!(failed.error.expect("an error").code, "recipient_not_allowed");
}

async fn refusals_say_what_was_refused(mode: Mode) {
    let (system, server) = start(mode).await;
    let client = system.client();
    let account = client.link(&server, "shop", "15550002201").await;
    let text = |n: u32| (format!("+1555123{n:04}"), json!({ "type": "text", "text": "hello" }));

    // Not on WhatsApp: known before anything is sent, and asked once.
    let (stranger, hello) = text(9001);
    for _ in 0..2 {
        let message = client.send_any("shop", &stranger, hello.clone()).await;
        let failed = client.wait_status(message.id, Status::Failed, seconds(20)).await;
        let error = failed.error.expect("an error");
        assert_eq!((error.code.as_str(), error.retryable), ("not_on_whatsapp", false));
    }
    assert_eq!(server.lookups().len(), 1);
    assert!(account.wire().is_empty(), "nothing was sent");
    assert_eq!(client.quota().await.used, 0, "units are given back");

    // WhatsApp has a number in another form: that is the one it goes to.
    let maria = server.contact("551187654321");
    server.alias("5511987654321", &maria);
    for _ in 0..2 {
        let message = client.send_any("shop", "+55 11 98765-4321", hello.clone()).await;
        client.wait_status(message.id, Status::Read, seconds(20)).await;
        assert_eq!(received(&maria, &message.whatsapp_id).await.copies, 1);
    }
    assert_eq!(server.lookups().len(), 2);

    for (n, code, word) in
        [(1, 479, "refused"), (2, 400, "refused"), (3, 404, "recipient_gone"), (4, 403, "recipient_not_allowed")]
    {
        let (to, hello) = text(n);
        server.contact(&to[1..]);
        server.on_send(&to[1..], Behaviour::Nack(code));
        let message = client.send_any("shop", &to, hello).await;
        let failed = client.wait_status(message.id, Status::Failed, seconds(20)).await;
        assert_eq!(failed.error.expect("an error").code, word, "{code}");
    }
    let (to, hello) = text(5);
    server.contact(&to[1..]);
    server.on_send(&to[1..], Behaviour::Nack(503));
    let message = client.send_any("shop", &to, hello).await;
    eventually(seconds(20), "it is tried again", async || {
        client.message(message.id).await.error.filter(|error| error.code == "whatsapp_unavailable")
    })
    .await;
    server.on_send(&to[1..], Behaviour::Ack);
    client.wait_status(message.id, Status::Read, seconds(30)).await;

    // The reach-out limit: who is new must wait, who has written to us need not.
    let jane = server.contact("15551230010");
    jane.write(&account, "I have a question").await;
    let (new, hello) = text(11);
    server.contact(&new[1..]);
    server.on_send(&new[1..], Behaviour::Nack(463));
    let held = client.send_any("shop", &new, hello.clone()).await;
    eventually(seconds(20), "it waits for the restriction's end", async || {
        (client.message(held.id).await.blocked_by == Some(BlockedBy::Restricted)).then_some(())
    })
    .await;
    client.wait_reason("shop", SessionStatus::Connected, "restricted").await;
    let sent = account.wire().len();
    let (other, hello) = text(12);
    server.contact(&other[1..]);
    let also_held = client.send_any("shop", &other, hello.clone()).await;
    let warm = client.send_any("shop", "+15551230010", hello).await;
    client.wait_status(warm.id, Status::Read, seconds(20)).await;
    eventually(seconds(20), "the other new one waits, too", async || {
        (client.message(also_held.id).await.blocked_by == Some(BlockedBy::Restricted)).then_some(())
    })
    .await;
    assert_eq!(account.wire().len(), sent + 1, "nobody new is tried meanwhile");
}

async fn receipts_come_whenever_they_come(mode: Mode) {
    let (system, server) = start(mode).await;
    let client = system.client();
    let account = client.link(&server, "shop", "15550002301").await;
    server.contact(JANE);
    server.on_send(JANE, Behaviour::HoldReceipts);
    let to = format!("+{JANE}");
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(client.send_any("shop", &to, json!({ "type": "text", "text": format!("{n}") })).await);
    }
    for message in &sent {
        client.wait_status(message.id, Status::Sent, seconds(20)).await;
    }
    // They come while we are away, and are told after the return.
    client.post("/sessions/shop/disconnect", &json!({})).await.expect(202);
    client.wait_session("shop", SessionStatus::Disconnected, seconds(10)).await;
    account.release_receipts();
    client.connect("shop").await;
    for message in &sent {
        client.wait_status(message.id, Status::Read, seconds(20)).await;
    }
    // A phone that asks for a message again gets it again, and shows it.
    let anna = server.contact("15551230002");
    server.on_send("15551230002", Behaviour::RetryOnce);
    let again = client.send_any("shop", "+15551230002", json!({ "type": "text", "text": "once more" })).await;
    client.wait_status(again.id, Status::Read, seconds(30)).await;
    let got = received(&anna, &again.whatsapp_id).await;
    assert_eq!(got.message.conversation.as_deref(), Some("once more"));
}

async fn a_message_in_doubt_is_sent_again_under_its_id(mode: Mode) {
    let (system, server) = start_with(System::with(mode).env("SANASR_SEND_TIMEOUT", "2s")).await;
    let client = system.client();
    let account = client.link(&server, "shop", "15550002401").await;
    let (dropped, silent) = (server.contact("15551230201"), server.contact("15551230202"));
    server.on_send("15551230201", Behaviour::DropBeforeAck);
    server.on_send("15551230202", Behaviour::NeverAck);
    let hello = json!({ "type": "text", "text": "hello" });
    let first = client.send_any("shop", "+15551230201", hello.clone()).await;
    let read = client.wait_status(first.id, Status::Read, seconds(30)).await;
    assert!(read.attempts >= 2, "{read:?}");
    let got = received(&dropped, &first.whatsapp_id).await;
    assert!(got.copies >= 2 && dropped.messages().len() == 1, "shown once, though it came {} times", got.copies);

    let second = client.send_any("shop", "+15551230202", hello).await;
    eventually(seconds(30), "it is tried again under its id", async || {
        (account.wire().iter().filter(|m| m.id == second.whatsapp_id).count() >= 2).then_some(())
    })
    .await;
    let waiting = client.message(second.id).await;
    assert_eq!(waiting.status, Status::Sending, "in doubt");
    assert_eq!(client.cancel(second.id).await.status, 409, "what may have been sent can't be taken back");
    server.on_send("15551230202", Behaviour::AckAfter(Duration::from_millis(200)));
    client.wait_status(second.id, Status::Read, seconds(60)).await;
    assert_eq!(silent.messages().len(), 1);
    assert!(silent.decrypt_errors().is_empty() && dropped.decrypt_errors().is_empty());
    client.wait_session("shop", SessionStatus::Connected, seconds(20)).await;
}
