//! `POST /auth/refresh`: a refresh token for the next pair of tokens.

use axum::extract::State;
use sanasr_shared::ids::UserId;
use sanasr_shared::ports::audit::{Action, AuditEntry, Target};
use sanasr_shared::ports::logins::Rotation;

use super::{RefreshRequest, Stranger, TokenPair};
use crate::answer::{Data, Success};
use crate::auth::jwt::{Claimed, Granted};
use crate::body::SmallBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

/// Exchange a refresh token for the next pair of tokens
///
/// A refresh token is good for 7 days and for one use. Used again, it ends its login, access tokens included, as it may have
/// been stolen. A login lasts 30 days at most: past that a refresh is refused, and the password is needed again.
#[utoipa::path(
    post, path = "/api/v1/auth/refresh", tag = "Auth", operation_id = "refresh_tokens",
    security(()),
    request_body(content = RefreshRequest, example = json!({"refresh_token": "eyJhbGciOiJIUzI1NiJ9.eyJ0eXAiOiJyZWZyZXNoIn0.c2lnbmF0dXJl"})),
    responses(
        (status = 200, description = "The next pair.", body = Success<TokenPair>),
        (status = 401, description = "The refresh token isn't good, or not any more."),
    ),
)]
pub(crate) async fn refresh(
    State(app): State<App>,
    Stranger(trail): Stranger,
    _: NoQuery,
    SmallBody(body): SmallBody,
) -> Result<Data<TokenPair>, Problem> {
    let RefreshRequest { refresh_token } = RefreshRequest::read(body)?;
    let refuse = |user: Option<UserId>, action, reason: &str| {
        app.audit.add(AuditEntry::now(trail.actor(), action, user.map(Target::User)).with("reason", reason));
    };
    let Some(Claimed { login, .. }) = app.tokens.read_refresh(&refresh_token) else {
        refuse(None, Action::RefreshRefused, "unknown");
        return Err(Problem::login_ended());
    };
    let Some(life) = app.tokens.life_left(login.since) else {
        refuse(Some(login.user), Action::RefreshRefused, "too_old");
        return Err(Problem::login_too_old());
    };
    match app.store.rotate(login.family, login.generation, life).await? {
        Rotation::Rotated { user, generation } => {
            TokenPair::new(&app, Granted { user, generation, ..login }).map(Data::ok)
        }
        Rotation::Reused(user) => {
            tracing::warn!(%user, "a refresh token was used again: its login has ended");
            app.standing_changed(user);
            refuse(Some(user), Action::TokenReused, "used_before");
            Err(Problem::login_ended())
        }
        Rotation::Ended => {
            refuse(Some(login.user), Action::RefreshRefused, "ended");
            Err(Problem::login_ended())
        }
    }
}
