//! A client that speaks HTTP by hand: to stall, to drip, to send what no client library would.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection.
#[derive(Debug)]
pub(crate) struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    /// A string if it isn't JSON.
    pub(crate) body: Value,
}

impl RawReply {
    /// The stable word of a problem.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}"))
    }
}

impl Raw {
    /// A connection to where an API is, such as `http://127.0.0.1:8080`.
    pub(crate) async fn to(origin: &str) -> Self {
        let address = origin.strip_prefix("http://").expect("an origin");
        Self { stream: TcpStream::connect(address).await.expect("a connection"), read: Vec::new() }
    }

    /// The same, if anybody listens there: a process that was killed is followed by another one elsewhere.
    pub(crate) async fn try_to(origin: &str) -> Option<Self> {
        let address = origin.strip_prefix("http://").expect("an origin");
        Some(Self { stream: TcpStream::connect(address).await.ok()?, read: Vec::new() })
    }

    /// Says that nothing more will be sent, and goes on listening.
    pub(crate) async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await; // the server may be gone
    }

    /// Takes so many bytes of what comes, or all if it ends before.
    pub(crate) async fn take(&mut self, bytes: usize, limit: Duration) {
        let taking = async { while self.read.len() < bytes && self.more().await.is_some() {} };
        timeout(limit, taking).await.unwrap_or_else(|_| panic!("no {bytes} bytes within {limit:?}"));
    }

    /// Sends these bytes; whether they could be.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// The next answer, whose length is announced; `None` if the connection is closed without one.
    pub(crate) async fn answer(&mut self, limit: Duration) -> Option<RawReply> {
        timeout(limit, self.read_answer()).await.unwrap_or_else(|_| panic!("no answer within {limit:?}"))
    }

    async fn read_answer(&mut self) -> Option<RawReply> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.read[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        while self.read.len() < end + length {
            self.more().await?;
        }
        let body: Vec<u8> = self.read.drain(..end + length).skip(end).collect();
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Some(RawReply { status, head, body: serde_json::from_slice(&body).unwrap_or_else(|_| text()) })
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(1..) => Some(()),
            Ok(0) | Err(_) => None,
        }
    }

    /// All that comes until the server closes the connection: the head in lower case, and the body.
    pub(crate) async fn all(mut self, limit: Duration) -> (String, Vec<u8>) {
        let rest = async { while self.more().await.is_some() {} };
        timeout(limit, rest).await.unwrap_or_else(|_| panic!("still open after {limit:?}"));
        let end = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
        (String::from_utf8_lossy(&self.read[..end]).to_lowercase(), self.read.split_off(end))
    }

    /// Waits until the server closes the connection, and throws away what comes before.
    pub(crate) async fn closed(&mut self, limit: Duration) {
        let rest = async {
            while self.more().await.is_some() {
                self.read.clear();
            }
        };
        timeout(limit, rest).await.unwrap_or_else(|_| panic!("still open after {limit:?}"));
    }

    /// Waits until the server has closed the connection, without reading anything.
    pub(crate) async fn hung_up(&mut self, limit: Duration) {
        let gone = async {
            while self.stream.take_error().expect("the socket's state").is_none()
                && self.stream.try_write(b"\r\n").is_ok_or_blocked()
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        timeout(limit, gone).await.unwrap_or_else(|_| panic!("still open after {limit:?}"));
    }
}

trait IsOkOrBlocked {
    fn is_ok_or_blocked(&self) -> bool;
}

impl IsOkOrBlocked for std::io::Result<usize> {
    fn is_ok_or_blocked(&self) -> bool {
        match self {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}
