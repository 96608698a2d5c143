//! How the server, the contacts and the owner's phone can be told to behave.

use std::time::Duration;

/// What happens to the messages sent to a contact or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Acknowledged, delivered and read.
    Ack,
    /// Refused by the server with this code; nobody gets it.
    Nack(u16),
    /// Delivered at once, but acknowledged (and receipts sent) only after this time, if the connection still is the same.
    AckAfter(Duration),
    /// Lost: neither acknowledged nor delivered.
    NeverAck,
    /// Once: delivered, then the socket is closed without an acknowledgement. No receipts are sent for it.
    DropBeforeAck,
    /// Acknowledged and delivered, but the contact sends no receipts.
    AckOnly,
    /// Acknowledged and delivered; the receipts wait for [`Account::release_receipts`](crate::Account::release_receipts).
    HoldReceipts,
    /// Once: acknowledged, and every receiver asks for it again as if they couldn't decrypt it.
    RetryOnce,
}

impl Behaviour {
    pub(crate) fn is_once(&self) -> bool {
        matches!(self, Self::DropBeforeAck | Self::RetryOnce)
    }
}

/// How a pairing is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairingRefusal {
    /// The phone's answer is signed with a wrong secret: the client refuses it, and says so.
    Forged,
    /// The phone is too old for linked devices and can't use what it scanned.
    PhoneTooOld,
    /// A request for a pairing code is refused with this code: 400, 403, 429, 452 or 500.
    Code(u16),
}

/// What a broken network or server may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Garbage {
    /// Bytes that are no frame of this connection.
    Bytes,
    /// A frame that claims to be as long as a frame can be.
    Oversize,
    /// The beginning of a frame; then the connection closes.
    Truncated,
    /// A well encrypted frame that holds no stanza.
    Stanza,
}
