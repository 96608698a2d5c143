//! Serves a router: a bounded number of connections, and a stop that lets requests in flight finish.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::edge::Lifecycle;
use crate::trail::Peer;

/// How long a client may take for a request's head, and how long a connection may be idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause after the system had no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long connections that are cut off may take to go.
const CUT_OFF: Duration = Duration::from_millis(500);

/// A way to close a request's connection, for an answer that goes on and whose client doesn't read it. In the request's
/// extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hangup(pub(crate) CancellationToken);

impl<S: Sync> FromRequestParts<S> for Hangup {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// Serves until `stop`, then lets requests in flight finish, for `drain` at most. Long-polls end at once. With
/// `connection_limit` connections open, more wait in the listener's own queue.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connection_limit: usize,
    stop: CancellationToken,
    drain: Duration,
) {
    let limit = u32::try_from(connection_limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX).max(1);
    let places = Arc::new(Semaphore::new(limit as usize));
    let cut_off = CancellationToken::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, peer)| (stream, Peer(peer), place))
        };
        match stop.run_until_cancelled(next).await {
            None => break,
            Some(Ok((stream, peer, place))) => {
                let connection = connection(stream, peer, router.clone(), stop.clone(), cut_off.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            // The client has gone already.
            Some(Err(error)) if is_connection_error(&error) => {}
            // Most often: no file descriptors left. It passes.
            Some(Err(error)) => {
                tracing::warn!(%error, "a connection can't be accepted");
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
    drop(listener);
    tell(&router, Lifecycle::Stopping).await;
    let all_gone = places.acquire_many(limit);
    if tokio::time::timeout(drain, all_gone).await.is_err() {
        tracing::warn!("some requests didn't finish in time and are cut off");
        cut_off.cancel();
        let _ = tokio::time::timeout(CUT_OFF, places.acquire_many(limit)).await;
    }
    tell(&router, Lifecycle::Drained).await;
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    stop: CancellationToken,
    cut_off: CancellationToken,
) {
    // Answers are small, and complete when they are written.
    let _ = stream.set_nodelay(true);
    let hangup = Hangup::default();
    let hung_up = hangup.0.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(hangup.clone());
        router.clone().call(request.map(Body::new))
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = hung_up.cancelled() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                done = connection.as_mut() => done,
                () = cut_off.cancelled() => return,
            }
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection broke off");
    }
}

async fn tell(router: &Router, news: Lifecycle) {
    let mut request = Request::new(Body::empty());
    request.extensions_mut().insert(news);
    let _ = router.clone().call(request).await;
}
