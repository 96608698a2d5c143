//! A client that hangs up in the middle of a request leaves nothing half done.

use std::time::Duration;

use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sanasr_shared::message::Status;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::harness::wait::seconds;
use crate::harness::{Client, Mode, System, both_modes, eventually};

both_modes!(clients_that_hang_up_leave_the_books_right, a_revocation_is_made_though_its_caller_hung_up);

/// Clients that hang up at the same time.
const AT_ONCE: usize = 32;

/// Sends a request and closes the connection after a while, whatever has become of it.
async fn hang_up(client: &Client, origin: &str, method: &str, path: &str, after: Duration) {
    let mut stream = TcpStream::connect(origin.trim_start_matches("http://")).await.expect("a connection");
    let credentials = match client.token() {
        Some(token) => format!("authorization: Bearer {token}"),
        None => format!("x-api-key: {}", client.key()),
    };
    let request = format!("{method} /api/v1{path} HTTP/1.1\r\nhost: x\r\n{credentials}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("room");
    tokio::time::sleep(after).await;
}

async fn clients_that_hang_up_leave_the_books_right(mode: Mode) {
    const MESSAGES: usize = 1_600;
    const SEED: u64 = 11;
    println!("seed {SEED}");
    let mut random = StdRng::seed_from_u64(SEED);
    let system = System::start(mode).await;
    let (client, origin) = (system.client(), system.apis[0].origin.as_str());
    let used_before = client.quota().await.used;
    let send_at = (chrono::Utc::now() + chrono::Duration::hours(1)).to_rfc3339();
    let drafts: Vec<Value> = (0..MESSAGES)
        .map(|n| json!({ "to": format!("+1555{n:07}"), "type": "text", "text": "later", "send_at": send_at }))
        .collect();
    let mut ids = Vec::new();
    for part in drafts.chunks(800) {
        ids.extend(client.batch(None, part).await.into_iter().map(|item| item.expect("accepted").id));
    }

    let over = CancellationToken::new();
    let pollers: Vec<_> = (0..4)
        .map(|_| {
            let (client, over) = (client.clone(), over.clone());
            tokio::spawn(async move {
                let mut polls = 0;
                while !over.is_cancelled() {
                    for path in ["/usage", "/messages?limit=20&status=scheduled", "/sessions"] {
                        client.get(path).await.expect(200);
                        polls += 1;
                    }
                }
                polls
            })
        })
        .collect();
    let calls: Vec<_> = ids.iter().map(|id| (id, Duration::from_micros(random.random_range(0..3_000)))).collect();
    futures_util::stream::iter(calls)
        .for_each_concurrent(AT_ONCE, |(id, after)| {
            let client = &client;
            async move { hang_up(client, origin, "POST", &format!("/messages/{id}/cancel"), after).await }
        })
        .await;
    over.cancel();
    for poller in pollers {
        assert!(poller.await.expect("every poll is answered") > 0);
    }

    let cancelled = client.list("status=cancelled").await.len();
    println!("{cancelled} of {MESSAGES} are cancelled already");
    // What was begun may still be coming to its end. Whoever waits for the answer hears how it stands, on whatever connection
    // it is given: each message is cancelled once, by one or the other.
    futures_util::stream::iter(&ids)
        .for_each_concurrent(AT_ONCE, |id| {
            let client = &client;
            async move {
                let reply = client.cancel(*id).await;
                assert!(matches!(reply.status, 200 | 409), "{}: {}", reply.status, reply.body);
            }
        })
        .await;
    assert_eq!(client.list("status=cancelled").await.len(), MESSAGES);
    assert_eq!(client.quota().await.used, used_before, "each unit came back once");
    if mode == Mode::Distributed {
        let database = system.database().await;
        let events: i64 =
            sqlx::query_scalar("SELECT count(*) FROM events WHERE message_id IS NOT NULL AND status = $1")
                .bind(Status::Cancelled as i16)
                .fetch_one(&database)
                .await
                .expect("a count");
        assert_eq!(usize::try_from(events), Ok(MESSAGES), "an event for each");
        eventually(seconds(10), "no connection stays in a transaction", async || {
            let open: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND state LIKE 'idle in transaction%'",
            )
            .fetch_one(&database)
            .await
            .expect("a count");
            (open == 0).then_some(())
        })
        .await;
    }
    let log = system.apis[0].process.stderr();
    assert!(!log.contains("already a transaction"), "{log}");
}

/// What an admin was told is undone by nobody: a revocation that came after others hung up holds for every process.
async fn a_revocation_is_made_though_its_caller_hung_up(mode: Mode) {
    let system = System::start(mode).await;
    let admin = system.admin().await;
    let origin = system.apis[0].origin.as_str();
    let mut keys = Vec::new();
    let session: Value = system.client().get("/sessions/default").await.expect(200).data();
    for n in 0..40 {
        let made: Value = admin
            .post("/api-keys", &json!({ "user_id": session["user_id"], "name": format!("key {n}") }))
            .await
            .expect(201)
            .data();
        keys.push((made["id"].clone(), made["key"].as_str().expect("a raw key").to_owned()));
    }
    futures_util::stream::iter(&keys)
        .enumerate()
        .for_each_concurrent(8, |(n, (id, _))| {
            let admin = &admin;
            let after = Duration::from_micros(u64::try_from(n).expect("a number") * 75);
            async move { hang_up(admin, origin, "DELETE", &format!("/api-keys/{id}"), after).await }
        })
        .await;
    for (id, key) in &keys {
        // 204, or 404 if the first request did it.
        let status = admin.delete(&format!("/api-keys/{id}")).await.status;
        assert!(matches!(status, 204 | 404), "{status}");
        let client = system.stranger(0).with_key(key);
        eventually(seconds(10), "a revoked key opens nothing", async || {
            (client.get("/usage").await.status == 401).then_some(())
        })
        .await;
    }
}
