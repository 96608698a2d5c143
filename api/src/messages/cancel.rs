//! `POST /messages/{id}/cancel`: takes back a message that can't have been sent.

use axum::extract::State;
use sanasr_shared::message::{Message, Status};
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::ports::store::Moved;

use super::{MessagePath, absent};
use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::body::EmptyBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{MessageId, OfUser};
use crate::state::App;

/// Cancel a message
///
/// Takes back a message that can't have been sent yet, and gives its unit of the quota back. Cancelling a cancelled message
/// changes nothing.
#[utoipa::path(
    post, path = "/api/v1/messages/{id}/cancel", tag = "Messages", operation_id = "cancel_message",
    params(MessageId, OfUser),
    responses(
        (status = 200, description = "Cancelled.", body = Success<Message>),
        (status = 409, description = "It has been sent, may have been sent, or has ended otherwise."),
    ),
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    MessagePath(id): MessagePath,
    _: NoQuery,
    _: EmptyBody,
) -> Result<Data<Message>, Problem> {
    match app.store.cancel(caller.reach(), id, caller.actor()).await? {
        Moved::Done(message) => {
            app.signals.publish(Signal::Messages(vec![id]));
            Ok(Data::ok(message))
        }
        // A repeated request, perhaps after a lost answer: what was wanted is so.
        Moved::Refused(message) if message.status == Status::Cancelled => Ok(Data::ok(message)),
        Moved::Refused(message) => Err(Problem::conflict(too_late(message.status))),
        Moved::Absent => Err(absent()),
    }
}

fn too_late(status: Status) -> String {
    match status {
        Status::Scheduled | Status::Accepted | Status::Sending => {
            "The message can't be cancelled: it may have been sent already.".to_owned()
        }
        Status::Sent | Status::Delivered | Status::Read | Status::Failed | Status::Expired | Status::Cancelled => {
            format!("The message can't be cancelled: it is {}.", status.as_str())
        }
    }
}
