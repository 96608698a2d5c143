//! Against servers of the tests' own, on loopback.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sanasr_shared::ids::MediaId;
use sanasr_shared::settings::defaults;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR rest of the picture";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Public, and nobody answers there in this test.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 31, 196, 1));

/// Answers each name with the next of its answers, and the last one for ever.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Vec<IpAddr>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), asked: AtomicUsize::new(0) })
    }
}

impl Lookup for Script {
    fn lookup(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.answers.lock().expect("sane");
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        std::future::ready(answer.ok_or_else(|| io::Error::other("no such name"))).boxed()
    }
}

/// A server that answers every request with the same bytes, and counts its connections.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (answer, connections) = (answer.into(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        request.push(byte);
                    }
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        Self { port, connections }
    }

    async fn ok(body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        Self::start([head.as_bytes(), body].concat()).await
    }

    async fn redirecting(to: &str) -> Self {
        Self::start(format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")).await
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

struct World {
    folder: PathBuf,
    files: FileStore,
    settings: MediaSettings,
}

impl World {
    fn new(allowed: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("sanasr-fetch-{}", MediaId::generate()));
        let settings = MediaSettings {
            media_allow_hosts: allowed.iter().map(|host| (*host).to_owned()).collect(),
            media_limit: 1_000,
            media_fetch_timeout: Duration::from_secs(5),
            ..defaults()
        };
        let files = FileStore::open(&settings, &folder).expect("a store");
        Self { folder, files, settings }
    }

    async fn fetch(&self, url: &str) -> Result<Fetched, Missing> {
        self.fetch_asking(Script::new([vec![LOOPBACK]]), url).await
    }

    async fn fetch_asking(&self, lookup: Arc<dyn Lookup>, url: &str) -> Result<Fetched, Missing> {
        Fetcher::asking(lookup, &self.settings).fetch(UserId(1), url, MessageType::Image, &self.files).await
    }

    async fn code(&self, url: &str) -> String {
        code(self.fetch(url).await)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn code(result: Result<Fetched, Missing>) -> String {
    match result {
        Ok(_) => "fetched".to_owned(),
        Err(Missing::Now(error)) => format!("now: {}", error.code),
        Err(Missing::Forever(error)) => error.code,
    }
}

#[tokio::test]
async fn a_file_from_an_allowed_host_arrives_whole_and_goes_again() {
    let server = Server::ok(PNG).await;
    let world = World::new(&["127.0.0.1", "Files.Internal"]);
    for host in ["127.0.0.1", "files.internal", "FILES.internal."] {
        let fetched = world.fetch(&format!("http://{host}:{}/a.png", server.port)).await.expect(host);
        let Fetched { file, mime_type, filename } = fetched;
        assert_eq!((std::fs::read(&file.path).expect("bytes").as_slice(), mime_type.as_str()), (PNG, "image/png"));
        assert_eq!(filename.as_deref(), Some("a.png"));
        let path = file.path.clone();
        drop(file);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn addresses_that_are_not_public_are_never_connected_to() {
    let server = Server::ok(PNG).await;
    let (world, port) = (World::new(&[]), server.port);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "localhost",
        "some.name",
    ] {
        assert_eq!(world.code(&format!("http://{host}:{port}/")).await, "media_forbidden_address", "{host}");
    }
    for url in ["ftp://127.0.0.1/", "file:///etc/passwd", "http://me@example.org/", "http://me:secret@example.org/"] {
        assert_eq!(world.code(url).await, "media_forbidden_address", "{url}");
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn one_address_that_is_not_public_spoils_a_name() {
    let server = Server::ok(PNG).await;
    let (world, url) = (World::new(&[]), format!("http://some.name:{}/", server.port));
    let lookup = Script::new([vec![PUBLIC, LOOPBACK]]);
    assert_eq!(code(world.fetch_asking(lookup, &url).await), "media_forbidden_address");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_name_that_changes_after_the_check_leads_nowhere_else() {
    let server = Server::ok(PNG).await;
    let world = World::new(&[]);
    let lookup = Script::new([vec![PUBLIC], vec![LOOPBACK]]);
    let url = format!("http://some.name:{}/", server.port);
    // To the public address, where nobody answers here.
    assert_eq!(code(world.fetch_asking(Arc::clone(&lookup) as Arc<dyn Lookup>, &url).await), "now: media_unreachable");
    assert_eq!(lookup.asked.load(Ordering::Relaxed), 1, "what is connected to is what was checked");
    assert_eq!(server.count(), 0);
    // A further fetch asks and checks again.
    assert_eq!(code(world.fetch_asking(lookup, &url).await), "media_forbidden_address");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn every_redirect_is_checked_anew() {
    let target = Server::ok(PNG).await;
    let world = World::new(&["127.0.0.1"]);
    let port = target.port;
    for host in ["[::1]", "169.254.169.254", "localhost", "127.0.0.2", "[::ffff:127.0.0.1]"] {
        let server = Server::redirecting(&format!("http://{host}:{port}/")).await;
        let url = format!("http://127.0.0.1:{}/", server.port);
        assert_eq!(world.code(&url).await, "media_forbidden_address", "{host}");
        assert_eq!(server.count(), 1);
    }
    for to in ["file:///etc/passwd", "ftp://127.0.0.1/"] {
        let server = Server::redirecting(to).await;
        assert_eq!(world.code(&format!("http://127.0.0.1:{}/", server.port)).await, "media_forbidden_address", "{to}");
    }
    assert_eq!(target.count(), 0);
    let server = Server::redirecting(&format!("//127.0.0.1:{port}/b")).await;
    assert_eq!(world.code(&format!("http://127.0.0.1:{}/", server.port)).await, "fetched");
    let endless = Server::redirecting("/again").await;
    assert_eq!(world.code(&format!("http://127.0.0.1:{}/", endless.port)).await, "media_fetch_failed");
    assert_eq!(endless.count(), REDIRECTS_MAX + 1);
}

#[tokio::test]
async fn what_a_server_answers_decides_whether_it_is_tried_again() {
    let world = World::new(&["127.0.0.1"]);
    for (answer, expected) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "media_gone"),
        ("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", "media_gone"),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "media_fetch_failed"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "media_fetch_failed"),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", "media_fetch_failed"),
        ("HTTP/1.1 429 Slow Down\r\ncontent-length: 0\r\n\r\n", "now: media_unreachable"),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", "now: media_unreachable"),
        ("HTTP/1.1 503 Oh\r\ncontent-length: 0\r\n\r\n", "now: media_unreachable"),
        ("no HTTP at all\r\n\r\n", "now: media_unreachable"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\x7fELF", "now: media_unreachable"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "media_fetch_failed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nPK\x03\x04", "media_type_mismatch"),
        ("HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 5\r\n\r\nhello", "media_type_mismatch"),
        ("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello", "media_fetch_failed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\nx", "media_too_large"),
    ] {
        let server = Server::start(answer).await;
        assert_eq!(world.code(&format!("http://127.0.0.1:{}/", server.port)).await, expected, "{answer}");
    }
    // Without a length it is counted as it comes.
    let endless = [&b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"[..], PNG, &[b'x'; 1_000]].concat();
    let server = Server::start(endless).await;
    assert_eq!(world.code(&format!("http://127.0.0.1:{}/", server.port)).await, "media_too_large");
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = nobody.local_addr().expect("an address").port();
    drop(nobody);
    assert_eq!(world.code(&format!("http://127.0.0.1:{port}/")).await, "now: media_unreachable");
    assert_eq!(code(world.fetch_asking(Script::new([]), "http://some.name/").await), "now: media_unreachable");
    let left = std::fs::read_dir(world.folder.join("media/temporary")).expect("a folder").count();
    assert_eq!(left, 0, "nothing of what was refused stays");
}

#[tokio::test]
async fn a_file_is_called_what_its_server_or_its_address_says() {
    let world = World::new(&["127.0.0.1"]);
    let ok = |more: &str| {
        let head = format!("HTTP/1.1 200 OK\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n", PNG.len());
        [head.as_bytes(), PNG].concat()
    };
    for (path, header, expected) in [
        ("/a/receipt.png", "", Some("receipt.png")),
        ("/a/r%C3%A9sum%C3%A9.png?token=x/y.pdf", "", Some("résumé.png")),
        ("/download?id=5", "", Some("download")),
        ("/", "", None),
        ("/a.png", "content-disposition: inline\r\n", Some("a.png")),
        ("/a.png", "content-disposition: attachment; filename=\"Receipt 5.png\"\r\n", Some("Receipt 5.png")),
        ("/a.png", "content-disposition: attachment; filename=x; filename*=utf-8''re%C3%A7u.png\r\n", Some("reçu.png")),
        ("/a.png", "content-disposition: attachment; filename=\"../../etc/b.png\"\r\n", Some("b.png")),
    ] {
        let server = Server::start(ok(header)).await;
        let fetched = world.fetch(&format!("http://127.0.0.1:{}{path}", server.port)).await.expect(path);
        assert_eq!(fetched.filename.as_deref(), expected, "{path} {header}");
    }
    let target = Server::start(ok("")).await;
    for (given, last, expected) in [
        ("/receipt.png", "/0b1e7c39", "receipt.png"),
        ("/download", "/receipt.png", "receipt.png"),
        ("/download", "/0b1e7c39", "download"),
        ("/", "/0b1e7c39", "0b1e7c39"),
    ] {
        let server = Server::redirecting(&format!("http://127.0.0.1:{}{last}", target.port)).await;
        let fetched = world.fetch(&format!("http://127.0.0.1:{}{given}", server.port)).await.expect(given);
        assert_eq!(fetched.filename.as_deref(), Some(expected), "{given} to {last}");
    }
}

#[tokio::test]
async fn a_server_that_is_silent_is_given_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut world = World::new(&["127.0.0.1"]);
    world.settings.media_fetch_timeout = Duration::from_millis(200);
    assert_eq!(world.code(&format!("http://127.0.0.1:{port}/")).await, "now: media_unreachable");
}

/// A server that takes connections and says nothing.
async fn silent() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let url = format!("http://{}/slow.png", listener.local_addr().expect("an address"));
    let connections = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (url, connections)
}

#[tokio::test]
async fn slow_files_of_one_user_hold_up_nobody_else() {
    let world = World::new(&["127.0.0.1"]);
    let fetcher = Arc::new(Fetcher::asking(Script::new([vec![LOOPBACK]]), &world.settings));
    let (slow, connections) = silent().await;
    let mut fetches = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (fetcher, files, slow) = (Arc::clone(&fetcher), world.files.clone(), slow.clone());
        fetches.spawn(async move { code(fetcher.fetch(UserId(1), &slow, MessageType::Image, &files).await) });
    }
    while connections.load(Ordering::Relaxed) < AT_ONCE_PER_USER {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let url = format!("http://127.0.0.1:{}/a.png", Server::ok(PNG).await.port);
    fetcher.fetch(UserId(2), &url, MessageType::Image, &world.files).await.expect("another user's file comes at once");
    assert_eq!(connections.load(Ordering::Relaxed), AT_ONCE_PER_USER, "while the first still holds their places");
    // Whoever waits for a place gives up with the others: nobody waits several times the limit.
    let begun = std::time::Instant::now();
    while let Some(ended) = fetches.join_next().await {
        assert_eq!(ended.expect("an end"), "now: media_unreachable");
    }
    assert!(begun.elapsed() < world.settings.media_fetch_timeout * 2, "{:?}", begun.elapsed());
}
