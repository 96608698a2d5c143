//! `POST /sessions/{name}/pair-code`: a code to type on the phone, for whoever can't scan a QR code.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use sanasr_shared::ids::{SessionId, UserId};
use sanasr_shared::link_code::LinkCode;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::ports::store::Moved;
use sanasr_shared::recipient::{BareNumbers, Recipient};
use sanasr_shared::session::SessionStatus;
use sanasr_shared::time::Time;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::broadcast::Receiver;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{SessionPath, absent};
use crate::answer::{Data, Success};
use crate::body::JsonBody;
use crate::fields::{FieldErrors, Fields};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{OfUser, SessionName};
use crate::state::App;
use crate::work::while_here;

/// How long a code may take to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// A signal may be lost: it is looked for this often.
const LOOK: Duration = Duration::from_millis(500);

/// What to pair by a code.
#[derive(Debug, ToSchema)]
pub(crate) struct PairCodeRequest {
    /// The phone's number with `+` and its country code; spaces, dashes, dots and parentheses are fine. `phone` means the same.
    #[schema(min_length = 1, max_length = 64, examples("+15551234567"))]
    phone_number: String,
}

/// A code to type on the phone: WhatsApp, Linked devices, Link with phone number.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PairCode {
    /// As the phone wants it.
    #[schema(examples("ABCD-1234"))]
    code: String,
    /// When it ends; asked for again, there is a new one.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Time,
}

impl PairCodeRequest {
    pub(crate) fn read(body: Map<String, Value>, bare_numbers: BareNumbers) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(body, "", &mut errors);
        let name = fields.synonym("phone_number", "phone");
        fields.require(name);
        let number = fields.parsed(name, "invalid_phone_number", |text| Recipient::read_number(text, bare_numbers));
        fields.finish();
        match number {
            Some(number) if errors.is_empty() => Ok(Self { phone_number: number.as_str().to_owned() }),
            _ => Err(Problem::validation(errors)),
        }
    }
}

/// Pair by a code
///
/// For whoever can't scan a QR code: the answer, which may take some seconds, is a code to type on the phone (WhatsApp, Linked
/// devices, Link with phone number).
#[utoipa::path(
    post, path = "/api/v1/sessions/{name}/pair-code", tag = "Sessions", operation_id = "request_pair_code",
    params(SessionName, OfUser),
    request_body(content = PairCodeRequest, example = json!({"phone_number": "+15551234567"})),
    responses(
        (status = 200, description = "The code.", body = Success<PairCode>),
        (status = 409, description = "The session is paired already, or WhatsApp gives no code for it; the detail says why."),
        (status = 503, description = "No code came in time."),
    ),
)]
pub(crate) async fn pair_code(
    State(app): State<App>,
    SessionPath { user, name, asker, by }: SessionPath,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<PairCode>, Problem> {
    let request = PairCodeRequest::read(body, app.accept.bare_numbers)?;
    let signals = app.signals.subscribe();
    let session = match app.store.request_pair_code(user, &name, &request.phone_number, by).await? {
        Moved::Done(session) => session,
        Moved::Refused(_) => {
            return Err(Problem::conflict("The session is paired already. POST …/unlink unlinks it."));
        }
        Moved::Absent => return Err(absent()),
    };
    app.signals.publish(Signal::Session(session.id));
    app.signals.publish(Signal::SessionFree);
    app.watch.hold(asker, code(&app, user, &name, session.id, signals)).await
}

/// The code, as soon as there is one.
async fn code(
    app: &App,
    user: UserId,
    name: &str,
    session: SessionId,
    mut signals: Receiver<Arc<Signal>>,
) -> Result<Data<PairCode>, Problem> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some((sealed, expires_at)) = app.store.pair_code(session).await?
            && let Ok(code) = LinkCode::Sealed(sealed).open(&app.vault, session)
        {
            return Ok(Data(StatusCode::OK, PairCode { code, expires_at }));
        }
        // A phone may be quicker than we are.
        let now = app.store.session(user, name).await?.ok_or_else(absent)?;
        if now.status == SessionStatus::Connected {
            return Err(Problem::conflict("The session has been paired meanwhile."));
        }
        if let (SessionStatus::Disconnected, Some(reason)) = (now.status, now.blocked_reason) {
            let advice = now.advice.unwrap_or_default();
            return Err(Problem::conflict(format!("The session can't be paired so ({reason}). {advice}")));
        }
        let told =
            async { while !matches!(signals.recv().await.as_deref(), Ok(Signal::Session(id)) if *id == session) {} };
        let change = async {
            tokio::select! {
                () = told => true,
                () = tokio::time::sleep(LOOK) => true,
                () = app.stopping.cancelled() => false,
                () = tokio::time::sleep_until(deadline) => false,
            }
        };
        if while_here(change).await != Some(true) {
            break;
        }
    }
    Err(Problem::unavailable("No code came in time: perhaps no worker runs, or WhatsApp can't be reached. Ask again."))
}
