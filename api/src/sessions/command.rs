//! `POST /sessions/{name}/connect`, `/disconnect`, `/logout`, `/pause`, `/resume`, and the short forms for `default`:
//! idempotent, whatever the session's state.

use std::future::Future;

use axum::extract::State;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::ports::store::SessionCommand;
use sanasr_shared::session::Session;

use super::{SessionPath, absent};
use crate::answer::Data;
use crate::auth::Caller;
use crate::body::EmptyBody;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;

type Answer = Result<Data<Session>, Problem>;

/// A handler that gives a command to the session that the path names.
pub(crate) fn named(
    command: SessionCommand,
) -> impl Fn(State<App>, SessionPath, NoQuery, EmptyBody) -> Answering + Clone + Send + Sync + 'static {
    move |State(app), session, _, _| Box::pin(give(app, session, command))
}

/// A handler that gives a command to the session `default`.
pub(crate) fn default(
    command: SessionCommand,
) -> impl Fn(State<App>, Caller, NoQuery, EmptyBody) -> Answering + Clone + Send + Sync + 'static {
    move |State(app), caller, _, _| Box::pin(async move { give(app, SessionPath::default_of(caller)?, command).await })
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Answer> + Send>>;

async fn give(app: App, SessionPath { user, name }: SessionPath, command: SessionCommand) -> Answer {
    let session = app.store.command(user, &name, command).await?.ok_or_else(absent)?;
    app.signals.publish(Signal::Session(session.id));
    match command {
        SessionCommand::Connect => {
            app.signals.publish(Signal::SessionFree);
            Ok(Data::accepted(session))
        }
        SessionCommand::Disconnect | SessionCommand::Logout | SessionCommand::Pause | SessionCommand::Resume => {
            Ok(Data::ok(session))
        }
    }
}
