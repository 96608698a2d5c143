//! `POST /messages/cancel`: takes back all that waits and matches, and can't have been sent.

use std::time::Duration;

use axum::extract::State;
use sanasr_shared::ports::operations::CancelFilter;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::recipient::{BareNumbers, Recipient};
use sanasr_shared::session::check_name;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::draft::REFERENCE;
use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::fields::{FieldErrors, Fields};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::OfUser;
use crate::state::App;

/// Which waiting messages to take back: all that match every field given; or `all`.
#[derive(Debug, Default, ToSchema)]
#[expect(dead_code, reason = "says in the reference what the body may hold; read into a filter")]
pub(crate) struct CancelAll {
    /// The name of their session.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", examples("default"))]
    session: Option<String>,
    /// Their recipient, in any form that a message takes. `recipient` means the same.
    #[schema(min_length = 1, max_length = 64, examples("+15551234567"))]
    to: Option<String>,
    /// Their reference.
    #[schema(min_length = 1, max_length = 255)]
    reference: Option<String>,
    /// True alone, without another field: all that wait.
    #[schema(examples(true))]
    all: Option<bool>,
}

/// What was taken back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cancelled {
    /// How many messages are cancelled now that waited before.
    cancelled: u64,
}

/// Before it looks again at what another request is just changing.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);
/// Looks in a row that find all that is left being changed, at most: some ten seconds, longer than the database lets anybody hold
/// it.
const LOCKED_LOOKS: u32 = 500;

/// Cancel all that waits
///
/// Takes back all messages that match, were accepted before, and can't have been sent yet, and gives their units of the quota
/// back. What is accepted while it runs stays.
#[utoipa::path(
    post, path = "/api/v1/messages/cancel", tag = "Messages", operation_id = "cancel_messages",
    params(OfUser),
    request_body(content = CancelAll, examples(
        ("1-reference" = (summary = "By your mark", value = json!({"reference": "order-1042"}))),
        ("2-all" = (summary = "All that waits", value = json!({"all": true}))),
        ("3-recipient" = (summary = "All to one recipient", value = json!({"session": "default", "to": "+15551234567"}))),
    )),
    responses((status = 200, description = "Cancelled.", body = Success<Cancelled>)),
)]
pub(crate) async fn cancel_all(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<Cancelled>, Problem> {
    let user = caller.user()?;
    let filter = read(body, app.accept.bare_numbers)?;
    let mut cancelled = 0;
    // What is accepted after it began stays, or it might never end.
    let (mut began, mut locked) = (None, 0);
    loop {
        let (swept, now) = app.store.cancel_waiting(user, &filter, began, caller.actor()).await?;
        began.get_or_insert(now);
        cancelled += swept.messages.len() as u64;
        let found = !swept.messages.is_empty();
        if found {
            app.signals.publish(Signal::Messages(swept.messages));
        }
        if !swept.more {
            return Ok(Data::ok(Cancelled { cancelled }));
        }
        locked = if found { 0 } else { locked + 1 };
        if locked == LOCKED_LOOKS {
            return Err(Problem::unavailable("What is left is being changed by somebody else. Cancel again soon."));
        }
        if !found {
            tokio::time::sleep(LOCKED_PAUSE).await;
        }
    }
}

pub(crate) fn read(body: Map<String, Value>, bare_numbers: BareNumbers) -> Result<CancelFilter, Problem> {
    let mut errors = FieldErrors::default();
    let mut fields = Fields::new(body, "", &mut errors);
    let to = fields.synonym("to", "recipient");
    let filtered = ["session", to, "reference"].into_iter().any(|name| fields.has(name));
    let filter = CancelFilter {
        session: fields.parsed("session", "invalid_name", |text| check_name(text).map(|()| text.to_owned())),
        to: fields.parsed(to, "invalid_phone_number", |text| Recipient::read(text, bare_numbers)),
        reference: fields.text("reference", REFERENCE),
    };
    match (fields.flag("all") == Some(true), filtered) {
        (true, true) => fields.fail("all", "not_allowed", "Goes alone: leave it out, or the other fields."),
        (true, false) | (false, true) => {}
        (false, false) => {
            fields.fail("all", "required", "Give session, to or reference, or {\"all\": true} for all that waits.")
        }
    }
    fields.finish();
    if errors.is_empty() { Ok(filter) } else { Err(Problem::validation(errors)) }
}
