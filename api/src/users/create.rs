//! `POST /users`: makes a user, with its session `default`.

use axum::extract::State;
use axum::http::StatusCode;
use sanasr_shared::user::{NewUser, User, UserChange};

use super::body::{UserBody, check, good_password};
use crate::answer::Data;
use crate::auth::Staff;
use crate::body::JsonBody;
use crate::fields::FieldErrors;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn create(
    State(app): State<App>,
    _: Staff,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<User>, Problem> {
    let mut errors = FieldErrors::default();
    let UserBody { mut change, password } = UserBody::read(body, &["username", "password"], &mut errors);
    let username = change.username.take().unwrap_or_default();
    let password = password.and_then(|text| good_password(&text, &username, &mut errors));
    check(errors)?;
    let Some(password) = password else { return Err(Problem::internal("a password was neither good nor bad")) };
    let user = NewUser {
        username,
        password_hash: app.passwords.place()?.run(move || password.hash()).await?.map_err(Problem::internal)?,
        is_staff: change.is_staff.take().unwrap_or(false),
        max_messages_per_day: change
            .max_messages_per_day
            .take()
            .unwrap_or(Some(app.accept.default_max_messages_per_day)),
    };
    let rest = UserChange { is_active: change.is_active.filter(|active| !active), ..change };
    let made = app.store.add_user(&user, &rest, app.accept.default_bridge).await?;
    Ok(Data(StatusCode::CREATED, made))
}
