//! HTTP clients that cost little: one kept-alive connection each.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// A service and the key to it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    authority: String,
    host: HeaderValue,
    key: String,
    authorization: HeaderValue,
}

impl Target {
    /// A target at an `http://` address.
    pub(super) fn new(url: &str, key: &str) -> Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("{url}: write the service's address as http://host:port");
        };
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            host: HeaderValue::from_str(authority.as_str())?,
            key: key.to_owned(),
            authorization: HeaderValue::from_str(&format!("ApiKey {key}")).context("the API key")?,
        })
    }

    /// The same service with another key.
    pub(super) fn with_key(&self, key: &str) -> Result<Self> {
        Self::new(&format!("http://{}", self.authority), key)
    }

    /// The host and the port.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The key.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Connects a client.
    pub(super) async fn connect(&self) -> Result<Client> {
        let stream =
            TcpStream::connect(&self.authority).await.with_context(|| format!("connect {}", self.authority))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its faults show in the requests.
        tokio::spawn(connection);
        Ok(Client { sender, target: self.clone() })
    }
}

/// One connection; one request at a time.
pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    target: Target,
}

impl Client {
    /// Sends a request and reads the whole answer.
    pub(super) async fn request(&mut self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.target.host.clone())
            .header(AUTHORIZATION, self.target.authorization.clone());
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request.body(Full::new(body))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// Tries to log in as somebody behind a proxy; answers the status.
    pub(super) async fn login_from(&mut self, address: &str, body: &Value) -> Result<u16> {
        let request = Request::post("/api/v1/auth/login")
            .header(HOST, self.target.host.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("x-forwarded-for", HeaderValue::from_str(address)?)
            .body(Full::new(body.to_string().into()))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await?;
        Ok(status)
    }

    /// Begins to listen to events: the stream lives as long as what this answers.
    pub(super) async fn listen(mut self) -> Result<Listener> {
        let request = Request::get("/api/v1/events")
            .header(HOST, self.target.host.clone())
            .header(AUTHORIZATION, self.target.authorization.clone())
            .body(Full::new(Bytes::new()))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            bail!("listening to events was answered {}", answer.status());
        }
        Ok(Listener { _sender: self.sender, _stream: answer.into_body() })
    }

    /// Sends a request that must succeed, and answers its `data` beside the whole.
    pub(super) async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let (status, answer) = self.request(method.clone(), path, bytes).await?;
        if !status.is_success() {
            bail!("{method} {path} was answered {status}: {}", String::from_utf8_lossy(&answer));
        }
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).with_context(|| format!("the answer to {method} {path}"))
    }
}

/// An open stream of events that nobody reads.
pub(super) struct Listener {
    _sender: SendRequest<Full<Bytes>>,
    _stream: hyper::body::Incoming,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_needs_an_http_address() {
        assert_eq!(Target::new("http://127.0.0.1:8080/", "k").expect("an address").authority, "127.0.0.1:8080");
        assert_eq!(Target::new("http://example.org", "k").expect("an address").authority, "example.org:80");
        for wrong in ["", "127.0.0.1:8080", "https://example.org", "http://"] {
            assert!(Target::new(wrong, "k").is_err(), "{wrong}");
        }
    }
}
