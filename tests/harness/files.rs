//! Files as clients send them, and a server that they can be fetched from.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What begins a PNG.
pub(crate) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01";
/// What begins a ZIP archive.
pub(crate) const ZIP: &[u8] = b"PK\x03\x04\x14\0\0\0\x08\0 and what is in it";

/// A picture of so many bytes, as far as anyone can tell; `seed` tells it from others.
pub(crate) fn picture(size: usize, seed: u8) -> Vec<u8> {
    let mut bytes = PNG.to_vec();
    let mut state = u32::from(seed) + 1;
    bytes.resize_with(size.max(PNG.len()), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    bytes
}

/// What begins a video, a voice note, a document and a sticker.
pub(crate) const MP4: &[u8] = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";
pub(crate) const OGG: &[u8] = b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01";
pub(crate) const PDF: &[u8] = b"%PDF-1.7\n";
pub(crate) const WEBP: &[u8] = b"RIFF\x24\x30\0\0WEBPVP8 ";

pub(crate) const WAV: &[u8] = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0";

/// A file that begins so, of some size.
pub(crate) fn file(head: &[u8]) -> Vec<u8> {
    [head, &picture(70_000, 7)].concat()
}

/// A multipart body in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts(Vec<u8>);

impl Parts {
    pub(crate) const TYPE: &[u8] = b"multipart/form-data; boundary=a-line-between-parts";
    const LINE: &str = "--a-line-between-parts";

    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        self.part(&format!("name=\"{name}\""), "", text.as_bytes())
    }

    pub(crate) fn file(self, filename: &str, bytes: &[u8]) -> Self {
        self.part(&format!("name=\"file\"; filename=\"{filename}\""), "", bytes)
    }

    pub(crate) fn part(mut self, disposition: &str, headers: &str, bytes: &[u8]) -> Self {
        let head = format!("{}\r\nContent-Disposition: form-data; {disposition}\r\n{headers}\r\n", Self::LINE);
        self.0.extend_from_slice(head.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// Up to the last boundary, which is missing.
    pub(crate) fn unended(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(format!("{}--\r\n", Self::LINE).as_bytes());
        self.0
    }
}

/// A server on loopback that has an answer for each path, and 404 for others. It ends with its owner.
#[derive(Debug)]
pub(crate) struct FileServer {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// Status and further headers, each with its line's end; and the body.
pub(crate) type FileAnswer = (String, Vec<u8>);

impl FileServer {
    pub(crate) async fn start(answers: impl IntoIterator<Item = (&'static str, FileAnswer)>) -> Self {
        let answers: Arc<HashMap<_, _>> = Arc::new(answers.into_iter().collect());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let (address, requests) = (listener.local_addr().expect("an address"), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let answers = Arc::clone(&answers);
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        request.push(byte);
                    }
                    let request = String::from_utf8_lossy(&request);
                    let path = request.split(' ').nth(1).unwrap_or_default();
                    let missing = ("404 Not Found\r\n".to_owned(), Vec::new());
                    let (head, body) = answers.get(path).unwrap_or(&missing);
                    let head = format!("HTTP/1.1 {head}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(body).await;
                });
            }
        });
        Self { address, requests, task }
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// An address of it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
