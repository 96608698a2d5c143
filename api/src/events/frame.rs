//! Events as they go over the wire: with the object as the event left it, written once for whoever hears it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use sanasr_shared::ids::UserId;
use sanasr_shared::message::{Message, Status};
use sanasr_shared::ports::journal::{Change, Event};
use sanasr_shared::ports::store::{Scope, Store, StoreError};
use sanasr_shared::session::{Session, SessionStatus, advice};
use sanasr_shared::time::Time;
use sanasr_shared::vault::Vault;
use serde::Serialize;

/// One event of a stream, or a sign of life with the number 0. Clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) n: i64,
    pub(super) bytes: Bytes,
}

impl Frame {
    /// A comment, so that nobody in between takes the stream for dead.
    pub(super) const fn heartbeat() -> Self {
        Self { n: 0, bytes: Bytes::from_static(b":\n\n") }
    }
}

/// Frames of events, with whose they are. Events of what is gone, or of what this version doesn't know, are left out.
pub(super) async fn render(
    store: &Arc<dyn Store>,
    vault: &Vault,
    events: &[Event],
) -> Result<Vec<(UserId, Frame)>, StoreError> {
    let (mut messages, mut sessions) = (Vec::new(), Vec::new());
    for event in events {
        match event.change {
            Change::Message(id, _) => messages.push(id),
            Change::Session(id, _) => sessions.push(id),
            Change::Unknown => {}
        }
    }
    let of = Arc::clone(store);
    let messages = each(messages, move |ids| {
        let store = Arc::clone(&of);
        async move { store.messages(Scope::All, &ids).await }
    })
    .await?;
    let of = Arc::clone(store);
    let sessions = each(sessions, move |ids| {
        let store = Arc::clone(&of);
        async move { store.sessions_by_id(&ids).await }
    })
    .await?;
    let sessions: Vec<_> = sessions.into_iter().map(|session| session.opened(vault)).collect();
    let messages: HashMap<_, _> = messages.iter().map(|m| ((m.id, m.user_id), m)).collect();
    let sessions: HashMap<_, _> = sessions.iter().map(|s| ((s.id, s.user_id), s)).collect();
    let frames = events.iter().filter_map(|event| {
        let (what, status, data) = match event.change {
            Change::Message(id, status) => {
                let now = *messages.get(&(id, event.user))?;
                ("message", status.as_str(), json(message_then(now, status, event.at), now.status)?)
            }
            Change::Session(id, status) => {
                let now = *sessions.get(&(id, event.user))?;
                ("session", status.as_str(), json(session_then(now, status, event.at), now.status)?)
            }
            Change::Unknown => return None,
        };
        let bytes = format!("id: {}\nevent: {what}.{status}\ndata: {data}\n\n", event.n).into();
        Some((event.user, Frame { n: event.n, bytes }))
    });
    Ok(frames.collect())
}

/// What `read` finds of these ids, each of which is asked for once. A row that can't be read stops nobody: it is left out.
async fn each<Id, T, F>(mut ids: Vec<Id>, read: impl Fn(Vec<Id>) -> F) -> Result<Vec<T>, StoreError>
where
    Id: Copy + Ord,
    F: Future<Output = Result<Vec<T>, StoreError>>,
{
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    match read(ids.clone()).await {
        Err(error) if !error.is_transient() => tracing::error!(%error, "a row can't be shown in a stream of events"),
        read => return read,
    }
    let mut found = Vec::new();
    for id in ids {
        match read(vec![id]).await {
            Ok(one) => found.extend(one),
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(found)
}

/// A message as an event left it. What isn't kept of that moment is as it is now, or left out where that would contradict the
/// status.
fn message_then(now: &Message, status: Status, at: Time) -> Message {
    let reached = |step: Status| matches!(status, Status::Sent | Status::Delivered | Status::Read) && status >= step;
    let then = Message {
        status,
        updated_at: at,
        sent_at: now.sent_at.filter(|_| reached(Status::Sent)),
        delivered_at: now.delivered_at.filter(|_| reached(Status::Delivered)),
        read_at: now.read_at.filter(|_| reached(Status::Read)),
        ..now.clone()
    };
    if status == now.status { then } else { Message { error: None, blocked_by: None, ..then } }
}

/// A session as an event left it.
fn session_then(now: &Session, status: SessionStatus, at: Time) -> Session {
    let then = Session { status, updated_at: at, ..now.clone() };
    if status == now.status {
        return then;
    }
    let advice = advice(status, None);
    Session { blocked_reason: None, blocked_until: None, qr_code: None, qr_expires_at: None, advice, ..then }
}

/// An object as an event left it, and the status that it has by now.
fn json<S: Serialize>(then: impl Serialize, status_now: S) -> Option<String> {
    #[derive(Serialize)]
    struct Data<T, S> {
        #[serde(flatten)]
        then: T,
        status_now: S,
    }
    serde_json::to_string(&Data { then, status_now })
        .inspect_err(|error| tracing::error!(%error, "an object can't be written"))
        .ok()
}
