//! Rows, and how they become domain types. A row that no code of ours writes is [`StoreError::Corrupt`], which names it.

use std::fmt::Display;

use crate::ids::{MessageId, SessionId, UserId};
use crate::link_code::LinkCode;
use crate::message::{BlockedBy, Content, Message, MessageError, MessageType, Status};
use crate::ports::store::{OwnedSession, StoreError};
use crate::recipient::Recipient;
use crate::session::{BridgeKind, Pace, Session, SessionStatus, advice};
use crate::time::Time;

/// A value that we don't know, in this column of this row.
pub(crate) fn corrupt(column: &str, row: impl Display, value: impl Display) -> StoreError {
    StoreError::Corrupt(format!("{column} of {row} is {value}"))
}

/// A message with what its `blocked_by` is derived from.
#[derive(sqlx::FromRow)]
pub(crate) struct MessageRow {
    pub(crate) id: MessageId,
    user_id: UserId,
    session: String,
    bridge: i16,
    recipient: Recipient,
    kind: i16,
    content: String,
    reply_to: Option<MessageId>,
    status: i16,
    error: Option<String>,
    blocked_by: Option<i32>,
    reference: Option<String>,
    attempts: i32,
    whatsapp_id: String,
    replayed_from: Option<MessageId>,
    created_at: Time,
    send_at: Option<Time>,
    expires_at: Time,
    sent_at: Option<Time>,
    delivered_at: Option<Time>,
    read_at: Option<Time>,
    updated_at: Time,
}

impl TryFrom<MessageRow> for Message {
    type Error = StoreError;

    fn try_from(row: MessageRow) -> Result<Self, StoreError> {
        let id = row.id;
        // Such a message is a dead letter, which people must be able to look at.
        let content: Content = serde_json::from_str(&row.content).unwrap_or_else(|error| {
            tracing::error!(message = %id, %error, "a message's content can't be read");
            Content::default()
        });
        let error = row
            .error
            .map(|text| serde_json::from_str::<MessageError>(&text))
            .transpose()
            .map_err(|e| corrupt("messages.error", id, format!("unreadable: {e}")))?;
        Ok(Self {
            id,
            user_id: row.user_id,
            session: row.session,
            bridge: BridgeKind::from_code(row.bridge).ok_or_else(|| corrupt("sessions.bridge", id, row.bridge))?,
            to: row.recipient,
            kind: MessageType::from_code(row.kind).ok_or_else(|| corrupt("messages.type", id, row.kind))?,
            text: content.text,
            media: content.media,
            location: content.location,
            contact: content.contact,
            caption: content.caption,
            reply_to: row.reply_to,
            status: Status::from_code(row.status).ok_or_else(|| corrupt("messages.status", id, row.status))?,
            error,
            blocked_by: row.blocked_by.map(|code| blocked_by(code, id)).transpose()?,
            reference: row.reference,
            attempts: row.attempts,
            whatsapp_id: row.whatsapp_id,
            replayed_from: row.replayed_from,
            created_at: row.created_at,
            send_at: row.send_at,
            expires_at: row.expires_at,
            sent_at: row.sent_at,
            delivered_at: row.delivered_at,
            read_at: row.read_at,
            updated_at: row.updated_at,
        })
    }
}

/// The numbers of the `CASE` in `messages::BLOCKED_BY`.
fn blocked_by(code: i32, id: MessageId) -> Result<BlockedBy, StoreError> {
    Ok(match code {
        0 => BlockedBy::Scheduled,
        1 => BlockedBy::UserInactive,
        2 => BlockedBy::SessionPaused,
        3 => BlockedBy::SessionNotConnected,
        4 => BlockedBy::EarlierMessage,
        5 => BlockedBy::Restricted,
        6 => BlockedBy::Retry,
        7 => BlockedBy::Pacing,
        _ => return Err(corrupt("blocked_by", id, code)),
    })
}

#[derive(sqlx::FromRow)]
struct PaceRow {
    per_minute: Option<i64>,
    burst: Option<i64>,
    jitter_ms: i64,
    first_contacts_per_minute: Option<i64>,
    typing: bool,
    warm_up: bool,
}

impl PaceRow {
    fn read(&self, session: SessionId) -> Result<Pace, StoreError> {
        let number = |column, value: i64| u32::try_from(value).map_err(|_| corrupt(column, session, value));
        let limit = |column, value: Option<i64>| value.map(|v| number(column, v)).transpose();
        Ok(Pace {
            per_minute: limit("sessions.per_minute", self.per_minute)?,
            burst: limit("sessions.burst", self.burst)?,
            jitter_ms: number("sessions.jitter_ms", self.jitter_ms)?,
            first_contacts_per_minute: limit("sessions.first_contacts_per_minute", self.first_contacts_per_minute)?,
            typing: self.typing,
            warm_up: self.warm_up,
        })
    }
}

fn session_status(code: i16, id: SessionId) -> Result<SessionStatus, StoreError> {
    SessionStatus::from_code(code).ok_or_else(|| corrupt("sessions.status", id, code))
}

fn session_bridge(code: i16, id: SessionId) -> Result<BridgeKind, StoreError> {
    BridgeKind::from_code(code).ok_or_else(|| corrupt("sessions.bridge", id, code))
}

/// A session as its user sees it.
#[derive(sqlx::FromRow)]
pub(crate) struct SessionRow {
    id: SessionId,
    name: String,
    user_id: UserId,
    bridge: i16,
    status: i16,
    paused: bool,
    blocked_reason: Option<String>,
    blocked_until: Option<Time>,
    phone_number: Option<String>,
    qr_code: Option<String>,
    qr_expires_at: Option<Time>,
    connected_at: Option<Time>,
    last_active_at: Option<Time>,
    queued: i64,
    #[sqlx(flatten)]
    pace: PaceRow,
    proxy_shown: Option<String>,
    created_at: Time,
    updated_at: Time,
}

impl TryFrom<SessionRow> for Session {
    type Error = StoreError;

    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        let status = session_status(row.status, row.id)?;
        Ok(Self {
            id: row.id,
            bridge: session_bridge(row.bridge, row.id)?,
            status,
            advice: advice(status, row.blocked_reason.as_deref()),
            pace: row.pace.read(row.id)?,
            name: row.name,
            user_id: row.user_id,
            paused: row.paused,
            blocked_reason: row.blocked_reason,
            blocked_until: row.blocked_until,
            phone_number: row.phone_number,
            qr_code: row.qr_code.map(LinkCode::Sealed),
            qr_expires_at: row.qr_expires_at,
            connected_at: row.connected_at,
            last_active_at: row.last_active_at,
            waiting: row.queued,
            proxy: row.proxy_shown,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// A session as its owner sees it.
#[derive(sqlx::FromRow)]
pub(crate) struct OwnedSessionRow {
    id: SessionId,
    user_id: UserId,
    name: String,
    bridge: i16,
    status: i16,
    wanted: bool,
    logout: bool,
    paused: bool,
    deleting: bool,
    user_active: bool,
    paired: bool,
    phone_number: Option<String>,
    pair_phone: Option<String>,
    paired_at: Option<Time>,
    blocked_until: Option<Time>,
    connects: i64,
    proxy: Option<Vec<u8>>,
    #[sqlx(flatten)]
    pace: PaceRow,
}

impl TryFrom<OwnedSessionRow> for OwnedSession {
    type Error = StoreError;

    fn try_from(row: OwnedSessionRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            bridge: session_bridge(row.bridge, row.id)?,
            status: session_status(row.status, row.id)?,
            pace: row.pace.read(row.id)?,
            user_id: row.user_id,
            name: row.name,
            wanted: row.wanted,
            logout: row.logout,
            paused: row.paused,
            deleting: row.deleting,
            user_active: row.user_active,
            paired: row.paired,
            phone_number: row.phone_number,
            pair_phone: row.pair_phone,
            paired_at: row.paired_at,
            blocked_until: row.blocked_until,
            connects: row.connects,
            proxy: row.proxy,
        })
    }
}
