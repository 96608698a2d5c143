//! What a message must do, in memory and in a few lines each: the moves test and the random walks hold the databases to it.

use std::time::Duration;

use super::rig::{LONG, failed, in_doubt, retry};
use crate::message::{Hold, MAX_CRASHES, MessageError, Status};
use crate::ports::store::{Outcome, Settled};

/// When a message may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// It may be now.
    Now,
    /// Not while the test lasts.
    Later,
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Sent,
    Retry(Due),
    Failed,
    Expired,
    InDoubt(Due),
    Unknown,
    Released,
    Held(Due),
    Crashed { called: bool },
}

impl End {
    /// Every way to end.
    pub(super) const ALL: [Self; 13] = [
        Self::Sent,
        Self::Retry(Due::Now),
        Self::Retry(Due::Later),
        Self::Failed,
        Self::Expired,
        Self::InDoubt(Due::Now),
        Self::InDoubt(Due::Later),
        Self::Unknown,
        Self::Released,
        Self::Held(Due::Now),
        Self::Held(Due::Later),
        Self::Crashed { called: false },
        Self::Crashed { called: true },
    ];

    /// As the port has it.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Sent => Outcome::Sent,
            Self::Retry(due) => retry(due.after()),
            Self::Failed => failed(),
            Self::Expired => Outcome::Expired,
            Self::InDoubt(due) => in_doubt(due.after()),
            Self::Unknown => Outcome::Unknown,
            Self::Released => Outcome::Released,
            Self::Held(due) => Outcome::Held { after: due.after(), hold: Hold::Pacing },
            Self::Crashed { called } => Outcome::Crashed { called, after: Duration::ZERO },
        }
    }

    /// The attempt definitely wasn't sent.
    const fn not_sent(self) -> bool {
        match self {
            Self::Retry(_) | Self::Failed | Self::Expired | Self::Released | Self::Held(_) => true,
            Self::Crashed { called } => !called,
            Self::Sent | Self::InDoubt(_) | Self::Unknown => false,
        }
    }

    /// The bridge had not been called.
    const fn not_tried(self) -> bool {
        matches!(self, Self::Released | Self::Held(_) | Self::Crashed { called: false })
    }
}

impl Due {
    const fn after(self) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::Later => LONG,
        }
    }
}

/// A message, as far as its moves go.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) status: Status,
    pub(super) attempts: i32,
    /// Attempts that may have been sent.
    pub(super) unknown: i32,
    crashes: i32,
    due: Option<Due>,
    /// Its time is over.
    pub(super) stale: bool,
    /// Who claimed it last.
    claim: Option<i64>,
    /// Why it failed.
    pub(super) code: Option<&'static str>,
    /// Its unit was given back.
    pub(super) refunded: bool,
    /// Counted as sent.
    pub(super) sent: bool,
}

impl Model {
    /// A message that was accepted to be sent at once.
    pub(super) const fn accepted(stale: bool) -> Self {
        Self {
            status: Status::Accepted,
            attempts: 0,
            unknown: 0,
            crashes: 0,
            due: None,
            stale,
            claim: None,
            code: None,
            refunded: false,
            sent: false,
        }
    }

    /// A message that was accepted to be sent at a time.
    pub(super) const fn scheduled(due: Due) -> Self {
        Self { status: Status::Scheduled, due: Some(due), ..Self::accepted(false) }
    }

    /// Its sender takes it back: whether that is done.
    pub(super) fn cancel(&mut self) -> bool {
        let free = matches!(self.status, Status::Scheduled | Status::Accepted) && self.unknown == 0;
        if free {
            self.end(Status::Cancelled, None, true);
        }
        free
    }

    /// Whether a pull of this actor may claim it, if it is the oldest to its recipient.
    pub(super) fn claimable(&self, claim: i64) -> bool {
        match self.status {
            Status::Accepted => self.due != Some(Due::Later) && !self.stale,
            Status::Sending if self.claim != Some(claim) => true,
            Status::Sending => self.due == Some(Due::Now) && !self.stale,
            _ => false,
        }
    }

    /// A pull claims it.
    pub(super) fn claim(&mut self, claim: i64) {
        self.status = Status::Sending;
        self.claim = Some(claim);
        self.attempts += 1;
        self.unknown += 1;
        self.due = None;
    }

    /// The actor writes how an attempt ended: what it is answered, or `None` where the port leaves that open.
    pub(super) fn settle(&mut self, claim: i64, attempt: i32, end: End) -> Option<Settled> {
        let ours = self.claim == Some(claim);
        if end == End::Sent {
            return match self.status {
                Status::Sending if ours => Some(self.acknowledged()),
                Status::Failed if ours && self.unknown > 0 => Some(self.acknowledged()),
                // The receipt has told already. Whether the acknowledgement says something new is the row's business.
                Status::Delivered | Status::Read if ours => None,
                _ => Some(Settled::Refused),
            };
        }
        if !ours || self.status != Status::Sending || self.attempts != attempt {
            return Some(Settled::Refused);
        }
        self.unknown -= i32::from(end.not_sent());
        self.attempts -= i32::from(end.not_tried());
        match end {
            End::Sent => unreachable!("see above"),
            End::Retry(due) => self.wait(Status::Accepted, Some(due)),
            End::Failed => self.end(Status::Failed, Some("not_on_whatsapp"), true),
            End::Expired => self.end(Status::Expired, None, true),
            End::InDoubt(due) => self.wait(Status::Sending, Some(due)),
            End::Unknown => self.end(Status::Failed, Some(MessageError::UNKNOWN_OUTCOME), false),
            End::Released => self.wait(Status::Accepted, None),
            End::Held(due) => self.wait(Status::Accepted, Some(due)),
            End::Crashed { called } => {
                self.crashes += 1;
                if self.crashes >= MAX_CRASHES {
                    self.end(Status::Failed, Some(MessageError::INTERNAL), true);
                } else {
                    self.wait(if called { Status::Sending } else { Status::Accepted }, Some(Due::Now));
                }
            }
        }
        Some(Settled::Done(self.status))
    }

    /// A receipt comes: whether it changes the message.
    pub(super) fn receipt(&mut self, status: Status) -> bool {
        let news = match self.status {
            Status::Failed => self.unknown > 0,
            Status::Accepted | Status::Sending | Status::Sent | Status::Delivered => status > self.status,
            _ => false,
        };
        if news {
            self.status = status;
            self.code = None;
            self.sent = true;
        }
        news
    }

    /// The sweep comes by while the owner lives.
    pub(super) fn expire(&mut self) {
        let left = self.status == Status::Sending && self.due.is_none();
        if self.status.is_open() && self.stale && !left {
            self.end(Status::Expired, None, true);
        }
    }

    /// The housekeeper looks for what fell due: whether that has.
    pub(super) fn promote(&mut self) -> bool {
        let due = self.status == Status::Scheduled && self.due == Some(Due::Now);
        if due {
            self.wait(Status::Accepted, None);
        }
        due
    }

    fn acknowledged(&mut self) -> Settled {
        self.status = Status::Sent;
        self.code = None;
        self.sent = true;
        Settled::Done(Status::Sent)
    }

    const fn wait(&mut self, status: Status, due: Option<Due>) {
        self.status = status;
        self.due = due;
    }

    /// It ends; what may have been sent ends as `unknown_outcome` and keeps its unit, whatever was to become of it.
    const fn end(&mut self, status: Status, code: Option<&'static str>, refund: bool) {
        if self.unknown > 0 {
            self.status = Status::Failed;
            self.code = Some(MessageError::UNKNOWN_OUTCOME);
        } else {
            self.status = status;
            self.code = code;
            self.refunded = refund;
        }
    }
}
