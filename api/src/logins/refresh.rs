//! `POST /auth/refresh`: a refresh token for the next pair of tokens.

use axum::extract::State;
use sanasr_shared::ports::logins::Rotation;

use super::{RefreshRequest, Stranger, TokenPair};
use crate::answer::Data;
use crate::body::JsonBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn refresh(
    State(app): State<App>,
    _: Stranger,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<TokenPair>, Problem> {
    let RefreshRequest { refresh } = RefreshRequest::read(body)?;
    let claimed = app.tokens.read_refresh(&refresh).ok_or_else(Problem::login_ended)?;
    match app.store.rotate(claimed.family, claimed.generation, app.tokens.refresh_life()).await? {
        Rotation::Rotated { user, generation } => TokenPair::new(&app, user, claimed.family, generation).map(Data::ok),
        Rotation::Reused(user) => {
            tracing::warn!(%user, "a refresh token was used again: its login has ended");
            app.standing_changed(user);
            Err(Problem::login_ended())
        }
        Rotation::Ended => Err(Problem::login_ended()),
    }
}
