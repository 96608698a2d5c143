//! The audit trail: what was done and refused is there with who, what and whom; it holds no secret; a flood leaves few lines.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use reqwest::Method;
use sanasr_shared::time::Time;
use serde_json::{Value, json};

use crate::harness::system::{ADMIN, PASSWORD};
use crate::harness::wait::seconds;
use crate::harness::{Client, Mode, System, both_modes, eventually};

both_modes!(
    what_an_admin_does_is_in_the_audit_trail,
    logins_and_refusals_are_in_the_audit_trail,
    a_flood_of_refusals_leaves_few_lines_and_a_count,
);

/// All lines that match a query, oldest first, from pages of a few.
async fn trail(admin: &Client, query: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let reply = admin.get(&format!("/audit?limit=7&{query}{cursor}")).await.expect(200);
        all.extend(reply.data::<Vec<Value>>());
        match reply.body["pagination"]["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    all.reverse();
    all
}

/// Waits until so many lines match.
async fn wait_for(admin: &Client, query: &str, count: usize) -> Vec<Value> {
    eventually(seconds(20), &format!("{count} lines of {query}"), async || {
        let lines = trail(admin, query).await;
        (lines.len() >= count).then_some(lines)
    })
    .await
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

async fn what_an_admin_does_is_in_the_audit_trail(mode: Mode) {
    const SECRET: &str = "a secret that nobody may read";
    let system = System::with(mode).user("owner", 100).unconnected().start().await;
    let (admin, owner) = (system.admin().await, system.client_of("owner", 0));
    let id = async |client: &Client| client.get("/auth/me").await.expect(200).data::<Value>()["id"].clone();
    let (me, theirs) = (id(&admin).await, id(&owner).await);
    let before = trail(&admin, "").await;
    let made = before.iter().find(|line| line["target"] == format!("user/{theirs}")).expect("the owner's line");
    assert_eq!(
        (&made["action"], &made["actor"], &made["address"]),
        (&json!("user_created"), &Value::Null, &Value::Null)
    );

    // Users and keys.
    let body = json!({ "username": "made", "password": SECRET, "email": "someone@example.org" });
    let user = admin.post("/users", &body).await.expect(201).data::<Value>()["id"].clone();
    let path = format!("/users/{user}");
    let change = json!({ "max_messages_per_day": 7, "first_name": "Grace", "password": format!("{SECRET}, still") });
    admin.patch(&path, &change).await.expect(200);
    admin.post(&format!("{path}/deactivate"), &json!({})).await.expect(200);
    admin.post(&format!("{path}/activate"), &json!({})).await.expect(200);
    let key: Value = admin.post("/api-keys", &json!({ "user_id": user, "name": "a name" })).await.expect(201).data();
    let key_id = key["id"].clone();
    admin.delete(&format!("/api-keys/{key_id}")).await.expect(204);
    admin.delete(&path).await.expect(204);
    // Another user's things.
    let as_owner = |path: &str| format!("{path}?user_id={theirs}");
    let session: Value = admin.post(&as_owner("/sessions"), &json!({ "name": "extra" })).await.expect(201).data();
    let session = text(&session["id"]);
    admin
        .patch(
            &format!("/sessions/{session}"),
            &json!({ "proxy": format!("socks5://user:{}@127.0.0.1:1", SECRET.replace(' ', "-")) }),
        )
        .await
        .expect(200);
    admin.post(&format!("/sessions/{session}/pause"), &json!({})).await.expect(200);
    let later = Time::now().plus(seconds(3_600)).to_string();
    let draft = json!({ "to": "+15553001001", "type": "text", "text": SECRET, "session": "extra", "send_at": later });
    let send = async || text(&admin.post(&as_owner("/messages"), &draft).await.expect(202).data::<Value>()["id"]);
    let message = send().await;
    admin.post(&format!("/messages/{message}/cancel"), &json!({})).await.expect(200);
    let second = send().await;
    admin.post(&as_owner("/messages/cancel"), &json!({ "session": "extra" })).await.expect(200);
    let part = format!(
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"secret.txt\"\r\n\r\n{SECRET}\r\n--b--\r\n"
    );
    let kind: &[(&str, &[u8])] = &[("content-type", b"multipart/form-data; boundary=b")];
    let file = admin.raw(Method::POST, &as_owner("/media"), kind, part.into()).await.expect("an answer").expect(201);
    let file = text(&file.data::<Value>()["id"]);
    admin.delete(&format!("/media/{file}")).await.expect(204);
    admin.delete(&format!("/sessions/{session}")).await.expect(204);
    // What is refused, and what users do to their own, leaves no line.
    admin.delete(&format!("/users/{me}")).await.expect(409);
    owner.post("/sessions", &json!({ "name": "own" })).await.expect(201);
    owner.post("/sessions/own/pause", &json!({})).await.expect(200);
    owner.delete("/sessions/own").await.expect(204);

    // At once, without a wait.
    let lines = trail(&admin, &format!("actor={me}")).await;
    let done: Vec<_> = lines.iter().filter(|line| line["action"] != "login").collect();
    let expected = [
        ("user_created", format!("user/{user}")),
        ("user_changed", format!("user/{user}")),
        ("user_changed", format!("user/{user}")),
        ("user_changed", format!("user/{user}")),
        ("api_key_created", format!("api_key/{key_id}")),
        ("api_key_revoked", format!("api_key/{key_id}")),
        ("user_deleted", format!("user/{user}")),
        ("session_created", format!("session/{session}")),
        ("proxy_changed", format!("session/{session}")),
        ("session_commanded", format!("session/{session}")),
        ("message_sent", format!("message/{message}")),
        ("message_cancelled", format!("message/{message}")),
        ("message_sent", format!("message/{second}")),
        ("messages_cancelled", format!("user/{theirs}")),
        ("file_added", format!("file/{file}")),
        ("file_removed", format!("file/{file}")),
        ("session_deleted", format!("session/{session}")),
    ];
    let told: Vec<_> = done.iter().map(|line| (text(&line["action"]), text(&line["target"]))).collect();
    assert_eq!(told, expected.map(|(action, target)| (action.to_owned(), target)));
    assert!(done.iter().all(|line| line["actor"] == me && line["address"] == "127.0.0.1"), "{done:?}");
    let changed = json!({ "changed": ["password", "first_name", "max_messages_per_day"], "max_messages_per_day": 7 });
    assert_eq!(done[1]["detail"], changed);
    assert_eq!(done[2]["detail"], json!({ "changed": ["is_active"], "is_active": false }));
    assert_eq!(done[9]["detail"], json!({ "command": "pause", "user_id": theirs }));
    assert!(done[7..].iter().all(|line| line["detail"]["user_id"] == theirs), "whose it is: {done:?}");
    assert_eq!(trail(&admin, &format!("actor={theirs}")).await, [] as [Value; 0]);

    // By other filters.
    let of_user = trail(&admin, &format!("target=user/{user}")).await;
    assert_eq!(of_user.len(), 5);
    assert_eq!(trail(&admin, &format!("target=user/{user}&action=user_deleted")).await, of_user[4..]);
    let since = text(&of_user[4]["at"]);
    let (newer, older) =
        (trail(&admin, &format!("since={since}")).await, trail(&admin, &format!("until={since}")).await);
    assert!(newer.contains(&of_user[4]) && !older.contains(&of_user[4]), "since is inclusive, until isn't");
    assert!(older.contains(&of_user[0]) && !newer.contains(&of_user[0]));
    for (query, field) in [("actor=x", "actor"), ("action=x", "action"), ("target=", "target"), ("since=x", "since")] {
        assert_eq!(admin.get(&format!("/audit?{query}")).await.expect(422).fields(), [field]);
    }
    // For admins alone.
    assert_eq!(owner.get("/audit").await.expect(403).code(), "forbidden");
    system.stranger(0).get("/audit").await.expect(401);
    // Nothing secret, nothing personal.
    let all = json!(trail(&admin, "").await).to_string();
    let key = text(&key["key"]);
    let hidden =
        [SECRET, "a-secret", PASSWORD, "secret.txt", "Grace", "example.org", "a name", "+1555", "owner", "made", &key];
    for hidden in hidden {
        assert!(!all.contains(hidden), "{hidden} in {all}");
    }
}

async fn logins_and_refusals_are_in_the_audit_trail(mode: Mode) {
    let system = System::with(mode).apis(2).user("member", 100).unconnected();
    let system = system.env("SANASR_ADDRESS_RATE", "1000").env("SANASR_ADDRESS_BURST", "1000").start().await;
    let (admin, member, stranger) = (system.admin().await, system.client_of("member", 0), system.stranger(1));
    let theirs = member.get("/auth/me").await.expect(200).data::<Value>()["id"].clone();
    let target = json!(format!("user/{theirs}"));

    let login: Value = stranger.log_in("member", PASSWORD).await.expect(200).data();
    let (access, refresh) = (text(&login["access_token"]), text(&login["refresh_token"]));
    let rotated: Value = stranger.post("/auth/refresh", &json!({ "refresh_token": refresh })).await.expect(200).data();
    let second = text(&rotated["refresh_token"]);
    let by_token = stranger.with_token(&access);
    let new = "quite another battery staple";
    let wrong = json!({ "current_password": "not this one", "new_password": new });
    by_token.post("/auth/password", &wrong).await.expect(422);
    by_token.post("/auth/password", &json!({ "current_password": PASSWORD, "new_password": new })).await.expect(200);
    stranger.post("/auth/logout", &json!({ "refresh_token": second })).await.expect(200);
    // A token of an ended login, one that was used before, one that nobody made.
    stranger.post("/auth/refresh", &json!({ "refresh_token": second })).await.expect(401);
    stranger.post("/auth/refresh", &json!({ "refresh_token": "nonsense" })).await.expect(401);
    eventually(seconds(10), "the login's access token opens nothing any more", async || {
        (by_token.get("/auth/me").await.status == 401).then_some(())
    })
    .await;
    let stolen: Value = stranger.log_in("member", new).await.expect(200).data();
    let stolen = json!({ "refresh_token": stolen["refresh_token"] });
    stranger.post("/auth/refresh", &stolen).await.expect(200);
    stranger.post("/auth/refresh", &stolen).await.expect(401);
    stranger.log_in("member", "a wrong secret").await.expect(401);
    stranger.log_in("hunter2-typed-as-a-name", "x").await.expect(401);
    admin.post(&format!("/users/{theirs}/deactivate"), &json!({})).await.expect(200);
    stranger.log_in("member", new).await.expect(401);
    let key = member.key().to_owned();
    eventually(seconds(10), "the key of a deactivated user opens nothing", async || {
        (member.get("/usage").await.status == 401).then_some(())
    })
    .await;
    stranger.with_key("no-key-of-ours").get("/usage").await.expect(401);
    stranger.get("/usage").await.expect(401);

    let of_member = |action: &str| format!("target=user/{theirs}&action={action}");
    assert_eq!(wait_for(&admin, &of_member("login"), 2).await.len(), 2);
    assert_eq!(wait_for(&admin, &of_member("logout"), 1).await.len(), 1);
    let changed = trail(&admin, &of_member("password_changed")).await;
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0]["actor"], theirs);
    let refused = wait_for(&admin, &of_member("password_refused"), 1).await;
    assert_eq!(refused[0]["detail"], json!({ "reason": "wrong_password" }));
    assert_eq!(refused[0]["actor"], theirs);
    assert_eq!(wait_for(&admin, &of_member("token_reused"), 1).await.len(), 1);
    let reasons = async |query: &str, count: usize| -> Vec<(Value, Value)> {
        let lines = wait_for(&admin, query, count).await;
        assert!(lines.iter().all(|line| line["actor"].is_null() && line["address"] == "127.0.0.1"), "{lines:?}");
        lines.into_iter().map(|line| (line["detail"]["reason"].clone(), line["target"].clone())).collect()
    };
    let expected = [(json!("ended"), target.clone()), (json!("unknown"), Value::Null)];
    assert_eq!(reasons("action=refresh_refused", 2).await, expected);
    let expected = [
        (json!("wrong_password"), target.clone()),
        (json!("unknown_name"), Value::Null),
        (json!("inactive_user"), target.clone()),
    ];
    assert_eq!(reasons("action=login_refused", 3).await, expected);

    let prefix = &key[.."sanasr_0123456789ab".len()];
    let lines = eventually(seconds(20), "each kind of bad credentials has its line", async || {
        let lines = trail(&admin, "action=credentials_refused").await;
        let is = |wanted: &Value| lines.iter().any(|line| line["detail"] == *wanted);
        let kinds = [
            json!({ "credentials": "key", "prefix": prefix }),
            json!({ "credentials": "key" }),
            json!({ "credentials": "token" }),
            json!({ "credentials": "none" }),
        ];
        kinds.iter().all(is).then_some(lines)
    })
    .await;
    let of_token = lines.iter().filter(|line| line["detail"]["credentials"] == "token");
    assert!(of_token.clone().count() > 0 && of_token.clone().all(|line| line["target"] == target), "{lines:?}");
    let all = json!(trail(&admin, "").await).to_string();
    for hidden in
        [PASSWORD, new, "not this one", "a wrong secret", "hunter2", "no-key", &key, &access, &refresh, &second]
    {
        assert!(!all.contains(hidden), "{hidden} in {all}");
    }
}

async fn a_flood_of_refusals_leaves_few_lines_and_a_count(mode: Mode) {
    const BURST: usize = 20;
    let system = System::with(mode).unconnected();
    let system = system.env("SANASR_ADDRESS_RATE", "1").env("SANASR_ADDRESS_BURST", &BURST.to_string()).start().await;
    let (admin, stranger) = (system.admin().await, system.stranger(0));
    let began = std::time::Instant::now();
    let mut statuses = BTreeMap::<u16, usize>::new();
    for n in 0..10 {
        let logins = join_all((0..30).map(|_| stranger.log_in(ADMIN, "a wrong password"))).await;
        let bad_key = stranger.with_key("sanasr_0123456789ab_x");
        let keys = join_all((0..20).map(|_| bad_key.get("/usage"))).await;
        for reply in logins.iter().chain(&keys) {
            *statuses.entry(reply.status).or_default() += 1;
        }
        assert!(n > 0 || statuses[&429] > 0, "the limit is reached: {statuses:?}");
    }
    let asked = 500;
    let counted = async || {
        let lines = trail(&admin, "action=requests_refused").await;
        assert!(lines.len() <= 2, "a line for an hour, of which one may end meanwhile: {lines:?}");
        let per_line = lines.iter().map(|line| {
            assert_eq!((&line["address"], &line["target"]), (&json!("127.0.0.1"), &Value::Null));
            assert!(line["detail"]["hour"].as_str().and_then(Time::parse).is_some(), "{line}");
            line["detail"]["count"].as_u64().expect("a count")
        });
        usize::try_from(per_line.sum::<u64>()).expect("a count")
    };
    let lines = async || {
        let mut lines = trail(&admin, "action=login_refused").await;
        lines.extend(trail(&admin, "action=credentials_refused").await);
        lines.len()
    };
    // Each refusal is a line or counted; only a full queue for passwords refuses without either (503).
    let overloaded = statuses.get(&503).copied().unwrap_or_default();
    eventually(seconds(40), "all refusals are lines or counted", async || {
        (lines().await + counted().await + overloaded >= asked).then_some(())
    })
    .await;
    assert_eq!(lines().await + counted().await + overloaded, asked, "{statuses:?}");
    // The limit lets a request a second through, and the burst; logging the admin in took one of them.
    let most = BURST + usize::try_from(began.elapsed().as_secs()).expect("a few seconds") + 1;
    assert!(lines().await <= most, "{} lines", lines().await);
    // And what the admin did is still there.
    assert!(!trail(&admin, "action=login").await.is_empty());
}
