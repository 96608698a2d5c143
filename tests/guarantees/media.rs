//! Files: uploaded, sent, fetched within bounds, and gone when nobody needs them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use reqwest::Method;
use sanasr_shared::message::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::ConnectOptions;
use sqlx_sqlite::SqliteConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::files::{FileServer, OGG, PDF, PNG, Parts, WAV, ZIP, picture};
use crate::harness::moto::Moto;
use crate::harness::wait::seconds;
use crate::harness::{Client, Message, Mode, Reply, System, both_modes, eventually};

both_modes!(
    an_upload_is_sent_by_its_id,
    a_message_brings_its_file,
    addresses_are_fetched_with_every_guard,
    whatever_is_fetched_decides_what_becomes_of_a_message,
    bad_uploads_leave_nothing,
    uploads_are_never_whole_in_memory,
    files_go_when_nobody_needs_them,
    files_live_in_s3,
    a_files_name_is_read_however_it_is_written,
    a_file_is_what_it_certainly_is,
    a_voice_note_is_ogg_opus,
    base64_is_read_as_programs_write_it,
    a_document_is_called_what_its_address_says,
);

const TO: &str = "+15553001001";

async fn post_parts(client: &Client, path: &str, key: Option<&str>, body: Vec<u8>) -> Reply {
    let mut headers = vec![("content-type", Parts::TYPE)];
    headers.extend(key.map(|key| ("idempotency-key", key.as_bytes())));
    client.raw(Method::POST, path, &headers, body).await.unwrap_or_else(|e| panic!("POST {path}: {e}"))
}

async fn upload(client: &Client, filename: &str, bytes: &[u8]) -> Value {
    post_parts(client, "/media", None, Parts::default().file(filename, bytes).end()).await.expect(201).data()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until a message is read, and checks that WhatsApp has seen this file with it.
async fn arrives(system: &System, reply: Reply, bytes: &[u8], mime_type: &str, filename: Option<&str>) -> Value {
    let reply = reply.expect(202);
    let (message, shown): (Message, Value) = (reply.data(), reply.data());
    system.client().wait_status(message.id, Status::Read, seconds(30)).await;
    let seen = system.ledger.read();
    let [arrival] = seen.of(&message.whatsapp_id)[..] else { panic!("it arrives once: {seen:?}") };
    let media = arrival.media.as_ref().expect("it has a file");
    assert_eq!((&*media.sha256, media.size), (&*sha256(bytes), bytes.len() as u64));
    assert_eq!((&*media.mime_type, media.filename.as_deref()), (mime_type, filename));
    shown
}

async fn an_upload_is_sent_by_its_id(mode: Mode) {
    let system = System::with(mode).user("other", 100).start().await;
    let (client, other) = (system.client(), system.client_of("other", 0));
    let bytes = picture(300_000, 1);
    let file = upload(&client, "../../etc/x.png", &bytes).await;
    assert_eq!(file["filename"], "x.png");
    assert_eq!((&file["mime_type"], &file["size"]), (&json!("image/png"), &json!(300_000)));
    let id = file["id"].as_str().expect("an id");
    let path = format!("/media/{id}");
    assert_eq!(client.get(&path).await.expect(200).data::<Value>(), file);
    other.get(&path).await.expect(404);
    client.get("/media/no-id").await.expect(422);

    let send = |kind: &str, media: Value| json!({ "to": TO, "type": kind, "media": media });
    let reply = client.send(&send("image", json!({ "id": id }))).await;
    let shown = arrives(&system, reply, &bytes, "image/png", Some("x.png")).await;
    assert_eq!(shown["media"], json!({ "id": id, "mime_type": "image/png", "filename": "x.png" }));
    let reply = client.send(&send("document", json!({ "id": id, "filename": "plan.png" }))).await;
    arrives(&system, reply, &bytes, "image/png", Some("plan.png")).await;
    let kept = client.get(&path).await.expect(200).data::<Value>();
    assert!(kept["expires_at"].as_str() > file["expires_at"].as_str(), "kept for its messages: {kept}");

    for (who, body) in [
        (&other, send("image", json!({ "id": id }))),
        (&client, send("image", json!({ "id": "01890a5d-ac96-774b-bcce-b302099a8057" }))),
        (&client, send("video", json!({ "id": id }))),
    ] {
        let refused = who.send(&body).await.expect(422);
        assert_eq!(refused.fields(), ["media.id"], "{body}");
    }
    let items = client.batch(None, &[send("image", json!({ "id": id })), send("sticker", json!({ "id": id }))]).await;
    assert!(items[0].is_ok() && items[1].is_err(), "{items:?}");
}

async fn a_message_brings_its_file(mode: Mode) {
    let server = FileServer::start([("/cat.png", ("200 OK\r\n".to_owned(), picture(2_000, 9)))]).await;
    let system = System::with(mode).env("SANASR_MEDIA_ALLOW_HOSTS", "127.0.0.1").start().await;
    let client = system.client();
    let (bytes, others) = (picture(70_000, 2), picture(70_000, 3));
    let form = |bytes: &[u8]| {
        let parts = Parts::default().text("recipient", TO).text("media_type", "image").text("caption", "Schöne Grüße");
        parts.text("reference", "order-7").file("C:\\pictures\\cat.png", bytes).end()
    };
    let path = "/messages/send-media";
    let sent = post_parts(&client, path, Some("k"), form(&bytes)).await;
    let shown = arrives(&system, sent, &bytes, "image/png", Some("cat.png")).await;
    assert_eq!((&shown["caption"], &shown["reference"]), (&json!("Schöne Grüße"), &json!("order-7")));
    let again = post_parts(&client, path, Some("k"), form(&bytes)).await.expect(202);
    assert!(again.is_replayed() && again.body["data"]["id"] == shown["id"], "{}", again.body);
    let other = post_parts(&client, path, Some("k"), form(&others)).await.expect(422);
    assert_eq!(other.code(), "idempotency_key_reused");

    let by_url = json!({ "recipient": TO, "media_type": "image", "media_url": server.url("/cat.png") });
    arrives(&system, client.post(path, &by_url).await, &picture(2_000, 9), "image/png", None).await;
    let parts = Parts::default().text("recipient", TO).text("media_type", "image");
    let by_url = parts.text("media_url", &server.url("/cat.png")).end();
    arrives(&system, post_parts(&client, path, None, by_url).await, &picture(2_000, 9), "image/png", None).await;

    let encoded = json!({ "base64": base64(PNG), "mime_type": "image/png", "filename": "dot.png" });
    let message = json!({ "to": TO, "type": "image", "media": encoded });
    let shown = arrives(&system, client.send(&message).await, PNG, "image/png", Some("dot.png")).await;
    assert_eq!(shown["media"]["base64"], Value::Null);
    let id = shown["media"]["id"].as_str().expect("it is a file like any other");
    assert_eq!(client.get(&format!("/media/{id}")).await.expect(200).data::<Value>()["size"], PNG.len());
    let once = client.send_once("b", &message).await.expect(202);
    assert!(client.send_once("b", &message).await.expect(202).is_replayed());
    assert_ne!(once.body["data"]["media"]["id"], id);
    let items = client.batch(None, &[message.clone(), message]).await;
    assert!(items.iter().all(Result::is_ok), "{items:?}");
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Sends an image from an address, and gives the code that it fails with.
async fn code_of(client: &Client, url: &str) -> String {
    let message = json!({ "to": TO, "type": "image", "media": { "url": url } });
    let message: Message = client.send(&message).await.expect(202).data();
    let failed = client.wait_status(message.id, Status::Failed, seconds(30)).await;
    failed.error.expect("why").code
}

async fn addresses_are_fetched_with_every_guard(mode: Mode) {
    let server = FileServer::start([("/a.png", ("200 OK\r\n".to_owned(), PNG.to_vec()))]).await;
    let system = System::start(mode).await;
    let (client, port) = (system.client(), server.address.port());
    for host in ["127.0.0.1", "[::1]", "localhost", "0x7f.1", "[::ffff:127.0.0.1]", "169.254.169.254"] {
        assert_eq!(code_of(&client, &format!("http://{host}:{port}/a.png")).await, "media_forbidden_address", "{host}");
    }
    assert_eq!(server.requests(), 0);
    assert_eq!(client.quota().await.used, 0, "nothing was sent");
    assert_eq!(system.ledger.read().0.len(), 0);
    let refused = json!({ "to": TO, "type": "image", "media": { "url": "http://me:secret@example.org/" } });
    assert_eq!(client.send(&refused).await.expect(422).fields(), ["media.url"]);
}

async fn whatever_is_fetched_decides_what_becomes_of_a_message(mode: Mode) {
    let to = |host: &str| (format!("302 Found\r\nlocation: http://{host}:9/a.png\r\n"), Vec::new());
    let ok = |bytes: &[u8]| ("200 OK\r\ncontent-type: image/png\r\n".to_owned(), bytes.to_vec());
    let server = FileServer::start([
        ("/to-loopback", to("[::1]")),
        ("/to-metadata", to("169.254.169.254")),
        ("/to-name", to("localhost")),
        ("/zip.png", ok(ZIP)),
        ("/large.png", ok(&picture(100_001, 1))),
        ("/secret.png", ("403 Forbidden\r\n".to_owned(), Vec::new())),
        ("/broken.png", ("500 Oh\r\n".to_owned(), Vec::new())),
    ])
    .await;
    let system = System::with(mode)
        .env("SANASR_MEDIA_ALLOW_HOSTS", "127.0.0.1")
        .env("SANASR_MEDIA_LIMIT", "100000")
        .start()
        .await;
    let client = system.client();
    for (path, code) in [
        ("/to-loopback", "media_forbidden_address"),
        ("/to-metadata", "media_forbidden_address"),
        ("/to-name", "media_forbidden_address"),
        ("/zip.png", "media_type_mismatch"),
        ("/large.png", "media_too_large"),
        ("/secret.png", "media_fetch_failed"),
        ("/nothing.png", "media_gone"),
    ] {
        assert_eq!(code_of(&client, &server.url(path)).await, code, "{path}");
    }
    let message = json!({ "to": TO, "type": "image", "media": { "url": server.url("/broken.png") } });
    let message: Message = client.send(&message).await.expect(202).data();
    let retried = eventually(seconds(30), "a second attempt", async || {
        let message = client.message(message.id).await;
        (message.attempts >= 2 && message.status == Status::Accepted).then_some(message)
    })
    .await;
    assert_eq!(retried.error.expect("why").code, "media_unreachable");
    client.cancel(message.id).await.expect(200);
    assert_eq!(client.quota().await.used, 0, "nothing was sent");
    assert_eq!(files_in(&system.data_dir().join("media/temporary")), Vec::<PathBuf>::new());
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect()
}

/// Changes rows, or counts them.
async fn sql(system: &System, text: &'static str) -> Option<i64> {
    let counted = if system.mode == Mode::Embedded {
        let file = SqliteConnectOptions::new().filename(system.data_dir().join("sanasr.db"));
        let mut database = file.busy_timeout(seconds(10)).connect().await.expect("the database");
        sqlx::query_scalar(text).fetch_optional(&mut database).await
    } else {
        sqlx::query_scalar(text).fetch_optional(&system.database().await).await
    };
    counted.expect("a statement")
}

async fn bad_uploads_leave_nothing(mode: Mode) {
    let system = System::with(mode).env("SANASR_MEDIA_LIMIT", "100000").start().await;
    let client = system.client();
    let parts = Parts::default;
    let message = || parts().text("recipient", TO).text("media_type", "image");
    let many = (0..21).fold(parts(), |parts, n| parts.text(&format!("f{n}"), "x"));
    for (path, body, status, code, fields) in [
        ("/media", parts().end(), 422, "validation_failed", vec!["file"]),
        ("/media", parts().file("a", PNG).file("b", PNG).end(), 422, "validation_failed", vec!["file"]),
        ("/media", parts().file("a", b"").end(), 422, "validation_failed", vec!["file"]),
        ("/media", parts().file("a", PNG).text("more", "x").end(), 422, "validation_failed", vec!["more"]),
        ("/media", parts().text("a", &"x".repeat(70_000)).end(), 422, "validation_failed", vec!["a"]),
        ("/media", parts().text("a", "x").text("a", "x").end(), 422, "validation_failed", vec!["a"]),
        ("/media", parts().part("name=\"a\"", "", b"\xff\xfe").end(), 422, "validation_failed", vec!["a"]),
        ("/media", many.end(), 400, "malformed_request", vec![]),
        ("/media", parts().file("a", &picture(100_001, 1)).end(), 413, "payload_too_large", vec![]),
        ("/media", parts().file("a", &picture(9_000_000, 1)).end(), 413, "payload_too_large", vec![]),
        ("/media", parts().file("a", PNG).unended(), 400, "malformed_request", vec![]),
        ("/media", b"no parts at all".to_vec(), 400, "malformed_request", vec![]),
        ("/media", vec![], 400, "malformed_request", vec![]),
        (
            "/media",
            parts().part("name=\"file\"", &"a: b\r\n".repeat(50_000), PNG).end(),
            400,
            "malformed_request",
            vec![],
        ),
        ("/messages/send-media", message().end(), 422, "validation_failed", vec!["file"]),
        ("/messages/send-media", message().file("a.png", ZIP).end(), 422, "validation_failed", vec!["file"]),
        (
            "/messages/send-media",
            message().text("session", "none").text("more", "x").file("a.png", ZIP).end(),
            422,
            "validation_failed",
            vec!["file", "more", "session"],
        ),
        (
            "/messages/send-media",
            message().text("media_url", "https://example.org/a.png").file("a.png", PNG).end(),
            422,
            "validation_failed",
            vec!["media_url"],
        ),
        ("/messages/send-media", message().file("a", &picture(100_001, 1)).end(), 413, "payload_too_large", vec![]),
    ] {
        let shown = format!("POST {path} {}", String::from_utf8_lossy(&body[..body.len().min(300)]));
        let reply = post_parts(&client, path, None, body).await;
        assert_eq!((reply.status, reply.code()), (status, code), "{shown}\n{}", reply.body);
        let mut named = reply.fields();
        named.sort_unstable();
        assert_eq!(named, fields, "{shown}\n{}", reply.body);
    }
    let zip = post_parts(&client, "/messages/send-media", None, message().file("a.png", ZIP).end()).await;
    assert!(zip.body["errors"][0]["detail"].as_str().is_some_and(|said| said.contains("ZIP")), "{}", zip.body);
    let encoded = json!({ "base64": base64(ZIP), "mime_type": "image/png" });
    let encoded = client.send(&json!({ "to": TO, "type": "image", "media": encoded })).await.expect(422);
    assert_eq!(encoded.fields(), ["media.base64"]);

    let body = parts().file("a", PNG).end();
    for (content_type, status) in [
        (&b"application/json"[..], 415),
        (b"multipart/mixed; boundary=a-line-between-parts", 415),
        (b"multipart/form-data", 400),
        (b"multipart/form-data; boundary=", 400),
    ] {
        let reply = client.raw(Method::POST, "/media", &[("content-type", content_type)], body.clone()).await;
        let reply = reply.expect("an answer");
        assert_eq!(reply.status, status, "{}: {}", String::from_utf8_lossy(content_type), reply.body);
    }
    let query = client.raw(Method::POST, "/media?name=x", &[("content-type", Parts::TYPE)], body).await;
    query.expect("an answer").expect(422);
    endless(&system, &client).await;
    assert_eq!(sql(&system, "SELECT count(*) FROM media").await, Some(0), "rows");
    for folder in ["media", "media/temporary"] {
        assert_eq!(files_in(&system.data_dir().join(folder)), Vec::<PathBuf>::new());
    }
    assert_eq!(client.list("").await.len(), 0, "messages");
}

/// A body without end, of which each form is answered while it is still coming.
async fn endless(system: &System, client: &Client) {
    let head = String::from_utf8(Parts::default().part("name=\"file\"; filename=\"a\"", "", b"").unended());
    let head = head.expect("text").trim_end().to_owned() + "\r\n\r\n";
    for (begin, status) in [("", "400"), (head.as_str(), "413")] {
        let origin = system.apis[0].origin.trim_start_matches("http://");
        let mut stream = TcpStream::connect(origin).await.expect("a connection");
        let request = format!(
            "POST /api/v1/media HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: {}\r\n\
             transfer-encoding: chunked\r\n\r\n{:x}\r\n{begin} \r\n",
            client.key(),
            String::from_utf8_lossy(Parts::TYPE),
            begin.len() + 1,
        );
        stream.write_all(request.as_bytes()).await.expect("room");
        let (mut reader, mut writer) = stream.into_split();
        let sending = tokio::spawn(async move {
            let chunk = format!("{:x}\r\n{}\r\n", 10_000, "x".repeat(10_000));
            while writer.write_all(chunk.as_bytes()).await.is_ok() {}
        });
        let mut answer = Vec::new();
        let read =
            async { while !answer.ends_with(b"}") && reader.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {} };
        tokio::time::timeout(seconds(20), read).await.expect("an answer in time");
        sending.abort();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

async fn uploads_are_never_whole_in_memory(mode: Mode) {
    const SIZE: usize = 16 << 20;
    let system = System::start(mode).await;
    let client = system.client();
    upload(&client, "first.png", &picture(1 << 20, 0)).await;
    let before = system.apis[0].process.memory_peak_kib();
    let body = Parts::default().file("large.png", &picture(SIZE, 7)).end();
    let uploads = (0..8).map(|_| post_parts(&client, "/media", None, body.clone()));
    for reply in futures_util::future::join_all(uploads).await {
        assert_eq!(reply.expect(201).data::<Value>()["size"], SIZE);
    }
    let grown = system.apis[0].process.memory_peak_kib() - before;
    assert!(grown < 32 << 10, "8 files of 16 MiB at once took {grown} KiB");
    let id = upload(&client, "sent.png", &picture(SIZE, 8)).await["id"].clone();
    let reply = client.send(&json!({ "to": TO, "type": "document", "media": { "id": id } })).await;
    arrives(&system, reply, &picture(SIZE, 8), "image/png", Some("sent.png")).await;
}

/// Lets a day pass, as far as files know.
async fn a_day_later(system: &System) {
    sql(system, "UPDATE media SET keep_until = keep_until - 86400000").await;
}

async fn files_go_when_nobody_needs_them(mode: Mode) {
    let system = System::start(mode).await;
    let client = system.client();
    let folder = system.data_dir().join("media");
    let needed = upload(&client, "needed.png", PNG).await;
    upload(&client, "forgotten.png", PNG).await;
    client.send(&json!({ "to": TO, "type": "image", "media": { "id": needed["id"] } })).await.expect(202);
    assert_eq!(files_in(&folder).len(), 2);
    a_day_later(&system).await;
    let left = eventually(seconds(40), "the forgotten file goes", async || {
        let left = files_in(&folder);
        (left.len() < 2).then_some(left)
    })
    .await;
    let id = needed["id"].as_str().expect("an id");
    assert_eq!(left, [folder.join(id)], "the needed one stays");
    client.get(&format!("/media/{id}")).await.expect(200);
    let gone = async || (sql(&system, "SELECT count(*) FROM media").await == Some(1)).then_some(());
    eventually(seconds(10), "its row goes, too", gone).await;
    a_day_later(&system).await;
    a_day_later(&system).await;
    eventually(seconds(40), "the needed one goes after its message's end", async || {
        files_in(&folder).is_empty().then_some(())
    })
    .await;
    client.get(&format!("/media/{id}")).await.expect(404);
    let late = client.send(&json!({ "to": TO, "type": "image", "media": { "id": id } })).await.expect(422);
    assert_eq!(late.fields(), ["media.id"]);
}

async fn files_live_in_s3(mode: Mode) {
    let mut moto = Moto::start().await;
    let settings = moto.settings();
    let builder = settings.iter().fold(System::with(mode), |system, (name, value)| system.env(name, value));
    let system = builder.start().await;
    let client = system.client();
    // One in a single request, one in several parts.
    for size in [30_000, 15 << 20] {
        let bytes = picture(size, 5);
        let id = upload(&client, "a.png", &bytes).await["id"].clone();
        let reply = client.send(&json!({ "to": TO, "type": "document", "media": { "id": id } })).await;
        arrives(&system, reply, &bytes, "image/png", Some("a.png")).await;
    }
    let mut sizes = moto.sizes().await;
    sizes.sort_unstable();
    assert_eq!(sizes, [30_000, 15 << 20]);
    assert_eq!(files_in(&system.data_dir().join("media")), Vec::<PathBuf>::new());
    assert_eq!(files_in(&system.data_dir().join("media/temporary")), Vec::<PathBuf>::new());
    for _ in 0..3 {
        a_day_later(&system).await;
    }
    eventually(seconds(40), "they go", async || moto.sizes().await.is_empty().then_some(())).await;

    moto.kill().await;
    let body = Parts::default().file("a.png", PNG).end();
    let refused = tokio::time::timeout(Duration::from_secs(60), post_parts(&client, "/media", None, body)).await;
    let refused = refused.expect("an answer in time").expect(503);
    assert_eq!(refused.code(), "unavailable");
}

async fn a_files_name_is_read_however_it_is_written(mode: Mode) {
    let system = System::start(mode).await;
    let client = system.client();
    let long = format!("{}.pdf", "a".repeat(300));
    for (disposition, expected) in [
        ("filename*=utf-8''test%C3%A9.pdf".to_owned(), "testé.pdf".to_owned()),
        ("filename=\"teste.pdf\"; filename*=UTF-8''test%C3%A9.pdf".to_owned(), "testé.pdf".to_owned()),
        ("filename=\"=?utf-8?B?dGVzdMOpLnBkZg==?=\"".to_owned(), "testé.pdf".to_owned()),
        ("filename==?utf-8?B?dGVzdMOpLnBkZg==?=; filename*=utf-8''test%C3%A9.pdf".to_owned(), "testé.pdf".to_owned()),
        // With a slash in its base64.
        ("filename=\"=?utf-8?B?Pz8/Pz8/w78/P8O/w78ucGRm?=\"".to_owned(), "??????ÿ??ÿÿ.pdf".to_owned()),
        ("filename=\"=?utf-8?Q?r=C3=A9sum=C3=A9.pdf?=\"".to_owned(), "résumé.pdf".to_owned()),
        ("filename*=utf-8''..%2F..%2Fetc%2Fpasswd".to_owned(), "passwd".to_owned()),
        (format!("filename=\"{long}\""), format!("{}.pdf", "a".repeat(251))),
    ] {
        let body = Parts::default().part(&format!("name=\"file\"; {disposition}"), "", PDF).end();
        let file: Value = post_parts(&client, "/media", None, body).await.expect(201).data();
        assert_eq!(file["filename"], expected, "{disposition}");
    }
    let parts = Parts::default().text("recipient", TO).text("media_type", "document");
    let body = parts.part("name=\"file\"; filename*=utf-8''test%C3%A9.pdf", "", PDF).end();
    let sent = post_parts(&client, "/messages/send-media", None, body).await;
    arrives(&system, sent, PDF, "application/pdf", Some("testé.pdf")).await;
}

/// A message with a file as a part of its own.
fn sending(kind: &str, content_type: &str, bytes: &[u8]) -> Vec<u8> {
    let headers = if content_type.is_empty() { String::new() } else { format!("Content-Type: {content_type}\r\n") };
    let parts = Parts::default().text("recipient", TO).text("media_type", kind);
    parts.part("name=\"file\"; filename=\"x\"", &headers, bytes).end()
}

async fn a_file_is_what_it_certainly_is(mode: Mode) {
    let system = System::start(mode).await;
    let client = system.client();
    let path = "/messages/send-media";
    let mp4 = |brands: &[u8], before: &[u8]| {
        let size = u32::try_from(brands.len() + 8).expect("small").to_be_bytes();
        [before, &size, b"ftyp", brands, b"\0\0\0\x10mdat\0\x01\x02\x03\0\0\0\0"].concat()
    };
    let frames = |header: &[u8], length: usize| {
        let mut frame = header.to_vec();
        frame.resize(length, 0x55);
        frame.repeat(4)
    };
    for (kind, declared, bytes, expected) in [
        ("document", "text/csv", b"BMW,model,year\n".to_vec(), "text/csv"),
        ("document", "text/plain", b"GIFT CARD;1".to_vec(), "text/plain"),
        ("document", "text/plain", b"MZ is a country code".to_vec(), "text/plain"),
        ("document", "text/plain", b"ID3 is a tag".to_vec(), "text/plain"),
        (
            "document",
            "application/vnd.ms-excel",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0".to_vec(),
            "application/vnd.ms-excel",
        ),
        ("document", "text/plain", PNG.to_vec(), "image/png"),
        ("video", "video/mp4", mp4(b"iso8\0\0\0\0iso8mp41", b""), "video/mp4"),
        ("video", "video/mp4", mp4(b"hvc1\0\0\0\0isom", b""), "video/mp4"),
        ("video", "", mp4(b"isom\0\0\x02\0isommp42", b"\0\0\0\x0cfree\0\0\0\0"), "video/mp4"),
        ("audio", "audio/mpeg", frames(b"\xff\xe3\x18\xc4", 72), "audio/mpeg"),
        ("audio", "", frames(b"\xff\xf8\x50\x80\x0c\x9f\xfc", 100), "audio/aac"),
    ] {
        let sent = post_parts(&client, path, None, sending(kind, declared, &bytes)).await;
        arrives(&system, sent, &bytes, expected, Some("x")).await;
    }
    for (kind, declared, bytes) in [
        ("image", "image/gif", &b"GIFT CARD;1"[..]),
        ("image", "", b"GIF89a is an image format"),
        ("audio", "audio/wav", b"RIFF1234WAVE"),
        ("audio", "audio/mpeg", b"ID3 tags explained"),
        ("video", "video/mp4", b"    ftypisom"),
        ("sticker", "image/webp", b"RIFF1234WEBPVP8 "),
    ] {
        let refused = post_parts(&client, path, None, sending(kind, declared, bytes)).await.expect(422);
        assert_eq!(refused.fields(), ["file"], "{kind}");
    }
}

async fn a_voice_note_is_ogg_opus(mode: Mode) {
    let server = FileServer::start([
        ("/voice.ogg", ("200 OK\r\n".to_owned(), OGG.to_vec())),
        ("/voice.wav", ("200 OK\r\ncontent-type: audio/ogg\r\n".to_owned(), WAV.to_vec())),
    ])
    .await;
    let system = System::with(mode).env("SANASR_MEDIA_ALLOW_HOSTS", "127.0.0.1").start().await;
    let client = system.client();
    let send = |media: Value| json!({ "to": TO, "type": "audio", "media": media });
    let (opus, wav) = (upload(&client, "a.ogg", OGG).await, upload(&client, "a.wav", WAV).await);
    for media in [json!({ "id": opus["id"] }), json!({ "base64": base64(OGG), "mime_type": "audio/ogg" })] {
        let voice = changed(media, "voice", json!(true));
        let name = voice["id"].is_string().then_some("a.ogg");
        arrives(&system, client.send(&send(voice)).await, OGG, "audio/ogg; codecs=opus", name).await;
    }
    for media in [json!({ "id": wav["id"] }), json!({ "base64": base64(WAV), "mime_type": "audio/wav" })] {
        let refused = client.send(&send(changed(media.clone(), "voice", json!(true)))).await.expect(422);
        assert_eq!(refused.fields(), ["media.voice"]);
        assert!(refused.body["detail"].as_str().is_some_and(|said| said.contains("Ogg Opus")), "{}", refused.body);
        client.send(&send(changed(media, "voice", json!(false)))).await.expect(202);
    }
    // What comes from an address is known when it has come.
    let voice = json!({ "url": server.url("/voice.ogg"), "voice": true });
    arrives(&system, client.send(&send(voice)).await, OGG, "audio/ogg; codecs=opus", None).await;
    let voice = json!({ "url": server.url("/voice.wav"), "voice": true });
    let message: Message = client.send(&send(voice)).await.expect(202).data();
    let error = client.wait_status(message.id, Status::Failed, seconds(30)).await.error.expect("why");
    assert_eq!(error.code, "media_type_mismatch");
    assert!(error.detail.contains("Ogg Opus"), "{}", error.detail);
}

fn changed(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

async fn base64_is_read_as_programs_write_it(mode: Mode) {
    let system = System::start(mode).await;
    let client = system.client();
    let bytes = picture(1_000, 0xfb);
    let plain = base64(&bytes);
    assert!(plain.ends_with('=') && plain.contains('+') && plain.contains('/'));
    let lines: Vec<_> = plain.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line)).collect();
    let send = |media: Value| json!({ "to": TO, "type": "image", "media": media });
    for text in [
        plain.trim_end_matches('=').to_owned(),
        lines.join("\r\n") + "\r\n",
        plain.replace('+', "-").replace('/', "_"),
        format!("data:image/png;base64,{plain}"),
    ] {
        let named = json!({ "base64": text, "mime_type": "image/png" });
        arrives(&system, client.send(&send(named)).await, &bytes, "image/png", None).await;
    }
    let named = json!({ "base64": format!("data:image/png;base64,{plain}") });
    arrives(&system, client.send(&send(named)).await, &bytes, "image/png", None).await;
    for (media, field) in [
        (json!({ "base64": format!("data:image/gif;base64,{plain}"), "mime_type": "image/png" }), "media.mime_type"),
        (json!({ "base64": plain.replacen('+', " ", 1), "mime_type": "image/png" }), "media.base64"),
        (json!({ "base64": plain }), "media.mime_type"),
    ] {
        assert_eq!(client.send(&send(media)).await.expect(422).fields(), [field]);
    }
}

async fn a_document_is_called_what_its_address_says(mode: Mode) {
    let ok = |headers: &str| (format!("200 OK\r\n{headers}"), PDF.to_vec());
    let server = FileServer::start([
        ("/a/receipt%20%C3%A9.pdf", ok("")),
        ("/download?id=5", ok("content-disposition: attachment; filename*=utf-8''re%C3%A7u.pdf\r\n")),
        ("/moved.pdf", ("302 Found\r\nlocation: /0b1e7c39\r\n".to_owned(), Vec::new())),
        ("/0b1e7c39", ok("")),
    ])
    .await;
    let system = System::with(mode).env("SANASR_MEDIA_ALLOW_HOSTS", "127.0.0.1").start().await;
    let client = system.client();
    for (path, given, expected) in [
        ("/a/receipt%20%C3%A9.pdf", None, "receipt é.pdf"),
        ("/download?id=5", None, "reçu.pdf"),
        ("/moved.pdf", None, "moved.pdf"),
        ("/download?id=5", Some("mine.pdf"), "mine.pdf"),
    ] {
        let mut media = json!({ "url": server.url(path) });
        if let Some(given) = given {
            media["filename"] = given.into();
        }
        let sent = client.send(&json!({ "to": TO, "type": "document", "media": media })).await;
        arrives(&system, sent, PDF, "application/pdf", Some(expected)).await;
    }
}
