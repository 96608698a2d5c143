//! The accepting path, which every endpoint that sends goes through.
//!
//! The order of things: the idempotency key, the fields, the backlog, the store. After the store's answer nothing else is
//! awaited: the store's hook publishes the jobs.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use sanasr_shared::ids::{MessageId, UserId};
use sanasr_shared::message::{BlockedBy, Message, Status};
use sanasr_shared::nearest::did_you_mean;
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::store::{AcceptOutcome, AcceptRequest, IdempotencyKey, Scope, StoreError};
use sanasr_shared::time::Time;
use serde_json::{Map, Value, json};

use super::draft::{Draft, Form, NO_MEDIA, Prepared, Rules, UNKNOWN_MEDIA};
use super::files;
use crate::answer::Data;
use crate::auth::Caller;
use crate::edge::RequestId;
use crate::fields::FieldErrors;
use crate::idempotency;
use crate::multipart::Upload;
use crate::problem::{Code, Problem};
use crate::sessions::resolve;
use crate::state::App;

pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What became of an item.
pub(crate) enum Answer {
    Accepted(Box<Message>),
    /// It was accepted before, under the same key.
    Replayed(MessageId),
    Refused(Problem),
}

/// The answer to a single message.
pub(crate) struct Sent {
    message: Message,
    replayed: bool,
}

impl IntoResponse for Sent {
    fn into_response(self) -> Response {
        let mut response = Data::accepted(self.message).into_response();
        if self.replayed {
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// A single message as it came.
pub(crate) struct Submission {
    pub(crate) fields: Map<String, Value>,
    pub(crate) form: Form,
    /// The file that came as a part of its own.
    pub(crate) file: Option<Upload>,
}

impl Submission {
    pub(crate) fn json(fields: Map<String, Value>, form: Form) -> Self {
        Self { fields, form, file: None }
    }

    /// The request's key: it covers the fields and the file, which is its content, its name and its declared type.
    fn key(&mut self, headers: &HeaderMap, operation: &str) -> Result<Option<IdempotencyKey>, Problem> {
        const FILE: &str = "file";
        let Some(file) = &self.file else { return idempotency::key(headers, operation, &self.fields, false) };
        let file = json!({ "sha256": file.sha256.as_slice(), "filename": file.filename, "type": file.declared });
        self.fields.insert(FILE.to_owned(), file);
        let key = idempotency::key(headers, operation, &self.fields, false);
        self.fields.remove(FILE);
        key
    }
}

/// Accepts a single message. `operation` is what its idempotency key is for.
pub(crate) async fn send_one(
    app: &App,
    caller: Caller,
    request_id: &RequestId,
    headers: &HeaderMap,
    submission: Submission,
    operation: &str,
) -> Result<Sent, Problem> {
    let started = Instant::now();
    let result = try_send_one(app, caller, request_id, headers, submission, operation).await;
    match &result {
        Ok(_) => metrics::histogram!("sanasr_accept_seconds").record(started.elapsed()),
        Err(problem) => count_refused(problem),
    }
    result
}

async fn try_send_one(
    app: &App,
    caller: Caller,
    request_id: &RequestId,
    headers: &HeaderMap,
    mut submission: Submission,
    operation: &str,
) -> Result<Sent, Problem> {
    let user = caller.user()?;
    let key = submission.key(headers, operation)?;
    if let Some(kept) = kept_under(app, user, key.as_ref()).await?
        && let Some((_, id)) = kept.first()
    {
        return replayed(app, user, *id).await;
    }
    let Submission { fields, form, file } = submission;
    let mut draft = Draft::read(Value::Object(fields), form, 0, "", rules(app));
    if form == Form::Upload {
        draft.attach(file);
    }
    let prepared = prepare(app, caller, request_id, vec![draft]).await?;
    let mut good = Vec::with_capacity(1);
    for item in prepared {
        good.push(item.map_err(|(_, errors)| Problem::validation(errors))?);
    }
    match good.pop() {
        Some(item) => {
            let sent = accept_one(app, user, key, item, caller.actor()).await;
            sent.map_err(|problem| to_admin(caller.asker.user, user, problem))
        }
        None => Err(Problem::internal("a message was lost while it was prepared")),
    }
}

/// What the reading of a request's messages depends on, for a request that has just come.
pub(crate) fn rules(app: &App) -> Rules {
    Rules { now: Time::now(), bare_numbers: app.accept.bare_numbers }
}

/// What a refusal means to an admin who sends for somebody else: it is not their own credentials that are refused.
pub(crate) fn to_admin(asker: UserId, user: UserId, problem: Problem) -> Problem {
    if asker != user && problem.code() == Code::UserInactive {
        return Problem::conflict("The user is deactivated.");
    }
    problem
}

/// Has one message accepted that can be.
pub(crate) async fn accept_one(
    app: &App,
    user: UserId,
    key: Option<IdempotencyKey>,
    item: Prepared,
    by: Actor,
) -> Result<Sent, Problem> {
    app.backlog.check(user, 1).await?;
    match accept(app, user, key, vec![item], by).await?.pop() {
        Some((_, Answer::Accepted(message))) => Ok(Sent { message: *message, replayed: false }),
        Some((_, Answer::Replayed(id))) => replayed(app, user, id).await,
        Some((_, Answer::Refused(problem))) => Err(problem),
        None => Err(Problem::internal("the store answered nothing about a message")),
    }
}

async fn replayed(app: &App, user: UserId, id: MessageId) -> Result<Sent, Problem> {
    let message = app.store.message(Scope::User(user), id).await?.ok_or_else(no_longer_kept)?;
    Ok(Sent { message, replayed: true })
}

/// The message is gone before its key: retention is set that short.
pub(crate) fn no_longer_kept() -> Problem {
    Problem::conflict("A message was accepted under this Idempotency-Key, but it isn't kept any more.")
}

/// What was accepted under a request's key before; `None` if it has none, or a free one.
pub(crate) async fn kept_under(
    app: &App,
    user: UserId,
    key: Option<&IdempotencyKey>,
) -> Result<Option<Vec<(u32, MessageId)>>, Problem> {
    let Some(key) = key else { return Ok(None) };
    match app.store.replay(user, &key.key).await? {
        Some((hash, _)) if hash != key.hash => Err(Problem::idempotency_key_reused()),
        Some((_, kept)) => Ok(Some(kept)),
        None => Ok(None),
    }
}

/// Looks up what the drafts name, and makes messages of those that are right, in their order; of the others, all that is
/// wrong with them.
pub(crate) async fn prepare(
    app: &App,
    caller: Caller,
    request_id: &RequestId,
    mut drafts: Vec<Draft>,
) -> Result<Vec<Result<Prepared, (u32, FieldErrors)>>, Problem> {
    let quoted: HashSet<_> = drafts.iter().filter_map(|draft| draft.reply_to).collect();
    if !quoted.is_empty() {
        let ids: Vec<_> = quoted.into_iter().collect();
        let found = app.store.messages(Scope::User(caller.user()?), &ids).await?;
        let found: HashMap<_, _> = found.into_iter().map(|message| (message.id, message)).collect();
        for draft in &mut drafts {
            if let Some(id) = draft.reply_to {
                draft.answer(found.get(&id));
            }
        }
    }
    files::find_named(app, caller.user()?, &mut drafts).await?;
    let (mut sessions, mut names) = (HashMap::new(), None);
    let mut prepared = Vec::with_capacity(drafts.len());
    for mut draft in drafts {
        let mut known = None;
        if let Some(name) = draft.session.as_deref() {
            known = match sessions.get(name) {
                Some(known) => *known,
                None => {
                    let found = resolve::session(app, caller.user()?, name).await?;
                    sessions.insert(name.to_owned(), found);
                    found
                }
            };
            if known.is_none() {
                // Read once, however many items are wrong.
                let names = match &names {
                    Some(names) => names,
                    None => names.insert(resolve::names(app, caller.user()?).await?),
                };
                let meant = did_you_mean(name, names.iter().map(String::as_str));
                draft.fail("session", "unknown_session", &format!("{NO_SESSION}{meant}"));
            }
        }
        let position = draft.position;
        prepared.push(draft.finish(known, request_id.as_str()).map_err(|errors| (position, errors)));
    }
    Ok(prepared)
}

const NO_SESSION: &str = "There is no such session.";

/// Has messages accepted, with the files that came with them.
pub(crate) async fn accept(
    app: &App,
    user: UserId,
    key: Option<IdempotencyKey>,
    mut prepared: Vec<Prepared>,
    by: Actor,
) -> Result<Vec<(u32, Answer)>, Problem> {
    let kept = files::keep_new(app, user, &mut prepared).await?;
    match accept_all(app, user, key, prepared, by).await {
        Ok(answers) => {
            files::discard_refused(app, kept, &answers).await;
            Ok(answers)
        }
        // Whoever knows the outcome may find a message that needs its file.
        Err(error @ StoreError::OutcomeUnknown(_)) => Err(error.into()),
        Err(error) => {
            files::discard(app, kept.into_iter().map(|(_, id)| id)).await;
            Err(error.into())
        }
    }
}

/// Items whose session has gone meanwhile are tried once more with what its name means now.
async fn accept_all(
    app: &App,
    user: UserId,
    key: Option<IdempotencyKey>,
    prepared: Vec<Prepared>,
    by: Actor,
) -> Result<Vec<(u32, Answer)>, StoreError> {
    let (mut answers, gone) = accept_once(app, user, key.clone(), prepared, by).await?;
    if gone.is_empty() {
        return Ok(answers);
    }
    let mut again = Vec::new();
    for mut item in gone {
        resolve::forget(app, user, &item.session);
        match resolve::session(app, user, &item.session).await {
            Ok(Some(known)) => {
                item.known = known;
                item.message.session = known.id;
                again.push(item);
            }
            Ok(None) => answers.push((item.position, Answer::Refused(session_gone(&item)))),
            Err(error) => answers.push((item.position, Answer::Refused(error.into()))),
        }
    }
    if !again.is_empty() {
        let positions: Vec<_> = again.iter().map(|item| item.position).collect();
        match accept_once(app, user, key.clone(), again, by).await {
            Ok((more, gone)) => {
                answers.extend(more);
                for item in gone {
                    answers.push((item.position, Answer::Refused(session_gone(&item))));
                }
            }
            // The other items are accepted: only these were not.
            Err(error) => {
                answers.extend(positions.into_iter().map(|position| (position, Answer::Refused(error.clone().into()))))
            }
        }
    }
    Ok(answers)
}

fn session_gone(item: &Prepared) -> Problem {
    Problem::field(format!("{}session", item.prefix), "unknown_session", NO_SESSION)
}

/// One call to the store: what became of the items, and those whose session is gone.
async fn accept_once(
    app: &App,
    user: UserId,
    key: Option<IdempotencyKey>,
    prepared: Vec<Prepared>,
    by: Actor,
) -> Result<(Vec<(u32, Answer)>, Vec<Prepared>), StoreError> {
    let items: Vec<_> = prepared.iter().map(|item| (item.position, item.message.clone())).collect();
    let outcomes = app.store.accept(AcceptRequest { user, key, items, by }).await?;
    if outcomes.len() != prepared.len() {
        return Err(StoreError::Internal("accept answered about another number of messages".to_owned()));
    }
    let mut answers = Vec::with_capacity(prepared.len());
    let mut gone = Vec::new();
    let mut accepted = 0;
    for (item, outcome) in prepared.into_iter().zip(outcomes) {
        let position = item.position;
        let answer = match outcome {
            AcceptOutcome::Accepted { created_at } => {
                accepted += 1;
                app.sessions.tell(user, &item.session, item.known);
                Answer::Accepted(Box::new(accepted_message(user, item, created_at)))
            }
            AcceptOutcome::Replayed(id) => Answer::Replayed(id),
            AcceptOutcome::KeyReused => Answer::Refused(Problem::idempotency_key_reused()),
            AcceptOutcome::QuotaExceeded(quota) => Answer::Refused(Problem::quota_exceeded(&quota, Time::now())),
            // The same as for a key of a user who was deactivated a second ago.
            AcceptOutcome::UserInactive => Answer::Refused(Problem::user_inactive()),
            AcceptOutcome::Invalid(detail) => Answer::Refused(StoreError::Invalid(detail).into()),
            // Removed since it was looked up.
            AcceptOutcome::FileGone => {
                Answer::Refused(Problem::field(format!("{}media.id", item.prefix), UNKNOWN_MEDIA, NO_MEDIA))
            }
            AcceptOutcome::SessionGone => {
                gone.push(item);
                continue;
            }
        };
        answers.push((position, answer));
    }
    if accepted > 0 {
        app.backlog.accepted(user, accepted);
        metrics::counter!("sanasr_accepted_total").increment(accepted as u64);
    }
    Ok((answers, gone))
}

/// The message as it is now, without reading it back.
fn accepted_message(user: UserId, item: Prepared, created_at: Time) -> Message {
    let new = item.message;
    let status = new.initial_status();
    let expires_at = new.expires_at(created_at);
    Message {
        id: new.id,
        user_id: user,
        session: item.session,
        bridge: item.known.bridge,
        to: new.recipient,
        kind: new.kind,
        text: new.content.text,
        media: new.content.media,
        location: new.content.location,
        contact: new.content.contact,
        caption: new.content.caption,
        reply_to: new.reply_to,
        status,
        error: None,
        blocked_by: if status == Status::Scheduled { Some(BlockedBy::Scheduled) } else { item.known.blocked_by },
        reference: new.reference,
        attempts: 0,
        whatsapp_id: new.whatsapp_id,
        replayed_from: new.replayed_from,
        created_at,
        send_at: new.send_at,
        expires_at,
        sent_at: None,
        delivered_at: None,
        read_at: None,
        updated_at: created_at,
    }
}

/// Counts a send, or an item of a batch, that was refused.
pub(crate) fn count_refused(problem: &Problem) {
    metrics::counter!("sanasr_refused_total", "code" => problem.code().as_str()).increment(1);
}
