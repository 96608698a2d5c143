//! A real client, on loopback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use whatsapp_rust::Client as Inner;
use whatsapp_rust::bot::{Bot, BotHandle};
use whatsapp_rust::store::traits::Backend;
use whatsapp_rust::transport::{Transport, TransportEvent, TransportFactory};
use whatsapp_rust::types::events::{ChannelEventHandler, Event};
use whatsapp_test_server::{Account, Server};

use wacore::net::{HttpClient, HttpRequest, HttpResponse};
use wacore::store::InMemoryBackend;

/// A client with all its events.
pub(crate) struct Client {
    pub(crate) inner: Arc<Inner>,
    pub(crate) backend: Arc<dyn Backend>,
    handle: BotHandle,
    events: async_channel::Receiver<Arc<Event>>,
}

impl Client {
    /// A new client; it connects and shows a code.
    pub(crate) async fn start(server: &Server) -> Self {
        Self::with(server, Arc::new(InMemoryBackend::new())).await
    }

    /// A client with what an earlier one has stored.
    pub(crate) async fn with(server: &Server, backend: Arc<dyn Backend>) -> Self {
        Self::at(&server.url(), backend).await
    }

    /// A client of the server at this URL.
    pub(crate) async fn at(url: &str, backend: Arc<dyn Backend>) -> Self {
        let authority = authority(url).to_owned();
        let bot = Bot::builder()
            .with_backend_arc(Arc::clone(&backend))
            .with_transport_factory(Loopback(url.to_owned()))
            .with_http_client(Http(authority))
            .with_runtime(whatsapp_rust::TokioRuntime)
            .with_wanted_pre_key_count(20)
            .skip_history_sync()
            .build()
            .await
            .expect("a client");
        let inner = bot.client();
        let (handler, events) = ChannelEventHandler::new();
        inner.subscribe_handler(handler).detach();
        Self { inner, backend, handle: bot.spawn(), events }
    }

    /// A client that is paired and connected.
    pub(crate) async fn paired(server: &Server, number: &str) -> (Self, Account) {
        let client = Self::start(server).await;
        let qr = client.qr().await;
        let account = server.scan(&qr, number).await.expect("paired");
        client.connected().await;
        within(account.wait_connected()).await;
        (client, account)
    }

    /// The next QR code.
    pub(crate) async fn qr(&self) -> String {
        self.event(|event| match event {
            Event::PairingQrCode(qr) => Some(qr.code.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn connected(&self) {
        self.event(|event| matches!(event, Event::Connected(_)).then_some(())).await;
    }

    /// Waits for the next event that `look` sees; what comes before it is forgotten.
    pub(crate) async fn event<T>(&self, mut look: impl FnMut(&Event) -> Option<T>) -> T {
        let mut passed = Vec::new();
        let deadline = Instant::now() + LIMIT;
        loop {
            match tokio::time::timeout_at(deadline.into(), self.events.recv()).await {
                Ok(Ok(event)) => match look(&event) {
                    Some(seen) => return seen,
                    None => passed.push(event),
                },
                _ => panic!("no such event; there were {passed:#?}"),
            }
        }
    }

    /// The server's word on a message: `None`, or the code it was refused with.
    pub(crate) async fn ack(&self, id: &str) -> Option<String> {
        self.event(|event| match event {
            Event::ServerAck(ack) if ack.class.as_deref() == Some("message") && ack.id == id => Some(ack.error.clone()),
            _ => None,
        })
        .await
    }

    /// Sends a text; gives the message's id.
    pub(crate) async fn text(&self, to: &whatsapp_rust::Jid, text: &str) -> String {
        self.inner.send_text(to.clone(), text).await.expect("sent").message_id
    }

    pub(crate) async fn stop(self) {
        self.handle.shutdown().await;
    }
}

const LIMIT: Duration = Duration::from_secs(15);

/// Waits, but not for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

/// Looks until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Host and port of a URL.
pub(crate) fn authority(url: &str) -> &str {
    url.trim_start_matches("ws://").split('/').next().unwrap_or_default()
}

/// Connects to the server, whatever the client believes.
struct Loopback(String);

#[async_trait]
impl TransportFactory for Loopback {
    async fn create_transport(
        &self,
    ) -> Result<(Arc<dyn Transport>, async_channel::Receiver<TransportEvent>), anyhow::Error> {
        let stream = TcpStream::connect(authority(&self.0)).await?;
        stream.set_nodelay(true)?;
        let uri = self.0.parse()?;
        let (socket, _) = tokio_websockets::ClientBuilder::from_uri(uri).connect_on(stream).await?;
        Ok(whatsapp_rust_tokio_transport::from_websocket(socket))
    }
}

/// Asks the server, whatever host the client asks for.
pub(crate) struct Http(pub(crate) String);

#[async_trait]
impl HttpClient for Http {
    async fn execute(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let path = request.url.splitn(4, '/').nth(3).unwrap_or_default();
        let body = request.body.unwrap_or_default();
        let mut stream = TcpStream::connect(&self.0).await?;
        let (method, host, length) = (&request.method, &self.0, body.len());
        let mut head = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n");
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("connection: close\r\n\r\n");
        stream.write_all(&[head.as_bytes(), &body].concat()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |place| place + 4);
        let body = answer.split_off(head);
        let status = String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().parse()?;
        Ok(HttpResponse { status_code: status, body })
    }
}
