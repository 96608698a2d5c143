//! `PUT` and `PATCH /users/{id}`: both change only what is given.

use axum::extract::State;
use sanasr_shared::ports::store::Moved;
use sanasr_shared::throttle::name_key;
use sanasr_shared::user::User;

use super::body::UserChangeRequest;
use super::{UserPath, absent, last_admin};
use crate::answer::Data;
use crate::body::JsonBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn change(
    State(app): State<App>,
    UserPath { asker, id }: UserPath,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<User>, Problem> {
    let (asked, errors) = UserChangeRequest::read(body);
    let old = app.store.user(id).await?.ok_or_else(absent)?;
    let (mut change, password) = asked.of(&old.username, errors)?;
    if let Some(password) = password {
        let hash = app.passwords.place()?.run(move || password.hash()).await?;
        change.password_hash = Some(hash.map_err(Problem::internal)?);
    }
    match app.store.change_user(id, &change, asker.credential.family()).await? {
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
