//! One claimed message: given to the bridge, and what became of it written down.
//!
//! Each is a task of its own, so that a panic, in the bridge or here, hits one message only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sanasr_shared::ids::{MessageId, SessionId, UserId};
use sanasr_shared::lifecycle::{caught, jitter, retry_pause};
use sanasr_shared::message::{Hold, MessageError, Status};
use sanasr_shared::ports::bridge::{Attempt, Link, SendRequest};
use sanasr_shared::ports::store::{Outcome, Outgoing, Settled, Settlement, StoreError};
use sanasr_shared::recipient::Recipient;
use sanasr_shared::time::Time;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::life::{Life, Unwritten};
use crate::media::{Brought, Missing};

/// How long a message waits that WhatsApp's restriction of the account holds up.
const RESTRICTED_PAUSE: Duration = Duration::from_secs(180);

/// What is needed to send one message.
pub(crate) struct Delivery {
    pub(crate) life: Arc<Life>,
    pub(crate) session: SessionId,
    /// Whose it is.
    pub(crate) user: UserId,
    /// The claim under which the message was pulled.
    pub(crate) claim: i64,
    /// The connection, or `None` to give the message back unsent.
    pub(crate) link: Option<Arc<dyn Link>>,
    /// The bridge may repeat an attempt in doubt.
    pub(crate) repeats: bool,
    /// The database's clock when the pull was asked for or later, and when that was here: it runs ahead rather than behind.
    pub(crate) clock: (Time, Instant),
    /// The session is being given back: no more files are brought.
    pub(crate) stop: CancellationToken,
}

/// A message whose place is free again.
pub(crate) struct Finished {
    pub(crate) seq: i64,
    pub(crate) recipient: Recipient,
    pub(crate) end: Ended,
    /// WhatsApp restricts the account.
    pub(crate) restricted: bool,
    /// The bridge kept it back: it counts for no pace.
    pub(crate) held: bool,
}

/// What became of it, as the store has it.
pub(crate) enum Ended {
    /// Nothing more is done for it here.
    Closed,
    /// It waits until then, and the later ones to its recipient with it.
    Waits(Instant),
    /// It can be claimed again at once.
    Released,
    /// The database refuses whatever is written of it.
    Abandoned,
    /// The life is over: nothing was written.
    Lost,
}

/// What identifies the attempt once its content has gone to the bridge.
struct Claimed {
    id: MessageId,
    attempt: i32,
    unknown_attempts: i32,
    crashes: i32,
    created_at: Time,
    expires_at: Time,
    request_id: String,
}

impl Delivery {
    /// Sends the message and writes down how it ended.
    pub(crate) async fn run(self, message: Outgoing) -> Finished {
        let Outgoing { seq, recipient, content, .. } = message;
        let claimed = Claimed {
            id: message.id,
            attempt: message.attempt,
            unknown_attempts: message.unknown_attempts,
            crashes: message.crashes,
            created_at: message.created_at,
            expires_at: message.expires_at,
            request_id: message.request_id,
        };
        let request = content.map(|content| SendRequest {
            whatsapp_id: message.whatsapp_id,
            recipient: recipient.clone(),
            kind: message.kind,
            content,
            file: None,
            quoted: message.quoted,
            attempt: message.attempt,
            expires_at: message.expires_at,
            patience: self.life.settings.send_timeout,
        });
        let called = AtomicBool::new(false);
        let attempt = caught(self.attempt(&claimed, request, &called)).await;
        let outcome = attempt.unwrap_or_else(|panic| {
            let called = called.load(Ordering::Relaxed);
            tracing::error!(message = %claimed.id, session = %self.session, request_id = claimed.request_id, attempt = claimed.attempt, called,
                "sending crashed: {panic}");
            if called && !self.repeats {
                return Outcome::Unknown; // it may have been sent, and must not be again
            }
            Outcome::Crashed { called, after: retry_pause(claimed.crashes.saturating_add(1)) }
        });
        let restricted = matches!(
            &outcome,
            Outcome::Retry { hold: Hold::Restricted, .. } | Outcome::Held { hold: Hold::Restricted, .. }
        );
        let held = matches!(&outcome, Outcome::Held { .. });
        let end = self.settle(&claimed, outcome).await;
        Finished { seq, recipient, end, restricted, held }
    }

    /// Everything that may panic. `called` says whether the bridge has seen the message.
    async fn attempt(&self, claimed: &Claimed, request: Result<SendRequest, String>, called: &AtomicBool) -> Outcome {
        let Some(link) = &self.link else { return Outcome::Released };
        let mut request = match request {
            Ok(request) => request,
            Err(detail) => return Outcome::Failed { error: MessageError::internal(detail) },
        };
        if claimed.expires_at <= self.now() {
            return Outcome::Expired;
        }
        if claimed.unknown_attempts > 1 && !self.repeats {
            return Outcome::Unknown;
        }
        // It lives until the bridge has answered.
        let brought = match self.bring(claimed, &request).await {
            Ok(brought) => brought,
            Err(outcome) => return outcome,
        };
        request.file = brought.as_ref().map(|brought| brought.attachment.clone());
        // Bringing a file may have taken its time.
        let now = self.now();
        if claimed.expires_at <= now {
            return Outcome::Expired;
        }
        let limit = self.life.settings.send_timeout;
        // The last thing before the call: whoever was frozen until here and has lost its lease must not send.
        if !self.life.lease.holds() {
            return Outcome::Released;
        }
        called.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        if claimed.attempt == 1 {
            metrics::histogram!("sanasr_accepted_to_bridge_seconds")
                .record(now.since(claimed.created_at).as_secs_f64());
        }
        let attempt = tokio::time::timeout(limit, link.send(&request)).await.unwrap_or_else(|_| {
            let detail = format!("WhatsApp didn't acknowledge the message within {} s.", limit.as_secs_f64());
            Attempt::InDoubt(MessageError::new("no_acknowledgement", detail, true))
        });
        metrics::histogram!("sanasr_send_seconds").record(begun.elapsed().as_secs_f64());
        self.judge(claimed, attempt)
    }

    /// The database's clock, rather ahead than behind.
    fn now(&self) -> Time {
        let (now, at) = self.clock;
        now.plus(at.elapsed())
    }

    /// Brings the message's file, if it has one. Whatever happens here, nothing was sent.
    async fn bring(&self, claimed: &Claimed, request: &SendRequest) -> Result<Option<Brought>, Outcome> {
        let Some(media) = request.content.media.as_ref().filter(|_| request.kind.is_media()) else { return Ok(None) };
        if !self.life.lease.holds() {
            return Err(Outcome::Released);
        }
        let brought = self.stop.run_until_cancelled(self.life.bringer.bring(self.user, request.kind, media)).await;
        match brought {
            Some(Ok(brought)) => Ok(Some(brought)),
            Some(Err(Missing::Now(error))) => Err(self.judge(claimed, Attempt::Transient(error))),
            Some(Err(Missing::Forever(error))) => Err(self.judge(claimed, Attempt::Permanent(error))),
            None => Err(Outcome::Released),
        }
    }

    fn judge(&self, claimed: &Claimed, attempt: Attempt) -> Outcome {
        match attempt {
            Attempt::Sent => Outcome::Sent,
            Attempt::Permanent(error) => Outcome::Failed { error: storable(error) },
            Attempt::Transient(error) => {
                let after = retry_pause(claimed.attempt);
                Outcome::Retry { error: storable(error), after, hold: Hold::Retry }
            }
            Attempt::Restricted(error) => {
                Outcome::Retry { error: storable(error), after: jitter(RESTRICTED_PAUSE), hold: Hold::Restricted }
            }
            Attempt::Held(after, hold) => Outcome::Held { after, hold },
            Attempt::InDoubt(error) if self.repeats => {
                Outcome::InDoubt { error: storable(error), after: retry_pause(claimed.attempt) }
            }
            Attempt::InDoubt(_) => Outcome::Unknown,
        }
    }

    async fn settle(&self, claimed: &Claimed, outcome: Outcome) -> Ended {
        self.tell(claimed, &outcome);
        let after = match &outcome {
            Outcome::Retry { after, .. }
            | Outcome::InDoubt { after, .. }
            | Outcome::Held { after, .. }
            | Outcome::Crashed { after, .. } => *after,
            Outcome::Sent | Outcome::Failed { .. } | Outcome::Expired | Outcome::Unknown | Outcome::Released => {
                Duration::ZERO
            }
        };
        let released = outcome == Outcome::Released;
        let settlement = Settlement {
            worker: self.life.id,
            claim: self.claim,
            shard: self.life.shard,
            message: claimed.id,
            attempt: claimed.attempt,
            outcome,
        };
        let mut settled = self.write(&settlement).await;
        if let Err(Unwritten::Refused(error)) = settled {
            let outcome = as_dead_letter(&settlement.outcome);
            tracing::warn!(message = %claimed.id, session = %self.session, request_id = claimed.request_id, %error,
                outcome = word(&settlement.outcome), "how a message ended can't be written; it is ended another way");
            settled = self.write(&Settlement { outcome, ..settlement }).await;
        }
        match settled {
            Ok(Settled::Done(status)) => {
                self.life.changes.add([claimed.id]);
                match status {
                    Status::Accepted | Status::Sending if released => Ended::Released,
                    Status::Accepted | Status::Sending => Ended::Waits(Instant::now() + after),
                    Status::Scheduled
                    | Status::Sent
                    | Status::Delivered
                    | Status::Read
                    | Status::Failed
                    | Status::Expired
                    | Status::Cancelled => Ended::Closed,
                }
            }
            Ok(Settled::Refused) => {
                self.life.changes.add([claimed.id]); // it may have been written, and the answer lost
                tracing::debug!(message = %claimed.id, session = %self.session, "has ended otherwise meanwhile");
                Ended::Closed
            }
            Err(Unwritten::Refused(error)) => self.abandon(claimed, &error).await,
            Err(Unwritten::Lost) => Ended::Lost,
        }
    }

    /// The database refuses whatever is settled: the message is ended by a write of its own row alone, so that it holds up no other.
    async fn abandon(&self, claimed: &Claimed, error: &StoreError) -> Ended {
        let Claimed { id, request_id, .. } = claimed;
        let write = || self.life.store.abandon(self.life.id, self.claim, *id);
        match self.life.persist("the end of a message that can't be settled", write).await {
            Ok(true) => {
                self.life.changes.add([*id]);
                tracing::error!(message = %id, session = %self.session, request_id, %error,
                    "how a message ended can't be written; it is a dead letter now, as one that may have been sent");
                Ended::Closed
            }
            Ok(false) => {
                self.life.changes.add([*id]);
                tracing::debug!(message = %id, session = %self.session, "has ended otherwise meanwhile");
                Ended::Closed
            }
            Err(Unwritten::Refused(last)) => {
                tracing::error!(message = %id, session = %self.session, request_id, %error, %last,
                    "nothing of a message can be written; it stays as it is, and later messages to its recipient wait");
                Ended::Abandoned
            }
            Err(Unwritten::Lost) => Ended::Lost,
        }
    }

    async fn write(&self, settlement: &Settlement) -> Result<Settled, Unwritten> {
        self.life.persist("how a message ended", || self.life.store.settle(settlement.clone())).await
    }

    fn tell(&self, claimed: &Claimed, outcome: &Outcome) {
        let word = word(outcome);
        metrics::counter!("sanasr_sends_total", "outcome" => word).increment(1);
        if claimed.attempt > 1 {
            metrics::counter!("sanasr_retries_total").increment(1);
        }
        let Claimed { id, attempt, request_id, .. } = claimed;
        match outcome {
            Outcome::InDoubt { error, .. } => {
                tracing::warn!(message = %id, session = %self.session, request_id, attempt, code = error.code, "may have been sent");
            }
            Outcome::Unknown => {
                tracing::warn!(message = %id, session = %self.session, request_id, attempt, "may have been sent, and nobody will know");
            }
            Outcome::Expired if *attempt > 1 => {
                tracing::warn!(message = %id, session = %self.session, request_id, attempt, "expired after retries");
            }
            Outcome::Failed { error } if error.code == MessageError::INTERNAL => {
                tracing::warn!(message = %id, session = %self.session, request_id, attempt, detail = error.detail, "can't be processed");
            }
            Outcome::Retry { error, .. } | Outcome::Failed { error } => {
                tracing::debug!(message = %id, session = %self.session, request_id, attempt, outcome = word, code = error.code, "send");
            }
            Outcome::Sent | Outcome::Expired | Outcome::Held { .. } | Outcome::Released | Outcome::Crashed { .. } => {
                tracing::debug!(message = %id, session = %self.session, request_id, attempt, outcome = word, "send");
            }
        }
    }
}

/// How a message is ended whose outcome can't be written: as one that may have been sent, unless it certainly wasn't.
fn as_dead_letter(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Sent | Outcome::InDoubt { .. } | Outcome::Unknown | Outcome::Crashed { called: true, .. } => {
            Outcome::Unknown
        }
        Outcome::Retry { .. }
        | Outcome::Failed { .. }
        | Outcome::Expired
        | Outcome::Released
        | Outcome::Held { .. }
        | Outcome::Crashed { called: false, .. } => {
            Outcome::Failed { error: MessageError::internal("How it ended couldn't be written down.") }
        }
    }
}

/// The metric's word.
const fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Sent => "sent",
        Outcome::Retry { hold: Hold::Retry | Hold::Pacing, .. } => "retry",
        Outcome::Retry { hold: Hold::Restricted, .. } => "restricted",
        Outcome::Failed { .. } => "failed",
        Outcome::Expired => "expired",
        Outcome::InDoubt { .. } => "in_doubt",
        Outcome::Unknown => "unknown",
        Outcome::Held { .. } => "held",
        Outcome::Released => "released",
        Outcome::Crashed { .. } => "crashed",
    }
}

/// An error in a form that every database takes: what a bridge says comes from outside.
fn storable(error: MessageError) -> MessageError {
    let clean = |text: String, max: usize| text.chars().filter(|c| !c.is_control()).take(max).collect();
    MessageError { code: clean(error.code, 64), detail: clean(error.detail, 1_000), retryable: error.retryable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bridge_says_can_be_stored() {
        let error = storable(MessageError::new("bad\u{0}code", "x\u{0}y".repeat(2_000), true));
        assert_eq!(error.code, "badcode");
        assert_eq!(error.detail.chars().count(), 1_000);
        assert!(!error.detail.contains('\u{0}'));
    }
}
