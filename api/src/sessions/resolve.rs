//! What a session's name means, remembered for less than a second: every send asks.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use sanasr_shared::ids::{SessionId, UserId};
use sanasr_shared::message::BlockedBy;
use sanasr_shared::ports::store::{Scope, StoreError};
use sanasr_shared::session::{BridgeKind, Session, SessionStatus, check_name};

use crate::remembered::Remembered;
use crate::state::App;

/// Names that are remembered.
const REMEMBERED_MAX: usize = 50_000;

/// What the accepting path needs to know of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownSession {
    pub(crate) id: SessionId,
    pub(crate) bridge: BridgeKind,
    /// Why a message that is accepted now has to wait for it, if it has to.
    pub(crate) blocked_by: Option<BlockedBy>,
}

/// What is known of sessions, by user and name.
pub(crate) struct KnownSessions {
    known: Arc<Remembered<(UserId, String), Option<KnownSession>>>,
    /// Sessions of which the log has said that their messages wait.
    told: Mutex<HashSet<SessionId>>,
}

impl KnownSessions {
    pub(crate) fn new() -> Self {
        Self { known: Arc::new(Remembered::new(REMEMBERED_MAX)), told: Mutex::default() }
    }

    /// Says in the log, once for a session, that messages wait because it isn't connected.
    pub(crate) fn tell(&self, user: UserId, name: &str, session: KnownSession) {
        if session.blocked_by != Some(BlockedBy::SessionNotConnected) {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= REMEMBERED_MAX {
            told.clear();
        }
        if told.insert(session.id) {
            tracing::warn!(
                session = name,
                user_id = user.0,
                "messages wait: their session isn't connected. Connect it (POST /api/v1/sessions/{name}/connect) and link a phone"
            );
        }
    }
}

/// What a session makes its messages wait for.
fn blocked_by(session: &Session) -> Option<BlockedBy> {
    match session.status {
        _ if session.paused => Some(BlockedBy::SessionPaused),
        SessionStatus::Connected => None,
        _ => Some(BlockedBy::SessionNotConnected),
    }
}

/// The session of this name. That there is none isn't remembered, so that a new session can be used at once.
pub(crate) async fn session(app: &App, user: UserId, name: &str) -> Result<Option<KnownSession>, StoreError> {
    if !may_exist(name) {
        return Ok(None);
    }
    let read = {
        let store = Arc::clone(&app.store);
        let name = name.to_owned();
        async move {
            let session = store.session(user, &name).await?;
            Ok(session.map(|session| KnownSession {
                id: session.id,
                bridge: session.bridge,
                blocked_by: blocked_by(&session),
            }))
        }
    };
    app.sessions.known.get((user, name.to_owned()), Option::is_some, read).await
}

/// Sessions among which the one that was meant is looked for.
const MEANT_AMONG: u32 = 100;

/// The names of a user's newest sessions, one of which somebody may have meant.
pub(crate) async fn names(app: &App, user: UserId) -> Result<Vec<String>, StoreError> {
    let known = app.store.list_sessions(Scope::User(user), None, MEANT_AMONG).await?;
    Ok(known.items.into_iter().map(|session| session.name).collect())
}

/// Forgets what a name means: it was found to be wrong.
pub(crate) fn forget(app: &App, user: UserId, name: &str) {
    app.sessions.known.forget(&(user, name.to_owned()));
}

/// Whether a session can have this name at all. No other text goes to the database.
pub(crate) fn may_exist(name: &str) -> bool {
    check_name(name).is_ok()
}
