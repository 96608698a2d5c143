//! How a session reaches WhatsApp: the socket and the uploads, both past one gate that closes with the worker's lease.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use percent_encoding::percent_decode_str;
use rustls::CertificateError;
use tokio::net::TcpStream;
use tokio_websockets::{ClientBuilder, Connector, Limits};
use tower::Service;
use wacore::net::{
    HttpClient, HttpRequest, HttpResponse, Transport, TransportEvent, TransportFactory, WHATSAPP_WEB_ORIGIN,
    WHATSAPP_WEB_WS_URL,
};
use whatsapp_rust::anyhow::{Context, Result, anyhow};
use whatsapp_rust::{async_channel, transport};

use super::inbox::Inbox;
use super::runtime::Tasks;
use crate::bridge::lock;
use crate::ports::bridge::Owner;
use crate::proxy::Proxy;

/// How long an HTTP exchange may take without a byte, and in all.
const HTTP_IDLE: Duration = Duration::from_secs(20);
const HTTP_MAX: Duration = Duration::from_secs(120);
/// The largest message of the socket: WhatsApp's own frames have lengths of three bytes.
const FRAME_MAX: usize = 1 << 25;

/// Bytes that a client is given at once, at most: one message of the socket may hold thousands of the protocol's frames.
const PIECE_MAX: usize = 4 << 10;

/// What all sessions of a process share: one TLS configuration, one HTTP client.
pub(super) struct Net {
    url: http::Uri,
    tls: Connector,
    http: reqwest::Client,
    /// Where requests to WhatsApp's hosts go instead: set for the server of the tests alone.
    instead: Option<String>,
}

impl Net {
    /// `url` is that of a server of the tests; WhatsApp itself without it.
    ///
    /// # Errors
    /// What is wrong with the URL, in words.
    pub(super) fn new(url: Option<&str>) -> Result<Self, String> {
        let text = url.unwrap_or(WHATSAPP_WEB_WS_URL);
        let uri: http::Uri = text.parse().map_err(|e| format!("{text} isn't a URL: {e}"))?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("ws" | "wss")) {
            return Err(format!("{text} isn't a ws:// URL with a host"));
        }
        crate::tls::install();
        let http = reqwest::Client::builder()
            .no_proxy()
            .read_timeout(HTTP_IDLE)
            .timeout(HTTP_MAX)
            .build()
            .map_err(|e| format!("no HTTP client: {e}"))?;
        let instead = url.and_then(|_| uri.authority()).map(|authority| format!("http://{authority}"));
        Ok(Self { url: uri, tls: transport::default_tls_connector(), http, instead })
    }
}

impl Net {
    /// The HTTP client of a session with a proxy, or that of all others.
    fn http_by(&self, proxy: Option<&Proxy>) -> Result<reqwest::Client, String> {
        let Some(proxy) = proxy else { return Ok(self.http.clone()) };
        // The proxy resolves names, as it does for the socket.
        let url = proxy.url().as_str().replacen("socks5://", "socks5h://", 1);
        let proxy = reqwest::Proxy::all(url).map_err(|e| e.to_string())?;
        let builder = reqwest::Client::builder().proxy(proxy).read_timeout(HTTP_IDLE).timeout(HTTP_MAX);
        builder.build().map_err(|e| e.to_string())
    }
}

/// What last kept a session from connecting, as a reason that people are told.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<&'static str>>>);

impl Trouble {
    fn set(&self, reason: Option<&'static str>) {
        *lock(&self.0) = reason;
    }

    /// What it was, if connecting failed last.
    pub(super) fn reason(&self) -> Option<&'static str> {
        *lock(&self.0)
    }
}

/// One session's way.
#[derive(Clone)]
pub(super) struct Way {
    net: Arc<Net>,
    http: reqwest::Client,
    proxy: Option<Proxy>,
    owner: Owner,
    trouble: Trouble,
    inbox: Arc<Inbox>,
    tasks: Tasks,
}

impl Way {
    /// The way of a session; its troubles are told there. While the inbox is full, or many of the client's tasks are yet to
    /// begin, nothing is read.
    ///
    /// # Errors
    /// If no HTTP client can be made for the proxy.
    pub(super) fn new(
        net: Arc<Net>,
        proxy: Option<Proxy>,
        owner: Owner,
        trouble: Trouble,
        inbox: Arc<Inbox>,
        tasks: Tasks,
    ) -> Result<Self, String> {
        let http = net.http_by(proxy.as_ref())?;
        Ok(Self { net, http, proxy, owner, trouble, inbox, tasks })
    }

    /// A connection to WhatsApp's host, by the session's proxy if it has one.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream> {
        let Some(proxy) = &self.proxy else {
            return Ok(TcpStream::connect((host.trim_matches(['[', ']']), port)).await?);
        };
        let url = proxy.url();
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let credentials = (!url.username().is_empty())
            .then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
        let address = format!(
            "{}://{}:{}",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            url.port_or_known_default().unwrap_or(0)
        );
        let (address, target) = (address.parse::<http::Uri>()?, format!("https://{host}:{port}").parse::<http::Uri>()?);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let stream = if url.scheme() == "socks5" {
            let mut socks = SocksV5::new(address, tcp);
            if let Some((user, password)) = credentials {
                socks = socks.with_auth(user, password);
            }
            socks.call(target).await?
        } else {
            let mut tunnel = Tunnel::new(address, tcp);
            if let Some((user, password)) = credentials {
                let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
                tunnel = tunnel.with_auth(basic.parse()?);
            }
            tunnel.call(target).await?
        };
        Ok(stream.into_inner())
    }

    async fn dial(&self) -> Result<(Arc<dyn Transport>, async_channel::Receiver<TransportEvent>)> {
        let host = self.net.url.host().context("a host")?;
        let plain = self.net.url.scheme_str() == Some("ws");
        let port = self.net.url.port_u16().unwrap_or(if plain { 80 } else { 443 });
        let socket = self.connect(host, port).await.map_err(|error| self.blame(error))?;
        socket.set_nodelay(true)?;
        let connector = if plain { &Connector::Plain } else { &self.net.tls };
        let stream = connector.wrap(host, socket).await?;
        let builder = ClientBuilder::from_uri(self.net.url.clone())
            .limits(Limits::default().max_payload_len(Some(FRAME_MAX)))
            .add_header(http::header::ORIGIN, http::HeaderValue::from_static(WHATSAPP_WEB_ORIGIN))?;
        let (websocket, _) = builder.connect_on(stream).await?;
        Ok(transport::from_websocket(websocket))
    }
}

#[async_trait]
impl TransportFactory for Way {
    async fn create_transport(&self) -> Result<(Arc<dyn Transport>, async_channel::Receiver<TransportEvent>)> {
        self.owner.check()?;
        match self.dial().await {
            Ok((inner, events)) => {
                self.trouble.set(None);
                let events = while_there_is_room(events, Arc::clone(&self.inbox), self.tasks.clone());
                Ok((Arc::new(Gate { inner, owner: self.owner.clone() }), events))
            }
            Err(error) => {
                let reason = match (is_about_time(error.as_ref()), error.is::<ProxyFailed>()) {
                    (true, _) => "clock_wrong",
                    (false, true) => "proxy_failed",
                    (false, false) => "unreachable",
                };
                self.trouble.set(Some(reason));
                tracing::debug!(error = format!("{error:#}"), reason, "can't reach WhatsApp");
                Err(error)
            }
        }
    }
}

/// Passes on what comes over a socket, but nothing while the inbox is full: then the socket isn't read, and WhatsApp's server has
/// to wait. What the client was given before is in the inbox by then, but for a few frames. The task ends with either of its ends.
fn while_there_is_room(
    events: async_channel::Receiver<TransportEvent>,
    inbox: Arc<Inbox>,
    tasks: Tasks,
) -> async_channel::Receiver<TransportEvent> {
    let (sender, passed) = async_channel::bounded(1);
    tokio::spawn(async move {
        let pass = async {
            while let Ok(event) = events.recv().await {
                let TransportEvent::DataReceived(mut data) = event else {
                    sender.send(event).await?;
                    continue;
                };
                while !data.is_empty() {
                    tasks.few_wait().await;
                    inbox.has_room().await;
                    let piece = data.split_to(data.len().min(PIECE_MAX));
                    sender.send(TransportEvent::DataReceived(piece)).await?;
                }
            }
            Ok::<_, async_channel::SendError<_>>(())
        };
        tokio::select! {
            _ = pass => {}
            () = sender.closed() => {}
        }
    });
    passed
}

/// The session's proxy is the trouble.
#[derive(Debug, thiserror::Error)]
#[error("the proxy: {0}")]
struct ProxyFailed(String);

impl Way {
    fn blame(&self, error: whatsapp_rust::anyhow::Error) -> whatsapp_rust::anyhow::Error {
        if self.proxy.is_some() { ProxyFailed(format!("{error:#}")).into() } else { error }
    }
}

/// Whether a server's certificate was refused for its dates: then it is this machine's clock that is wrong.
fn is_about_time(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error doesn't name what it holds as its source.
        let held = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        let tls = held.and_then(|held| held.downcast_ref()).or_else(|| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(certificate)) = tls {
            return matches!(
                certificate,
                CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
            );
        }
        next = error.source();
    }
    false
}

impl Owner {
    fn check(&self) -> Result<()> {
        if self.holds() { Ok(()) } else { Err(anyhow!("the worker's lease is over: nothing may be sent")) }
    }
}

/// A socket on which nothing is written by a worker whose lease is over, however long it was frozen: what it wrote would come
/// beside what the session's next owner writes.
struct Gate {
    inner: Arc<dyn Transport>,
    owner: Owner,
}

#[async_trait]
impl Transport for Gate {
    async fn send(&self, data: Bytes) -> Result<()> {
        self.owner.check()?;
        self.inner.send(data).await
    }

    async fn disconnect(&self) {
        self.inner.disconnect().await;
    }
}

#[async_trait]
impl HttpClient for Way {
    async fn execute(&self, request: HttpRequest) -> Result<HttpResponse> {
        self.owner.check()?;
        let url = match (&self.net.instead, request.url.strip_prefix("https://")) {
            (Some(instead), Some(rest)) => format!("{instead}/{}", rest.split_once('/').map_or("", |(_, path)| path)),
            _ => request.url,
        };
        let method = request.method.parse().context("a method")?;
        let mut call = self.http.request(method, url);
        for (name, value) in &request.headers {
            call = call.header(name, value);
        }
        if let Some(body) = request.body {
            call = call.body(body);
        }
        let answer = call.send().await?;
        let status_code = answer.status().as_u16();
        Ok(HttpResponse { status_code, body: answer.bytes().await?.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_checked() {
        assert!(Net::new(None).is_ok());
        assert!(Net::new(Some("ws://127.0.0.1:1/ws/chat")).is_ok());
        for wrong in ["http://127.0.0.1", "ws:///x", "", "nonsense"] {
            assert!(Net::new(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_certificate_of_another_time_tells_of_the_clock() {
        let of = |certificate| std::io::Error::other(rustls::Error::InvalidCertificate(certificate));
        assert!(is_about_time(&of(CertificateError::NotValidYet)));
        assert!(is_about_time(&of(CertificateError::Expired)));
        assert!(!is_about_time(&of(CertificateError::UnknownIssuer)));
        assert!(!is_about_time(&std::io::Error::other("no route")));
    }
}
