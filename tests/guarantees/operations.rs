//! Pairing by QR code and by a typed code, and taking back much at once.

use reqwest::Method;
use sanasr_shared::message::Status;
use sanasr_shared::session::SessionStatus;
use sanasr_shared::time::Time;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::harness::wait::{eventually, seconds};
use crate::harness::{Client, Mode, Reply, System, both_modes};

both_modes!(
    a_qr_code_comes_as_an_image_or_as_text,
    a_session_is_paired_by_a_typed_code,
    all_that_waits_is_taken_back_at_once,
);

/// What is in the database.
async fn kept(system: &System, query: &'static str) -> String {
    match system.mode {
        Mode::Distributed => sqlx::query_scalar(query).fetch_one(&system.database().await).await.expect("a row"),
        Mode::Embedded => {
            let file = sqlx_sqlite::SqliteConnectOptions::new().filename(system.data_dir().join("sanasr.db"));
            let mut connection = sqlx_sqlite::SqliteConnection::connect_with(&file).await.expect("the database");
            sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a row")
        }
    }
}

async fn qr(client: &Client, name: &str, accept: &str) -> Reply {
    let path = format!("/sessions/{name}/qr");
    client.raw(Method::GET, &path, &[("accept", accept.as_bytes())], Vec::new()).await.expect("an answer")
}

async fn a_qr_code_comes_as_an_image_or_as_text(mode: Mode) {
    let system = System::with(mode).env("SANASR_SIMULATOR_SCAN_AFTER", "1h").unconnected().start().await;
    let client = system.client();
    client.post("/sessions", &json!({ "name": "fresh" })).await.expect(201);
    let none = qr(&client, "fresh", "*/*").await;
    assert_eq!((none.status, none.code()), (409, "conflict"), "{}", none.body);
    client.post("/sessions/fresh/connect", &json!({})).await.expect(202);
    client.wait_session("fresh", SessionStatus::WaitingForScan, seconds(30)).await;

    let text: Value = qr(&client, "fresh", "application/json").await.expect(200).data();
    assert!(text["qr_code"].as_str().is_some_and(|code| code.len() > 20), "{text}");
    assert!(text["qr_expires_at"].as_str().and_then(Time::parse).is_some_and(|end| end > Time::now()), "{text}");
    let kept = kept(&system, "SELECT qr_code FROM sessions WHERE name = 'fresh'").await;
    let shown = text["qr_code"].as_str().expect("a code");
    assert!(kept.len() > shown.len() && !kept.contains(shown), "it is sealed where it is kept: {kept}");
    let session: Value = client.get("/sessions/fresh").await.expect(200).data();
    assert!(session["qr_code"].as_str().is_some_and(|code| code.len() > 20), "{session}");
    let svg = qr(&client, "fresh", "image/svg+xml").await.expect(200);
    assert_eq!(svg.header("content-type"), "image/svg+xml");
    assert!(svg.body.as_str().is_some_and(|text| text.contains("<svg")), "{}", svg.body);
    for accept in ["image/png", "*/*", "text/html, image/*"] {
        let png = qr(&client, "fresh", accept).await.expect(200);
        assert_eq!((png.header("content-type"), png.header("cache-control")), ("image/png", "no-store"), "{accept}");
    }
    let refused = qr(&client, "fresh", "text/html").await;
    assert_eq!((refused.status, refused.code()), (406, "not_acceptable"), "{}", refused.body);
    assert_eq!(qr(&client, "nobody", "*/*").await.status, 404);
}

async fn a_session_is_paired_by_a_typed_code(mode: Mode) {
    let system = System::with(mode).env("SANASR_SIMULATOR_SCAN_AFTER", "3s").unconnected().start().await;
    let client = system.client();
    client.post("/sessions", &json!({ "name": "typed" })).await.expect(201);
    for (body, field) in [
        (json!({}), "phone_number"),
        (json!({ "phone": "hello" }), "phone"),
        (json!({ "phone": "120363025246125486@g.us" }), "phone"),
        (json!({ "phone": "+15551230000", "code": 1 }), "code"),
    ] {
        let refused = client.post("/sessions/typed/pair-code", &body).await.expect(422);
        assert_eq!(refused.fields(), [field], "{body}");
    }
    let asked = client.post("/sessions/typed/pair-code", &json!({ "phone": "+1 (555) 123-0000" })).await.expect(200);
    let code: Value = asked.data();
    assert!(code["code"].as_str().is_some_and(|code| code.len() == 9 && code.contains('-')), "{code}");
    assert!(code["expires_at"].as_str().and_then(Time::parse).is_some_and(|end| end > Time::now()), "{code}");
    let kept = kept(&system, "SELECT COALESCE(pair_code, 'none any more') FROM sessions WHERE name = 'typed'").await;
    assert!(!kept.contains(code["code"].as_str().expect("a code")), "it is sealed where it is kept: {kept}");
    client.wait_session("typed", SessionStatus::Connected, seconds(30)).await;
    let session: Value = client.get("/sessions/typed").await.expect(200).data();
    assert_eq!(session["phone_number"], "+15551230000");
    let again = client.post("/sessions/typed/pair-code", &json!({ "phone": "+15551230000" })).await;
    assert_eq!((again.status, again.code()), (409, "conflict"), "{}", again.body);
    assert_eq!(client.post("/sessions/nobody/pair-code", &json!({ "phone": "+15551230000" })).await.status, 404);
}

async fn all_that_waits_is_taken_back_at_once(mode: Mode) {
    let system = System::with(mode).user("limited", 5_000).start().await;
    let client = system.client_of("limited", 0);
    client.connect("default").await;
    client.new_session("other").await;
    client.pause("default").await;
    client.pause("other").await;
    let message = |session: &str, to: usize, more: Value| {
        let to = format!("+1555300{to:04}");
        let mut body = json!({ "to": to, "type": "text", "text": "hello", "session": session });
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        body
    };
    let mut items: Vec<Value> = (0..60).map(|n| message("default", 1000 + n, json!({}))).collect();
    items.extend((0..20).map(|n| message("other", 1000 + n, json!({ "reference": "march" }))));
    items.push(message("default", 2000, json!({ "send_at": Time::now().plus(seconds(3_600)).to_string() })));
    assert!(client.batch(None, &items).await.iter().all(Result::is_ok));

    let cancel = async |body: Value| client.post("/messages/cancel", &body).await;
    for (body, field) in [
        (json!({ "session": "Not A Name" }), "session"),
        (json!({ "to": "hello" }), "to"),
        (json!({ "reference": "" }), "reference"),
        // Not all that waits by oversight.
        (json!({}), "all"),
        (json!({ "all": false }), "all"),
        (json!({ "session": null }), "all"),
        (json!({ "all": true, "reference": "march" }), "all"),
        (json!({ "all": true, "status": "accepted" }), "status"),
    ] {
        assert_eq!(cancel(body.clone()).await.expect(422).fields(), [field], "{body}");
    }
    let count = |reply: Reply| reply.data::<Value>()["cancelled"].as_u64().expect("a count");
    assert_eq!(count(cancel(json!({ "session": "nobody" })).await.expect(200)), 0);
    assert_eq!(count(cancel(json!({ "to": "+1 555 300 1000", "session": "default" })).await.expect(200)), 1);
    assert_eq!(count(cancel(json!({ "reference": "march" })).await.expect(200)), 20);
    assert_eq!(client.quota().await.used, 60);
    assert_eq!(count(cancel(json!({ "all": true })).await.expect(200)), 60);
    assert_eq!(client.quota().await.used, 0, "each unit came back");
    client.wait_count("", Status::Cancelled, 81, seconds(10)).await;
    client.resume("default").await;
    let after = client.text("default", "+15553001000", "after all").await;
    client.wait_status(after.id, Status::Read, seconds(30)).await;
    assert_eq!(system.ledger.read().shown().len(), 1, "nothing that was taken back went out");
    eventually(seconds(10), "the queue is empty", async || {
        let session: Value = client.get("/sessions/default").await.expect(200).data();
        (session["waiting"] == 0).then_some(())
    })
    .await;
}
