//! Looking at a password: each attempt counts before, and until it is found to be right.

use std::net::IpAddr;
use std::sync::Arc;

use sanasr_shared::ids::UserId;
use sanasr_shared::password;
use sanasr_shared::ports::audit::{Action, AuditEntry, Target};
use sanasr_shared::ports::logins::{Attempt, Credentials, Reserved};
use sanasr_shared::ports::store::StoreError;
use sanasr_shared::throttle::name_key;

use crate::audit::AuditWriter;
use crate::auth::passwords::{For, Place};
use crate::limits::network;
use crate::problem::Problem;
use crate::state::App;
use crate::trail::Trail;

/// An attempt that may be made, and counts.
pub(crate) struct Guarded {
    place: Place,
    counted: Counted,
}

/// What to do about an attempt once it is decided.
pub(crate) struct Counted {
    address: IpAddr,
    name: String,
    reserved: Reserved,
    audit: Arc<AuditWriter>,
    /// The audit trail's line, if it is wrong.
    refused: AuditEntry,
}

/// Counts an attempt to give `username`'s password. `action` is what the audit trail calls it if it is refused.
///
/// # Errors
/// Too many passwords wait to be looked at, or this one must wait.
pub(crate) async fn attempt(app: &App, trail: &Trail, username: &str, action: Action) -> Result<Guarded, Problem> {
    let address = trail.address;
    // First, so that what finds no place doesn't count.
    let known = app.regulars.contains(address);
    let place = app.passwords.place(if known { For::Regular(address) } else { For::Stranger(address) })?;
    let name = name_key(username);
    match app.store.attempt(&network(address).to_string(), &name).await? {
        Attempt::May(reserved) => {
            let refused = AuditEntry::now(trail.actor(), action, None);
            Ok(Guarded { place, counted: Counted { address, name, reserved, audit: Arc::clone(&app.audit), refused } })
        }
        Attempt::Wait(wait) => {
            app.audit.add(AuditEntry::now(trail.actor(), action, None).with("reason", "too_many_attempts"));
            Err(Problem::too_many_attempts(wait))
        }
    }
}

/// Confirms that a user who is logged in knows their password, which `field` carries: as an attempt at the login counts.
///
/// # Errors
/// It is wrong, or the attempt must wait.
pub(crate) async fn confirm(
    app: &App,
    trail: &Trail,
    user: UserId,
    field: &'static str,
    current: String,
) -> Result<(Credentials, Counted), Problem> {
    let known = app.store.credentials_of(user).await?.ok_or_else(Problem::unauthenticated)?;
    let attempt = attempt(app, trail, &known.username, Action::PasswordRefused).await?;
    let (known, counted) = attempt.check(Some(known), current).await?;
    match known {
        Some(known) => Ok((known, counted)),
        None => Err(counted.wrong(wrong_password(field))),
    }
}

/// A password that isn't the one that the user has.
pub(crate) fn wrong_password(field: &'static str) -> Problem {
    Problem::field(field, "wrong_password", "This isn't the password.")
}

impl Guarded {
    /// Looks at the password, which takes as long where there is nobody. The credentials, if they are found and right.
    pub(crate) async fn check(
        mut self,
        credentials: Option<Credentials>,
        text: String,
    ) -> Result<(Option<Credentials>, Counted), Problem> {
        let (target, reason) = match &credentials {
            None => (None, "unknown_name"),
            Some(known) if known.is_active => (Some(Target::User(known.user)), "wrong_password"),
            Some(known) => (Some(Target::User(known.user)), "inactive_user"),
        };
        let refused = self.counted.refused.with("reason", reason);
        self.counted.refused = AuditEntry { target, ..refused };
        let hash = credentials.as_ref().map_or(password::NOBODYS, |known| &known.password_hash).to_owned();
        let right = self.place.run(move || password::verify(&text, &hash)).await?;
        Ok((credentials.filter(|known| right && known.is_active), self.counted))
    }
}

impl Counted {
    /// It was wrong: `problem`, or from the sixth time on how long to wait.
    pub(crate) fn wrong(&self, problem: Problem) -> Problem {
        self.audit.add(self.refused.clone());
        self.reserved.penalty.map_or(problem, Problem::too_many_attempts)
    }

    /// It was right, and doesn't count. The address is known from now on.
    pub(crate) async fn right(&self, app: &App) -> Result<(), StoreError> {
        app.store.attempt_succeeded(&network(self.address).to_string(), &self.name, self.reserved).await?;
        app.regulars.add(self.address);
        Ok(())
    }
}
