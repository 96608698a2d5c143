//! Proxies: each session goes its own way to WhatsApp, and no other.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sanasr_shared::message::Status;
use sanasr_shared::session::SessionStatus;
use serde_json::{Value, json};

use crate::harness::wait::seconds;
use crate::harness::way::Way;
use crate::harness::whatsapp::start;
use crate::harness::{Mode, both_modes, files};

both_modes!(a_session_goes_by_its_proxy);

const JANE: &str = "15551230601";

async fn a_session_goes_by_its_proxy(mode: Mode) {
    let (system, server) = start(mode).await;
    let (client, admin) = (system.client(), system.admin().await);
    server.contact(JANE);
    let ways = [Way::socks5().await, Way::http().await];
    for (n, way) in ways.iter().enumerate() {
        let name = format!("shop{n}");
        client.new_whatsapp(&name).await;
        let id = client.session(&name).await.id;
        let set: Value =
            admin.patch(&format!("/sessions/{id}"), &json!({ "proxy": way.url() })).await.expect(200).data();
        assert_eq!(set["proxy"], way.shown(), "without credentials");
        let code = client.qr_code(&name).await;
        server.scan(&code, &format!("1555000700{n}")).await.expect("the phone takes the code");
        client.wait_session(&name, SessionStatus::Connected, seconds(20)).await;
        let before = way.passed();
        assert!(before > 0, "it went by the proxy");
        let picture = files::file(files::PNG);
        let size = picture.len();
        let picture = json!({ "base64": STANDARD.encode(picture), "mime_type": "image/png" });
        let message = client.send_any(&name, &format!("+{JANE}"), json!({ "type": "image", "media": picture })).await;
        client.wait_status(message.id, Status::Read, seconds(20)).await;
        assert!(way.passed() > before + size, "its file, too");
    }

    // A proxy that isn't there: it says so, and takes no other way.
    let id = client.session("shop0").await.id;
    let logins = server.account("15550007000").expect("linked").logins();
    let nowhere = json!({ "proxy": "socks5://127.0.0.1:1" });
    admin.patch(&format!("/sessions/{id}"), &nowhere).await.expect(200);
    client.wait_reason("shop0", SessionStatus::Connecting, "proxy_failed").await;
    // So does a proxy that refuses the password.
    let wrong = ways[0].url().replace("pass%20word", "wrong");
    admin.patch(&format!("/sessions/{id}"), &json!({ "proxy": wrong })).await.expect(200);
    client.wait_reason("shop0", SessionStatus::Connecting, "proxy_failed").await;
    assert_eq!(server.account("15550007000").expect("linked").logins(), logins);
    let none: Value = admin.patch(&format!("/sessions/{id}"), &json!({ "proxy": null })).await.expect(200).data();
    assert_eq!(none["proxy"], Value::Null);
    client.wait_session("shop0", SessionStatus::Connected, seconds(30)).await;

    // Who isn't an admin can't send workers anywhere.
    let refused = client.patch("/sessions/shop1", &json!({ "proxy": ways[0].url() })).await.expect(403);
    assert_eq!(refused.code(), "forbidden");
    let wrong = admin.patch(&format!("/sessions/{id}"), &json!({ "proxy": "socks5://nobody" })).await.expect(422);
    assert_eq!(wrong.fields(), ["proxy"]);
}
