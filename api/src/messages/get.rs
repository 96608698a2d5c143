//! `GET /messages/{id}`, which with `wait` holds until the status changes.

use std::time::Duration;

use axum::extract::State;
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::{Message, Status};
use tokio::time::Instant;
use utoipa::IntoParams;

use super::{MessagePath, absent};
use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::Query;
use crate::reference::params::{self, OfUser};
use crate::state::App;

/// The longest wait, in seconds.
const WAIT_MAX_S: u32 = 60;
/// Whoever waits looks by itself this often: a signal may be lost.
const LOOK: Duration = Duration::from_secs(3);

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
struct Wait {
    /// Seconds to wait for a change of the status, at most. Answered at once if the message has ended.
    #[param(minimum = 1, maximum = 60)]
    wait: Option<u32>,
    /// The status that you know: answered as soon as it is another one, at once if it already is. Without it, the status
    /// that the message has when asked. Goes with `wait`.
    known: Option<Status>,
}

/// Get a message
///
/// Answers at once, or, with `wait`, as soon as the status changes (a long poll).
#[utoipa::path(
    get, path = "/api/v1/messages/{id}", tag = "Messages", operation_id = "get_message",
    params(params::MessageId, Wait, OfUser),
    responses(
        (status = 200, description = "The message as it is now.", body = Success<Message>),
        (status = 401, description = "No valid credentials, or they ended during the wait."),
    ),
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    MessagePath(id): MessagePath,
    mut query: Query,
) -> Result<Data<Message>, Problem> {
    let wait = query.integer("wait", 1, WAIT_MAX_S);
    let known = query.word("known", &Status::ALL, Status::as_str);
    if known.is_some() && wait.is_none() {
        query.fail("known", "not_allowed", "Goes with wait.");
    }
    query.finish()?;
    let message = match wait {
        None => app.store.message(caller.reach(), id).await?.ok_or_else(absent)?,
        Some(seconds) => {
            let changed = changed(&app, caller, id, known, Duration::from_secs(seconds.into()));
            app.watch.hold(caller.asker, changed).await?
        }
    };
    Ok(Data::ok(message))
}

/// The message as soon as its status isn't `known` (or what it is now) any more, has ended, or the time is over.
async fn changed(
    app: &App,
    caller: Caller,
    id: MessageId,
    known: Option<Status>,
    wait: Duration,
) -> Result<Message, Problem> {
    let deadline = Instant::now() + wait;
    // Before the first look, so that no change falls between the two.
    let waiter = app.waiters.register(id);
    let mut changed = waiter.changed();
    let mut message = app.store.message(caller.reach(), id).await?.ok_or_else(absent)?;
    let known = known.unwrap_or(message.status);
    while message.status == known && !message.status.is_final() {
        tokio::select! {
            () = app.stopping.cancelled() => break,
            () = tokio::time::sleep_until(deadline) => break,
            () = changed => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        changed = waiter.changed();
        match app.store.message(caller.reach(), id).await {
            Ok(found) => message = found.ok_or_else(absent)?,
            // What is known already is answered in the end, if the database stays away.
            Err(error) => tracing::debug!(%error, "a waiting poll could not look"),
        }
    }
    Ok(message)
}
