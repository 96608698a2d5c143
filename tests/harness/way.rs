//! Proxies that sessions can be sent by: SOCKS5 and HTTP, with a user and a password.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const USER: &str = "me";
const PASSWORD: &str = "pass word";

/// A proxy on loopback. It ends with its owner.
#[derive(Debug)]
pub(crate) struct Way {
    address: SocketAddr,
    scheme: &'static str,
    passed: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Way {
    pub(crate) async fn socks5() -> Self {
        Self::start("socks5").await
    }

    pub(crate) async fn http() -> Self {
        Self::start("http").await
    }

    async fn start(scheme: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let (address, passed) = (listener.local_addr().expect("an address"), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&passed);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let opened = match scheme {
                        "socks5" => socks5(client).await,
                        _ => http(client).await,
                    };
                    let Some((client, server)) = opened else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let (there, back) = (Arc::clone(&counted), counted);
                    tokio::join!(pass(from_client, to_server, there), pass(from_server, to_client, back));
                });
            }
        });
        Self { address, scheme, passed, task }
    }

    /// How to name it, with its credentials.
    pub(crate) fn url(&self) -> String {
        format!("{}://{USER}:{}@{}", self.scheme, PASSWORD.replace(' ', "%20"), self.address)
    }

    /// How it is shown.
    pub(crate) fn shown(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Bytes that went through.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes on what comes, and counts it.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passed: Arc<AtomicUsize>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        passed.fetch_add(read, Ordering::Relaxed);
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// RFC 1928 and 1929: by a user's name and password, to a name or an IPv4 address.
async fn socks5(mut client: TcpStream) -> Option<(TcpStream, TcpStream)> {
    let mut head = [0; 2];
    client.read_exact(&mut head).await.ok()?;
    let mut methods = vec![0; head[1].into()];
    client.read_exact(&mut methods).await.ok()?;
    if !methods.contains(&2) {
        client.write_all(&[5, 255]).await.ok()?;
        return None;
    }
    client.write_all(&[5, 2]).await.ok()?;
    client.read_u8().await.ok()?;
    let user = counted(&mut client).await?;
    let password = counted(&mut client).await?;
    let known = user == USER.as_bytes() && password == PASSWORD.as_bytes();
    client.write_all(&[1, u8::from(!known)]).await.ok()?;
    if !known {
        return None;
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await.ok()?;
    let host = match request[3] {
        1 => {
            let mut address = [0; 4];
            client.read_exact(&mut address).await.ok()?;
            Ipv4Addr::from(address).to_string()
        }
        3 => String::from_utf8(counted(&mut client).await?).ok()?,
        _ => return None,
    };
    let port = client.read_u16().await.ok()?;
    let server = TcpStream::connect((host, port)).await.ok()?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    Some((client, server))
}

async fn counted(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; client.read_u8().await.ok()?.into()];
    client.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

/// `CONNECT`, or a request for a whole URL, which is passed on as it is.
async fn http(mut client: TcpStream) -> Option<(TcpStream, TcpStream)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let text = String::from_utf8(head.clone()).ok()?;
    let basic = format!("basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}"))).to_lowercase();
    if !text.to_lowercase().contains(&format!("proxy-authorization: {basic}")) {
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await.ok()?;
        return None;
    }
    let target = text.split(' ').nth(1)?;
    if text.starts_with("CONNECT ") {
        let server = TcpStream::connect(target).await.ok()?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
        return Some((client, server));
    }
    let mut server = TcpStream::connect(target.strip_prefix("http://")?.split('/').next()?).await.ok()?;
    server.write_all(&head).await.ok()?;
    Some((client, server))
}
