//! Events as they go over the wire: with the object as it is now, written once for whoever hears it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use sanasr_shared::ids::UserId;
use sanasr_shared::ports::journal::{Change, Event};
use sanasr_shared::ports::store::{Scope, Store, StoreError};
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
    let messages: HashMap<_, _> = messages.iter().filter_map(|m| Some(((m.id, m.user_id), json(m)?))).collect();
    let sessions: HashMap<_, _> = sessions.iter().filter_map(|s| Some(((s.id, s.user_id), json(s)?))).collect();
    let frames = events.iter().filter_map(|event| {
        let (what, status, data) = match event.change {
            Change::Message(id, status) => ("message", status.as_str(), messages.get(&(id, event.user))?),
            Change::Session(id, status) => ("session", status.as_str(), sessions.get(&(id, event.user))?),
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

fn json(object: &impl Serialize) -> Option<String> {
    serde_json::to_string(object).inspect_err(|error| tracing::error!(%error, "an object can't be written")).ok()
}
