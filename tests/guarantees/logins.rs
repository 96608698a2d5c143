//! Logins: tokens rotate and end when they should, everywhere, and passwords can't be guessed.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::proxy::Proxy;
use crate::harness::services::Kind;
use crate::harness::system::{ADMIN, PASSWORD};
use crate::harness::wait::seconds;
use crate::harness::{Client, Mode, Reply, System, both_modes};

both_modes!(
    a_login_begins_goes_on_and_ends,
    a_stolen_refresh_token_ends_the_login_everywhere,
    what_is_revoked_ends_everywhere_within_a_second,
    forged_credentials_open_nothing,
    every_failed_login_looks_the_same,
    wrong_passwords_wait_ever_longer_across_processes,
    a_new_password_ends_the_other_logins,
);

/// A system in which refused requests aren't counted: these tests make many on purpose.
async fn system(mode: Mode) -> System {
    lenient(mode).start().await
}

fn lenient(mode: Mode) -> crate::harness::system::Builder {
    let builder = System::with(mode).apis(2).workers(1).unconnected();
    builder.env("SANASR_ADDRESS_RATE", "1000000").env("SANASR_ADDRESS_BURST", "1000000")
}

/// A pair of tokens: the client with the access token, and the refresh token.
fn tokens(client: &Client, reply: &Reply) -> (Client, String) {
    let tokens: Value = reply.data();
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(900)), "{tokens}");
    let text = |name: &str| tokens[name].as_str().expect("a token").to_owned();
    (client.with_token(&text("access_token")), text("refresh_token"))
}

async fn refresh(client: &Client, token: &str) -> Reply {
    client.post("/auth/refresh", &json!({ "refresh_token": token })).await
}

async fn logout(client: &Client, token: &str) -> Reply {
    client.post("/auth/logout", &json!({ "refresh_token": token })).await
}

/// A user with a password, made by the admin.
async fn user(system: &System, name: &str) -> i64 {
    let body = json!({ "username": name, "password": PASSWORD });
    let user: Value = system.admin().await.post("/users", &body).await.expect(201).data();
    user["id"].as_i64().expect("an id")
}

/// A client keeps asking, so that what is remembered is kept fresh; what it asks a second after now is refused.
async fn ends_within_a_second(client: &Client) {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(1) {
        let status = client.get("/auth/me").await.status;
        assert!([200, 401].contains(&status), "{status}");
    }
    client.get("/auth/me").await.expect(401);
}

async fn a_login_begins_goes_on_and_ends(mode: Mode) {
    let system = system(mode).await;
    system.admin().await;
    let stranger = system.stranger(0);
    let reply = stranger.log_in(ADMIN, PASSWORD).await.expect(200);
    let user: Value = reply.data::<Value>()["user"].clone();
    assert_eq!((&user["username"], &user["is_staff"]), (&json!(ADMIN), &json!(true)), "{user}");
    assert!(user.get("password").is_none() && user.get("password_hash").is_none());
    let (client, first) = tokens(&stranger, &reply);
    let me: Value = client.get("/auth/me").await.expect(200).data();
    assert_eq!(me, user);
    assert!(!client.get("/auth/me").await.header("ratelimit").is_empty(), "an authenticated answer tells the limit");

    // Any process exchanges the token, and the old access token is good until it ends.
    let (next, second) = tokens(&system.stranger(1), &refresh(&system.stranger(1), &first).await.expect(200));
    for client in [&client, &next] {
        client.get("/users").await.expect(200);
    }
    // A key opens its user's things, and no admin endpoint.
    let key = system.client();
    assert!(key.get("/auth/me").await.expect(200).data::<Value>()["username"].is_string());
    key.get("/users").await.expect(403);
    // A refresh token opens nothing by itself.
    stranger.with_token(&second).get("/auth/me").await.expect(401);

    assert_eq!(logout(&stranger, &second).await.expect(200).body["data"], json!({}));
    for client in [&client, &next] {
        ends_within_a_second(client).await;
    }
    assert_eq!(refresh(&stranger, &second).await.expect(401).code(), "unauthenticated");
    logout(&stranger, &second).await.expect(200);
    logout(&stranger, "nonsense").await.expect(401);
    // Bad bodies are named.
    for (path, body, field) in [
        ("/auth/login", json!({"username": "a"}), "password"),
        ("/auth/login", json!({"username": 1, "password": "b"}), "username"),
        ("/auth/login", json!({"username": "a", "password": "b".repeat(1001)}), "password"),
        ("/auth/login", json!({"username": "a", "password": "b", "otp": "1"}), "otp"),
        ("/auth/refresh", json!({}), "refresh_token"),
        ("/auth/logout", json!({"refresh_token": 5}), "refresh_token"),
    ] {
        assert_eq!(stranger.post(path, &body).await.expect(422).fields(), [field], "{path}");
    }
    system.admin().await.get("/auth/me").await.expect(200);
}

async fn a_stolen_refresh_token_ends_the_login_everywhere(mode: Mode) {
    let system = system(mode).await;
    system.admin().await;
    let stranger = system.stranger(0);
    let (owner, first) = tokens(&stranger, &stranger.log_in(ADMIN, PASSWORD).await.expect(200));
    let (thief, second) = tokens(&system.stranger(1), &refresh(&system.stranger(1), &first).await.expect(200));
    let elsewhere = system.stranger(1);
    for client in [&owner, &thief] {
        client.get("/auth/me").await.expect(200);
    }
    assert_eq!(refresh(&stranger, &first).await.expect(401).code(), "unauthenticated");
    for client in [&owner, &thief] {
        ends_within_a_second(client).await;
    }
    refresh(&elsewhere, &second).await.expect(401);
    // The admin's other login lives.
    system.admin().await.get("/auth/me").await.expect(200);

    // Many at once: one wins at most, and the login ends.
    let (_, token) = tokens(&stranger, &stranger.log_in(ADMIN, PASSWORD).await.expect(200));
    let replies = futures_util::future::join_all((0..20).map(|n| {
        let (client, token) = (system.stranger(n), token.clone());
        async move { refresh(&client, &token).await }
    }))
    .await;
    let won: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
    assert_eq!(won.len(), 1, "{:?}", replies.iter().map(|reply| reply.status).collect::<Vec<_>>());
    let (winner, next) = tokens(&stranger, won[0]);
    ends_within_a_second(&winner).await;
    refresh(&stranger, &next).await.expect(401);
}

/// Tokens and keys of a deactivated or deleted user, and a revoked key, at another process than the change is made at; in
/// a distributed system with Redis away, too.
async fn what_is_revoked_ends_everywhere_within_a_second(mode: Mode) {
    let redis = if mode == Mode::Distributed { Some(Proxy::to(&Kind::Redis.shared()).await) } else { None };
    let mut builder = lenient(mode);
    if let Some(redis) = &redis {
        builder = builder.env("REDIS_URL", &redis.url(&Kind::Redis.shared()));
    }
    let system = builder.start().await;
    let admin = system.admin().await;
    let stranger = system.stranger(1);
    for redis_is_there in [true, false] {
        if !redis_is_there {
            let Some(redis) = &redis else { break };
            redis.refuse().await;
        }
        let name = format!("user-{redis_is_there}");
        let id = user(&system, &name).await;
        let new_key = async |name: &str| -> (i64, Client) {
            let body = json!({ "user_id": id, "name": name });
            let key: Value = admin.post("/api-keys", &body).await.expect(201).data();
            (key["id"].as_i64().expect("an id"), stranger.with_key(key["key"].as_str().expect("a key")))
        };
        let ((first, by_first), (_, by_second)) = (new_key("first").await, new_key("second").await);
        let (login, _) = tokens(&stranger, &stranger.log_in(&name, PASSWORD).await.expect(200));
        for client in [&by_first, &by_second, &login] {
            client.get("/auth/me").await.expect(200);
        }
        admin.delete(&format!("/api-keys/{first}")).await.expect(204);
        ends_within_a_second(&by_first).await;
        by_second.get("/auth/me").await.expect(200);

        admin.post(&format!("/users/{id}/deactivate"), &json!({})).await.expect(200);
        tokio::join!(ends_within_a_second(&by_second), ends_within_a_second(&login));
        stranger.log_in(&name, PASSWORD).await.expect(401);
        admin.post(&format!("/users/{id}/activate"), &json!({})).await.expect(200);
        crate::harness::eventually(seconds(5), "an active user is let in again", async || {
            (by_second.get("/auth/me").await.status == 200).then_some(())
        })
        .await;
        login.get("/auth/me").await.expect(401);
        let (login, _) = tokens(&stranger, &stranger.log_in(&name, PASSWORD).await.expect(200));
        login.get("/auth/me").await.expect(200);
        admin.delete(&format!("/users/{id}")).await.expect(204);
        tokio::join!(ends_within_a_second(&by_second), ends_within_a_second(&login));
    }
}

async fn forged_credentials_open_nothing(mode: Mode) {
    let mut system = system(mode).await;
    let admin = system.admin().await;
    let stranger = system.stranger(0);
    let reply: Value = stranger.log_in(ADMIN, PASSWORD).await.expect(200).data();
    let access = reply["access_token"].as_str().expect("a token").to_owned();
    let [header, claims, signature] = access.split('.').collect::<Vec<_>>()[..] else { panic!("{access}") };
    // {"alg":"none"}, and what the header was.
    let none = "eyJhbGciOiJub25lIn0";
    let other_end = if signature.starts_with('A') { "B" } else { "A" };
    for token in [
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}"),
        format!("{header}.{claims}.{other_end}{}", &signature[1..]),
        format!("{header}.{}.{signature}", claims.replacen(&claims[4..6], "AA", 1)),
        format!("{header}.{claims}.{signature}.{signature}"),
        reply["refresh_token"].as_str().expect("a token").to_owned(),
        "a.b.c".to_owned(),
        "x".repeat(5_000),
    ] {
        let refused = stranger.with_token(&token).get("/auth/me").await.expect(401);
        assert_eq!(refused.code(), "unauthenticated", "{token}");
        assert!(!refused.header("www-authenticate").is_empty());
        refresh(&stranger, &token.replace(reply["refresh_token"].as_str().unwrap_or_default(), &access))
            .await
            .expect(401);
    }
    // A key of whom the public part is right.
    let body = json!({ "user_id": reply["user"]["id"], "name": "key" });
    let key: Value = admin.post("/api-keys", &body).await.expect(201).data();
    let key = key["key"].as_str().expect("a key");
    stranger.with_key(key).get("/auth/me").await.expect(200);
    let (public, _) = key.rsplit_once('_').filter(|(public, _)| public.len() == 19).unwrap_or((&key[..19], ""));
    for secret in ["A".repeat(43), String::new(), "a".to_owned()] {
        stranger.with_key(&format!("{public}_{secret}")).get("/auth/me").await.expect(401);
    }
    let by_scheme = format!("ApiKey {public}_{}", "A".repeat(43));
    let headers = [("authorization", by_scheme.as_bytes())];
    let refused = stranger.raw(Method::GET, "/auth/me", &headers, Vec::new()).await.expect("an answer");
    refused.expect(401);
    if mode == Mode::Distributed {
        // A process with another secret: what was signed with the old one opens nothing there.
        let other = system.add_api(&[("SANASR_SECRET_KEY", "the secret of next year, never of now")]).await;
        let there = system.stranger(other);
        there.with_token(&access).get("/auth/me").await.expect(401);
        refresh(&there, reply["refresh_token"].as_str().expect("a token")).await.expect(401);
        stranger.with_token(&access).get("/auth/me").await.expect(200);
    }
}

async fn every_failed_login_looks_the_same(mode: Mode) {
    let system = system(mode).await;
    let id = user(&system, "sleeper").await;
    system.admin().await.post(&format!("/users/{id}/deactivate"), &json!({})).await.expect(200);
    let stranger = system.stranger(0);
    let mut seen: Option<Value> = None;
    for (name, password) in [
        (ADMIN, "wrong"),
        ("nobody", PASSWORD),
        ("sleeper", PASSWORD),
        ("sleeper", "wrong"),
        ("no name at all", PASSWORD),
        ("nul\u{0}", "nul\u{0}"),
        ("deleted 1", ""),
        ("Admin", PASSWORD),
        ("", ""),
    ] {
        let mut body = stranger.log_in(name, password).await.expect(401).body;
        assert_eq!(body["code"], "unauthenticated");
        body["request_id"] = Value::Null;
        assert_eq!(*seen.get_or_insert(body.clone()), body, "{name}");
    }
}

async fn wrong_passwords_wait_ever_longer_across_processes(mode: Mode) {
    // Requests come from wherever a trusted proxy says.
    let system = lenient(mode).env("SANASR_TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    system.admin().await;
    let log_in = async |api: usize, from: &str, name: &str, password: &str| {
        let body = json!({ "username": name, "password": password }).to_string().into_bytes();
        let headers = [("content-type", b"application/json".as_slice()), ("x-forwarded-for", from.as_bytes())];
        system.stranger(api).raw(Method::POST, "/auth/login", &headers, body).await.expect("an answer")
    };
    let wait = |reply: Reply| -> u64 {
        let reply = reply.expect(429);
        assert_eq!(reply.code(), "rate_limited");
        reply.header("retry-after").parse().unwrap_or_else(|_| panic!("Retry-After: {:?}", reply.headers))
    };
    let here = "2001:db8:7::1";
    for api in 0..5 {
        log_in(api, here, ADMIN, "wrong").await.expect(401);
    }
    let first = wait(log_in(1, here, ADMIN, "wrong").await);
    assert!((5..=6).contains(&first), "{first}");
    let closed = Instant::now();
    // Not even the right one, at any process, and from nowhere in the same network; but from elsewhere, and for others.
    for api in 0..2 {
        let left = wait(log_in(api, "2001:db8:7::ffff", ADMIN, PASSWORD).await);
        assert!(left <= first || closed.elapsed() > seconds(5), "{left}");
    }
    log_in(0, "2001:db8:8::1", ADMIN, PASSWORD).await.expect(200);
    log_in(0, here, "somebody", "wrong").await.expect(401);
    // After the wait the next wrong one costs twice as much.
    let next = crate::harness::eventually(seconds(20), "it may be tried again", async || {
        let reply = log_in(0, here, ADMIN, "wrong").await;
        let wait = wait(reply);
        (wait > first).then_some(wait)
    })
    .await;
    assert!((10..=11).contains(&next), "{next}");

    // Many at once are counted one by one.
    user(&system, "flooded").await;
    let replies = futures_util::future::join_all((0..30).map(|n| log_in(n, "203.0.113.5", "flooded", "wrong"))).await;
    let wrong = replies.iter().filter(|reply| reply.status == 401).count();
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(wrong, 5, "{statuses:?}");
    assert!(statuses.iter().all(|status| [401, 429].contains(status)), "{statuses:?}");

    if mode == Mode::Distributed {
        // The locked-out have a way in.
        let args = ["user", "reset-password", "--username", ADMIN, "--password-stdin"];
        let done = system.command("reset", &args).stdin("a new and better passphrase\n").run(seconds(30)).await;
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        log_in(1, here, ADMIN, "a new and better passphrase").await.expect(200);
        let weak = system.command("reset", &args).stdin("password123\n").run(seconds(30)).await;
        assert_eq!(weak.code, Some(2), "{}", weak.stderr);
        assert!(weak.stderr.contains("common"), "{}", weak.stderr);
    }
}

async fn a_new_password_ends_the_other_logins(mode: Mode) {
    let system = system(mode).await;
    let id = user(&system, "changer").await;
    let stranger = system.stranger(1);
    let login = async |password: &str| tokens(&stranger, &stranger.log_in("changer", password).await.expect(200)).0;
    let (mine, other) = (login(PASSWORD).await, login(PASSWORD).await);
    let change = async |current: &str, new: &str| {
        mine.post("/auth/password", &json!({ "current_password": current, "new_password": new })).await
    };
    let wrong = change("wrong", "a wholly new passphrase").await.expect(422);
    assert_eq!(
        (wrong.fields(), &wrong.body["errors"][0]["code"]),
        (vec!["current_password"], &json!("wrong_password"))
    );
    for (new, code) in [("short", "too_short"), ("password123", "too_common"), ("changer1", "too_predictable")] {
        let weak = change(PASSWORD, new).await.expect(422);
        assert_eq!((weak.fields(), &weak.body["errors"][0]["code"]), (vec!["new_password"], &json!(code)), "{new}");
    }
    assert_eq!(change(PASSWORD, "a wholly new passphrase").await.expect(200).body["data"], json!({}));
    ends_within_a_second(&other).await;
    mine.get("/auth/me").await.expect(200);
    stranger.log_in("changer", PASSWORD).await.expect(401);
    let again = login("a wholly new passphrase").await;

    // An admin's reset ends them all.
    let reset = json!({ "password": "and yet another passphrase" });
    system.admin().await.patch(&format!("/users/{id}"), &reset).await.expect(200);
    tokio::join!(ends_within_a_second(&mine), ends_within_a_second(&again));
    let back = login("and yet another passphrase").await;
    // Wrong ones are counted here, too.
    for _ in 0..5 {
        let body = json!({ "current_password": "wrong", "new_password": "a wholly new passphrase" });
        back.post("/auth/password", &body).await.expect(422);
    }
    let body = json!({ "current_password": "wrong", "new_password": "a wholly new passphrase" });
    assert_eq!(back.post("/auth/password", &body).await.expect(429).code(), "rate_limited");
    stranger.log_in("changer", "and yet another passphrase").await.expect(429);
}
