//! Serves a router: a bounded number of connections, and a stop that lets requests in flight finish.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use bytes::Bytes;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::connections::{Bounds, Busy, Connections, Seat, WRITE_TIMEOUT};
use crate::edge::Lifecycle;
use crate::trail::Peer;
use crate::wire::{HEAD_BYTES_MAX, Wire};

/// The pause after the system had no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long connections that are cut off may take to go.
const CUT_OFF: Duration = Duration::from_millis(500);
/// What a connection reads and writes at once, in bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes that the kernel takes of an answer before any of them goes out.
const UNSENT_BYTES_MAX: u32 = 64 << 10;

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

/// Marks a request that came when connections had run short, by one of those that are reserved for health.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserved;

/// Serves until `stop`, then lets requests in flight finish, for `drain` at most. Long-polls end at once.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, stop: CancellationToken, drain: Duration) {
    let connections = Connections::new(bounds);
    let cut_off = CancellationToken::new();
    tokio::select! {
        () = accept(&listener, &router, &connections, &stop, &cut_off) => {}
        () = connections.watch() => {}
    }
    drop(listener);
    tell(&router, Lifecycle::Stopping).await;
    let gone = async {
        tokio::select! {
            () = connections.all_gone() => {}
            () = connections.watch() => {}
        }
    };
    if tokio::time::timeout(drain, gone).await.is_err() {
        tracing::warn!("some requests didn't finish in time and are cut off");
        cut_off.cancel();
        let _ = tokio::time::timeout(CUT_OFF, connections.all_gone()).await;
    }
    tell(&router, Lifecycle::Drained).await;
}

async fn accept(
    listener: &TcpListener,
    router: &Router,
    connections: &Arc<Connections>,
    stop: &CancellationToken,
    cut_off: &CancellationToken,
) {
    loop {
        match stop.run_until_cancelled(listener.accept()).await {
            None => return,
            Some(Ok((stream, peer))) => {
                let seat = loop {
                    let changed = connections.changed();
                    if let Some(seat) = connections.admit(peer.ip()) {
                        break seat;
                    }
                    // The others wait in the listener's own queue meanwhile.
                    if stop.run_until_cancelled(changed).await.is_none() {
                        return;
                    }
                };
                tokio::spawn(connection(stream, Peer(peer), seat, router.clone(), stop.clone(), cut_off.clone()));
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
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    seat: Seat,
    router: Router,
    stop: CancellationToken,
    cut_off: CancellationToken,
) {
    set_up(&stream);
    let hangup = Hangup(seat.watch.hangup.clone());
    let hung_up = hangup.0.clone();
    let (watch, reserved) = (Arc::clone(&seat.watch), seat.reserved);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = watch.busy();
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(hangup.clone());
        if reserved {
            request.extensions_mut().insert(Reserved);
        }
        let answered = router.clone().call(request.map(Body::new));
        async move { Ok::<_, Infallible>(answered.await?.map(|body| Answer { body, _busy: busy })) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // `Connections` has the times of all phases.
            .header_read_timeout(None)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES)
            .keep_alive(!reserved)
            .serve_connection(TokioIo::new(Wire::new(stream, Arc::clone(&seat.watch))), service)
    );
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = hung_up.cancelled() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                done = connection.as_mut() => done,
                () = hung_up.cancelled() => return,
                () = cut_off.cancelled() => return,
            }
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Asks the kernel for what a connection needs; where it can't, the connection does without.
fn set_up(stream: &TcpStream) {
    // Answers are small, and complete when they are written.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = SockRef::from(stream);
        // A client that has gone silently, or doesn't read, is noticed though little is written, as to a stream of events.
        let _ = socket.set_tcp_user_timeout(Some(WRITE_TIMEOUT));
        // What a slow client hasn't taken yet isn't piled up in the kernel, where nobody sees whether it moves.
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    }
}

/// An answer's body: as long as it is there, its connection is busy.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn tell(router: &Router, news: Lifecycle) {
    let mut request = Request::new(Body::empty());
    request.extensions_mut().insert(news);
    let _ = router.clone().call(request).await;
}
