//! Who is asking, and what they may.
//!
//! Three extractors: [`Asker`], whoever has valid credentials; [`Caller`], an asker and whose things they mean, which
//! `?user_id=` says for admins; [`Staff`], an admin who is logged in. A handler takes exactly one of them, first, or is open
//! to everybody.

pub(crate) mod jwt;
pub(crate) mod keys;
pub(crate) mod passwords;
pub(crate) mod standing;
pub(crate) mod tokens;
pub(crate) mod watch;

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use sanasr_shared::ids::{ApiKeyId, FamilyId, UserId};
use sanasr_shared::ports::audit::{Action, Actor, AuditEntry, Target};
use sanasr_shared::ports::store::Scope;
use sanasr_shared::time::Time;
use sanasr_shared::user::RawApiKey;

use crate::limits::Account;
use crate::problem::Problem;
use crate::query::{Query, USER_ID, UserIdIsTaken, user_id};
use crate::state::App;
use crate::trail::{self, Trail};

/// By what somebody is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Credential {
    /// An API key.
    Key(ApiKeyId),
    /// An access token, by its login's family.
    Token(FamilyId),
}

impl Credential {
    /// The API key, if it is one.
    pub(crate) const fn key(self) -> Option<ApiKeyId> {
        match self {
            Self::Key(key) => Some(key),
            Self::Token(_) => None,
        }
    }

    /// The login that it belongs to.
    pub(crate) const fn family(self) -> Option<FamilyId> {
        match self {
            Self::Key(_) => None,
            Self::Token(family) => Some(family),
        }
    }
}

/// Whoever sent a request, by their credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Asker {
    pub(crate) user: UserId,
    /// May use the admin endpoints; never by an API key.
    pub(crate) staff: bool,
    pub(crate) credential: Credential,
    /// When the credentials end by themselves: the key's end, or the access token's.
    pub(crate) until: Option<Time>,
}

/// An asker, and whose things they mean.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) asker: Asker,
    /// What `?user_id=` says; `None` without it.
    chosen: Option<Scope>,
    address: IpAddr,
}

/// An admin who is logged in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Staff(pub(crate) Asker);

impl Caller {
    /// Who asks, as the audit trail has it.
    pub(crate) const fn actor(self) -> Actor {
        Actor { user: Some(self.asker.user), address: Some(self.address) }
    }

    /// Whose things a list shows.
    pub(crate) fn scope(self) -> Scope {
        self.chosen.unwrap_or(Scope::User(self.asker.user))
    }

    /// Within whose things an id is looked up: an admin's opens whatever it names.
    pub(crate) fn reach(self) -> Scope {
        match self.chosen {
            None if self.asker.staff => Scope::All,
            _ => self.scope(),
        }
    }

    /// The one user whose things are meant.
    ///
    /// # Errors
    /// If all users' are.
    pub(crate) fn user(self) -> Result<UserId, Problem> {
        self.scope().user().ok_or_else(|| Problem::field(USER_ID, "unknown_value", "Must name one user here, not all."))
    }
}

impl FromRequestParts<App> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let trail = trail::of(&parts.extensions)?;
        let asker = match known(app, &trail, &parts.headers).await? {
            Ok(asker) => asker,
            Err(refused) => {
                stranger(app, &trail)?;
                app.audit.add(refused_line(app, &trail, &parts.headers));
                return Err(refused.problem(app).await?);
            }
        };
        trail.set_asker(asker);
        let account = match asker.credential {
            Credential::Key(key) => {
                app.keys_used.note(key);
                Account::Key(key)
            }
            Credential::Token(_) => Account::User(asker.user),
        };
        let (rate, asked) = app.limits.ask(account);
        trail.set_rate(rate);
        asked.map_err(Problem::rate_limited)?;
        app.requests.count(asker.user);
        Ok(asker)
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let asker = Asker::from_request_parts(parts, app).await?;
        let mut chosen = None;
        if parts.uri.query().is_some()
            && let Some(text) = Query::read(&parts.uri)?.take(USER_ID)
        {
            if !asker.staff {
                return Err(Problem::forbidden(
                    "user_id belongs to admins who are logged in; everybody else sees their own.",
                ));
            }
            let scope = chosen_scope(&text)?;
            if let Some(user) = scope.user()
                && app.store.user(user).await?.is_none()
            {
                return Err(Problem::not_found("There is no such user."));
            }
            chosen = Some(scope);
            parts.extensions.insert(UserIdIsTaken);
        }
        Ok(Self { asker, chosen, address: trail::of(&parts.extensions)?.address })
    }
}

impl FromRequestParts<App> for Staff {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let asker = Asker::from_request_parts(parts, app).await?;
        if asker.staff { Ok(Self(asker)) } else { Err(Problem::forbidden("This is for admins who are logged in.")) }
    }
}

fn chosen_scope(text: &str) -> Result<Scope, Problem> {
    if text == "all" {
        return Ok(Scope::All);
    }
    user_id(text).map(Scope::User).ok_or_else(|| Problem::field(USER_ID, "invalid_id", "Must be a user's id, or all."))
}

/// Credentials as they are presented.
#[derive(Debug, PartialEq, Eq)]
enum Presented<'a> {
    Key(&'a str),
    Token(&'a str),
}

/// Counts a request without valid credentials in its address's limit.
///
/// # Errors
/// It is one too many.
pub(crate) fn stranger(app: &App, trail: &Trail) -> Result<(), Problem> {
    app.limits.ask_unknown(trail.address).map_err(|wait| {
        past_limit(app, trail);
        Problem::rate_limited(wait)
    })
}

/// Why credentials open nothing. Whoever doesn't hold genuine ones learns no more than that they aren't known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are none, or they aren't ours.
    Unknown,
    /// An API key came as an access token.
    KeyAsBearer,
    /// A key of the right form, by its public part: not known, revoked or expired.
    Key(String),
    /// A genuine access token whose time is over.
    Expired,
    /// A genuine access token of a login that has ended.
    LoginEnded(UserId),
    /// A good key of a user who is deactivated.
    Inactive,
}

impl Refused {
    async fn problem(self, app: &App) -> Result<Problem, Problem> {
        Ok(match self {
            Self::Unknown => Problem::unauthenticated(),
            Self::KeyAsBearer => Problem::key_as_bearer(),
            Self::Key(lookup) => Problem::invalid_api_key(&lookup),
            Self::Expired => Problem::token_expired(),
            // A deactivation ends all logins.
            Self::LoginEnded(user) => match app.store.user(user).await? {
                Some(user) if !user.is_active => Problem::user_inactive(),
                _ => Problem::access_ended(),
            },
            Self::Inactive => Problem::user_inactive(),
        })
    }
}

/// Who presents the credentials in these headers, or why they open nothing.
async fn known(app: &App, trail: &Trail, headers: &HeaderMap) -> Result<Result<Asker, Refused>, Problem> {
    match presented(headers) {
        Some(Presented::Key(key)) => keys::asker(app, trail, key).await,
        Some(Presented::Token(token)) if RawApiKey::parse(token).is_some() => Ok(Err(Refused::KeyAsBearer)),
        Some(Presented::Token(token)) => Ok(tokens::asker(app, token).await?),
        None => Ok(Err(Refused::Unknown)),
    }
}

/// Notes that a request was refused as one too many from its address.
fn past_limit(app: &App, trail: &Trail) {
    trail.set_past_limit();
    app.audit.count(trail.address);
}

/// The audit trail's line of a request without valid credentials: which kind they are of, the public part of a key, and whose
/// token it is, if we made it.
fn refused_line(app: &App, trail: &Trail, headers: &HeaderMap) -> AuditEntry {
    let (kind, target, prefix) = match presented(headers) {
        None => ("none", None, None),
        Some(Presented::Key(key)) => ("key", None, RawApiKey::parse(key).map(|(lookup, _)| format!("sanasr_{lookup}"))),
        Some(Presented::Token(token)) => {
            let user = app.tokens.read_access(token).ok().map(|claimed| claimed.login.user);
            ("token", user.map(Target::User), None)
        }
    };
    let entry = AuditEntry::now(trail.actor(), Action::CredentialsRefused, target).with("credentials", kind);
    match prefix {
        Some(prefix) => entry.with("prefix", prefix),
        None => entry,
    }
}

fn presented(headers: &HeaderMap) -> Option<Presented<'_>> {
    match headers.get(AUTHORIZATION) {
        Some(value) => {
            let (scheme, text) = value.to_str().ok()?.split_once(' ')?;
            let text = text.trim();
            if scheme.eq_ignore_ascii_case("ApiKey") {
                Some(Presented::Key(text))
            } else {
                scheme.eq_ignore_ascii_case("Bearer").then_some(Presented::Token(text))
            }
        }
        None => Some(Presented::Key(headers.get("x-api-key")?.to_str().ok()?.trim())),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn credentials_come_in_one_of_two_headers() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            presented(&headers).map(|presented| match presented {
                Presented::Key(text) => format!("key {text}"),
                Presented::Token(text) => format!("token {text}"),
            })
        };
        assert_eq!(with("authorization", "ApiKey k").as_deref(), Some("key k"));
        assert_eq!(with("authorization", "apikey  k").as_deref(), Some("key k"));
        assert_eq!(with("x-api-key", "k").as_deref(), Some("key k"));
        assert_eq!(with("authorization", "Bearer t").as_deref(), Some("token t"));
        assert_eq!(with("authorization", "Basic k"), None);
        assert_eq!(with("authorization", "k"), None);
        assert_eq!(with("other", "k"), None);
    }

    #[test]
    fn a_chosen_user_is_an_id_or_all() {
        assert_eq!(chosen_scope("all").ok(), Some(Scope::All));
        assert_eq!(chosen_scope("7").ok(), Some(Scope::User(UserId(7))));
        for wrong in ["", "0", "-1", "x", "1.5", "ALL", "99999999999999999999"] {
            assert!(chosen_scope(wrong).is_err(), "{wrong}");
        }
    }
}
