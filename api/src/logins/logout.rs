//! `POST /auth/logout`: ends a login, with all its tokens. Ending it again is fine.

use axum::extract::State;
use sanasr_shared::ports::audit::{Action, Actor, AuditEntry, Target};

use super::{Nothing, RefreshRequest, Stranger};
use crate::answer::{Data, Success};
use crate::body::SmallBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

/// Log out
///
/// Ends the login, with all its tokens, everywhere within a second. Logging out again is fine.
#[utoipa::path(
    post, path = "/api/v1/auth/logout", tag = "Auth", operation_id = "log_out",
    security(()),
    request_body(content = RefreshRequest, example = json!({"refresh_token": "eyJhbGciOiJIUzI1NiJ9.eyJ0eXAiOiJyZWZyZXNoIn0.c2lnbmF0dXJl"})),
    responses(
        (status = 200, description = "Logged out.", body = Success<Nothing>),
        (status = 401, description = "The refresh token isn't one of ours."),
    ),
)]
pub(crate) async fn logout(
    State(app): State<App>,
    Stranger(trail): Stranger,
    _: NoQuery,
    SmallBody(body): SmallBody,
) -> Result<Data<Nothing>, Problem> {
    let RefreshRequest { refresh_token } = RefreshRequest::read(body)?;
    let claimed = app.tokens.read_refresh(&refresh_token).ok_or_else(|| {
        app.audit.add(AuditEntry::now(trail.actor(), Action::RefreshRefused, None).with("reason", "unknown"));
        Problem::login_ended()
    })?;
    if let Some(user) = app.store.end_login(claimed.login.family).await? {
        app.standing_changed(user);
        let by = Actor { user: Some(user), address: Some(trail.address) };
        app.audit.add(AuditEntry::now(by, Action::Logout, Some(Target::User(user))));
    }
    Ok(Data::ok(Nothing {}))
}
