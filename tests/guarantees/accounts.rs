//! Users and API keys, as admins handle them.

use reqwest::Method;
use sanasr_shared::message::Status;
use serde_json::{Value, json};

use crate::harness::system::{ADMIN, PASSWORD};
use crate::harness::wait::seconds;
use crate::harness::{Client, Mode, System, both_modes, eventually};

both_modes!(
    a_user_is_made_changed_and_deleted,
    bad_users_are_refused_by_field,
    users_and_keys_are_listed,
    the_last_admin_cant_resign,
    a_changed_limit_holds_at_once,
    a_deleted_users_books_are_kept,
    a_key_shows_its_life,
    admin_endpoints_are_closed_to_others,
    ones_own_password_needs_the_current_one,
);

/// A token that was stolen must not be enough to take an account over, by whatever endpoint.
async fn ones_own_password_needs_the_current_one(mode: Mode) {
    let system = System::with(mode).env("SANASR_ADDRESS_RATE", "1000").unconnected().start().await;
    let admin = system.admin().await;
    let me: Value = admin.get("/auth/me").await.expect(200).data();
    let (own, new) = (path(&me), "another correct horse battery");
    let put = async |body: Value| admin.attempt(Method::PUT, &own, None, Some(&body)).await.expect("an answer");
    for reply in [admin.patch(&own, &json!({ "password": new })).await, put(json!({ "password": new })).await] {
        assert_eq!(reply.expect(422).fields(), ["current_password"]);
    }
    let wrong =
        admin.patch(&own, &json!({ "password": new, "current_password": "wrong", "email": "x@example.org" })).await;
    assert_eq!(wrong.expect(422).fields(), ["current_password"]);
    let unchanged: Value = admin.get("/auth/me").await.expect(200).data();
    assert_eq!(unchanged["email"], "", "nothing was changed");
    // The right one is taken, and the login that asks goes on.
    put(json!({ "password": new, "current_password": PASSWORD })).await.expect(200);
    let stranger = system.stranger(0);
    stranger.log_in(ADMIN, PASSWORD).await.expect(401);
    stranger.log_in(ADMIN, new).await.expect(200);
    admin.get("/auth/me").await.expect(200);
    // Wrong ones count as at the login.
    for _ in 0..6 {
        put(json!({ "password": new, "current_password": "wrong" })).await;
    }
    assert_eq!(put(json!({ "password": PASSWORD, "current_password": new })).await.status, 429);
    // Others' passwords are an admin's to set.
    let user = new_user(&admin, json!({})).await;
    admin.patch(&path(&user), &json!({ "password": new })).await.expect(200);
    let odd = admin.patch(&path(&user), &json!({ "password": new, "current_password": PASSWORD })).await.expect(422);
    assert_eq!(odd.fields(), ["current_password"]);
}

async fn new_user(admin: &Client, more: Value) -> Value {
    let mut body = json!({ "username": crate::harness::unique("user"), "password": PASSWORD });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    admin.post("/users", &body).await.expect(201).data()
}

async fn new_key(admin: &Client, user: &Value) -> Value {
    admin.post("/api-keys", &json!({ "user_id": user["id"], "name": "a key" })).await.expect(201).data()
}

fn path(user: &Value) -> String {
    format!("/users/{}", user["id"])
}

async fn a_user_is_made_changed_and_deleted(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let admin = system.admin().await;
    let mut user = new_user(&admin, json!({ "username": "ＡmélIE" })).await;
    let expected = json!({
        "id": user["id"], "username": "AmélIE", "email": "", "first_name": "", "last_name": "", "is_staff": false,
        "is_active": true, "max_messages_per_day": 10_000, "created_at": user["created_at"],
        "updated_at": user["updated_at"],
    });
    assert_eq!(user, expected);
    let full = json!({
        "username": "full", "email": "full@example.org", "first_name": "Fu", "last_name": "Ll", "is_staff": true,
        "is_active": false, "max_messages_per_day": null,
    });
    let made = new_user(&admin, full.clone()).await;
    for (name, value) in full.as_object().expect("an object") {
        assert_eq!(made[name], *value, "{name}");
    }
    // Each field by itself, by both methods; what isn't given stays.
    for (n, (name, value)) in [
        ("username", json!("renamed")),
        ("email", json!("a@example.org")),
        ("email", json!("")),
        ("first_name", json!("Ada")),
        ("last_name", json!("Lovelace")),
        ("first_name", json!("")),
        ("is_staff", json!(true)),
        ("is_staff", json!(false)),
        ("is_active", json!(false)),
        ("is_active", json!(true)),
        ("max_messages_per_day", json!(0)),
        ("max_messages_per_day", json!(null)),
        ("max_messages_per_day", json!(1_000_000_000)),
    ]
    .into_iter()
    .enumerate()
    {
        let method = if n % 2 == 0 { Method::PUT } else { Method::PATCH };
        let body = json!({ name: value });
        let reply = admin.attempt(method, &path(&user), None, Some(&body)).await.expect("an answer");
        let changed: Value = reply.expect(200).data();
        user[name] = value;
        user["updated_at"] = changed["updated_at"].clone();
        assert_eq!(changed, user, "{name}");
        assert_eq!(admin.get(&path(&user)).await.expect(200).data::<Value>(), user);
    }
    let unchanged: Value = admin.patch(&path(&user), &json!({})).await.expect(200).data();
    assert_eq!(unchanged["username"], "renamed");
    for (action, active) in [("deactivate", false), ("deactivate", false), ("activate", true), ("activate", true)] {
        let reply = admin.post(&format!("{}/{action}", path(&user)), &json!({})).await.expect(200);
        assert_eq!(reply.data::<Value>()["is_active"], active);
    }
    // A name is given once.
    let taken = admin.post("/users", &json!({ "username": "renamed", "password": PASSWORD })).await.expect(409);
    assert_eq!(taken.code(), "conflict");
    assert_eq!(admin.patch(&path(&made), &json!({ "username": "renamed" })).await.expect(409).code(), "conflict");

    admin.delete(&path(&user)).await.expect(204);
    for reply in [
        admin.get(&path(&user)).await,
        admin.patch(&path(&user), &json!({ "email": "x@example.org" })).await,
        admin.delete(&path(&user)).await,
        admin.post(&format!("{}/activate", path(&user)), &json!({})).await,
        admin.get("/users/0").await,
        admin.get("/users/-1").await,
        admin.get("/users/99999999999999999999").await,
        admin.get("/users/me").await,
    ] {
        assert_eq!(reply.expect(404).code(), "not_found");
    }
    // Its name is free.
    new_user(&admin, json!({ "username": "renamed" })).await;
}

async fn bad_users_are_refused_by_field(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let admin = system.admin().await;
    let user = new_user(&admin, json!({ "username": "marianne" })).await;
    let long = "x".repeat(300);
    for (name, value) in [
        ("username", json!("")),
        ("username", json!("a b")),
        ("username", json!("a\u{0}")),
        ("username", json!(long)),
        ("username", json!(5)),
        ("password", json!("short")),
        ("password", json!("password1")),
        ("password", json!("marianne1")),
        ("password", json!(long)),
        ("password", json!(["a"])),
        ("email", json!("nobody")),
        ("email", json!(5)),
        ("first_name", json!(long)),
        ("last_name", json!("a\nb")),
        ("is_staff", json!("true")),
        ("is_active", json!(1)),
        ("max_messages_per_day", json!(-1)),
        ("max_messages_per_day", json!(1.5)),
        ("max_messages_per_day", json!("10")),
        ("max_messages_per_day", json!(10_000_000_000_i64)),
        ("id", json!(5)),
        ("created_at", json!("2020-01-01T00:00:00Z")),
    ] {
        let mut body = json!({ "username": "marianne", "password": PASSWORD });
        body[name] = value.clone();
        let reply = admin.post("/users", &body).await.expect(422);
        assert_eq!((reply.code(), reply.fields()), ("validation_failed", vec![name]), "{value}");
        let reply = admin.patch(&path(&user), &json!({ name: value })).await.expect(422);
        assert_eq!(reply.fields(), [name], "{value}");
    }
    let reply = admin.post("/users", &json!({})).await.expect(422);
    assert_eq!(reply.fields(), ["username", "password"]);
    for (body, field) in [
        (json!({ "user_id": 999_999, "name": "a" }), "user_id"),
        (json!({ "user_id": user["id"], "name": "" }), "name"),
        (json!({ "user_id": user["id"], "name": "a", "expires_at": "2020-01-01T00:00:00Z" }), "expires_at"),
        (json!({ "user_id": user["id"], "name": "a", "expires_at": "2099-01-01T00:00:00" }), "expires_at"),
    ] {
        assert_eq!(admin.post("/api-keys", &body).await.expect(422).fields(), [field], "{body}");
    }
    let same: Value = admin.get(&path(&user)).await.expect(200).data();
    assert_eq!(same, user, "nothing was stored");
}

async fn users_and_keys_are_listed(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let admin = system.admin().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let user = new_user(&admin, json!({ "is_active": n != 2, "is_staff": n == 3 })).await;
        ids.push(user["id"].clone());
        new_key(&admin, &user).await;
    }
    let all = async |path: &str| {
        let (mut found, mut cursor) = (Vec::<Value>::new(), String::new());
        loop {
            let reply = admin.get(&format!("{path}limit=2{cursor}")).await.expect(200);
            assert_eq!(reply.body["pagination"]["limit"], 2);
            found.extend(reply.data::<Vec<Value>>());
            match reply.body["pagination"]["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    };
    let users = all("/users?").await;
    assert!(users.iter().is_sorted_by(|a, b| a["id"].as_i64() > b["id"].as_i64()), "newest first");
    assert!(ids.iter().all(|id| users.iter().any(|user| user["id"] == *id)));
    let inactive = all("/users?is_active=false&").await;
    assert_eq!(inactive.iter().map(|user| &user["id"]).collect::<Vec<_>>(), [&ids[2]]);
    assert!(all("/users?is_staff=true&").await.iter().any(|user| user["id"] == ids[3]));
    let named = all(&format!("/users?username={ADMIN}&")).await;
    assert_eq!(named.len(), 1);
    assert_eq!(named[0]["username"], ADMIN);
    let keys = all("/api-keys?").await;
    assert!(keys.len() >= 5 && keys.iter().all(|key| key.get("key").is_none() && key.get("hash").is_none()));
    let own = all(&format!("/api-keys?user_id={}&", ids[0])).await;
    assert_eq!(own.iter().map(|key| &key["user_id"]).collect::<Vec<_>>(), [&ids[0]]);
    for query in [
        "/users?is_active=yes",
        "/users?page=2",
        "/users?cursor=x",
        "/users?limit=0",
        "/api-keys?user_id=x",
        "/users?email=a",
    ] {
        let status = if query.contains("cursor") { 400 } else { 422 };
        admin.get(query).await.expect(status);
    }
    let next = admin.get("/users?limit=1").await.body["pagination"]["next"].clone();
    let foreign = admin.get(&format!("/api-keys?cursor={}", next.as_str().expect("a cursor"))).await;
    foreign.expect(400);
}

async fn the_last_admin_cant_resign(mode: Mode) {
    let system = System::with(mode).apis(2).unconnected().start().await;
    let admin = system.admin().await;
    let me: Value = admin.get("/auth/me").await.expect(200).data();
    let deactivate = format!("{}/deactivate", path(&me));
    // In an embedded system the tester is the admin.
    for reply in [
        admin.delete(&path(&me)).await,
        admin.patch(&path(&me), &json!({ "is_staff": false })).await,
        admin.patch(&path(&me), &json!({ "is_active": false, "email": "x@example.org" })).await,
        admin.post(&deactivate, &json!({})).await,
    ] {
        assert_eq!(reply.expect(409).code(), "conflict");
    }
    let same: Value = admin.get("/auth/me").await.expect(200).data();
    assert_eq!(same, me, "nothing was changed");
    // Two admins who resign at the same time, at two processes.
    let second = new_user(&admin, json!({ "is_staff": true, "username": "second" })).await;
    let tokens: Value = system.stranger(1).log_in("second", PASSWORD).await.expect(200).data();
    let other = system.stranger(1).with_token(tokens["access_token"].as_str().expect("a token"));
    let by_other = path(&second);
    let nothing = json!({});
    let (one, two) = tokio::join!(admin.post(&deactivate, &nothing), other.delete(&by_other));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert!(statuses == [200, 409] || statuses == [204, 409], "{statuses:?}");
}

async fn a_changed_limit_holds_at_once(mode: Mode) {
    let system = System::with(mode).apis(2).unconnected().start().await;
    let admin = system.admin().await;
    let user = new_user(&admin, json!({ "max_messages_per_day": 1 })).await;
    let key = new_key(&admin, &user).await;
    let client = system.stranger(1).with_key(key["key"].as_str().expect("a key"));
    let text = json!({ "to": "+15553001001", "type": "text", "text": "hi" });
    client.send(&text).await.expect(202);
    assert_eq!(client.send(&text).await.expect(429).code(), "quota_exceeded");
    for (limit, status) in [(json!(3), 202), (json!(0), 429), (json!(null), 202), (json!(2), 429), (json!(4), 202)] {
        admin.patch(&path(&user), &json!({ "max_messages_per_day": limit })).await.expect(200);
        client.send(&text).await.expect(status);
        let quota = client.quota().await;
        assert_eq!(quota.limit, limit.as_i64());
    }
}

async fn a_deleted_users_books_are_kept(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let admin = system.admin().await;
    let user = new_user(&admin, json!({ "email": "gone@example.org" })).await;
    let key = new_key(&admin, &user).await;
    let client = system.stranger(0).with_key(key["key"].as_str().expect("a key"));
    client.connect("default").await;
    let sent = client.text("default", "+15553001001", "sent").await;
    client.wait_status(sent.id, Status::Read, seconds(30)).await;
    client.pause("default").await;
    let waits = client.text("default", "+15553001002", "waits").await;

    admin.delete(&path(&user)).await.expect(204);
    let listed: Vec<Value> = admin.get(&format!("/api-keys?user_id={}", user["id"])).await.expect(200).data();
    assert_eq!(listed.iter().map(|key| &key["is_active"]).collect::<Vec<_>>(), [&json!(false)]);
    // An admin still opens the messages; what waited is cancelled in the background.
    assert_eq!(admin.message(sent.id).await.status, Status::Read);
    eventually(seconds(60), "what waited is cancelled", async || {
        (admin.message(waits.id).await.status == Status::Cancelled).then_some(())
    })
    .await;
    let text = admin.get(&format!("/messages/{}", sent.id)).await.expect(200);
    assert_eq!(text.body["data"]["user_id"], user["id"]);
    assert_eq!(admin.get(&format!("/sessions?user_id={}", user["id"])).await.status, 404);
}

async fn a_key_shows_its_life(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let admin = system.admin().await;
    let user = new_user(&admin, json!({})).await;
    let body = json!({ "user_id": user["id"], "name": "till", "expires_at": "2099-12-31T23:59:59+01:00" });
    let made: Value = admin.post("/api-keys", &body).await.expect(201).data();
    let raw = made["key"].as_str().expect("a key");
    let prefix = made["prefix"].as_str().expect("a prefix");
    assert!(raw.starts_with(&format!("{prefix}_")) && prefix.starts_with("sanasr_"), "{made}");
    let mut shown = made.clone();
    shown.as_object_mut().expect("an object").remove("key");
    let expected = json!({
        "id": made["id"], "user_id": user["id"], "name": "till", "prefix": prefix, "is_active": true,
        "expires_at": "2099-12-31T22:59:59.000Z", "last_used_at": null, "created_at": made["created_at"],
    });
    assert_eq!(shown, expected);
    let path = format!("/api-keys/{}", made["id"]);
    assert_eq!(admin.get(&path).await.expect(200).data::<Value>(), expected);
    let client = system.stranger(0).with_key(raw);
    client.get("/auth/me").await.expect(200);
    let used = eventually(seconds(30), "its last use is written down", async || {
        let key: Value = admin.get(&path).await.expect(200).data();
        key["last_used_at"].as_str().map(str::to_owned)
    })
    .await;
    assert!(used.ends_with('Z'));
    for _ in 0..2 {
        admin.delete(&path).await.expect(204);
        let key: Value = admin.get(&path).await.expect(200).data();
        assert_eq!(key["is_active"], false);
    }
    for reply in
        [admin.get("/api-keys/0").await, admin.delete("/api-keys/999999").await, admin.get("/api-keys/x").await]
    {
        assert_eq!(reply.expect(404).code(), "not_found");
    }
}

async fn admin_endpoints_are_closed_to_others(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let admin = system.admin().await;
    let user = new_user(&admin, json!({ "username": "plain" })).await;
    let key = new_key(&admin, &user).await;
    let tokens: Value = system.stranger(0).log_in("plain", PASSWORD).await.expect(200).data();
    let by_token = system.stranger(0).with_token(tokens["access_token"].as_str().expect("a token"));
    let by_key = system.stranger(0).with_key(key["key"].as_str().expect("a key"));
    let (user, key) = (path(&user), format!("/api-keys/{}", key["id"]));
    for (method, path) in [
        (Method::GET, "/users"),
        (Method::POST, "/users"),
        (Method::GET, &user),
        (Method::PUT, &user),
        (Method::PATCH, &user),
        (Method::DELETE, &user),
        (Method::POST, &format!("{user}/activate")),
        (Method::POST, &format!("{user}/deactivate")),
        (Method::GET, "/api-keys"),
        (Method::POST, "/api-keys"),
        (Method::GET, &key),
        (Method::DELETE, &key),
    ] {
        for (client, status) in [(&by_token, 403), (&by_key, 403), (&system.stranger(0), 401)] {
            let reply = client.attempt(method.clone(), path, None, Some(&json!({}))).await.expect("an answer");
            assert_eq!(reply.status, status, "{method} {path}: {}", reply.body);
        }
    }
    // The admin's own key opens no admin endpoint either.
    let me: Value = admin.get("/auth/me").await.expect(200).data();
    let own = new_key(&admin, &me).await;
    system.stranger(0).with_key(own["key"].as_str().expect("a key")).get("/users").await.expect(403);
}
