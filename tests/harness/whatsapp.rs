//! A system that reaches a WhatsApp server of the tests rather than WhatsApp, and phones linked to it.

use sanasr_shared::session::SessionStatus;
use serde_json::{Value, json};
use whatsapp_test_server::{Account, Server};

use super::client::{Client, Message};
use super::system::{Builder, Mode, System};
use super::wait::{eventually, seconds};

/// Nothing of what keeps an account safe: for tests of something else.
pub(crate) fn hasty() -> Value {
    json!({ "per_minute": null, "burst": null, "jitter_ms": 0, "first_contacts_per_minute": null, "typing": false, "warm_up": false })
}

/// A system and its WhatsApp.
pub(crate) async fn start(mode: Mode) -> (System, Server) {
    start_with(System::with(mode)).await
}

/// A system as described and its WhatsApp.
pub(crate) async fn start_with(builder: Builder) -> (System, Server) {
    let server = Server::start().await;
    let system = builder.env("SANASR_WHATSAPP_URL", &server.url()).unconnected().start().await;
    (system, server)
}

impl Client {
    /// Makes a WhatsApp session that is in no hurry to be careful.
    pub(crate) async fn new_whatsapp(&self, name: &str) {
        self.post("/sessions", &json!({ "name": name, "bridge": "whatsapp" })).await.expect(201);
        self.patch(&format!("/sessions/{name}"), &json!({ "pace": hasty() })).await.expect(200);
    }

    /// Connects a session and waits for its QR code.
    pub(crate) async fn qr_code(&self, name: &str) -> String {
        self.post(&format!("/sessions/{name}/connect"), &json!({})).await.expect(202);
        self.wait_shown(name, "qr_code").await
    }

    /// Waits until a session shows something in a field.
    pub(crate) async fn wait_shown(&self, name: &str, field: &str) -> String {
        eventually(seconds(20), &format!("session {name} shows its {field}"), async || {
            let session: Value = self.get(&format!("/sessions/{name}")).await.expect(200).data();
            session[field].as_str().map(str::to_owned)
        })
        .await
    }

    /// Waits until a session has a status for a reason.
    pub(crate) async fn wait_reason(&self, name: &str, status: SessionStatus, reason: &str) -> Value {
        eventually(seconds(40), &format!("session {name} is {status:?} ({reason})"), async || {
            let session: Value = self.get(&format!("/sessions/{name}")).await.expect(200).data();
            let reason_is = session["blocked_reason"].as_str().unwrap_or_default().starts_with(reason);
            (session["status"] == status.as_str() && reason_is).then_some(session)
        })
        .await
    }

    /// Makes a WhatsApp session and links a phone to it by its QR code.
    pub(crate) async fn link(&self, server: &Server, name: &str, number: &str) -> Account {
        self.new_whatsapp(name).await;
        let code = self.qr_code(name).await;
        let account = server.scan(&code, number).await.expect("the phone takes the code");
        self.wait_session(name, SessionStatus::Connected, seconds(20)).await;
        account
    }

    /// Sends a message of any type.
    pub(crate) async fn send_any(&self, session: &str, to: &str, rest: Value) -> Message {
        let mut message = rest;
        message["session"] = session.into();
        message["to"] = to.into();
        self.send(&message).await.expect(202).data()
    }
}
