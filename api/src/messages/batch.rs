//! `POST /messages/batch`: many messages, each for itself. What is wrong with one doesn't keep the others.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::Message;
use serde::Serialize;
use serde_json::{Map, Value};

use super::accept::{Answer, IDEMPOTENT_REPLAYED, accept, count_refused, kept_under, no_longer_kept, prepare, rules};
use super::bodies::{BatchItem, SendBatch};
use super::draft::{Draft, Form};
use crate::answer::{Data, Success};
use crate::auth::Caller;
use crate::body::BatchBody;
use crate::edge::RequestId;
use crate::fields::{FieldErrors, Fields};
use crate::idempotency;
use crate::json::Fault;
use crate::problem::{Document, Problem};
use crate::query::NoQuery;
use crate::reference::params::{Idempotency, OfUser};
use crate::state::App;

/// Messages in a batch, at most.
const ITEMS_MAX: usize = 1_000;

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Item<'a> {
    Message(&'a Message),
    Error(Document<'a>),
}

/// Send many messages
///
/// Up to 1,000 messages, each for itself: what is wrong with one doesn't keep the others, even if it can't be read. The answer has
/// one item for each message, in their order. An `Idempotency-Key` covers the whole batch: repeated, it answers with the messages that were
/// accepted before, and tries the refused ones again. If none was accepted, the answer is 422, with the items in `data`.
#[utoipa::path(
    post, path = "/api/v1/messages/batch", tag = "Messages", operation_id = "send_batch",
    params(OfUser, Idempotency),
    request_body(content = SendBatch, example = json!({"messages": [
        {"to": "+15551234567", "text": "Your order has been shipped."},
        {"to": "+15557654321", "type": "document", "media": {"url": "https://example.org/receipt.pdf"}}
    ]})),
    responses((status = 202, description = "Each message was accepted or refused.", body = Success<Vec<BatchItem>>)),
)]
pub(crate) async fn batch(
    State(app): State<App>,
    caller: Caller,
    _: NoQuery,
    request_id: RequestId,
    headers: HeaderMap,
    BatchBody { map, faults, room }: BatchBody,
) -> Result<Response, Problem> {
    let started = Instant::now();
    let result = answer(&app, caller, &request_id, &headers, map, faults).await;
    drop(room);
    match &result {
        Ok(_) => metrics::histogram!("sanasr_accept_seconds").record(started.elapsed()),
        Err(problem) => count_refused(problem),
    }
    result
}

async fn answer(
    app: &App,
    caller: Caller,
    request_id: &RequestId,
    headers: &HeaderMap,
    body: Map<String, Value>,
    faults: BTreeMap<u32, Fault>,
) -> Result<Response, Problem> {
    let key = idempotency::key(headers, "POST /messages/batch", &body, true)?;
    // Items are kept under 1, 2, …
    let kept = kept_under(app, caller.user()?, key.as_ref()).await?.unwrap_or_default();
    let mut answers: HashMap<u32, Answer> =
        kept.into_iter().filter_map(|(n, id)| Some((n.checked_sub(1)?, Answer::Replayed(id)))).collect();

    let items = items(body)?;
    let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
    answers.extend(faults.into_iter().map(|(position, fault)| (position, Answer::Refused(fault.into()))));
    let rules = rules(app);
    let drafts = (0..).zip(items).filter(|(position, _)| !answers.contains_key(position));
    let drafts = drafts
        .map(|(position, item)| Draft::read(item, Form::Full, position, &format!("messages[{position}]"), rules))
        .collect();
    let mut good = Vec::new();
    for item in prepare(app, caller, request_id, drafts).await? {
        match item {
            Ok(prepared) => good.push(prepared),
            Err((position, errors)) => {
                answers.insert(position, Answer::Refused(Problem::validation(errors)));
            }
        }
    }
    if !good.is_empty() {
        app.backlog.check(caller.user()?, good.len()).await?;
        answers.extend(accept(app, caller.user()?, key, good, caller.actor()).await?);
    }
    render(app, caller, request_id, count, answers).await
}

pub(crate) fn items(body: Map<String, Value>) -> Result<Vec<Value>, Problem> {
    let mut errors = FieldErrors::default();
    let mut fields = Fields::new(body, "", &mut errors);
    fields.require("messages");
    let items = fields.array("messages").unwrap_or_default();
    if items.len() > ITEMS_MAX {
        fields.fail("messages", "too_many", format!("Has at most {ITEMS_MAX} messages."));
    }
    fields.finish();
    if !errors.is_empty() {
        return Err(Problem::validation(errors));
    }
    if items.is_empty() {
        return Err(Problem::field("messages", "empty", "Must not be empty."));
    }
    Ok(items)
}

async fn render(
    app: &App,
    caller: Caller,
    request_id: &RequestId,
    count: u32,
    mut answers: HashMap<u32, Answer>,
) -> Result<Response, Problem> {
    let replayed: Vec<MessageId> =
        answers.values().filter_map(|a| if let Answer::Replayed(id) = a { Some(*id) } else { None }).collect();
    let earlier: HashMap<_, _> = match replayed.as_slice() {
        [] => HashMap::new(),
        ids => app.store.messages(caller.scope(), ids).await?.into_iter().map(|m| (m.id, m)).collect(),
    };
    for position in 0..count {
        let answer = answers.entry(position).or_insert_with(|| {
            Answer::Refused(Problem::internal("the store answered nothing about a message of a batch"))
        });
        if matches!(answer, Answer::Replayed(id) if !earlier.contains_key(id)) {
            *answer = Answer::Refused(no_longer_kept());
        }
        if let Answer::Refused(problem) = answer {
            count_refused(problem);
            if let Some(cause) = problem.cause() {
                tracing::warn!(request_id = request_id.as_str(), position, cause, "a message of a batch was refused");
            }
        }
    }
    let items: Vec<Item<'_>> = (0..count)
        .filter_map(|position| match answers.get(&position)? {
            Answer::Accepted(message) => Some(Item::Message(message)),
            Answer::Replayed(id) => earlier.get(id).map(Item::Message),
            Answer::Refused(problem) => Some(Item::Error(problem.document(request_id.as_str()))),
        })
        .collect();
    if !items.iter().any(|item| matches!(item, Item::Message(_))) {
        let items = serde_json::to_value(&items).map_err(|error| Problem::internal(error.to_string()))?;
        // Each item has been counted as refused.
        return Ok(Problem::none_accepted(count, items).into_response());
    }
    let mut response = Data::accepted(items).into_response();
    if !replayed.is_empty() {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}
