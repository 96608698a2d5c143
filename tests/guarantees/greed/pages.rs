//! Clients that list without end, and what a page weighs.

use serde_json::{Value, json};

use crate::harness::raw::Raw;
use crate::harness::wait::seconds;
use crate::harness::{Mode, System, both_modes};

both_modes!(pages_are_compressed_for_who_wants_that, lists_of_one_user_wait_for_each_other,);

async fn filled(system: &System, messages: usize) {
    let text = "The same text again and again, as such messages are. ".repeat(8);
    let batch: Vec<Value> =
        (0..messages).map(|_| json!({"to": "+15551234567", "type": "text", "text": text})).collect();
    for item in system.client().batch(None, &batch).await {
        item.expect("accepted");
    }
}

async fn pages_are_compressed_for_who_wants_that(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    filled(&system, 100).await;
    let (origin, key) = (&system.apis[0].origin, system.key());
    let ask = async |path: &str, accept: &str| {
        let mut raw = Raw::to(origin).await;
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\naccept-encoding: {accept}\r\nconnection: close\r\n\r\n"
        ))
        .await;
        raw.all(seconds(10)).await
    };
    for path in ["/api/v1/messages?limit=100", "/api/openapi.json", "/errors"] {
        let ((plain_head, plain), (head, packed)) = (ask(path, "identity").await, ask(path, "br, gzip").await);
        assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"), "{path}: {head}");
        assert!(!plain_head.contains("content-encoding"), "{path}: {plain_head}");
        assert!(packed.len() * 2 < plain.len(), "{path}: {} of {} bytes", packed.len(), plain.len());
        let (head, _) = ask(path, "gzip;q=0").await;
        assert!(!head.contains("content-encoding"), "{path}: {head}");
    }
    // Nothing is gained on what is small.
    let (head, _) = ask("/api/v1/usage", "gzip").await;
    assert!(!head.contains("content-encoding"), "{head}");
}

async fn lists_of_one_user_wait_for_each_other(mode: Mode) {
    let system =
        System::with(mode).user("greedy", 1_000).user("calm", 100).env("SANASR_READS", "1").unconnected().start().await;
    let greedy = system.client_of("greedy", 0);
    let calm = system.client_of("calm", 0);
    let lists = (0..60).map(|_| {
        let greedy = greedy.clone();
        tokio::spawn(async move { greedy.get("/messages?status=failed&limit=200").await.status })
    });
    let lists: Vec<_> = lists.collect();
    for _ in 0..20 {
        calm.get("/messages").await.expect(200);
        calm.get("/usage").await.expect(200);
    }
    for list in lists {
        assert_eq!(list.await.expect("an answer"), 200);
    }
}
