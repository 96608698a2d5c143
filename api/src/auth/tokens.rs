//! Access tokens: which login a bearer has, and whether it lives.

use std::sync::Arc;

use sanasr_shared::ids::FamilyId;
use sanasr_shared::ports::logins::Login;
use sanasr_shared::ports::store::StoreError;

use super::jwt::{Claimed, Unreadable};
use super::{Asker, Credential, Refused};
use crate::remembered::Remembered;
use crate::state::App;

/// Logins that are remembered.
const REMEMBERED_MAX: usize = 50_000;

/// What is known of logins.
pub(crate) struct KnownLogins(Arc<Remembered<FamilyId, Option<Login>>>);

impl KnownLogins {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Remembered::new(REMEMBERED_MAX)))
    }

    pub(crate) fn forget_all(&self) {
        self.0.forget_all();
    }
}

/// Whose access token this is, or why it opens nothing. The token says which login it belongs to;
/// what that may do, and whether it has ended, the store says.
pub(crate) async fn asker(app: &App, token: &str) -> Result<Result<Asker, Refused>, StoreError> {
    let Claimed { login: claimed, until } = match app.tokens.read_access(token) {
        Ok(claimed) => claimed,
        Err(Unreadable::Expired) => return Ok(Err(Refused::Expired)),
        Err(Unreadable::Unknown) => return Ok(Err(Refused::Unknown)),
    };
    let read = {
        let store = Arc::clone(&app.store);
        async move { store.login(claimed.family).await }
    };
    let login: Option<Login> = app.logins.0.get(claimed.family, |_| true, read).await?;
    let login = login.filter(|login| login.user == claimed.user);
    Ok(login.ok_or(Refused::LoginEnded(claimed.user)).map(|login| Asker {
        user: login.user,
        staff: login.is_staff,
        credential: Credential::Token(claimed.family),
        until: Some(until),
    }))
}
