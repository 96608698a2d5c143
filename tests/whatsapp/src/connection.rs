//! One client's connection: handshake, login, then stanzas both ways until either side closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::ws::{Message, WebSocket};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use wacore_binary::consts::WA_CONN_HEADER;
use wacore_binary::{Node, marshal};
use wacore_noise::framing::FrameDecoder;

use crate::behaviour::Garbage;
use crate::lock::lock;
use crate::noise::{self, Accepted, Ciphers, Step};
use crate::session::Session;
use crate::state::State;

/// Where stanzas for a connection are left; it may be gone already.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    pub(crate) id: u64,
    sender: UnboundedSender<Out>,
}

/// What leaves a connection.
#[derive(Debug)]
enum Out {
    Stanza(Node),
    Garbage(Garbage),
    /// Everything before it is sent, then the connection closes.
    Close,
    /// The connection ends at once.
    Drop,
}

impl Outbox {
    fn new() -> (Self, UnboundedReceiver<Out>) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (sender, receiver) = unbounded_channel();
        (Self { id: NEXT.fetch_add(1, Ordering::Relaxed), sender }, receiver)
    }

    pub(crate) fn send(&self, stanza: Node) {
        self.push(Out::Stanza(stanza));
    }

    pub(crate) fn garbage(&self, garbage: Garbage) {
        self.push(Out::Garbage(garbage));
    }

    pub(crate) fn close(&self) {
        self.push(Out::Close);
    }

    pub(crate) fn drop_socket(&self) {
        self.push(Out::Drop);
    }

    fn push(&self, out: Out) {
        // A connection that has ended takes nothing any more, as on a real network.
        let _ = self.sender.send(out);
    }
}

/// Serves a client until the connection ends.
pub(crate) async fn serve(state: Arc<State>, socket: WebSocket) {
    let mut wire = Wire::new(socket);
    let garbage = lock(&state.switches.garbage).pop_front();
    if let Some(garbage) = garbage.filter(|garbage| *garbage != Garbage::Stanza) {
        let _ = wire.garbage(garbage, None).await;
        return;
    }
    let stopped = state.stopped.clone();
    let Some(Some(accepted)) = stopped.run_until_cancelled(handshake(&state, &mut wire)).await else { return };
    let Accepted { client_static, payload, ciphers } = accepted;
    let (outbox, out) = Outbox::new();
    lock(&state.connections).insert(outbox.id, outbox.clone());
    let session = Session::open(Arc::clone(&state), outbox.clone(), client_static, payload);
    if let Some(garbage) = garbage {
        outbox.garbage(garbage);
    }
    let _ = stopped.run_until_cancelled(exchange(&session, wire, ciphers, out)).await;
    lock(&state.connections).remove(&outbox.id);
    session.closed();
}

async fn handshake(state: &State, wire: &mut Wire) -> Option<Accepted> {
    let hello = wire.frame().await?;
    match noise::hello(&state.identity, &hello).ok()? {
        Step::Done(answer, accepted) => {
            wire.send_frame(&answer).await?;
            Some(*accepted)
        }
        Step::Answer(answer, pending) => {
            wire.send_frame(&answer).await?;
            let finish = wire.frame().await?;
            noise::finish(*pending, &finish).ok()
        }
    }
}

/// How many stanzas leave in one WebSocket message at most.
const BATCH: usize = 64;

async fn exchange(session: &Session, mut wire: Wire, mut ciphers: Ciphers, mut out: UnboundedReceiver<Out>) {
    let mut batch = Vec::with_capacity(4);
    loop {
        tokio::select! {
            biased;
            left = out.recv_many(&mut batch, BATCH) => {
                if left == 0 || wire.send(&mut ciphers, &mut batch).await.is_none() {
                    return;
                }
            }
            frame = wire.frame() => {
                let Some(mut frame) = frame else { return };
                if ciphers.open(&mut frame).is_err() {
                    return;
                }
                let Ok(plain) = wacore_binary::util::unpack(&frame) else { return };
                let Ok(node) = marshal::unmarshal_ref(&plain) else { return };
                session.handle(&node);
            }
        }
    }
}

/// The socket, cut into frames.
struct Wire {
    socket: WebSocket,
    frames: FrameDecoder,
    /// The bytes a client says first, as far as they have come.
    header: Option<BytesMut>,
}

impl Wire {
    fn new(socket: WebSocket) -> Self {
        Self { socket, frames: FrameDecoder::new(), header: Some(BytesMut::new()) }
    }

    /// The next frame; `None` when the client is gone or speaks something else. Loses nothing if it is given up.
    async fn frame(&mut self) -> Option<BytesMut> {
        loop {
            if let Some(frame) = self.frames.decode_frame() {
                return Some(frame);
            }
            match self.socket.recv().await?.ok()? {
                Message::Binary(bytes) => self.feed(&bytes)?,
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    fn feed(&mut self, bytes: &Bytes) -> Option<()> {
        let Some(header) = &mut self.header else {
            self.frames.feed(bytes);
            return Some(());
        };
        header.extend_from_slice(bytes);
        if header.len() >= WA_CONN_HEADER.len() {
            if header[..WA_CONN_HEADER.len()] != WA_CONN_HEADER {
                return None;
            }
            self.frames.feed(&header[WA_CONN_HEADER.len()..]);
            self.header = None;
        }
        Some(())
    }

    async fn send_frame(&mut self, payload: &[u8]) -> Option<()> {
        let mut bytes = Vec::with_capacity(payload.len() + 3);
        noise::append_frame(payload, &mut bytes);
        self.send_bytes(bytes).await
    }

    /// Sends what lies in the batch; `None` when the connection has to end after it.
    async fn send(&mut self, ciphers: &mut Ciphers, batch: &mut Vec<Out>) -> Option<()> {
        let mut bytes = Vec::new();
        for out in batch.drain(..) {
            match out {
                Out::Stanza(node) => {
                    let plain = marshal::marshal(&node).expect("the server's stanzas can be written");
                    ciphers.seal(&plain, &mut bytes).ok()?;
                }
                Out::Garbage(garbage) => {
                    self.send_bytes(std::mem::take(&mut bytes)).await?;
                    self.garbage(garbage, Some(ciphers)).await?;
                }
                Out::Close => {
                    self.send_bytes(bytes).await?;
                    let _ = self.socket.send(Message::Close(None)).await;
                    return None;
                }
                Out::Drop => return None,
            }
        }
        self.send_bytes(bytes).await
    }

    async fn garbage(&mut self, garbage: Garbage, ciphers: Option<&mut Ciphers>) -> Option<()> {
        match (garbage, ciphers) {
            (Garbage::Stanza, Some(ciphers)) => {
                // No compression, then a list of 200 children that aren't there.
                let mut frame = Vec::new();
                ciphers.seal(&[0, 248, 200, 252, 255, 17], &mut frame).ok()?;
                self.send_bytes(frame).await
            }
            (Garbage::Oversize, _) => self.send_bytes(vec![0xff, 0xff, 0xff, 1, 2, 3]).await,
            (Garbage::Truncated, _) => {
                self.send_bytes(vec![0, 1, 0, 7, 7, 7]).await?;
                None
            }
            (Garbage::Bytes | Garbage::Stanza, _) => {
                let mut frame = Vec::new();
                noise::append_frame(&rand::random::<[u8; 32]>(), &mut frame);
                self.send_bytes(frame).await
            }
        }
    }

    async fn send_bytes(&mut self, bytes: Vec<u8>) -> Option<()> {
        if bytes.is_empty() {
            return Some(());
        }
        self.socket.send(Message::Binary(bytes.into())).await.ok()
    }
}
