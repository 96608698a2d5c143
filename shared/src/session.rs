//! WhatsApp sessions.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{SessionId, UserId};
use crate::link_code::LinkCode;
use crate::time::Time;
use crate::vault::Vault;

/// The session that every user has.
pub const DEFAULT_SESSION: &str = "default";
/// Names that the short session endpoints use.
const RESERVED_NAMES: &[&str] = &["status", "init", "disconnect"];
/// How long a marked session waits before it is drained: longer than an accept under way may last, so that the accepting
/// path needs no lock on it.
pub const DELETE_GRACE: Duration = Duration::from_secs(10);
/// How long a newly linked phone is treated with more care.
const WARM_UP: Duration = Duration::from_secs(14 * 24 * 3600);

/// What drives a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum BridgeKind {
    /// Behaves like WhatsApp without a phone.
    Simulator = 0,
    /// WhatsApp itself, as one of a phone's linked devices.
    Whatsapp = 1,
}

impl BridgeKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Simulator, Self::Whatsapp];

    /// The word the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simulator => "simulator",
            Self::Whatsapp => "whatsapp",
        }
    }

    /// The kind that the API's word means.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == word)
    }

    /// The kind that the database's number means.
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|k| *k as i16 == code)
    }
}

/// What a session is doing. It never says `Connected` when a send would not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum SessionStatus {
    /// Not connected, and nobody tries.
    Disconnected = 0,
    /// On its way.
    Connecting = 1,
    /// A QR code waits to be scanned.
    WaitingForScan = 2,
    /// Ready to send.
    Connected = 3,
    /// Unlinked, here or on the phone: must be paired again.
    LoggedOut = 4,
    /// WhatsApp has banned the account.
    Banned = 5,
}

impl SessionStatus {
    /// Every status, in the order of the numbers.
    pub const ALL: [Self; 6] =
        [Self::Disconnected, Self::Connecting, Self::WaitingForScan, Self::Connected, Self::LoggedOut, Self::Banned];

    /// The word the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::WaitingForScan => "waiting_for_scan",
            Self::Connected => "connected",
            Self::LoggedOut => "logged_out",
            Self::Banned => "banned",
        }
    }

    /// The status that the database's number means.
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as i16 == code)
    }
}

/// How fast a session may send. `None` is "no limit of this kind", which is the simulator's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Messages a minute, 1 to 1,000,000.
    pub per_minute: Option<u32>,
    /// Messages at once after a rest, 1 to 100,000.
    pub burst: Option<u32>,
    /// A random extra wait before each message, up to this many milliseconds.
    pub jitter_ms: u32,
    /// First messages to new recipients a minute, 1 to 1,000,000.
    pub first_contacts_per_minute: Option<u32>,
    /// Show "typing" before a message.
    pub typing: bool,
    /// Begin with a quarter of that after the phone was linked, and reach all of it within two weeks.
    pub warm_up: bool,
}

impl Pace {
    /// The pace of a new session: none for the simulator, and what a careful person would do for WhatsApp, which bans numbers
    /// that behave like machines.
    pub const fn of(bridge: BridgeKind) -> Self {
        match bridge {
            BridgeKind::Simulator => Self {
                per_minute: None,
                burst: None,
                jitter_ms: 0,
                first_contacts_per_minute: None,
                typing: false,
                warm_up: false,
            },
            BridgeKind::Whatsapp => Self {
                per_minute: Some(20),
                burst: Some(5),
                jitter_ms: 2_000,
                first_contacts_per_minute: Some(12),
                typing: true,
                warm_up: true,
            },
        }
    }

    /// The pace that holds so long after the phone was linked.
    pub fn after(self, linked_for: Duration) -> Self {
        let share = 0.25 + 0.75 * (linked_for.as_secs_f64() / WARM_UP.as_secs_f64());
        if !self.warm_up || share >= 1.0 {
            return self;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a u32")]
        let part = |full: u32| ((f64::from(full) * share) as u32).max(1);
        let per_minute = self.per_minute.map(part);
        Self { per_minute, first_contacts_per_minute: self.first_contacts_per_minute.map(part), ..self }
    }
}

/// A session as its user sees it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Its name, unique for its user.
    pub name: String,
    /// Whose it is.
    pub user_id: UserId,
    /// What drives it.
    pub bridge: BridgeKind,
    /// What it is doing.
    pub status: SessionStatus,
    /// Sends nothing until resumed.
    pub paused: bool,
    /// More about its status, if there is more to say.
    pub blocked_reason: Option<String>,
    /// When that ends by itself, if it does.
    pub blocked_until: Option<Time>,
    /// What that means and what to do next, in words.
    pub advice: Option<&'static str>,
    /// The number it is paired with.
    pub phone_number: Option<String>,
    /// The raw text of the QR code to draw, while one waits.
    #[schema(value_type = Option<String>)]
    pub qr_code: Option<LinkCode>,
    /// When that code ends.
    pub qr_expires_at: Option<Time>,
    /// When it connected last.
    pub connected_at: Option<Time>,
    /// When it sent last.
    pub last_active_at: Option<Time>,
    /// Messages that wait, scheduled ones too; counted every few seconds.
    pub waiting: i64,
    /// How fast it may send.
    pub pace: Pace,
    /// The proxy that it reaches WhatsApp by, without credentials.
    pub proxy: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
}

impl Session {
    /// With its QR code as people use it; without one if it can't be opened.
    #[must_use]
    pub fn opened(mut self, vault: &Vault) -> Self {
        let code = self.qr_code.take().and_then(|code| match code.open(vault, self.id) {
            Ok(code) => Some(code),
            Err(error) => {
                tracing::warn!(session = %self.id, %error, "a QR code can't be shown");
                None
            }
        });
        self.qr_expires_at = self.qr_expires_at.filter(|_| code.is_some());
        self.qr_code = code.map(LinkCode::Open);
        self
    }
}

/// What a session's status and the reason for it mean, and what to do next, in words; nothing where nothing is to be done.
pub fn advice(status: SessionStatus, reason: Option<&str>) -> Option<&'static str> {
    let reason = reason.unwrap_or_default();
    let known = ADVICE.iter().find(|(word, _)| reason == *word || (*word == "banned" && reason.starts_with(word)));
    match (known, status) {
        (Some((_, advice)), _) => Some(advice),
        (None, SessionStatus::WaitingForScan) => Some(
            "On the phone open WhatsApp, Settings, Linked devices, Link a device, and scan the QR code or type the code.",
        ),
        (None, SessionStatus::Disconnected) => Some(
            "Nothing is sent until it is connected: POST /api/v1/sessions/{name}/connect. If no phone is linked yet, a QR code \
             follows within seconds (qr_code, or GET /api/v1/sessions/{name}/qr): scan it.",
        ),
        (None, SessionStatus::LoggedOut) => Some(
            "No phone is linked. Connect the session (POST /api/v1/sessions/{name}/connect), then scan the QR code that follows.",
        ),
        _ => None,
    }
}

/// Every reason that a session may give, with what it means and what to do.
pub const ADVICE: &[(&str, &str)] = &[
    ("connection_lost", "The connection to WhatsApp was lost. It is being made again; nothing is to be done."),
    ("unreachable", "WhatsApp can't be reached from this machine. Check its network, DNS and firewall."),
    ("proxy_failed", "The session's proxy can't be reached, or refuses. Check its address, user and password."),
    ("no_answer", "WhatsApp doesn't answer. It is tried again; if it lasts, check the network."),
    ("clock_wrong", "WhatsApp's certificate isn't valid at this machine's time. Set its clock."),
    (
        "restricted",
        "WhatsApp restricts the account's messages to people who haven't written to it. They wait; chats that go on do. Send less to new contacts.",
    ),
    ("replaced", "The same linked device was opened elsewhere. Close that one, then connect this session again."),
    ("logged_out_on_phone", "The device was removed on the phone. Connect the session again and link the phone."),
    (
        "account_locked",
        "WhatsApp has locked the account. Open WhatsApp on the phone and follow what it says; then link it again.",
    ),
    (
        "banned",
        "WhatsApp has banned the account for a while. Nothing is sent until then; send less, and to fewer new contacts.",
    ),
    ("qr_codes_ran_out", "Nobody scanned a QR code in time. Connect the session again for new ones."),
    ("pair_code_ran_out", "Nobody typed the code in time. Ask for another one."),
    (
        "pair_code_too_often",
        "WhatsApp gives no more codes for this number for now, or doesn't take the number. Wait a while, or scan a QR code.",
    ),
    ("pair_code_unavailable", "WhatsApp doesn't link this number by a code. Connect the session and scan its QR code."),
    ("pair_code_refused", "WhatsApp gives no code for this number. Check the number, or scan a QR code."),
    ("pairing_refused", "The phone and this device couldn't agree. Connect the session again and repeat the linking."),
    ("phone_outdated", "The phone's WhatsApp can't link devices. Update it, then connect the session again."),
    (
        "passkey_needed",
        "WhatsApp asks for a passkey to link a device, which isn't supported. Link by QR code from the phone itself, or remove the passkey.",
    ),
    ("client_outdated", "WhatsApp doesn't take this version of the client any more. Update sanasr."),
    ("connection_refused", "WhatsApp refuses the connection; the log has its code. Connect the session again later."),
    (
        "wrong_secret_key",
        "The session's keys were encrypted with another SANASR_SECRET_KEY. Start with that one; nothing was changed.",
    ),
    (
        "state_damaged",
        "The session's keys can't be read. Restore the database, or log the session out and link the phone again.",
    ),
    ("bridge_missing", "This program has no such bridge. Update sanasr."),
];

/// Checks a new session's name.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn check_name(name: &str) -> Result<(), String> {
    let sane = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(sane) {
        return Err("A session's name has 1 to 64 characters: a to z, 0 to 9, _ and -.".to_owned());
    }
    if RESERVED_NAMES.contains(&name) {
        return Err(format!("The name {name} is taken by an endpoint; choose another."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_link_warms_up() {
        let day = Duration::from_secs(24 * 3600);
        let pace = Pace::of(BridgeKind::Whatsapp);
        let after = |days: u32| pace.after(day * days);
        assert_eq!((after(0).per_minute, after(0).first_contacts_per_minute), (Some(5), Some(3)));
        assert_eq!((after(7).per_minute, after(7).first_contacts_per_minute), (Some(12), Some(7)));
        assert_eq!(after(14), pace);
        assert_eq!(after(400), pace);
        assert_eq!(Pace { warm_up: false, ..pace }.after(Duration::ZERO).per_minute, Some(20));
        let slow = Pace { per_minute: Some(1), ..pace }.after(Duration::ZERO);
        assert_eq!(slow.per_minute, Some(1), "never none at all");
        assert_eq!(Pace::of(BridgeKind::Simulator).after(Duration::ZERO), Pace::default());
    }

    #[test]
    fn every_reason_has_advice_of_its_own() {
        let advice = |reason| advice(SessionStatus::Disconnected, Some(reason));
        for (reason, words) in ADVICE {
            assert_eq!(advice(reason), Some(*words));
            assert!(words.ends_with('.') && words.len() > 20, "{reason}");
        }
        assert_eq!(advice("banned: 101: you sent too many messages"), advice("banned"));
        assert!(advice("anything else").is_some_and(|words| words.contains("/connect")));
        assert!(super::advice(SessionStatus::LoggedOut, None).is_some_and(|words| words.contains("/connect")));
        assert_eq!(super::advice(SessionStatus::Connected, None), None);
        assert!(
            super::advice(SessionStatus::WaitingForScan, None).is_some_and(|words| words.contains("Linked devices"))
        );
    }
}
