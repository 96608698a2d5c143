//! `POST /auth/password`: one's own password. It ends all of one's logins but the one that asks.

use axum::extract::State;
use sanasr_shared::password::Password;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Nothing, guard, tried};
use crate::answer::{Data, Success};
use crate::auth::Asker;
use crate::auth::passwords::For;
use crate::body::SmallBody;
use crate::fields::{FieldErrors, Fields};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;
use crate::trail::OnTrail;

/// A change of one's own password.
#[derive(ToSchema)]
pub(crate) struct PasswordChange {
    /// The password as it is. `current` means the same.
    #[schema(max_length = 1000)]
    current_password: String,
    /// The password as it shall be: 8 to 256 characters, not one of the common ones, and not the username. `new` means
    /// the same.
    #[schema(min_length = 8, max_length = 256)]
    new_password: String,
}

/// Change one's own password
///
/// Ends all of one's logins but the one that asks. Wrong passwords count as at the login.
#[utoipa::path(
    post, path = "/api/v1/auth/password", tag = "Auth", operation_id = "change_password",
    request_body(content = PasswordChange, example = json!({"current_password": "correct horse battery staple", "new_password": "a longer and better one"})),
    responses((status = 200, description = "Changed.", body = Success<Nothing>)),
)]
pub(crate) async fn change(
    State(app): State<App>,
    asker: Asker,
    OnTrail(trail): OnTrail,
    _: NoQuery,
    SmallBody(body): SmallBody,
) -> Result<Data<Nothing>, Problem> {
    let PasswordChange { current_password: current, new_password: new } = PasswordChange::read(body)?;
    let known = app.store.credentials_of(asker.user).await?.ok_or_else(Problem::unauthenticated)?;
    let new = Password::new(&new, &known.username)
        .map_err(|weakness| Problem::field("new_password", weakness.code(), weakness.to_string()))?;
    let (known, counted) = guard::confirm(&app, &trail, asker.user, "current_password", current).await?;
    let hash = app.passwords.place(For::User(asker.user))?.run(move || new.hash()).await?.map_err(Problem::internal)?;
    let keep = asker.credential.family();
    if !app.store.change_password(known.user, &known.password_hash, &hash, keep, trail.actor()).await? {
        return Err(counted.wrong(guard::wrong_password("current_password")));
    }
    counted.right(&app).await?;
    app.standing_changed(asker.user);
    Ok(Data::ok(Nothing {}))
}

impl PasswordChange {
    pub(crate) fn read(map: Map<String, Value>) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(map, "", &mut errors);
        let names = (fields.synonym("current_password", "current"), fields.synonym("new_password", "new"));
        let (current, new) = (tried(&mut fields, names.0), tried(&mut fields, names.1));
        fields.finish();
        match (current, new) {
            (Some(current), Some(new)) if errors.is_empty() => {
                Ok(Self { current_password: current, new_password: new })
            }
            _ => Err(Problem::validation(errors)),
        }
    }
}
