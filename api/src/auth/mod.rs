//! Who is asking. API keys now; the login's bearer tokens have their place in [`Caller`], and limits of rate in the edge.

pub(crate) mod keys;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use sanasr_shared::ids::UserId;
use sanasr_shared::ports::store::Scope;

use crate::problem::Problem;
use crate::query::{Query, USER_ID};
use crate::state::App;

/// Whoever sent a request, by their credentials.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) user: UserId,
}

impl Caller {
    /// What they may see and touch.
    pub(crate) fn scope(self) -> Scope {
        Scope::User(self.user)
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let key = presented_key(&parts.headers).ok_or_else(Problem::unauthenticated)?;
        let user = keys::user_of(app, key).await?.ok_or_else(Problem::unauthenticated)?;
        app.requests.count(user);
        if parts.uri.query().is_some() && Query::read(&parts.uri)?.take(USER_ID).is_some() {
            return Err(Problem::forbidden("user_id belongs to admins; an API key sees its own user's things only."));
        }
        Ok(Self { user })
    }
}

/// The API key that a request carries.
fn presented_key(headers: &HeaderMap) -> Option<&str> {
    match headers.get(AUTHORIZATION) {
        Some(value) => {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("ApiKey").then(|| key.trim())
        }
        None => headers.get("x-api-key")?.to_str().ok().map(str::trim),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_comes_in_one_of_two_headers() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            presented_key(&headers).map(str::to_owned)
        };
        assert_eq!(with("authorization", "ApiKey k").as_deref(), Some("k"));
        assert_eq!(with("authorization", "apikey  k").as_deref(), Some("k"));
        assert_eq!(with("x-api-key", "k").as_deref(), Some("k"));
        assert_eq!(with("authorization", "Bearer k"), None);
        assert_eq!(with("authorization", "k"), None);
        assert_eq!(with("other", "k"), None);
    }
}
