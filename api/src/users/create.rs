//! `POST /users`: makes a user, with its session `default`.

use axum::extract::State;
use axum::http::StatusCode;
use sanasr_shared::user::{NewUser, User, UserChange};

use super::body::{NewUserRequest, limit};
use crate::answer::{Data, Success};
use crate::auth::Staff;
use crate::auth::passwords::For;
use crate::body::JsonBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;
use crate::trail::OnTrail;

/// Make a user
///
/// It gets a session `default` with it.
#[utoipa::path(
    post, path = "/api/v1/users", tag = "Users", operation_id = "create_user",
    security(("bearer" = [])),
    request_body(content = NewUserRequest, example = json!({"username": "shop", "password": "correct horse battery staple"})),
    responses(
        (status = 201, description = "Made.", body = Success<User>),
        (status = 409, description = "The name is taken."),
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    Staff(asker): Staff,
    OnTrail(trail): OnTrail,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<User>, Problem> {
    let asked = NewUserRequest::read(body)?;
    let password = asked.password;
    let user = NewUser {
        username: asked.username,
        password_hash: app
            .passwords
            .place(For::User(asker.user))?
            .run(move || password.hash())
            .await?
            .map_err(Problem::internal)?,
        is_staff: asked.is_staff.unwrap_or(false),
        max_messages_per_day: limit(asked.max_messages_per_day)
            .unwrap_or(Some(app.accept.default_max_messages_per_day)),
    };
    let rest = UserChange {
        email: asked.email,
        first_name: asked.first_name,
        last_name: asked.last_name,
        is_active: asked.is_active,
        ..UserChange::default()
    };
    let made = app.store.add_user(&user, &rest, app.accept.default_bridge, trail.actor()).await?;
    Ok(Data(StatusCode::CREATED, made))
}
