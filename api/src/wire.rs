//! A connection's bytes: what comes and goes is noted for those who watch it, and what the HTTP parser refuses by itself is
//! answered in the form that every failure has.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use metrics::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::connections::Watch;
use crate::problem::Problem;

/// Bytes of a request's line and headers, at most.
pub(crate) const HEAD_BYTES_MAX: usize = 20 << 10;
/// Answers of the parser's own are shorter than this.
const REFUSAL_BYTES_MAX: usize = 256;

/// A connection that is watched.
pub(crate) struct Wire {
    stream: TcpStream,
    watch: Arc<Watch>,
    written: Counter,
    /// What is still to be written in place of a refusal.
    refusal: Bytes,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, watch: Arc<Watch>) -> Self {
        let written = metrics::counter!("sanasr_http_written_bytes_total");
        Self { stream, watch, written, refusal: Bytes::new() }
    }

    fn note(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.watch.blocked(),
            Poll::Ready(Ok(written)) => {
                self.written.increment(*written as u64);
                self.watch.written();
            }
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    /// Writes a document in place of an answer of the parser's own.
    fn refuse(&mut self, context: &mut Context<'_>, refusal: &[u8]) -> Poll<io::Result<usize>> {
        if self.refusal.is_empty() {
            self.refusal = document(refusal);
        }
        while !self.refusal.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(context, &self.refusal);
            let written = ready!(self.note(written))?;
            self.refusal.advance(written);
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(refusal.len()))
    }
}

/// Whether this is an answer of the parser's own: every other one has an id.
fn is_refusal(bytes: &[u8]) -> bool {
    bytes.len() < REFUSAL_BYTES_MAX
        && bytes.starts_with(b"HTTP/1.1 4")
        && bytes.ends_with(b"\r\n\r\n")
        && !bytes.windows(13).any(|part| part == b"\r\nx-request-i")
}

/// What is answered in place of a refusal.
fn document(refusal: &[u8]) -> Bytes {
    let problem = match refusal.get(9..12) {
        Some(b"431" | b"414") => Problem::head_too_large(HEAD_BYTES_MAX),
        _ => Problem::malformed("The request line or a header can't be read."),
    };
    let id = Uuid::now_v7().simple().to_string();
    let status = problem.code().status();
    let body = serde_json::to_string(&problem.document(&id)).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\
         x-request-id: {id}\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n\r\n{body}",
        body.len(),
    )
    .into()
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() && buffer.filled().len() > before {
            self.watch.read();
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if is_refusal(bytes) {
            return self.refuse(context, bytes);
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices
            && is_refusal(only)
        {
            return self.refuse(context, only);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parsers_own_answers_are_replaced() {
        let own = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        assert!(is_refusal(own));
        assert!(!is_refusal(b"HTTP/1.1 404 Not Found\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n"));
        assert!(!is_refusal(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
        let text = document(own);
        let text = std::str::from_utf8(&text).expect("text");
        assert!(text.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).expect("a document");
        assert_eq!((&body["code"], &body["status"]), (&"head_too_large".into(), &431.into()));
    }
}
