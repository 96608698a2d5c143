//! Bad input: every field of every request. Each gives the problem document of the contract, naming every bad field at
//! once; none gives a 500; nothing is half stored.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use sanasr_shared::ids::MessageId;
use sanasr_shared::time::Time;
use serde_json::{Map, Value, json};

use crate::harness::client::fields;
use crate::harness::{Client, Message, Mode, Reply, System, both_modes};

both_modes!(
    bad_messages_are_named_field_by_field,
    bad_requests_of_sessions_are_named_field_by_field,
    bad_queries_are_refused,
    bad_bodies_and_headers_are_refused,
    whoever_has_no_key_learns_nothing,
    bodies_are_read_as_programs_write_them,
    what_cannot_be_read_is_named_and_keeps_nothing_else,
    a_number_is_read_as_people_write_it_or_refused,
    an_answer_stays_in_its_conversation,
);

/// A table's row: the body, and the fields that are named, all of them and no others.
type Row = (Value, &'static [&'static str]);

/// A good text message with other fields; a field given as `null` is left out.
fn with(change: Value) -> Value {
    changed(json!({ "to": "+15553001001", "type": "text", "text": "hello" }), change)
}

/// A good message of a type with other fields.
fn typed(kind: &str, change: Value) -> Value {
    changed(json!({ "to": "+15553001001", "type": kind }), change)
}

fn changed(mut body: Value, change: Value) -> Value {
    if let (Value::Object(body), Value::Object(change)) = (&mut body, change) {
        for (name, value) in change {
            if value.is_null() {
                body.remove(&name);
            } else {
                body.insert(name, value);
            }
        }
    }
    body
}

fn in_future(days: f64) -> String {
    Time::now().plus(Duration::from_secs_f64(days * 86_400.0)).to_string()
}

fn long(chars: usize) -> String {
    "ä".repeat(chars)
}

/// Checks that an answer is a problem document as the contract has it.
fn problem(reply: &Reply, status: u16, code: &str) {
    let body = &reply.body;
    assert_eq!((reply.status, reply.code()), (status, code), "{body}");
    assert_eq!(reply.header("content-type"), "application/problem+json", "{body}");
    assert_eq!((&body["success"], &body["status"]), (&json!(false), &json!(status)), "{body}");
    for text in ["type", "title", "detail"] {
        assert!(body[text].as_str().is_some_and(|t| !t.is_empty()), "{text} of {body}");
    }
    assert_eq!(body["request_id"], reply.header("x-request-id"), "{body}");
    assert!(!reply.header("x-request-id").is_empty());
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
}

/// Sends each row, and checks that all its bad fields are named at once.
async fn refused(client: &Client, method: Method, path: &str, rows: Vec<Row>) {
    for (body, bad) in rows {
        let reply = client.attempt(method.clone(), path, None, Some(&body)).await.expect("an answer");
        let shown: String = format!("{method} {path} {body}").chars().take(300).collect();
        assert_eq!(reply.status, 422, "{shown}\n{}", reply.body);
        problem(&reply, 422, "validation_failed");
        let named: BTreeSet<_> = reply.fields().into_iter().collect();
        assert_eq!(named, bad.iter().copied().collect(), "{shown}\n{}", reply.body);
        for error in reply.body["errors"].as_array().into_iter().flatten() {
            assert!(error["code"].is_string() && error["detail"].is_string(), "{shown}\n{error}");
        }
    }
}

/// That nothing at all was stored or taken.
async fn nothing_stored(client: &Client, system: &System) {
    assert_eq!(client.list("").await.len(), 0, "messages");
    assert_eq!(client.quota().await.used, 0, "units");
    assert_eq!(system.ledger.read().0.len(), 0, "arrivals");
}

/// Values that are no string, or none that fits on a line.
fn no_line(chars_max: usize) -> Vec<Value> {
    vec![
        json!(5),
        json!(true),
        json!([]),
        json!({}),
        json!(""),
        json!("a\u{0}b"),
        json!("a\u{1b}b"),
        json!("a\nb"),
        json!(long(chars_max + 1)),
    ]
}

/// Rows in which one field takes each of some values.
fn each(field: &'static [&'static str; 1], values: Vec<Value>, body: impl Fn(Value) -> Value) -> Vec<Row> {
    let name = field[0];
    let object = |value: Value| Value::Object(Map::from_iter([(name.to_owned(), value)]));
    values.into_iter().map(|value| (body(object(value)), field.as_slice())).collect()
}

fn no_recipients() -> Vec<Value> {
    let mut values = no_line(64);
    values.extend(
        ["hello", "0015553001001", "015553001001", "12345", "+1234567890123456", "+99955512345", "1@2@g.us"]
            .map(Value::from),
    );
    values.extend(
        ["abc@g.us", "15553001001@example.org", "++15553001001", "+１５５５３００１００１", " "].map(Value::from),
    );
    values
}

fn no_times() -> Vec<Value> {
    vec![
        json!(1_900_000_000),
        json!(true),
        json!(""),
        json!("tomorrow"),
        json!("2030-01-01"),
        json!("2030-01-01T00:00:00"),
        json!("2030-13-01T00:00:00Z"),
        json!("2020-01-01T00:00:00Z"),
        json!(in_future(100.0)),
    ]
}

fn message_rows() -> Vec<Row> {
    let mut rows: Vec<Row> = vec![
        (json!({}), &["to", "type"]),
        (with(json!({ "to": null })), &["to"]),
        (with(json!({ "type": null, "text": null })), &["type"]),
        (with(json!({ "text": null })), &["text"]),
        (with(json!({ "text": 5 })), &["text"]),
        (with(json!({ "text": ["a"] })), &["text"]),
        (with(json!({ "text": "" })), &["text"]),
        (with(json!({ "text": "a\u{0}b" })), &["text"]),
        (with(json!({ "text": "a\u{7}b" })), &["text"]),
        (with(json!({ "text": "a\u{85}b" })), &["text"]),
        (with(json!({ "text": long(4_097) })), &["text"]),
        (with(json!({ "content": "twice" })), &["content"]),
        (with(json!({ "recipient": "+15553001002" })), &["recipient"]),
        (with(json!({ "priority": 1 })), &["priority"]),
        (with(json!({ "Text": "a", "": 1 })), &["Text", ""]),
        (with(json!({ "session": "nobody-made-this" })), &["session"]),
        (with(json!({ "reply_to": "5" })), &["reply_to"]),
        (with(json!({ "reply_to": 5 })), &["reply_to"]),
        (with(json!({ "reply_to": MessageId::generate() })), &["reply_to"]),
        (with(json!({ "send_at": in_future(2.0), "expires_at": in_future(1.0) })), &["expires_at"]),
        (with(json!({ "send_at": in_future(30.1) })), &["send_at"]),
        (with(json!({ "expires_at": in_future(30.1) })), &["expires_at"]),
        // Parts of other types.
        (with(json!({ "media": { "url": "https://example.org/a.png" } })), &["media"]),
        (with(json!({ "location": { "latitude": 1, "longitude": 1 } })), &["location"]),
        (with(json!({ "contact": { "vcard": "BEGIN:VCARD\nEND:VCARD" } })), &["contact"]),
        (with(json!({ "caption": "none here" })), &["caption"]),
        // Everything at once.
        (
            json!({
                "to": 5, "type": "sms", "text": "", "session": "", "reply_to": "x", "send_at": "soon", "expires_at": 1,
                "reference": "", "caption": 1, "media": 1, "location": 1, "contact": 1, "nonsense": 1,
            }),
            &[
                "to",
                "type",
                "text",
                "session",
                "reply_to",
                "send_at",
                "expires_at",
                "reference",
                "caption",
                "media",
                "location",
                "contact",
                "nonsense",
            ],
        ),
    ];
    rows.extend(each(&["to"], no_recipients(), with));
    rows.extend(each(&["type"], ["", "sms", "TEXT", "text "].map(Value::from).to_vec(), with));
    rows.extend(each(&["type"], vec![json!(1), json!(true), json!(["text"])], with));
    rows.extend(each(&["session"], no_line(64), with));
    rows.extend(each(&["reference"], no_line(255), with));
    rows.extend(each(&["send_at"], no_times(), with));
    rows.extend(each(&["expires_at"], no_times(), with));
    rows
}

fn media_rows() -> Vec<Row> {
    let media = |media: Value| typed("image", json!({ "media": media }));
    let url = "https://example.org/a.png";
    let mut rows: Vec<Row> = vec![
        (typed("image", json!({})), &["media"]),
        (typed("image", json!({ "media": "https://example.org/a.png" })), &["media"]),
        (typed("image", json!({ "media": { "url": url }, "text": "a caption" })), &["text"]),
        (typed("audio", json!({ "media": { "url": url }, "caption": "none here" })), &["caption"]),
        (media(json!({})), &["media.url"]),
        (media(json!({ "url": 5 })), &["media.url"]),
        (media(json!({ "url": "" })), &["media.url"]),
        (media(json!({ "url": "example.org/a.png" })), &["media.url"]),
        (media(json!({ "url": "file:///etc/passwd" })), &["media.url"]),
        (media(json!({ "url": "https://" })), &["media.url"]),
        (media(json!({ "url": "https://example.org/\u{0}" })), &["media.url"]),
        (media(json!({ "url": format!("https://example.org/{}", "a".repeat(3_000)) })), &["media.url"]),
        (media(json!({ "url": url, "base64": "aGk=", "mime_type": "image/png" })), &["media.base64"]),
        (media(json!({ "url": url, "mime_type": "image/png" })), &["media.mime_type"]),
        (media(json!({ "base64": "aGk=" })), &["media.mime_type"]),
        (media(json!({ "base64": "no base64!", "mime_type": "image/png" })), &["media.base64"]),
        (media(json!({ "base64": "", "mime_type": "image/png" })), &["media.base64"]),
        (media(json!({ "base64": "aGk=", "mime_type": "image" })), &["media.mime_type"]),
        (media(json!({ "base64": "aGk=", "mime_type": "video/mp4" })), &["media.mime_type"]),
        (media(json!({ "id": "nothing-uploaded" })), &["media.id"]),
        (media(json!({ "url": url, "filename": 5 })), &["media.filename"]),
        (media(json!({ "url": url, "filename": "" })), &["media.filename"]),
        (media(json!({ "url": url, "filename": "a\u{0}.png" })), &["media.filename"]),
        (media(json!({ "url": url, "filename": long(256) })), &["media.filename"]),
        (media(json!({ "url": url, "voice": true })), &["media.voice"]),
        (media(json!({ "url": url, "size": 5 })), &["media.size"]),
        (media(json!({ "url": 1, "filename": 1, "size": 1 })), &["media.url", "media.filename", "media.size"]),
        (typed("audio", json!({ "media": { "url": url, "voice": "yes" } })), &["media.voice"]),
    ];
    let caption = |change| changed(typed("image", json!({ "media": { "url": "https://example.org/a.png" } })), change);
    let no_caption = vec![json!(5), json!(""), json!("a\u{0}b"), json!(long(1_025))];
    rows.extend(each(&["caption"], no_caption, caption));
    rows
}

fn place_and_card_rows() -> Vec<Row> {
    let location = |location: Value| typed("location", json!({ "location": location }));
    let contact = |contact: Value| typed("contact", json!({ "contact": contact }));
    vec![
        (typed("location", json!({})), &["location"]),
        (typed("location", json!({ "location": [1, 2] })), &["location"]),
        (location(json!({})), &["location.latitude", "location.longitude"]),
        (location(json!({ "latitude": "1", "longitude": true })), &["location.latitude", "location.longitude"]),
        (location(json!({ "latitude": 90.1, "longitude": -180.1 })), &["location.latitude", "location.longitude"]),
        (
            location(json!({ "latitude": 1, "longitude": 1, "name": "", "address": 5 })),
            &["location.name", "location.address"],
        ),
        (location(json!({ "latitude": 1, "longitude": 1, "altitude": 1 })), &["location.altitude"]),
        (typed("contact", json!({})), &["contact"]),
        (typed("contact", json!({ "contact": "Ann" })), &["contact"]),
        (contact(json!({})), &["contact.name", "contact.phone_number"]),
        (contact(json!({ "name": "", "phone": "hello" })), &["contact.name", "contact.phone"]),
        (contact(json!({ "name": "Ann", "phone": "120363025246125486@g.us" })), &["contact.phone"]),
        (contact(json!({ "vcard": "no card" })), &["contact.vcard"]),
        (contact(json!({ "vcard": "BEGIN:VCARD\u{0}" })), &["contact.vcard"]),
        (contact(json!({ "vcard": "BEGIN:VCARD\nFN:Ann\n" })), &["contact.vcard"]),
        (contact(json!({ "vcard": "BEGIN:VCARD\nEND:VCARD", "name": "Ann" })), &["contact.name"]),
        (contact(json!({ "name": "Ann", "phone": "+15553001001", "age": 5 })), &["contact.age"]),
    ]
}

async fn bad_messages_are_named_field_by_field(mode: Mode) {
    let system = System::start(mode).await;
    let client = &system.client();
    let rows = || message_rows().into_iter().chain(media_rows()).chain(place_and_card_rows());
    refused(client, Method::POST, "/messages", rows().collect()).await;
    refused(
        client,
        Method::POST,
        "/messages/send-text",
        vec![
            (json!({}), &["recipient", "content"]),
            (json!({ "recipient": 5, "content": 5, "more": 5 }), &["recipient", "content", "more"]),
            (json!({ "recipient": "+15553001001", "content": "a\u{0}" }), &["content"]),
            (json!({ "to": "nobody", "text": "a" }), &["to"]),
        ],
    )
    .await;
    refused(
        client,
        Method::POST,
        "/messages/send-media",
        vec![
            (json!({}), &["recipient", "media_type", "media_url"]),
            (
                json!({ "recipient": "", "media_type": "text", "media_url": "ftp://a", "caption": 1, "more": 1 }),
                &["recipient", "media_type", "media_url", "caption", "more"],
            ),
        ],
    )
    .await;
    let message = with(json!({}));
    refused(
        client,
        Method::POST,
        "/messages/batch",
        vec![
            (json!({}), &["messages"]),
            (json!({ "messages": [] }), &["messages"]),
            (json!({ "messages": "all" }), &["messages"]),
            (json!({ "messages": { "0": message } }), &["messages"]),
            (json!({ "messages": vec![message.clone(); 1_001] }), &["messages"]),
            (json!({ "messages": [message], "atomic": true }), &["atomic"]),
        ],
    )
    .await;
    nothing_stored(client, &system).await;

    // In a batch each bad item is named by itself, and the good one beside them goes out. The largest text, too.
    let mut items: Vec<Value> = vec![with(json!({ "text": long(4_096) })), json!(5), json!("text"), json!([])];
    let bad: Vec<Row> = rows().collect();
    items.extend(bad.iter().map(|(body, _)| body.clone()));
    let answers = client.batch(None, &items).await;
    let accepted: Vec<&Message> = answers.iter().filter_map(|a| a.as_ref().ok()).collect();
    assert_eq!(accepted.len(), 1, "only the good one");
    assert!(answers[0].is_ok());
    for (position, answer) in answers.iter().enumerate().skip(4) {
        let problem = answer.as_ref().expect_err("a bad item");
        assert_eq!((&problem["status"], &problem["code"]), (&json!(422), &json!("validation_failed")), "{problem}");
        let prefix = format!("messages[{position}].");
        let named: BTreeSet<_> = fields(problem)
            .into_iter()
            .map(|field| field.strip_prefix(&prefix).unwrap_or_else(|| panic!("{field} of item {position}")))
            .collect();
        assert_eq!(named, bad[position - 4].1.iter().copied().collect(), "{problem}");
    }
    assert_eq!(client.list("").await.len(), 1);
    assert_eq!(client.quota().await.used, 1);
}

async fn bad_requests_of_sessions_are_named_field_by_field(mode: Mode) {
    let system = System::start(mode).await;
    let client = &system.client();
    let named = |change| changed(json!({ "name": "orders" }), change);
    let mut rows: Vec<Row> = vec![
        (json!({}), &["name"]),
        (named(json!({ "bridge": "pigeon" })), &["bridge"]),
        (named(json!({ "bridge": 5 })), &["bridge"]),
        (named(json!({ "status": "connected" })), &["status"]),
        (json!({ "name": "", "bridge": "", "more": 1 }), &["name", "bridge", "more"]),
    ];
    rows.extend(each(&["name"], no_line(64), named));
    rows.extend(each(
        &["name"],
        ["Orders", "a b", "a/b", "ä", "..", "status", "init", "disconnect"].map(Value::from).to_vec(),
        named,
    ));
    rows.extend(each(&["name"], vec![json!("a".repeat(65))], named));
    refused(client, Method::POST, "/sessions", rows).await;

    let pace = |pace: Value| json!({ "pace": pace });
    let mut rows: Vec<Row> = vec![
        (json!({ "pace": 5 }), &["pace"]),
        (json!({ "pace": [] }), &["pace"]),
        (json!({ "paused": "yes" }), &["paused"]),
        (json!({ "name": "other", "status": "connected" }), &["name", "status"]),
        (pace(json!({ "typing": "yes" })), &["pace.typing"]),
        (pace(json!({ "per_hour": 5 })), &["pace.per_hour"]),
        (pace(json!({ "burst": 0 })), &["pace.burst"]),
        (pace(json!({ "burst": 100_001 })), &["pace.burst"]),
        (pace(json!({ "jitter_ms": -1 })), &["pace.jitter_ms"]),
        (pace(json!({ "first_contacts_per_minute": 0 })), &["pace.first_contacts_per_minute"]),
        (
            pace(json!({ "per_minute": 0, "burst": "x", "jitter_ms": 1.5, "typing": 1, "more": 1 })),
            &["pace.per_minute", "pace.burst", "pace.jitter_ms", "pace.typing", "pace.more"],
        ),
    ];
    for wrong in [json!(0), json!(-1), json!(1.5), json!(1_000_001), json!(1e30), json!("60"), json!(true), json!([])] {
        rows.push((pace(json!({ "per_minute": wrong })), &["pace.per_minute"]));
    }
    refused(client, Method::PATCH, "/sessions/default", rows).await;
    let sessions: Vec<Value> = client.get("/sessions").await.expect(200).data();
    assert_eq!(sessions.len(), 1, "only the default one: {sessions:?}");
    assert_eq!(sessions[0]["pace"]["per_minute"], Value::Null, "its pace is as it was");

    // What there is can't be made again, what there isn't can't be changed, and `default` stays.
    client.post("/sessions", &named(json!({}))).await.expect(201);
    problem(&client.post("/sessions", &named(json!({}))).await, 409, "conflict");
    for path in ["/connect", "/disconnect", "/unlink", "/logout", "/pause", "/resume"] {
        problem(&client.post(&format!("/sessions/nobody-made-this{path}"), &json!({})).await, 404, "not_found");
    }
    problem(&client.get("/sessions/nobody-made-this").await, 404, "not_found");
    let gone = client.attempt(Method::DELETE, "/sessions/default", None, None).await.expect("an answer");
    problem(&gone, 409, "conflict");
}

async fn bad_queries_are_refused(mode: Mode) {
    let system = System::start(mode).await;
    let client = &system.client();
    let id = MessageId::generate();
    let mut paths: Vec<String> = [
        "page=2",
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=ten",
        "limit=",
        "limit=1&limit=2",
        "cursor=",
        "cursor=nowhere",
        "cursor=AAAAAAAAAAAAAAAAAAAAAA",
        "cursor=%00",
        "cursor=%ff",
        "status=lost",
        "status=",
        "type=sms",
        "from=2026-01-01T00:00:00",
        "from=yesterday",
        "until=5",
        "from=",
        "to=hello",
        "to=15551234567",
        "since=2026-01-01&from=2026-01-01",
    ]
    .iter()
    .map(|query| format!("/messages?{query}"))
    .collect();
    paths.extend(
        ["wait=0", "wait=61", "wait=-1", "wait=soon", "wait=1&known=lost", "known=", "page=2"]
            .map(|q| format!("/messages/{id}?{q}")),
    );
    paths.extend(
        ["/sessions?page=2", "/sessions?cursor=nowhere", "/sessions?limit=0", "/usage?year=2026"].map(str::to_owned),
    );
    paths.push("/sessions/default?full=1".to_owned());
    for path in paths {
        let reply = client.get(&path).await;
        if path.contains("cursor") {
            problem(&reply, 400, "malformed_request");
        } else {
            assert_eq!(reply.status, 422, "{path}: {}", reply.body);
            problem(&reply, 422, "validation_failed");
        }
    }
    let many: String = (0..4_000).map(|n| format!("{n}&")).collect();
    let reply = client.get(&format!("/messages?{many}")).await;
    problem(&reply, 422, "validation_failed");
    assert_eq!(reply.fields().len(), 100, "the first ones are told, not 4,000");
    let reply = client.post("/messages?dry_run=1", &with(json!({}))).await;
    problem(&reply, 422, "validation_failed");
    problem(&client.get("/messages?user_id=all").await, 403, "forbidden");
    problem(&client.get(&format!("/messages/{id}")).await, 404, "not_found");
    let reply = client.get("/messages/5").await;
    problem(&reply, 422, "validation_failed");
    assert_eq!(reply.fields(), ["id"]);
    problem(&client.get("/no/such/page").await, 404, "not_found");
    let reply = client.attempt(Method::DELETE, "/messages", None, None).await.expect("an answer");
    problem(&reply, 405, "method_not_allowed");
    assert!(reply.header("allow").contains("POST"), "Allow: {}", reply.header("allow"));
    assert!(reply.body["detail"].as_str().is_some_and(|said| said.contains("POST")), "{}", reply.body);
    nothing_stored(client, &system).await;
}

async fn bad_bodies_and_headers_are_refused(mode: Mode) {
    let system = System::start(mode).await;
    let client = &system.client();
    let good = with(json!({})).to_string().into_bytes();
    let json: &[(&str, &[u8])] = &[("content-type", b"application/json")];
    let post = |headers: Vec<(&'static str, Vec<u8>)>, body: Vec<u8>| async move {
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        client.raw(Method::POST, "/messages", &headers, body).await.expect("an answer")
    };

    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes();
    let not_json: [&[u8]; 8] =
        [b"{", b"hello", b"{'to': 1}", b"{\"to\": \"\xff\xfe\"}", b"{\"to\": \"\\ud800\"}", b"{} {}", b"\0", &deep];
    for body in not_json {
        let reply = client.raw(Method::POST, "/messages", json, body.to_vec()).await.expect("an answer");
        problem(&reply, 400, "malformed_request");
    }
    // JSON, but no object: either answer says so, neither is a fault of ours.
    for body in ["[]", "5", "\"text\"", "null"] {
        let reply = client.raw(Method::POST, "/messages", json, body.into()).await.expect("an answer");
        assert!([400, 422].contains(&reply.status), "{body}: {} {}", reply.status, reply.body);
    }
    // No body is an empty object.
    let reply = client.raw(Method::POST, "/messages", &[], Vec::new()).await.expect("an answer");
    problem(&reply, 422, "validation_failed");

    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/xml", "nonsense", ""] {
        problem(&post(vec![("content-type", kind.into())], good.clone()).await, 415, "unsupported_media_type");
    }
    problem(&post(vec![], good.clone()).await, 415, "unsupported_media_type");

    let big = with(json!({ "text": "a".repeat(1 << 20) })).to_string().into_bytes();
    let reply = client.raw(Method::POST, "/messages", json, big).await.expect("an answer");
    problem(&reply, 413, "payload_too_large");
    let big = json!({ "messages": ["a".repeat(16 << 20)] }).to_string().into_bytes();
    let reply = client.raw(Method::POST, "/messages/batch", json, big).await.expect("an answer");
    problem(&reply, 413, "payload_too_large");

    for key in [b"".to_vec(), b"a".repeat(256), b"a\tb".to_vec(), b"\xc3\xa4".to_vec()] {
        let headers = vec![("content-type", b"application/json".to_vec()), ("idempotency-key", key)];
        problem(&post(headers, good.clone()).await, 400, "malformed_request");
    }
    let headers =
        [("content-type", b"application/json".as_slice()), ("idempotency-key", b"a"), ("idempotency-key", b"b")];
    let reply = client.raw(Method::POST, "/messages", &headers, good.clone()).await.expect("an answer");
    problem(&reply, 400, "malformed_request");

    // A sane request id comes back; any other is replaced.
    for (sent, kept) in [
        (b"my-request/5".to_vec(), true),
        (b"a b".to_vec(), false),
        (b"a".repeat(129), false),
        (b"\xff".to_vec(), false),
    ] {
        let reply =
            client.raw(Method::GET, "/no/such/page", &[("x-request-id", &sent)], Vec::new()).await.expect("an answer");
        problem(&reply, 404, "not_found");
        assert_eq!(reply.header("x-request-id").as_bytes() == sent, kept, "{sent:?}");
    }
    nothing_stored(client, &system).await;
}

async fn whoever_has_no_key_learns_nothing(mode: Mode) {
    let system = System::with(mode).user("other", 10).start().await;
    let client = &system.client();
    let message = client.text("default", "+15553001001", "mine").await;
    let id = message.id;
    let mut answers = BTreeSet::new();
    let unknown = format!("sanasr_abcdefghijkl_{}", "a".repeat(43));
    for key in ["", "nonsense", "sanasr_", unknown.as_str(), "sanasr_abc_def"] {
        // Of the right form: its public part is shown, no more.
        let well_formed = key.matches('_').count() == 2;
        let stranger = client.with_key(key);
        let code = if well_formed { "invalid_api_key" } else { "unauthenticated" };
        for path in ["/messages", "/usage", "/sessions", "/sessions/default", &format!("/messages/{id}")] {
            let reply = stranger.get(path).await;
            problem(&reply, 401, code);
            if !well_formed {
                answers.insert(reply.body["detail"].to_string());
            }
        }
        // Not even what would be wrong with the request.
        problem(&stranger.send(&json!({ "nonsense": 1 })).await, 401, code);
    }
    assert_eq!(answers.len(), 1, "the same answer in every case: {answers:?}");

    let other = system.client_of("other", 0);
    problem(&other.get(&format!("/messages/{id}")).await, 404, "not_found");
    problem(&other.cancel(id).await, 404, "not_found");
    problem(&other.send(&with(json!({ "reply_to": id }))).await, 422, "validation_failed");
    assert_eq!(other.list("").await.len(), 0);
}

async fn bodies_are_read_as_programs_write_them(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let client = &system.client();
    let good = with(json!({})).to_string();
    let marked = [b"\xef\xbb\xbf", good.as_bytes()].concat();
    for kind in ["application/json", "application/json; charset=utf8", "application/json;charset=\"UTF-8\""] {
        for body in [good.as_bytes(), &marked] {
            let headers = [("content-type", kind.as_bytes())];
            client.raw(Method::POST, "/messages", &headers, body.to_vec()).await.expect("an answer").expect(202);
        }
    }
    // Of whatever is read as JSON, by whatever endpoint.
    let headers = [("content-type", b"application/json; charset=utf8".as_slice())];
    let session = [b"\xef\xbb\xbf".as_slice(), br#"{"name": "orders"}"#].concat();
    client.raw(Method::POST, "/sessions", &headers, session).await.expect("an answer").expect(201);
    let batch = format!("\u{feff}{{\"messages\": [{good}]}}").into_bytes();
    client.raw(Method::POST, "/messages/batch", &headers, batch).await.expect("an answer").expect(202);

    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let reply = client.raw(Method::POST, "/messages", &headers, utf16).await.expect("an answer");
    problem(&reply, 400, "malformed_request");
    assert!(reply.body["detail"].as_str().is_some_and(|said| said.contains("UTF-16")), "{}", reply.body);
}

async fn what_cannot_be_read_is_named_and_keeps_nothing_else(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let client = &system.client();
    let headers = [("content-type", b"application/json".as_slice())];
    let post = |path: &'static str, body: &str| {
        let body = body.as_bytes().to_vec();
        async move { client.raw(Method::POST, path, &headers, body).await.expect("an answer") }
    };
    for (path, body, field) in [
        ("/messages", r#"{"to": "+15553001001", "to": "+15553001002", "type": "text", "text": "a"}"#, "to"),
        ("/messages", r#"{"to": "+15553001001", "type": "text", "text": "a", "text": null}"#, "text"),
        (
            "/messages",
            r#"{"to": "+15553001001", "type": "image", "media": {"url": "https://a/b", "url": "https://a/c"}}"#,
            "media.url",
        ),
        ("/messages/send-text", r#"{"recipient": "+15553001001", "content": "a", "content": "b"}"#, "content"),
        ("/messages/send-media", r#"{"media_type": "image", "media_type": "image"}"#, "media_type"),
        ("/messages/cancel", r#"{"reference": "a", "reference": "b"}"#, "reference"),
        ("/messages/batch", r#"{"messages": [], "messages": []}"#, "messages"),
        ("/sessions", r#"{"name": "orders", "name": "others"}"#, "name"),
        ("/auth/login", r#"{"username": "a", "username": "b", "password": "c"}"#, "username"),
        ("/messages", r#"{"to": "+15553001001", "type": "text", "text": "cut \ud83d"}"#, "text"),
        ("/messages", r#"{"to": "+15553001001", "type": "contact", "contact": {"name": "\ude00"}}"#, "contact.name"),
        ("/messages/send-text", r#"{"recipient": "+15553001001", "content": "cut \ud83d"}"#, "content"),
    ] {
        let reply = post(path, body).await;
        problem(&reply, 400, "malformed_request");
        assert_eq!(reply.fields(), [field], "{path} {body}: {}", reply.body);
        assert!(reply.body["detail"].as_str().is_some_and(|said| said.starts_with(field)), "{}", reply.body);
    }
    nothing_stored(client, &system).await;

    // One item of 1,000 that can't be read, and one that says a thing twice.
    let items: Vec<String> = (0..1_000)
        .map(|n| match n {
            500 => r#"{"to": "+15553001001", "type": "text", "text": "cut \ud83d"}"#.to_owned(),
            700 => r#"{"to": "+15553001001", "to": "+15553001002", "type": "text", "text": "a"}"#.to_owned(),
            n => with(json!({ "text": format!("{n} \u{1f600}") })).to_string().replace('\u{1f600}', r"\ud83d\ude00"),
        })
        .collect();
    let body = format!(r#"{{"messages": [{}]}}"#, items.join(","));
    let headers = [headers[0], ("idempotency-key", b"all".as_slice())];
    let mut accepted = BTreeSet::new();
    for replayed in [false, true] {
        let reply = client.raw(Method::POST, "/messages/batch", &headers, body.clone().into_bytes()).await;
        let reply = reply.expect("an answer").expect(202);
        assert_eq!(reply.is_replayed(), replayed);
        let answers: Vec<Value> = reply.data();
        assert_eq!(answers.len(), 1_000);
        for (n, answer) in answers.iter().enumerate() {
            match n {
                500 => assert_eq!(fields(&answer["error"]), ["messages[500].text"], "{answer}"),
                700 => assert_eq!(fields(&answer["error"]), ["messages[700].to"], "{answer}"),
                n => {
                    assert_eq!(answer["message"]["text"], format!("{n} \u{1f600}"), "{answer}");
                    accepted.insert(answer["message"]["id"].to_string());
                }
            }
        }
        assert_eq!((&answers[500]["error"]["status"], &answers[700]["error"]["status"]), (&json!(400), &json!(400)));
    }
    assert_eq!(accepted.len(), 998, "each once");
    assert_eq!(client.quota().await.used, 998);
    // What an item that can't be read says belongs to the request all the same.
    let other = body.replace("cut ", "another ").into_bytes();
    let other = client.raw(Method::POST, "/messages/batch", &headers, other).await.expect("an answer").expect(422);
    assert_eq!(other.code(), "idempotency_key_reused");
}

async fn a_number_is_read_as_people_write_it_or_refused(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let client = &system.client();
    for (to, expected) in [
        ("+44 (0)20 7946 0958", "+442079460958"),
        ("+49 (0) 170 1234567", "+491701234567"),
        ("+49 0170 1234567", "+491701234567"),
        ("+39 06 6982 1234", "+390669821234"),
        ("tel:+14155552671", "+14155552671"),
        ("whatsapp:+14155552671", "+14155552671"),
        (" +1 415 555 2671 ", "+14155552671"),
        ("\t120363025246125486@g.us\n", "120363025246125486@g.us"),
        ("\u{202a}+14155552671\u{202c}", "+14155552671"),
        ("14155552671@c.us", "+14155552671"),
    ] {
        let sent: Value = client.send(&with(json!({ "to": to }))).await.expect(202).data();
        assert_eq!(sent["to"], expected, "{to}");
    }
    let listed = client.list("to=tel:%2B1%20(415)%20555-2671").await;
    assert_eq!(listed.len(), 5, "a filter reads a number the same way");
    let card = json!({ "type": "contact", "contact": { "name": "A", "phone": "+44 (0)20 7946 0958" }, "text": null });
    let card: Value = client.send(&with(card)).await.expect(202).data();
    assert_eq!(card["contact"]["phone_number"], "+442079460958");
    for (to, hint) in [
        ("120363025246125486", "120363025246125486@g.us"),
        ("+39 (0)6 6982 1234", "isn't clear"),
        ("+38 (0)50 123 45 67", "isn't clear"),
        ("+36 06 20 123 4567", "dialled from abroad"),
        ("(0)20 7946 0958", "country code"),
        // Neither to Egypt nor to Brazil nor to Russia.
        ("(202) 555-0123", "with + and its country code"),
        ("555-123-4567", "with + and its country code"),
        ("7911 123456", "with + and its country code"),
        ("14155552671", "that is +14155552671"),
        ("+1 415 555 267", "10 digits after the country code +1"),
    ] {
        let refused = client.send(&with(json!({ "to": to }))).await.expect(422);
        assert_eq!(refused.fields(), ["to"], "{to}");
        assert!(refused.body["detail"].as_str().is_some_and(|said| said.contains(hint)), "{to}: {}", refused.body);
        let card = json!({ "type": "contact", "contact": { "name": "A", "phone_number": to }, "text": null });
        assert_eq!(client.send(&with(card)).await.expect(422).fields(), ["contact.phone_number"], "{to}");
        let pair = client.post("/sessions/default/pair-code", &json!({ "phone_number": to })).await;
        assert_eq!(pair.expect(422).fields(), ["phone_number"], "{to}");
    }
}

async fn an_answer_stays_in_its_conversation(mode: Mode) {
    let system = System::with(mode).user("other", 10).unconnected().start().await;
    let client = &system.client();
    client.post("/sessions", &json!({ "name": "second" })).await.expect(201);
    let mine = client.text("default", "+15553001001", "mine").await;
    let theirs = system.client_of("other", 0).text("default", "+15553001001", "theirs").await;
    let answer = |id: MessageId, change: Value| changed(with(json!({ "reply_to": id })), change);
    let sent: Value = client.send(&answer(mine.id, json!({ "to": "+1 (555) 300-1001" }))).await.expect(202).data();
    assert_eq!(sent["reply_to"], json!(mine.id));
    for body in [
        answer(theirs.id, json!({})),
        answer(mine.id, json!({ "to": "+15553001002" })),
        answer(mine.id, json!({ "to": "120363025246125486@g.us" })),
        answer(mine.id, json!({ "session": "second" })),
        answer(MessageId::generate(), json!({})),
    ] {
        assert_eq!(client.send(&body).await.expect(422).fields(), ["reply_to"], "{body}");
        let items = client.batch(None, &[body.clone(), with(json!({}))]).await;
        assert!(items[0].is_err() && items[1].is_ok(), "{items:?}");
    }
}
