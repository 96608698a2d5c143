//! What the suites need of an implementation and of the service behind it: to open it, and to cut it off.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

/// How long something may take that is to happen.
pub const SOON: Duration = Duration::from_secs(20);
/// How long to look whether something happens that must not.
pub const QUIET: Duration = Duration::from_millis(400);

/// How to open an implementation of the port `P`.
pub struct Setup<P: ?Sized> {
    open: Box<dyn Fn(&str, &str) -> Arc<P> + Send + Sync>,
    service: Option<Service>,
    deployment: String,
}

struct Service {
    url: String,
    default_port: u16,
}

impl<P: ?Sized + Send + Sync + 'static> Setup<P> {
    /// One that works within the process: every handle is this one.
    pub fn in_process(port: Arc<P>) -> Self {
        Self { open: Box::new(move |_, _| Arc::clone(&port)), service: None, deployment: new_deployment() }
    }

    /// One that works over the service whose URL the environment variable holds, if it does. `open` gets a URL and a
    /// deployment's id.
    pub fn distributed<T: IntoPort<P>>(
        url_variable: &str,
        default_port: u16,
        open: impl Fn(&str, &str) -> T + Send + Sync + 'static,
    ) -> Option<Self> {
        let url = std::env::var(url_variable).ok()?;
        Some(Self {
            open: Box::new(move |url, deployment| open(url, deployment).into_port()),
            service: Some(Service { url, default_port }),
            deployment: new_deployment(),
        })
    }

    /// A handle, as another process of the same deployment would have it.
    pub fn open(&self) -> Arc<P> {
        self.open_at(self.service.as_ref().map_or("", |service| service.url.as_str()))
    }

    /// A handle that reaches the service by this URL.
    pub fn open_at(&self, url: &str) -> Arc<P> {
        (self.open)(url, &self.deployment)
    }

    /// A handle of another deployment on the same service; `None` in process.
    pub fn open_elsewhere(&self) -> Option<Arc<P>> {
        self.service.as_ref().map(|service| (self.open)(&service.url, &new_deployment()))
    }

    /// Whether a service stands between processes.
    pub const fn is_distributed(&self) -> bool {
        self.service.is_some()
    }

    /// A way to the service that can be cut, and the URL that goes by it; `None` in process.
    pub async fn cuttable(&self) -> Option<(Proxy, String)> {
        let service = self.service.as_ref()?;
        let (before, host, after) = split_url(&service.url);
        let upstream = if host.contains(':') { host.to_owned() } else { format!("{host}:{}", service.default_port) };
        let proxy = Proxy::start(upstream).await;
        let url = format!("{before}{}{after}", proxy.address());
        Some((proxy, url))
    }
}

/// What can become a handle of the port `P`.
pub trait IntoPort<P: ?Sized> {
    /// The handle.
    fn into_port(self) -> Arc<P>;
}

impl<T: crate::ports::queue::Queue + 'static> IntoPort<dyn crate::ports::queue::Queue> for Arc<T> {
    fn into_port(self) -> Arc<dyn crate::ports::queue::Queue> {
        self
    }
}

impl<T: crate::ports::signals::Signals + 'static> IntoPort<dyn crate::ports::signals::Signals> for Arc<T> {
    fn into_port(self) -> Arc<dyn crate::ports::signals::Signals> {
        self
    }
}

fn new_deployment() -> String {
    format!("test-{}", Uuid::now_v7().simple())
}

/// Cuts a URL around its host and port.
fn split_url(url: &str) -> (&str, &str, &str) {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    let host = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    (&url[..host], &url[host..end], &url[end..])
}

/// Waits for a condition.
///
/// # Panics
/// If it doesn't come true [soon](SOON).
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let met = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, met).await.is_ok(), "{what}: not within {SOON:?}");
}

/// Fails if something takes longer than it may.
///
/// # Panics
/// If it does.
pub async fn in_time<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Refuse,
    Freeze,
}

/// A TCP proxy that passes everything on, until it is told otherwise.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to `host:port`, on a free port of its own.
    ///
    /// # Panics
    /// If there is none.
    pub async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (mode, current) = watch::channel(Mode::Pass);
        Self { address, mode, task: tokio::spawn(accept(listener, upstream, current)) }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection, and whoever comes, until [`Self::pass`].
    pub fn refuse(&self) {
        self.mode.send_replace(Mode::Refuse);
    }

    /// Keeps every connection and passes nothing on, until [`Self::pass`].
    pub fn freeze(&self) {
        self.mode.send_replace(Mode::Freeze);
    }

    /// Passes everything on again; connections that were frozen go on.
    pub fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, upstream: String, mode: watch::Receiver<Mode>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(pass_on(client, upstream.clone(), mode.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass_on(mut client: TcpStream, upstream: String, mut mode: watch::Receiver<Mode>) {
    let mut refused = mode.clone();
    let passing = async {
        if mode.wait_for(|mode| *mode == Mode::Pass).await.is_err() {
            return;
        }
        let Ok(mut server) = TcpStream::connect(&upstream).await else { return };
        // What isn't asked for isn't passed on: a frozen connection is one that nobody copies.
        loop {
            let frozen = tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                frozen = mode.wait_for(|mode| *mode == Mode::Freeze) => frozen.is_ok(),
            };
            if !frozen || mode.wait_for(|mode| *mode == Mode::Pass).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = passing => {}
        _ = refused.wait_for(|mode| *mode == Mode::Refuse) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_cut_around_the_host() {
        assert_eq!(split_url("amqp://u:p@h:1/%2f?x=1"), ("amqp://u:p@", "h:1", "/%2f?x=1"));
        assert_eq!(split_url("redis://h"), ("redis://", "h", ""));
        assert_eq!(split_url("amqp://h?x=a@b"), ("amqp://", "h", "?x=a@b"));
    }
}
