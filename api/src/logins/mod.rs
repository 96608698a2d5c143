//! Logging in and out, and what somebody who is logged in may know and change of themselves.

pub(crate) mod guard;
pub(crate) mod login;
mod logout;
mod me;
pub(crate) mod password;
mod refresh;
pub(crate) mod regulars;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::routing::{get, post};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{OpenApi, ToSchema};

use crate::auth;
use crate::auth::jwt::Granted;
use crate::fields::{FieldErrors, Fields};
use crate::problem::Problem;
use crate::state::App;
use crate::trail::{self, Trail};

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(login::login, refresh::refresh, logout::logout, me::me, password::change))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/auth/login", post(login::login))
        .route("/api/v1/auth/refresh", post(refresh::refresh))
        .route("/api/v1/auth/logout", post(logout::logout))
        .route("/api/v1/auth/me", get(me::me))
        .route("/api/v1/auth/password", post(password::change))
}

/// Somebody who has no credentials yet, by the request's trail: each request counts in its address's limit.
pub(crate) struct Stranger(Arc<Trail>);

impl FromRequestParts<App> for Stranger {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let trail = trail::of(&parts.extensions)?;
        auth::stranger(app, &trail)?;
        Ok(Self(trail))
    }
}

/// The tokens of a login.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenPair {
    /// Send it as `Authorization: Bearer <access_token>`.
    access_token: String,
    /// Exchange it for the next pair before the login ends. It is good for one use: used again, it ends the login.
    refresh_token: String,
    /// How the access token is sent: `Bearer`.
    token_type: &'static str,
    /// Seconds for which the access token is good.
    expires_in: u64,
}

impl TokenPair {
    fn new(app: &App, login: Granted) -> Result<Self, Problem> {
        let (access_token, life) = app.tokens.access(login).map_err(Problem::internal)?;
        let refresh_token = app.tokens.refresh(login).map_err(Problem::internal)?;
        Ok(Self { access_token, refresh_token, token_type: "Bearer", expires_in: life.as_secs() })
    }
}

/// There is nothing to tell: it is done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Nothing {}

/// What `/auth/refresh` and `/auth/logout` are given.
#[derive(Debug, ToSchema)]
pub(crate) struct RefreshRequest {
    /// The refresh token of the login. `refresh` means the same.
    refresh_token: String,
}

impl RefreshRequest {
    pub(crate) fn read(map: Map<String, Value>) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(map, "", &mut errors);
        let name = fields.synonym("refresh_token", "refresh");
        fields.require(name);
        let refresh_token = fields.parsed(name, "invalid", |text| Ok(text.to_owned()));
        fields.finish();
        match refresh_token {
            Some(refresh_token) if errors.is_empty() => Ok(Self { refresh_token }),
            _ => Err(Problem::validation(errors)),
        }
    }
}

/// Characters of a name or password that is tried, at most: what is longer is nobody's.
const TRIED_MAX: usize = 1_000;

/// A name or password as somebody tries it: any text.
fn tried(fields: &mut Fields<'_>, name: &'static str) -> Option<String> {
    fields.require(name);
    tried_if_given(fields, name)
}

/// The same, where it may be left out.
pub(crate) fn tried_if_given(fields: &mut Fields<'_>, name: &'static str) -> Option<String> {
    fields.parsed(name, "too_long", |text| match text.chars().count() {
        ..=TRIED_MAX => Ok(text.to_owned()),
        _ => Err(format!("Has at most {TRIED_MAX} characters.")),
    })
}
