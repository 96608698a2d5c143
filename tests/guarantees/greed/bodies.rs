//! Clients that announce large bodies and don't send them, or send them byte by byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::raw::Raw;
use crate::harness::wait::seconds;
use crate::harness::{Mode, System, both_modes, eventually};

both_modes!(announced_bodies_block_nobody_else, uploads_that_drip_block_nobody_else, logins_take_small_bodies,);

/// A request's head with a body that is announced.
fn head(path: &str, key: &str, kind: &str, length: usize) -> String {
    format!(
        "POST /api/v1{path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\ncontent-type: {kind}\r\n\
         content-length: {length}\r\n\r\n"
    )
}

/// Waits until the first of these is told that it is too slow; then all of them go.
async fn one_is_cut(mut slow: Vec<Raw>) {
    let answers = slow.iter_mut().map(|raw| Box::pin(raw.answer(seconds(30))));
    let (cut, at, rest) = futures_util::future::select_all(answers).await;
    drop(rest);
    let cut = cut.expect("an answer");
    assert_eq!((cut.status, cut.code()), (408, "request_timeout"));
    slow[at].closed(seconds(5)).await;
}

async fn announced_bodies_block_nobody_else(mode: Mode) {
    let system = System::with(mode).user("greedy", 100).user("calm", 100).unconnected().start().await;
    let origin = &system.apis[0].origin;
    let (greedy, calm) = (system.client_of("greedy", 0), system.client_of("calm", 0));
    let mut announced = Vec::new();
    for _ in 0..48 {
        let mut raw = Raw::to(origin).await;
        raw.send(head("/messages/batch", greedy.key(), "application/json", 16 << 20) + "{").await;
        announced.push(raw);
    }
    // Larger than what needs no room.
    let file = STANDARD.encode(vec![b'x'; 500_000]);
    let media = json!({"base64": file, "mime_type": "text/plain", "filename": "x.txt"});
    let message = json!({"to": "+15551234567", "type": "document", "media": media});
    for _ in 0..3 {
        let sent = tokio::time::timeout(seconds(4), calm.send(&message)).await;
        sent.expect("another's body waits for nobody").expect(202);
    }
    // Those that have room are cut for coming too slowly.
    one_is_cut(announced).await;
    // What nobody waits for any longer gives its room back.
    let sent = eventually(seconds(20), "its own body has room again", async || {
        tokio::time::timeout(seconds(10), greedy.send(&message)).await.ok()
    });
    sent.await.expect(202);
}

async fn uploads_that_drip_block_nobody_else(mode: Mode) {
    let system = System::with(mode)
        .user("greedy", 100)
        .user("calm", 100)
        .env("SANASR_UPLOADS", "16")
        .unconnected()
        .start()
        .await;
    let origin = &system.apis[0].origin;
    let (greedy, calm) = (system.client_of("greedy", 0), system.client_of("calm", 0));
    let kind = "multipart/form-data; boundary=x";
    let part = "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\n";
    let mut dripping = Vec::new();
    for _ in 0..40 {
        let mut raw = Raw::to(origin).await;
        raw.send(head("/media", greedy.key(), kind, 1 << 20) + part).await;
        dripping.push(raw);
    }
    let whole = format!("{part}hello\r\n--x--\r\n");
    let headers: &[(&str, &[u8])] = &[("content-type", kind.as_bytes())];
    let upload = async |client: &crate::harness::Client| {
        client.raw(reqwest::Method::POST, "/media", headers, whole.clone().into_bytes()).await.expect("an answer")
    };
    for _ in 0..3 {
        let uploaded = tokio::time::timeout(seconds(4), upload(&calm)).await;
        uploaded.expect("another's upload waits for nobody").expect(201);
    }
    for raw in &mut dripping {
        raw.send("x").await;
    }
    one_is_cut(dripping).await;
    upload(&greedy).await.expect(201);
}

async fn logins_take_small_bodies(mode: Mode) {
    let system = System::with(mode).env("SANASR_ADDRESS_BURST", "100").unconnected().start().await;
    let origin = &system.apis[0].origin;
    for path in ["/auth/login", "/auth/refresh", "/auth/logout"] {
        let mut raw = Raw::to(origin).await;
        raw.send(head(path, "", "application/json", 1 << 20)).await;
        let refused = raw.answer(seconds(10)).await.expect("an answer");
        assert_eq!((refused.status, refused.code()), (413, "payload_too_large"), "{path}");
    }
    let mut small = Raw::to(origin).await;
    small.send(head("/auth/login", "", "application/json", 2) + "{}").await;
    assert_eq!(small.answer(seconds(10)).await.expect("an answer").status, 422);
}
