//! `POST /auth/login`: a name and a password for a pair of tokens.

use axum::extract::State;
use sanasr_shared::ports::audit::{Action, Actor, AuditEntry, Target};
use sanasr_shared::time::Time;
use sanasr_shared::user::{User, parse_username};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Stranger, TokenPair, guard, tried};
use crate::answer::{Data, Success};
use crate::auth::jwt::Granted;
use crate::body::SmallBody;
use crate::fields::{FieldErrors, Fields};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

/// Who logs in.
#[derive(ToSchema)]
pub(crate) struct LoginRequest {
    /// The user's name.
    #[schema(max_length = 1000)]
    username: String,
    /// The user's password.
    #[schema(max_length = 1000)]
    password: String,
}

/// A login that has begun.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LoggedIn {
    #[serde(flatten)]
    tokens: TokenPair,
    /// Who is logged in.
    user: User,
}

/// Log in
///
/// Gives a pair of tokens. A login lasts 30 days at most, however often it is refreshed. From the sixth wrong password in a row for a name from an address on, that pair must wait, ever
/// longer, up to 15 minutes; an address that tries many names likewise.
#[utoipa::path(
    post, path = "/api/v1/auth/login", tag = "Auth", operation_id = "log_in",
    security(()),
    request_body(content = LoginRequest, example = json!({"username": "admin", "password": "correct horse battery staple"})),
    responses(
        (status = 200, description = "Logged in.", body = Success<LoggedIn>),
        (status = 401, description = "The name or the password is wrong, or the user isn't active."),
    ),
)]
pub(crate) async fn login(
    State(app): State<App>,
    Stranger(trail): Stranger,
    _: NoQuery,
    SmallBody(body): SmallBody,
) -> Result<Data<LoggedIn>, Problem> {
    let LoginRequest { username, password } = LoginRequest::read(body)?;
    let attempt = guard::attempt(&app, &trail, &username, Action::LoginRefused).await?;
    // What can't be a name is nobody's, but that must not be told by the time it takes.
    let credentials = match parse_username(&username) {
        Ok(name) => app.store.credentials(&name).await?,
        Err(_) => None,
    };
    let (known, counted) = attempt.check(credentials, password).await?;
    let Some(known) = known else { return Err(counted.wrong(Problem::wrong_login())) };
    let since = Time::now();
    let life = app.tokens.life_left(since).unwrap_or_default();
    let Some((family, user)) = app.store.start_login(known.user, &known.password_hash, life).await? else {
        return Err(counted.wrong(Problem::wrong_login()));
    };
    counted.right(&app).await?;
    let by = Actor { user: Some(user.id), address: Some(trail.address) };
    app.audit.add(AuditEntry::now(by, Action::Login, Some(Target::User(user.id))));
    let login = Granted { user: user.id, family, since, generation: 1 };
    Ok(Data::ok(LoggedIn { tokens: TokenPair::new(&app, login)?, user }))
}

impl LoginRequest {
    pub(crate) fn read(map: Map<String, Value>) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(map, "", &mut errors);
        let (username, password) = (tried(&mut fields, "username"), tried(&mut fields, "password"));
        fields.finish();
        match (username, password) {
            (Some(username), Some(password)) if errors.is_empty() => Ok(Self { username, password }),
            _ => Err(Problem::validation(errors)),
        }
    }
}
