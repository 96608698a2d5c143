//! `PUT` and `PATCH /users/{id}`: both change only what is given.

use axum::extract::State;
use sanasr_shared::ports::store::Moved;
use sanasr_shared::throttle::name_key;
use sanasr_shared::user::User;

use super::body::{NewPassword, UserChangeRequest};
use super::{UserPath, absent, last_admin};
use crate::answer::{Data, Success};
use crate::auth::passwords::For;
use crate::body::JsonBody;
use crate::logins::guard;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::UserId;
use crate::state::App;
use crate::trail::OnTrail;

/// Change a user
///
/// Changes only what is given, with PUT and PATCH alike. A new password ends the user's logins; one's own needs the current one,
/// and wrong ones count as at the login. Deactivating a user ends their logins, and their credentials stop working within a
/// second; what is queued is kept until the user is activated again.
#[utoipa::path(
    patch, path = "/api/v1/users/{id}", tag = "Users", operation_id = "change_user",
    security(("bearer" = [])), params(UserId),
    request_body(content = UserChangeRequest, example = json!({"max_messages_per_day": 50000})),
    responses(
        (status = 200, description = "The user as it is now.", body = Success<User>),
        (status = 409, description = "The name is taken, or this is the last active admin."),
    ),
)]
pub(crate) async fn change(
    State(app): State<App>,
    UserPath { asker, id }: UserPath,
    OnTrail(trail): OnTrail,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<User>, Problem> {
    let (asked, errors) = UserChangeRequest::read(body);
    let old = app.store.user(id).await?.ok_or_else(absent)?;
    let (mut change, password) = asked.of(id == asker.user, &old.username, errors)?;
    if let Some(NewPassword { password, current }) = password {
        if let Some(current) = current {
            let (_, counted) = guard::confirm(&app, &trail, id, "current_password", current).await?;
            counted.right(&app).await?;
        }
        let hash = app.passwords.place(For::User(asker.user))?.run(move || password.hash()).await?;
        change.password_hash = Some(hash.map_err(Problem::internal)?);
    }
    match app.store.change_user(id, &change, asker.credential.family(), trail.actor()).await? {
        Moved::Done(user) => {
            app.standing_changed(id);
            if change.password_hash.is_some() {
                // Whoever was locked out may try the new one.
                app.store.forget_failures(&name_key(&user.username)).await?;
            }
            Ok(Data::ok(user))
        }
        Moved::Refused(_) => Err(last_admin()),
        Moved::Absent => Err(absent()),
    }
}

/// Change a user (PUT)
///
/// The same as PATCH: changes only what is given.
#[utoipa::path(
    put, path = "/api/v1/users/{id}", tag = "Users", operation_id = "put_user",
    security(("bearer" = [])), params(UserId),
    request_body(content = UserChangeRequest, example = json!({"max_messages_per_day": 50000})),
    responses(
        (status = 200, description = "The user as it is now.", body = Success<User>),
        (status = 409, description = "The name is taken, or this is the last active admin."),
    ),
)]
pub(crate) async fn put(
    app: State<App>,
    path: UserPath,
    trail: OnTrail,
    query: NoQuery,
    body: JsonBody,
) -> Result<Data<User>, Problem> {
    change(app, path, trail, query, body).await
}
