//! Linking a phone: by QR code and by a code that is typed; what goes wrong says so; unlinking.

use sanasr_shared::session::SessionStatus;
use serde_json::{Value, json};
use whatsapp_test_server::PairingRefusal;

use crate::harness::wait::seconds;
use crate::harness::whatsapp::start;
use crate::harness::{Mode, both_modes, eventually};

both_modes!(phones_are_linked_by_qr_code_and_by_code, what_keeps_a_phone_from_being_linked_is_said);

async fn phones_are_linked_by_qr_code_and_by_code(mode: Mode) {
    let (system, server) = start(mode).await;
    let client = system.client();
    let shop = client.link(&server, "shop", "15550001001").await;
    let desk = client.link(&server, "desk", "15550001002").await;
    client.new_whatsapp("office").await;
    let asked: Value =
        client.post("/sessions/office/pair-code", &json!({ "phone": "+1 555 000 1003" })).await.expect(200).data();
    let code = asked["code"].as_str().expect("a code");
    assert!(server.enter_code("15550001003", "ABCD-EFGH").await.is_err(), "a wrong code links nothing");
    let office = match server.enter_code("15550001003", code).await {
        Ok(account) => account,
        Err(refused) => panic!("the code {code} links the phone: {refused}"),
    };
    client.wait_session("office", SessionStatus::Connected, seconds(20)).await;
    for (name, account) in [("shop", &shop), ("desk", &desk), ("office", &office)] {
        assert!(account.is_connected() && account.is_linked());
        let session: Value = client.get(&format!("/sessions/{name}")).await.expect(200).data();
        assert_eq!(session["phone_number"], format!("+{}", account.number()));
        assert_eq!((&session["qr_code"], &session["blocked_reason"]), (&Value::Null, &Value::Null));
        // Connecting what is connected changes nothing.
        let logins = account.logins();
        client.post(&format!("/sessions/{name}/connect"), &json!({})).await.expect(202);
        assert_eq!(account.logins(), logins, "no other login");
    }

    // Disconnected it keeps its pairing; logged out it is no linked device any more.
    client.post("/sessions/desk/disconnect", &json!({})).await.expect(202);
    desk.wait_disconnected().await;
    client.wait_session("desk", SessionStatus::Disconnected, seconds(10)).await;
    client.connect("desk").await;
    assert!(desk.is_connected() && desk.is_linked());
    client.post("/sessions/desk/unlink", &json!({})).await.expect(202);
    client.wait_session("desk", SessionStatus::LoggedOut, seconds(20)).await;
    eventually(seconds(10), "the phone's list has lost the device", async || (!desk.is_linked()).then_some(())).await;
    assert!(shop.is_connected());
    // So is one that isn't connected just then, and one that is deleted.
    client.post("/sessions/office/disconnect", &json!({})).await.expect(202);
    client.wait_session("office", SessionStatus::Disconnected, seconds(10)).await;
    client.post("/sessions/office/unlink", &json!({})).await.expect(202);
    client.wait_session("office", SessionStatus::LoggedOut, seconds(20)).await;
    assert!(!office.is_linked(), "the phone's list has lost the device");
    client.delete("/sessions/shop").await.expect(204);
    eventually(seconds(20), "a deleted session leaves no device", async || (!shop.is_linked()).then_some(())).await;
    // The same session can be linked anew, to another phone.
    let code = client.qr_code("desk").await;
    server.scan(&code, "15550001004").await.expect("the new phone takes the code");
    let session = client.wait_session("desk", SessionStatus::Connected, seconds(20)).await;
    let shown: Value = client.get("/sessions/desk").await.expect(200).data();
    assert_eq!((session.status, &shown["phone_number"]), (SessionStatus::Connected, &json!("+15550001004")));
}

async fn what_keeps_a_phone_from_being_linked_is_said(mode: Mode) {
    let (system, server) = start(mode).await;
    let client = system.client();
    let halted = SessionStatus::Disconnected;

    client.new_whatsapp("forged").await;
    let code = client.qr_code("forged").await;
    server.refuse_pairing(Some(PairingRefusal::Forged));
    let _ = server.scan(&code, "15550001101").await;
    client.wait_reason("forged", halted, "pairing_refused").await;

    for (name, refusal, reason) in [
        ("throttled", 429, "pair_code_too_often"),
        ("unavailable", 452, "pair_code_unavailable"),
        ("forbidden", 403, "pair_code_refused"),
    ] {
        server.refuse_pairing(Some(PairingRefusal::Code(refusal)));
        client.new_whatsapp(name).await;
        let asked = client.post(&format!("/sessions/{name}/pair-code"), &json!({ "phone": "+15550001102" })).await;
        let refused = asked.expect(409);
        assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains(reason)), "{}", refused.body);
        let session = client.wait_reason(name, halted, reason).await;
        assert!(session["advice"].is_string(), "what to do is said: {session}");
    }
    server.refuse_pairing(None);

    let refused = client.post("/sessions/forged/pair-code", &json!({ "phone": "call me" })).await.expect(422);
    assert_eq!(refused.fields(), ["phone"]);

    server.refuse_version(true);
    client.new_whatsapp("outdated").await;
    client.post("/sessions/outdated/connect", &json!({})).await.expect(202);
    client.wait_reason("outdated", halted, "client_outdated").await;
    server.refuse_version(false);

    // After a refusal the same session is linked as if nothing had been.
    let code = client.qr_code("forged").await;
    server.scan(&code, "15550001101").await.expect("the phone takes the code");
    client.wait_session("forged", SessionStatus::Connected, seconds(20)).await;
}

/// Whoever sees that a session has ended connects it again at once. Nothing that ended it may be written after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_written_as_one() {
    let (system, server) = start(Mode::Distributed).await;
    let client = system.client();
    let (ended, halted) = (SessionStatus::LoggedOut as i16, SessionStatus::Disconnected as i16);
    let half = format!(
        "CREATE FUNCTION half() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM sessions WHERE id = NEW.id AND (status = {ended} AND paired OR status = {halted} AND wanted))
            THEN RAISE 'half an end'; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER half AFTER UPDATE ON sessions DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION half()"
    );
    sqlx::raw_sql(&half).execute(&system.database().await).await.expect("a trigger");
    let account = client.link(&server, "shop", "15550001201").await;
    account.replace();
    client.wait_reason("shop", SessionStatus::Disconnected, "replaced").await;
    client.connect("shop").await;
    account.log_out();
    client.wait_session("shop", SessionStatus::LoggedOut, seconds(20)).await;
    let code = client.qr_code("shop").await;
    server.scan(&code, "15550001202").await.expect("the phone takes the code");
    client.wait_session("shop", SessionStatus::Connected, seconds(20)).await;
    client.post("/sessions/shop/unlink", &json!({})).await.expect(202);
    client.wait_session("shop", SessionStatus::LoggedOut, seconds(20)).await;
    client.qr_code("shop").await;
}
