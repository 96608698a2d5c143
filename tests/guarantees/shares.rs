//! What one user or one address may have of what all share: no more, and never at the cost of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use sanasr_shared::time::Time;
use serde_json::{Value, json};

use crate::harness::files::{Parts, picture};
use crate::harness::system::{ADMIN, PASSWORD};
use crate::harness::wait::seconds;
use crate::harness::{Client, Mode, Reply, System, both_modes, eventually};

both_modes!(
    strangers_leave_few_lines,
    ten_times_the_quota_is_accepted_and_no_more,
    a_users_files_have_a_limit,
    a_file_is_removed_on_demand,
    a_user_has_so_many_sessions_and_streams,
    guessers_dont_keep_an_admin_out,
);

/// A request from an address that a trusted proxy tells.
async fn from(client: &Client, address: &str, method: Method, path: &str, body: Option<Value>) -> Reply {
    let headers = [("content-type", b"application/json".as_slice()), ("x-forwarded-for", address.as_bytes())];
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    client.raw(method, path, &headers, body).await.expect("an answer")
}

/// Unknown endpoints without credentials: past the address's limit they are refused and leave no line in the API log.
async fn strangers_leave_few_lines(mode: Mode) {
    const ASKED: usize = 3_000;
    let system = System::with(mode).unconnected().start().await;
    let stranger = system.stranger(0);
    let admin = system.admin().await;
    let started = std::time::Instant::now();
    let mut refused = 0;
    for chunk in (0..ASKED).collect::<Vec<_>>().chunks(50) {
        let replies = join_all(chunk.iter().map(|n| {
            let path = format!("/nothing/{n}");
            let stranger = &stranger;
            async move { stranger.get(&path).await }
        }))
        .await;
        assert!(replies.iter().all(|reply| [404, 429].contains(&reply.status)));
        refused += replies.iter().filter(|reply| reply.status == 429).count();
    }
    // 40 at once and 20 a second may be let through.
    let let_through = ASKED - refused;
    let may = 41 + 21 * usize::try_from(started.elapsed().as_secs() + 1).expect("seconds");
    assert!(let_through <= may, "{let_through} of {ASKED}, where {may} may be");
    let lines = async || {
        let (mut count, mut cursor) = (0, String::new());
        loop {
            let page = admin.get(&format!("/analytics/api-logs?limit=200{cursor}")).await.expect(200);
            let lines: Vec<Value> = page.data();
            let strange = |line: &&Value| line["endpoint"].as_str().is_some_and(|text| text.contains("/nothing/"));
            count += lines.iter().filter(strange).count();
            match page.body["pagination"]["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return count,
            }
        }
    };
    eventually(seconds(20), "what was let through is logged", async || (lines().await == let_through).then_some(()))
        .await;
}

async fn ten_times_the_quota_is_accepted_and_no_more(mode: Mode) {
    let system = System::with(mode).apis(2).user("small", 5).start().await;
    let later = Time::now().plus(Duration::from_secs(86_400)).to_string();
    let body = json!({ "to": "+15553001001", "type": "text", "text": "later", "send_at": later });
    let mut accepted = 0;
    let refused = loop {
        let client = system.client_of("small", accepted % 2);
        let reply = client.send(&body).await;
        if reply.status != 202 {
            break reply.expect(429);
        }
        accepted += 1;
        assert!(accepted <= 50, "50 are accepted at most");
        assert_eq!(client.cancel(reply.data::<crate::harness::Message>().id).await.status, 200);
    };
    assert_eq!((accepted, refused.code()), (50, "quota_exceeded"));
    let detail = refused.body["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("50 messages were accepted today") && detail.contains("10 times"), "{detail}");
    assert!(!refused.header("retry-after").is_empty());
    let usage: Value = system.client_of("small", 0).get("/usage").await.expect(200).data();
    assert_eq!((&usage["quota"]["used"], &usage["quota"]["remaining"]), (&json!(0), &json!(0)), "{usage}");
    assert_eq!(usage["days"][0]["messages_accepted"], 50);
    // Another user's quota is their own.
    system.client().send(&body).await.expect(202);
}

async fn upload(client: &Client, bytes: &[u8]) -> Reply {
    let body = Parts::default().file("a.png", bytes).end();
    client.raw(Method::POST, "/media", &[("content-type", Parts::TYPE)], body).await.expect("an answer")
}

async fn files_of(client: &Client) -> (u64, u64) {
    let usage: Value = client.get("/usage").await.expect(200).data();
    let number = |name: &str| usage["files"][name].as_u64().unwrap_or_else(|| panic!("files.{name}: {usage}"));
    (number("bytes"), number("limit"))
}

async fn a_users_files_have_a_limit(mode: Mode) {
    let system = System::with(mode).apis(2).env("SANASR_MEDIA_USER_LIMIT", "1000000").user("other", 100).start().await;
    let client = system.client();
    let bytes = picture(150_000, 1);
    let replies = join_all((0..20).map(|n| {
        let (client, bytes) = (system.client_at(n), bytes.clone());
        async move { upload(&client, &bytes).await }
    }))
    .await;
    let kept: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(kept.len(), 6, "{:?}", replies.iter().map(|reply| reply.status).collect::<Vec<_>>());
    for refused in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!((refused.status, refused.code()), (429, "quota_exceeded"), "{}", refused.body);
        assert!(!refused.header("retry-after").is_empty());
    }
    assert_eq!(files_of(&client).await, (900_000, 1_000_000));
    // A file that comes with a message counts like any other; and its message isn't accepted.
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes);
    let media = json!({ "base64": encoded, "mime_type": "image/png" });
    let message = json!({ "to": "+15553001001", "type": "image", "media": media });
    assert_eq!(client.send(&message).await.expect(429).code(), "quota_exceeded");
    assert_eq!((client.list("").await.len(), client.quota().await.used), (0, 0));
    // Others have room of their own; and so has the user after one has gone.
    upload(&system.client_of("other", 0), &bytes).await.expect(201);
    let id = kept[0].body["data"]["id"].as_str().expect("an id");
    client.delete(&format!("/media/{id}")).await.expect(204);
    assert_eq!(files_of(&client).await.0, 750_000);
    client.send(&message).await.expect(202);
    assert_eq!(files_of(&client).await.0, 900_000);
}

async fn a_file_is_removed_on_demand(mode: Mode) {
    let system = System::with(mode).user("other", 100).start().await;
    let (client, other) = (system.client(), system.client_of("other", 0));
    let folder = system.data_dir().join("media");
    let id =
        upload(&client, &picture(20_000, 1)).await.expect(201).body["data"]["id"].as_str().expect("an id").to_owned();
    let path = format!("/media/{id}");
    client.pause("default").await;
    let message = json!({ "to": "+15553001001", "type": "image", "media": { "id": id } });
    let sent: crate::harness::Message = client.send(&message).await.expect(202).data();
    other.delete(&path).await.expect(404);
    assert_eq!(client.delete(&path).await.expect(409).code(), "conflict");
    assert_eq!(client.cancel(sent.id).await.status, 200);
    client.delete(&path).await.expect(204);
    client.delete(&path).await.expect(404);
    client.get(&path).await.expect(404);
    assert!(!folder.join(&id).exists(), "its bytes are gone, too");
    assert_eq!(client.send(&message).await.expect(422).fields(), ["media.id"]);
}

async fn a_user_has_so_many_sessions_and_streams(mode: Mode) {
    let builder = System::with(mode).apis(1).user("other", 100);
    let system =
        builder.env("SANASR_SESSIONS_PER_USER", "5").env("SANASR_STREAMS_PER_USER", "3").unconnected().start().await;
    let client = system.client();
    let made = join_all((0..12).map(|n| {
        let client = system.client();
        async move { client.post("/sessions", &json!({ "name": format!("s{n}") })).await }
    }))
    .await;
    let count = made.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(count, 4, "with the session `default`: {:?}", made.iter().map(|reply| reply.status).collect::<Vec<_>>());
    for refused in made.iter().filter(|reply| reply.status != 201) {
        assert_eq!((refused.status, refused.code()), (409, "conflict"));
        assert!(refused.body["detail"].as_str().is_some_and(|text| text.contains("5 sessions")), "{}", refused.body);
    }
    system.client_of("other", 0).post("/sessions", &json!({ "name": "s" })).await.expect(201);

    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(client.stream("/events", None).await);
    }
    let refused = client.get("/events").await.expect(429);
    assert_eq!(refused.code(), "rate_limited");
    assert!(!refused.header("retry-after").is_empty());
    let _others = system.client_of("other", 0).stream("/events", None).await;
    streams.pop();
    eventually(seconds(20), "a place is free again", async || {
        let reply = tokio::time::timeout(Duration::from_secs(1), client.get("/events")).await;
        // A stream doesn't end: no answer within a second is one.
        (!reply.is_ok_and(|reply| reply.status == 429)).then_some(())
    })
    .await;
}

/// Guessers from 300 networks fill the queue of passwords to be checked: an admin from an address that has logged in before is
/// let in.
async fn guessers_dont_keep_an_admin_out(mode: Mode) {
    let system = System::with(mode).apis(1).unconnected().env("SANASR_TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    system.admin().await;
    let stranger = system.stranger(0);
    let right = || json!({ "username": ADMIN, "password": PASSWORD });
    let home = "198.51.100.7";
    from(&stranger, home, Method::POST, "/auth/login", Some(right())).await.expect(200);
    let refused = Arc::new(AtomicUsize::new(0));
    let guess = |n: usize| {
        let (stranger, refused) = (system.stranger(0), Arc::clone(&refused));
        async move {
            let address = format!("10.{}.{}.1", n / 256, n % 256);
            let body = json!({ "username": format!("nobody-{n}"), "password": "a wrong one, long enough" }).to_string();
            let headers = [("content-type", b"application/json".as_slice()), ("x-forwarded-for", address.as_bytes())];
            // Most wait longer than anybody would.
            let reply = stranger.raw(Method::POST, "/auth/login", &headers, body.into_bytes()).await;
            if reply.is_ok_and(|reply| reply.status == 503) {
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let guesses = tokio::spawn(join_all((0..300).map(guess).collect::<Vec<_>>()));
    eventually(seconds(60), "the queue is full, and strangers are told so", async || {
        (refused.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    from(&stranger, home, Method::POST, "/auth/login", Some(right())).await.expect(200);
    guesses.abort();
}
