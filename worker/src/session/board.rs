//! What a session says of itself in the store: its status and why, its QR code, its pairing.
//!
//! One write at a time; of what changes meanwhile only the last is written. What belongs together is in one write: whoever
//! sees that a session has ended may connect it again at once, and a later write would undo that. A session counts as
//! connected here only once the store says so, too: before that the store lets nobody claim its messages.

use std::sync::Arc;

use sanasr_shared::ids::SessionId;
use sanasr_shared::link_code::LinkCode;
use sanasr_shared::ports::store::{Pairing, SessionReport};
use sanasr_shared::session::{SessionStatus, advice};
use sanasr_shared::time::Time;
use tokio::time::{Duration, Instant};

use crate::life::{Life, Unwritten};
use crate::slot::Slot;

/// How long a session says that it is restricted after a send that was refused for that reason: longer than the pause
/// until it is tried again.
const RESTRICTED_FOR: Duration = Duration::from_secs(300);
/// How long until what the database has refused is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(30);
const RESTRICTED: &str = "restricted";
/// Characters of a reason, at most.
const REASON_MAX: usize = 200;

/// The session's state as its actor knows it.
pub(crate) struct Board {
    life: Arc<Life>,
    session: SessionId,
    name: String,
    shown: Shown,
    restricted_until: Option<Instant>,
    /// The pairing as it is now, if it has changed.
    pairing: Option<Pairing>,
    dirty: bool,
    written: Option<SessionStatus>,
    writing: Slot<Wrote>,
    /// How often in a row the database has refused what it shows.
    refusals: u32,
    /// When that is tried again, unless something changes before.
    retry_at: Option<Instant>,
}

/// What became of a write.
enum Wrote {
    /// The status that the store has now; `false` if the session isn't ours any more.
    Written(SessionStatus, bool),
    /// Refused, with the change of the pairing that it told.
    Refused(Option<Pairing>),
    /// The life is over.
    Lost,
}

/// What the session is doing, and why.
#[derive(PartialEq)]
struct Shown {
    status: SessionStatus,
    reason: Option<String>,
    /// When a ban ends.
    until: Option<Time>,
    /// Nobody tries until the user connects it again.
    halted: bool,
    qr: Option<(String, Time)>,
    pair_code: Option<(String, Time)>,
}

impl Shown {
    fn new(status: SessionStatus, reason: Option<String>) -> Self {
        let reason = reason.map(|r| r.chars().filter(|c| !c.is_control()).take(REASON_MAX).collect());
        Self { status, reason, until: None, halted: false, qr: None, pair_code: None }
    }
}

impl Board {
    pub(crate) fn new(life: Arc<Life>, session: SessionId, name: String, stored: SessionStatus) -> Self {
        Self {
            life,
            session,
            name,
            shown: Shown::new(stored, None),
            restricted_until: None,
            pairing: None,
            dirty: false,
            written: None,
            writing: Slot::empty(),
            refusals: 0,
            retry_at: None,
        }
    }

    /// What the session is doing now, and why.
    pub(crate) fn show(&mut self, status: SessionStatus, reason: Option<String>) {
        self.tell(Shown::new(status, reason));
    }

    /// It doesn't go on until its user connects it again.
    pub(crate) fn halt(&mut self, reason: String) {
        self.tell(Shown { halted: true, ..Shown::new(SessionStatus::Disconnected, Some(reason)) });
    }

    /// It doesn't go on before that time.
    pub(crate) fn ban(&mut self, reason: String, until: Time) {
        self.tell(Shown { until: Some(until), ..Shown::new(SessionStatus::Banned, Some(reason)) });
    }

    /// A QR code waits to be scanned.
    pub(crate) fn show_qr(&mut self, code: String, expires_at: Time) {
        self.tell(Shown { qr: Some((code, expires_at)), ..Shown::new(SessionStatus::WaitingForScan, None) });
    }

    /// A code waits to be typed on the phone.
    pub(crate) fn show_pair_code(&mut self, code: String, expires_at: Time) {
        self.tell(Shown { pair_code: Some((code, expires_at)), ..Shown::new(SessionStatus::WaitingForScan, None) });
    }

    /// It is paired with this phone number, and connects.
    pub(crate) fn pair(&mut self, number: String) {
        self.pairing = Some(Pairing::Paired(number));
        self.show(SessionStatus::Connecting, None);
    }

    /// Its pairing is over.
    pub(crate) fn unlink(&mut self, reason: Option<String>) {
        self.pairing = Some(Pairing::Unlinked);
        self.show(SessionStatus::LoggedOut, reason);
    }

    fn tell(&mut self, shown: Shown) {
        let Shown { status, reason, .. } = &shown;
        if *status != self.shown.status {
            let next = advice(*status, reason.as_deref());
            tracing::info!(session = %self.session, name = self.name, status = status.as_str(), reason, next, "session");
        }
        if shown != self.shown || self.written.is_none() {
            (self.dirty, self.retry_at) = (true, None);
        }
        self.shown = shown;
        self.write();
    }

    /// A send was refused since WhatsApp restricts the account; the session stays connected.
    pub(crate) fn restricted(&mut self, now: Instant) {
        let before = self.restricted_until.replace(now + RESTRICTED_FOR);
        if before.is_none() {
            tracing::info!(session = %self.session, name = self.name, "WhatsApp restricts the account");
            self.dirty = true;
            self.write();
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        [self.restricted_until, self.retry_at].into_iter().flatten().min()
    }

    /// Lets a restriction wear off, and tries a refused write again.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.write();
        }
        if self.restricted_until.is_some_and(|until| until <= now) {
            self.restricted_until = None;
            self.dirty = true;
            self.write();
        }
    }

    /// What it shows.
    pub(crate) const fn status(&self) -> SessionStatus {
        self.shown.status
    }

    /// Connected, and the store knows.
    pub(crate) fn is_live(&self) -> bool {
        self.shown.status == SessionStatus::Connected && self.written == Some(SessionStatus::Connected)
    }

    /// Whether nothing is left to write, or the database refuses it.
    pub(crate) fn is_idle(&self) -> bool {
        self.writing.is_free() && (self.retry_at.is_some() || !self.dirty && self.pairing.is_none())
    }

    /// Whether the session's end is written, or was refused twice, a while apart: then its actor ends all the same, and the store
    /// has it as wanted, so that a worker opens it again.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_idle() && (self.retry_at.is_none() || self.refusals > 1)
    }

    /// Waits for the write under way and begins the next one. `false` if the session isn't ours any more. Cancel-safe.
    ///
    /// What the database refuses is kept and tried again later: meanwhile the session goes on as far as the store knows it.
    pub(crate) async fn advance(&mut self) -> bool {
        let ours = match self.writing.next().await {
            Wrote::Lost => return false,
            Wrote::Written(status, ours) => {
                self.written = Some(status);
                self.refusals = 0;
                ours
            }
            Wrote::Refused(pairing) => {
                self.refusals = self.refusals.saturating_add(1);
                self.pairing = self.pairing.take().or(pairing);
                if !std::mem::replace(&mut self.dirty, true) {
                    self.retry_at = Some(Instant::now() + RETRY_AFTER);
                }
                true
            }
        };
        self.write();
        ours
    }

    fn sealed(&self, code: Option<&(String, Time)>) -> Option<(String, Time)> {
        code.map(|(code, expires_at)| (LinkCode::seal(&self.life.vault, self.session, code), *expires_at))
    }

    fn write(&mut self) {
        let nothing = !self.dirty && self.pairing.is_none();
        if !self.writing.is_free() || nothing || self.retry_at.is_some() {
            return;
        }
        self.dirty = false;
        let shown = &self.shown;
        let restricted = shown.status == SessionStatus::Connected && self.restricted_until.is_some();
        let report = SessionReport {
            status: shown.status,
            blocked_reason: if restricted { Some(RESTRICTED.to_owned()) } else { shown.reason.clone() },
            blocked_until: shown.until,
            halted: shown.halted,
            qr: self.sealed(shown.qr.as_ref()),
            pair_code: self.sealed(shown.pair_code.as_ref()),
            pairing: self.pairing.take(),
        };
        let (life, session) = (Arc::clone(&self.life), self.session);
        self.writing.put(async move {
            let wrote = life.persist("a session's status", || life.store.report(life.id, session, &report)).await;
            life.announce(session);
            match wrote {
                Ok(ours) => Wrote::Written(report.status, ours),
                Err(Unwritten::Refused(_)) => Wrote::Refused(report.pairing),
                Err(Unwritten::Lost) => Wrote::Lost,
            }
        });
    }
}
