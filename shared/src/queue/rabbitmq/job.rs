//! What a job looks like at the broker. Nobody has to read it: a job of any version, or garbage, is a ring.

use std::time::Duration;

use lapin::BasicProperties;
use serde::Serialize;

use crate::ids::{MessageId, SessionId};
use crate::ports::store::AcceptedJob;

/// The version of the body's form.
const VERSION: u8 = 1;
/// Survives a restart of the broker.
const PERSISTENT: u8 = 2;

#[derive(Serialize)]
struct Body<'a> {
    v: u8,
    session: SessionId,
    message: MessageId,
    request_id: &'a str,
}

/// A job's body, for people who look into a queue.
pub(super) fn body(job: &AcceptedJob) -> Vec<u8> {
    let body = Body { v: VERSION, session: job.session, message: job.message, request_id: &job.request_id };
    serde_json::to_vec(&body).unwrap_or_default()
}

/// A job's properties; `life` is what remains of its life now.
pub(super) fn properties(job: &AcceptedJob, life: Duration) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(job.message.to_string().into())
        .with_expiration(life.as_millis().to_string().into())
}
