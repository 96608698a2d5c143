//! A TCP proxy that misbehaves on demand, to cut one client off from a service that others still reach.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use super::wait::{eventually, seconds};

/// What the proxy does with bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Passes everything on.
    Pass,
    /// Holds everything back, connections open: a frozen peer.
    Hold,
    /// Passes what the client says and holds the answers back: cut then, and what was asked was done unseen.
    HoldAnswers,
    /// Nobody listens.
    Refuse,
}

/// The proxy; it ends with its owner, and its connections with it.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    flow: watch::Sender<Flow>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to the service that `url` names.
    pub(crate) async fn to(url: &str) -> Self {
        let target = authority(url).1.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the proxy");
        let address = listener.local_addr().expect("its address");
        let (flow, seen) = watch::channel(Flow::Pass);
        let connections = Arc::default();
        let accepting = tokio::spawn(accept(listener, address, target, seen, Arc::clone(&connections)));
        Self { address, flow, connections, accepting }
    }

    /// `url` by way of the proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        let (before, host, after) = authority(url);
        debug_assert!(!host.is_empty());
        format!("{before}{}{after}", self.address)
    }

    /// Closes the connections there are; new ones are passed on as before.
    pub(crate) fn cut(&self) {
        for connection in self.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            connection.abort();
        }
    }

    /// Holds every byte back, both ways, with the connections open.
    pub(crate) fn freeze(&self) {
        self.flow.send_replace(Flow::Hold);
    }

    /// Passes on what the client says, and holds the answers back.
    pub(crate) fn hold_answers(&self) {
        self.flow.send_replace(Flow::HoldAnswers);
    }

    /// Closes all connections and takes no new ones.
    pub(crate) async fn refuse(&self) {
        self.flow.send_replace(Flow::Refuse);
        eventually(seconds(5), "the proxy's port is closed", async || {
            TcpStream::connect(self.address).await.is_err().then_some(())
        })
        .await;
        self.cut();
    }

    /// Passes everything on again, what was held back too.
    pub(crate) async fn restore(&self) {
        self.flow.send_replace(Flow::Pass);
        eventually(seconds(5), "the proxy's port is open", async || TcpStream::connect(self.address).await.ok()).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(
    first: TcpListener,
    address: SocketAddr,
    target: String,
    mut flow: watch::Receiver<Flow>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
) {
    let mut listener = Some(first);
    loop {
        let refuse = *flow.borrow_and_update() == Flow::Refuse;
        if refuse {
            listener = None;
        } else if listener.is_none() {
            // The port may be in the hands of a client's last attempt for a moment.
            listener = TcpListener::bind(address).await.ok();
        }
        tokio::select! {
            changed = flow.changed() => if changed.is_err() { return },
            accepted = async { match &listener {
                Some(listener) => listener.accept().await.ok(),
                None => std::future::pending().await,
            } }, if listener.is_some() => if let Some((client, _)) = accepted {
                let connection = tokio::spawn(serve(client, target.clone(), flow.clone())).abort_handle();
                let mut all = connections.lock().unwrap_or_else(PoisonError::into_inner);
                all.retain(|c| !c.is_finished());
                all.push(connection);
            },
            () = tokio::time::sleep(std::time::Duration::from_millis(20)), if listener.is_none() && !refuse => {}
        }
    }
}

async fn serve(client: TcpStream, target: String, flow: watch::Receiver<Flow>) {
    let Ok(server) = TcpStream::connect(&target).await else { return };
    // Tests measure latency through it.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pump(from_client, to_server, flow.clone(), |flow| matches!(flow, Flow::Pass | Flow::HoldAnswers)),
        pump(from_server, to_client, flow, |flow| matches!(flow, Flow::Pass)),
    );
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut flow: watch::Receiver<Flow>,
    passes: impl Fn(&Flow) -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        // The end of a connection is held back, too.
        if flow.wait_for(&passes).await.is_err() || read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

/// A URL's text up to its host and port, these, and the rest.
fn authority(url: &str) -> (&str, &str, &str) {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    let host = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    (&url[..host], &url[host..end], &url[end..])
}
