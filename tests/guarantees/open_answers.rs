//! What is open ends with its credentials: long polls, streams, and requests whose body is still arriving.

use std::time::{Duration, Instant};

use reqwest::Method;
use sanasr_shared::message::Status;
use sanasr_shared::time::Time;
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::proxy::Proxy;
use crate::harness::services::Kind;
use crate::harness::stream::Events;
use crate::harness::system::{ADMIN, PASSWORD};
use crate::harness::wait::seconds;
use crate::harness::{Client, Mode, Reply, System, both_modes};

both_modes!(
    what_is_open_ends_with_its_credentials,
    a_demoted_admin_sees_nothing_more_of_others,
    what_is_open_ends_though_nobody_tells,
    a_body_under_way_ends_with_its_key,
    what_is_open_ends_with_its_token,
);

/// The promise is a second. A busy machine of the tests may take longer, but far less than a poll or a stream by itself.
const SOON: Duration = Duration::from_secs(12);

/// Polls and streams that are open, by what.
struct Open {
    polls: Vec<(String, JoinHandle<Reply>)>,
    streams: Vec<(String, Events)>,
}

impl Open {
    fn new() -> Self {
        Self { polls: Vec::new(), streams: Vec::new() }
    }

    /// Opens a poll for a message that stays as it is, a stream, and one that resumes.
    async fn add(&mut self, name: &str, client: &Client, message: &str) {
        let (polling, path) = (client.clone(), format!("/messages/{message}?wait=60&known=sent"));
        self.polls.push((name.to_owned(), tokio::spawn(async move { polling.get(&path).await })));
        self.streams.push((name.to_owned(), client.events(None).await));
        self.streams.push((format!("{name}, resumed"), client.events(Some(0)).await));
    }

    /// All of it ends soon after `since`.
    async fn ends(self, since: Instant) {
        for (name, poll) in self.polls {
            let reply = tokio::time::timeout(SOON, poll).await.unwrap_or_else(|_| panic!("{name}: the poll goes on"));
            let reply = reply.expect("no panic").expect(401);
            assert!(reply.body.get("data").is_none(), "{name}: {}", reply.body);
        }
        for (name, mut stream) in self.streams {
            let rest = async { while stream.next(SOON).await.is_some() {} };
            tokio::time::timeout(SOON, rest).await.unwrap_or_else(|_| panic!("{name}: the stream goes on"));
        }
        assert!(since.elapsed() < SOON, "ended after {:?}", since.elapsed());
    }
}

/// A message that stays `sent`.
async fn message(client: &Client) -> String {
    let sent = client.text("default", "+15553010005", "a secret").await;
    client.wait_status(sent.id, Status::Sent, seconds(30)).await.id.to_string()
}

struct Person {
    id: i64,
    key_id: i64,
    key: Client,
    login: Client,
    refresh: String,
    /// When the key ends.
    expires_at: Option<Time>,
}

/// A new user with a key and a login, at an API.
async fn person(system: &System, api: usize, expires_after: Option<Duration>) -> Person {
    let admin = system.admin().await;
    let name = crate::harness::unique("person");
    let user: Value = admin.post("/users", &json!({ "username": name, "password": PASSWORD })).await.expect(201).data();
    let mut key = json!({ "user_id": user["id"], "name": "a key" });
    let expires_at = expires_after.map(|after| Time::now().plus(after));
    if let Some(at) = expires_at {
        key["expires_at"] = at.to_string().into();
    }
    let key: Value = admin.post("/api-keys", &key).await.expect(201).data();
    let stranger = system.stranger(api);
    let tokens: Value = stranger.log_in(&name, PASSWORD).await.expect(200).data();
    Person {
        id: user["id"].as_i64().expect("an id"),
        key_id: key["id"].as_i64().expect("an id"),
        key: stranger.with_key(key["key"].as_str().expect("a key")),
        login: stranger.with_token(tokens["access_token"].as_str().expect("a token")),
        refresh: tokens["refresh_token"].as_str().expect("a token").to_owned(),
        expires_at,
    }
}

async fn what_is_open_ends_with_its_credentials(mode: Mode) {
    let redis = if mode == Mode::Distributed { Some(Proxy::to(&Kind::Redis.shared()).await) } else { None };
    let mut builder = System::with(mode).apis(2).env("SANASR_ADDRESS_RATE", "1000").env("SANASR_ADDRESS_BURST", "1000");
    if let Some(redis) = &redis {
        builder = builder.env("REDIS_URL", &redis.url(&Kind::Redis.shared()));
    }
    let system = builder.start().await;
    let admin = system.admin().await;
    // With signals, and without them.
    for signals in [true, false] {
        if !signals {
            let Some(redis) = &redis else { break };
            redis.refuse().await;
        }
        // At another process than the changes are made at. What ends by itself has its time while the others are looked at.
        let two = person(&system, 1, Some(seconds(15))).await;
        let ends_at = two.expires_at.expect("it ends");
        two.login.connect("default").await;
        let kept = message(&two.login).await;
        let mut ending = Open::new();
        if two.key.get("/auth/me").await.status == 200 {
            ending.add("a key that ends by itself", &two.key, &kept).await;
        }
        let one = person(&system, 1, None).await;
        one.key.connect("default").await;
        let id = message(&one.key).await;

        let mut open = Open::new();
        open.add("a revoked key", &one.key, &id).await;
        let since = Instant::now();
        admin.delete(&format!("/api-keys/{}", one.key_id)).await.expect(204);
        open.ends(since).await;

        let mut open = Open::new();
        open.add("a login that is ended", &one.login, &id).await;
        let since = Instant::now();
        admin.post("/auth/logout", &json!({ "refresh_token": one.refresh })).await.expect(200);
        open.ends(since).await;

        // All that ended by itself meanwhile, and what a deactivated user has.
        let since = Instant::now() + ends_at.since(Time::now());
        tokio::time::sleep_until(since.into()).await;
        ending.ends(since).await;
        let mut open = Open::new();
        open.add("a deactivated user's login", &two.login, &kept).await;
        let since = Instant::now();
        admin.post(&format!("/users/{}/deactivate", two.id), &json!({})).await.expect(200);
        open.ends(since).await;
        // The login has ended for good.
        admin.post(&format!("/users/{}/activate", two.id), &json!({})).await.expect(200);
        crate::harness::eventually(seconds(5), "nobody remembers it any more", async || {
            (two.login.get("/auth/me").await.status == 401).then_some(())
        })
        .await;
        system.stranger(0).post("/auth/refresh", &json!({ "refresh_token": two.refresh })).await.expect(401);
    }
    assert!(system.client().get("/usage").await.status == 200, "others go on");
}

/// The worst of it: an admin who was demoted got another user's message from a poll that was open.
async fn a_demoted_admin_sees_nothing_more_of_others(mode: Mode) {
    let system = System::with(mode).apis(2).start().await;
    let admin = system.admin().await;
    let two = person(&system, 1, None).await;
    admin.patch(&format!("/users/{}", two.id), &json!({ "is_staff": true })).await.expect(200);
    let id = message(&system.client()).await;
    crate::harness::eventually(seconds(5), "the new admin is one", async || {
        (two.login.get(&format!("/messages/{id}")).await.status == 200).then_some(())
    })
    .await;
    let mut open = Open::new();
    open.add("a demoted admin", &two.login, &id).await;
    open.streams.push(("of all".to_owned(), two.login.stream("/events?user_id=all", None).await));
    let since = Instant::now();
    admin.patch(&format!("/users/{}", two.id), &json!({ "is_staff": false })).await.expect(200);
    open.ends(since).await;
    // The login itself goes on, as what its user is now.
    two.login.get("/auth/me").await.expect(200);
    two.login.get(&format!("/messages/{id}")).await.expect(404);
}

/// Behind every process's back: no signal helps.
async fn behind_the_back(system: &System, change: &'static str) {
    match system.mode {
        Mode::Distributed => {
            sqlx::query(change).execute(&system.database().await).await.expect("a change");
        }
        Mode::Embedded => {
            let file = sqlx_sqlite::SqliteConnectOptions::new().filename(system.data_dir().join("sanasr.db"));
            let mut connection = sqlx_sqlite::SqliteConnection::connect_with(&file).await.expect("the database");
            sqlx::query(change).execute(&mut connection).await.expect("a change");
        }
    }
}

async fn what_is_open_ends_though_nobody_tells(mode: Mode) {
    let system = System::start(mode).await;
    let client = system.client();
    let id = message(&client).await;
    let mut open = Open::new();
    for n in 0..10 {
        open.add(&format!("number {n}"), &client, &id).await;
    }
    let since = Instant::now();
    behind_the_back(&system, "UPDATE api_keys SET is_active = false").await;
    open.ends(since).await;
}

async fn a_body_under_way_ends_with_its_key(mode: Mode) {
    let system = System::start(mode).await;
    let client = system.client();
    let host = system.apis[0].origin.trim_start_matches("http://").to_owned();
    let mut under_way = Vec::new();
    for (path, kind, length) in [
        ("/messages", "application/json", 200),
        ("/messages/batch", "application/json", 10_000_000),
        ("/media", "multipart/form-data; boundary=b", 1_000_000),
    ] {
        let mut socket = TcpStream::connect(&host).await.expect("a connection");
        let head = format!(
            "POST /api/v1{path} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n",
            client.key()
        );
        socket.write_all(head.as_bytes()).await.expect("a head");
        let begun = if path == "/media" { "--b\r\n" } else { "{\"to\": " };
        socket.write_all(begun.as_bytes()).await.expect("a part of a body");
        under_way.push((path, socket));
    }
    // They are under way: each was let in.
    crate::harness::eventually(seconds(10), "the service has read the heads", async || {
        (client.get("/usage").await.status == 200).then_some(())
    })
    .await;
    behind_the_back(&system, "UPDATE api_keys SET is_active = false").await;
    for (path, mut socket) in under_way {
        let mut answer = vec![0; 64];
        let read = tokio::time::timeout(SOON, socket.read_exact(&mut answer)).await;
        read.unwrap_or_else(|_| panic!("{path}: goes on")).expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
    }
}

/// An access token's own end, and the greatest age of a login.
async fn what_is_open_ends_with_its_token(mode: Mode) {
    let system = System::with(mode).env("SANASR_ACCESS_TOKEN_LIFE", "8s").env("SANASR_LOGIN_LIFE", "12s").start().await;
    let id = message(&system.client()).await;
    system.admin().await;
    let stranger = system.stranger(0);
    let began = Instant::now();
    let tokens: Value = stranger.log_in(ADMIN, PASSWORD).await.expect(200).data();
    assert_eq!(tokens["expires_in"], 8, "{tokens}");
    let client = stranger.with_token(tokens["access_token"].as_str().expect("a token"));
    let mut open = Open::new();
    open.add("an access token", &client, &id).await;
    let reply = stranger.post("/auth/refresh", &json!({ "refresh_token": tokens["refresh_token"] })).await.expect(200);
    let next: Value = reply.data();
    tokio::time::sleep_until((began + seconds(8)).into()).await;
    open.ends(began + seconds(8)).await;

    // The password was given within the seconds after it began.
    tokio::time::sleep_until((began + seconds(15)).into()).await;
    let refused = stranger.post("/auth/refresh", &json!({ "refresh_token": next["refresh_token"] })).await.expect(401);
    let said = refused.body["detail"].as_str().unwrap_or_default();
    assert!(said.contains("greatest age"), "it tells so: {said}");
    let path = "/auth/me";
    let token = next["access_token"].as_str().expect("a token");
    let old = stranger.with_token(token).raw(Method::GET, path, &[], Vec::new()).await.expect("an answer");
    old.expect(401);
    // A new login works.
    stranger.log_in(ADMIN, PASSWORD).await.expect(200);
}
