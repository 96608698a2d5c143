//! What a session's name means, remembered for less than a second: every send asks.

use std::sync::Arc;

use sanasr_shared::ids::{SessionId, UserId};
use sanasr_shared::ports::store::StoreError;
use sanasr_shared::session::{BridgeKind, check_name};

use crate::remembered::Remembered;
use crate::state::App;

/// Names that are remembered.
const REMEMBERED_MAX: usize = 50_000;

/// What the accepting path needs to know of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownSession {
    pub(crate) id: SessionId,
    pub(crate) bridge: BridgeKind,
}

/// What is known of sessions, by user and name.
pub(crate) struct KnownSessions(Arc<Remembered<(UserId, String), Option<KnownSession>>>);

impl KnownSessions {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Remembered::new(REMEMBERED_MAX)))
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
            Ok(session.map(|session| KnownSession { id: session.id, bridge: session.bridge }))
        }
    };
    app.sessions.0.get((user, name.to_owned()), Option::is_some, read).await
}

/// Forgets what a name means: it was found to be wrong.
pub(crate) fn forget(app: &App, user: UserId, name: &str) {
    app.sessions.0.forget(&(user, name.to_owned()));
}

/// Whether a session can have this name at all. No other text goes to the database.
pub(crate) fn may_exist(name: &str) -> bool {
    check_name(name).is_ok()
}
