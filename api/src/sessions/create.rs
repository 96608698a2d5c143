//! `POST /sessions`: makes a session, not connected yet.

use axum::extract::State;
use axum::http::StatusCode;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::session::{BridgeKind, Session, check_name};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::fields::{FieldErrors, Fields};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::OfUser;
use crate::state::App;

/// A session to be made.
#[derive(ToSchema)]
pub(crate) struct NewSession {
    /// Its name, unique for its user. `status`, `init` and `disconnect` are taken by endpoints.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", examples("support"))]
    name: String,
    /// What drives it; the server's default if absent, `simulator` unless set otherwise.
    bridge: Option<BridgeKind>,
}

impl NewSession {
    /// Reads the body.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(crate) fn read(body: Map<String, Value>) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(body, "", &mut errors);
        fields.require("name");
        let name = fields.parsed("name", "invalid_name", |text| check_name(text).map(|()| text.to_owned()));
        let bridge = fields.word("bridge", &BridgeKind::ALL, BridgeKind::as_str);
        fields.finish();
        let Some(name) = name.filter(|_| errors.is_empty()) else { return Err(Problem::validation(errors)) };
        Ok(Self { name, bridge })
    }
}

/// Make a session
///
/// It isn't connected yet: `connect` follows.
#[utoipa::path(
    post, path = "/api/v1/sessions", tag = "Sessions", operation_id = "create_session",
    params(OfUser),
    request_body(content = NewSession, example = json!({"name": "support"})),
    responses(
        (status = 201, description = "Made.", body = Success<Session>),
        (status = 409, description = "The name is taken, or the user has as many sessions as may be (1,000 unless set otherwise)."),
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<Session>, Problem> {
    let NewSession { name, bridge } = NewSession::read(body)?;
    let bridge = bridge.unwrap_or(app.accept.default_bridge);
    let (user, by, max) = (caller.user()?, caller.actor(), app.accept.sessions_per_user);
    let session = app.store.create_session(user, &name, bridge, max, by).await?;
    app.signals.publish(Signal::Session(session.id));
    Ok(Data(StatusCode::CREATED, session.opened(&app.vault)))
}
