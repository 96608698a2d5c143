//! Users see and touch only their own, and nobody but an admin who is logged in sees the whole: every endpoint of the
//! reference, tried with another user's ids, without credentials, and as somebody who is no admin. An endpoint that is
//! missing from the table fails the test.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::client::http;
use crate::harness::system::PASSWORD;
use crate::harness::{Client, Mode, Reply, System, both_modes};

both_modes!(every_endpoint_is_for_whom_it_is_meant);

/// For whom an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// For everybody.
    Open,
    /// Everybody's own account.
    Asker,
    /// Own things, none of which the path names.
    Own,
    /// A thing that the path names.
    Named,
    /// An endless stream of own things.
    Stream,
    /// Admins who are logged in.
    Staff,
}

use Whom::{Asker, Named, Open, Own, Staff, Stream};

/// Every endpoint, for whom it is, and a body that it takes.
fn table() -> Vec<(&'static str, &'static str, Whom, Value)> {
    let none = || Value::Null;
    let text = || json!({ "to": "+15553001001", "type": "text", "text": "mine" });
    vec![
        ("GET", "/health/live", Open, none()),
        ("GET", "/health/ready", Open, none()),
        ("GET", "/metrics", Open, none()),
        ("POST", "/api/v1/auth/login", Open, json!({})),
        ("POST", "/api/v1/auth/refresh", Open, json!({})),
        ("POST", "/api/v1/auth/logout", Open, json!({})),
        ("GET", "/api/v1/auth/me", Asker, none()),
        ("POST", "/api/v1/auth/password", Asker, json!({})),
        ("GET", "/api/v1/usage", Own, none()),
        ("GET", "/api/v1/events", Stream, none()),
        ("GET", "/api/v1/messages", Own, none()),
        ("GET", "/api/v1/messages/list", Own, none()),
        ("POST", "/api/v1/messages", Own, text()),
        ("POST", "/api/v1/messages/batch", Own, json!({ "messages": [text()] })),
        ("POST", "/api/v1/messages/send-text", Own, json!({ "recipient": "+15553001001", "content": "mine" })),
        ("POST", "/api/v1/messages/send-media", Own, json!({})),
        ("POST", "/api/v1/messages/cancel", Own, json!({ "reference": "victim" })),
        ("GET", "/api/v1/messages/{id}", Named, none()),
        ("POST", "/api/v1/messages/{id}/cancel", Named, json!({})),
        ("POST", "/api/v1/media", Own, none()),
        ("GET", "/api/v1/media/{id}", Named, none()),
        ("DELETE", "/api/v1/media/{id}", Named, none()),
        ("GET", "/api/v1/sessions", Own, none()),
        ("POST", "/api/v1/sessions", Own, json!({ "name": "intruders-own" })),
        ("GET", "/api/v1/sessions/status", Own, none()),
        ("POST", "/api/v1/sessions/init", Own, json!({})),
        ("POST", "/api/v1/sessions/disconnect", Own, json!({})),
        ("GET", "/api/v1/sessions/{name}", Named, none()),
        ("PATCH", "/api/v1/sessions/{name}", Named, json!({ "paused": true })),
        ("DELETE", "/api/v1/sessions/{name}", Named, none()),
        ("POST", "/api/v1/sessions/{name}/connect", Named, json!({})),
        ("POST", "/api/v1/sessions/{name}/disconnect", Named, json!({})),
        ("POST", "/api/v1/sessions/{name}/logout", Named, json!({})),
        ("POST", "/api/v1/sessions/{name}/unlink", Named, json!({})),
        ("POST", "/api/v1/sessions/{name}/pause", Named, json!({})),
        ("POST", "/api/v1/sessions/{name}/resume", Named, json!({})),
        ("GET", "/api/v1/sessions/{name}/qr", Named, none()),
        ("POST", "/api/v1/sessions/{name}/pair-code", Named, json!({ "phone": "+15553001001" })),
        ("GET", "/api/v1/users", Staff, none()),
        ("POST", "/api/v1/users", Staff, json!({ "username": "made-by-intruder", "password": PASSWORD })),
        ("GET", "/api/v1/users/{id}", Staff, none()),
        ("PUT", "/api/v1/users/{id}", Staff, json!({ "is_staff": true })),
        ("PATCH", "/api/v1/users/{id}", Staff, json!({ "is_staff": true })),
        ("DELETE", "/api/v1/users/{id}", Staff, none()),
        ("POST", "/api/v1/users/{id}/activate", Staff, json!({})),
        ("POST", "/api/v1/users/{id}/deactivate", Staff, json!({})),
        ("GET", "/api/v1/api-keys", Staff, none()),
        ("POST", "/api/v1/api-keys", Staff, json!({ "user_id": 1, "name": "made by intruder" })),
        ("GET", "/api/v1/api-keys/{id}", Staff, none()),
        ("DELETE", "/api/v1/api-keys/{id}", Staff, none()),
        ("GET", "/api/v1/analytics/usage-stats", Staff, none()),
        ("GET", "/api/v1/analytics/api-logs", Staff, none()),
        ("GET", "/api/v1/workers", Staff, none()),
        ("GET", "/api/v1/queues", Staff, none()),
        ("GET", "/api/v1/audit", Staff, none()),
        ("GET", "/api/v1/dead-letters", Staff, none()),
        ("POST", "/api/v1/dead-letters/{id}/replay", Staff, json!({})),
    ]
}

/// The operations that the reference describes.
async fn documented(system: &System) -> BTreeSet<(String, String)> {
    let url = format!("{}/api/openapi.json", system.apis[0].origin);
    let document: Value = http().get(url).send().await.expect("an answer").json().await.expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase());
        let methods = methods.filter(|method| Method::from_bytes(method.as_bytes()).is_ok_and(|m| KNOWN.contains(&m)));
        methods.map(|method| (method, path.clone()))
    });
    operations.collect()
}

const KNOWN: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// What belongs to somebody.
struct Things {
    user: String,
    message: String,
    media: String,
    session: String,
    session_name: String,
}

impl Things {
    async fn of(client: &Client) -> Self {
        client.connect("default").await;
        let name = "taken-by-victim";
        let made: Value = client.post("/sessions", &json!({ "name": name })).await.expect(201).data();
        let sent = json!({ "to": "+15553001005", "type": "text", "text": "a secret", "reference": "victim" });
        let sent: Value = client.send(&sent).await.expect(202).data();
        let file = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"secret.txt\"\r\n\r\na secret\r\n--b--\r\n";
        let kind: &[(&str, &[u8])] = &[("content-type", b"multipart/form-data; boundary=b")];
        let file = client.raw(Method::POST, "/media", kind, file.into()).await.expect("an answer").expect(201);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Self {
            user: made["user_id"].to_string(),
            message: text(&sent["id"]),
            media: text(&file.data::<Value>()["id"]),
            session: text(&made["id"]),
            session_name: name.to_owned(),
        }
    }

    /// A path's forms that name these things: a session goes by its name, or by its id.
    fn named(&self, path: &str) -> Vec<String> {
        let path = path.strip_prefix("/api/v1").expect("a path of the API");
        let id = if path.starts_with("/media") {
            &self.media
        } else if path.starts_with("/users") {
            &self.user
        } else if path.starts_with("/api-keys") {
            "1"
        } else {
            &self.message
        };
        let path = path.replace("{id}", id);
        if path.contains("{name}") {
            return [&self.session_name, &self.session].map(|name| path.replace("{name}", name)).to_vec();
        }
        vec![path]
    }

    fn shown_in(&self, reply: &Reply) -> bool {
        let text = reply.body.to_string();
        [&self.message, &self.media, &self.session].iter().any(|id| text.contains(id.as_str()))
    }
}

async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Reply {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let body = (!body.is_null()).then_some(body);
    client.attempt(method, path, None, body).await.unwrap_or_else(|e| panic!("{path}: {e}"))
}

async fn every_endpoint_is_for_whom_it_is_meant(mode: Mode) {
    let system = System::with(mode).user("victim", 100).user("intruder", 1_000);
    // Much is asked without credentials here.
    let system = system.env("SANASR_ADDRESS_RATE", "1000").env("SANASR_ADDRESS_BURST", "1000").start().await;
    let (victim, by_key, admin) =
        (system.client_of("victim", 0), system.client_of("intruder", 0), system.admin().await);
    let things = Things::of(&victim).await;
    by_key.connect("default").await;
    let tabled: BTreeSet<_> = table().iter().map(|(m, p, ..)| ((*m).to_owned(), (*p).to_owned())).collect();
    assert_eq!(documented(&system).await, tabled, "the reference's endpoints, and the table's");

    let login: Value = by_key.log_in("intruder", PASSWORD).await.expect(200).data();
    let by_token = by_key.with_token(login["access_token"].as_str().expect("a token"));
    let me: Value = admin.get("/auth/me").await.expect(200).data();
    let key = json!({ "user_id": me["id"], "name": "an admin's key" });
    let key: Value = admin.post("/api-keys", &key).await.expect(201).data();
    let admins_key = by_key.with_key(key["key"].as_str().expect("a key"));
    let nobody = by_key.with_key("");

    for (method, path, whom, body) in table() {
        if whom == Open {
            continue;
        }
        for path in things.named(path) {
            let shown = format!("{method} {path}");
            assert_eq!(ask(&nobody, method, &path, &body).await.status, 401, "{shown} without credentials");
            for (client, who) in [(&by_key, "key"), (&by_token, "token")] {
                let foreign = format!("{path}?user_id={}", things.user);
                match whom {
                    Staff => {
                        assert_eq!(ask(client, method, &path, &body).await.status, 403, "{shown} by a user's {who}");
                    }
                    Named => {
                        let reply = ask(client, method, &path, &body).await;
                        assert_eq!((reply.status, reply.code()), (404, "not_found"), "{shown} by another's {who}");
                        assert_eq!(ask(client, method, &foreign, &body).await.status, 403, "{foreign} by {who}");
                    }
                    Own => {
                        let reply = ask(client, method, &path, &body).await;
                        assert!(![401, 403, 404, 500].contains(&reply.status), "{shown}: {}", reply.body);
                        assert!(!things.shown_in(&reply), "{shown} shows another's: {}", reply.body);
                        for foreign in [foreign, format!("{path}?user_id=all")] {
                            let reply = ask(client, method, &foreign, &body).await;
                            assert_eq!(reply.status, 403, "{method} {foreign} by {who}: {}", reply.body);
                        }
                    }
                    Stream => {
                        assert_eq!(ask(client, method, &foreign, &body).await.status, 403, "{foreign} by {who}");
                    }
                    Asker => {
                        let reply = ask(client, method, &path, &body).await;
                        assert!(![401, 403, 404, 500].contains(&reply.status), "{shown}: {}", reply.body);
                    }
                    Open => unreachable!("left out above"),
                }
            }
            if whom == Staff {
                assert_eq!(ask(&admins_key, method, &path, &body).await.status, 403, "{shown} by an admin's key");
            }
            if method == "GET" && (whom == Named || whom == Staff) && !path.ends_with("/qr") {
                // A name means something among one user's sessions only; an id opens directly.
                let whose = if path.contains(&things.session_name) {
                    format!("?user_id={}", things.user)
                } else {
                    String::new()
                };
                let reply = ask(&admin, method, &format!("{path}{whose}"), &body).await;
                assert_eq!(reply.status, 200, "{shown} by an admin: {}", reply.body);
            }
        }
    }
    let theirs = admin.get(&format!("/messages?user_id={}", things.user)).await.expect(200);
    assert!(things.shown_in(&theirs), "an admin sees a user's messages: {}", theirs.body);
    assert!(!things.shown_in(&admin.get("/messages").await.expect(200)), "and without asking for them its own");
    assert!(things.shown_in(&admin.get("/messages?user_id=all").await.expect(200)));

    // After all this nothing of the victim's is changed.
    let session: Value = victim.get(&format!("/sessions/{}", things.session_name)).await.expect(200).data();
    assert_eq!((&session["status"], &session["paused"]), (&json!("disconnected"), &json!(false)));
    let message: Value = victim.get(&format!("/messages/{}", things.message)).await.expect(200).data();
    assert_ne!(message["status"], "cancelled");
    let user: Value = admin.get(&format!("/users/{}", things.user)).await.expect(200).data();
    assert_eq!((&user["is_staff"], &user["is_active"]), (&json!(false), &json!(true)));
    assert_eq!(victim.list("").await.len(), 1);
}
