//! `POST /sessions`: makes a session, not connected yet.

use axum::extract::State;
use axum::http::StatusCode;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::session::{BridgeKind, Session, check_name};

use crate::answer::Data;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::fields::{FieldErrors, Fields};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<Session>, Problem> {
    let mut errors = FieldErrors::default();
    let mut fields = Fields::new(body, "", &mut errors);
    fields.require("name");
    let name = fields.parsed("name", "invalid_name", |text| check_name(text).map(|()| text.to_owned()));
    let bridge = fields.word("bridge", &BridgeKind::ALL, BridgeKind::as_str).unwrap_or(app.accept.default_bridge);
    fields.finish();
    let Some(name) = name.filter(|_| errors.is_empty()) else { return Err(Problem::validation(errors)) };
    let session = app.store.create_session(caller.user()?, &name, bridge).await?;
    app.signals.publish(Signal::Session(session.id));
    Ok(Data(StatusCode::CREATED, session))
}
