//! What the simulator does with a message, by the last four digits of its recipient: the table of the contract.

use crate::message::Status;
use crate::recipient::Recipient;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Acknowledged, delivered, read.
    Ordinary,
    /// Refused: the recipient isn't on WhatsApp.
    NotOnWhatsApp,
    /// Refused twice for now, then as usual.
    FailsTwice,
    /// Acknowledged after a while.
    SlowAcknowledgement,
    /// Taken, and the connection lost before the acknowledgement; as usual when it comes again.
    LosesConnection,
    /// Acknowledged, and nothing more.
    NeverDelivered,
    /// Acknowledged; read before it is delivered, twice.
    DisorderlyReceipts,
    /// Refused: WhatsApp restricts the account.
    Restricted,
    /// Taken, and nothing more.
    NeverAcknowledged,
    /// Refused for some seconds from the recipient's first message on, then as usual.
    UnreachableAtFirst,
    /// Taken without an acknowledgement; delivered and read after its expiry.
    LateReceipts,
}

impl Behaviour {
    /// What the recipient's number stands for. Groups and hidden ids are ordinary: their digits are nobody's choice.
    pub(super) fn of(recipient: &Recipient) -> Self {
        let number = recipient.as_str().strip_prefix('+').unwrap_or_default();
        match number.len().checked_sub(4).and_then(|start| number.get(start..)) {
            Some("0001") => Self::NotOnWhatsApp,
            Some("0002") => Self::FailsTwice,
            Some("0003") => Self::SlowAcknowledgement,
            Some("0004") => Self::LosesConnection,
            Some("0005") => Self::NeverDelivered,
            Some("0006") => Self::DisorderlyReceipts,
            Some("0007") => Self::Restricted,
            Some("0008") => Self::NeverAcknowledged,
            Some("0009") => Self::UnreachableAtFirst,
            Some("0010") => Self::LateReceipts,
            _ => Self::Ordinary,
        }
    }

    /// The receipts that follow an acknowledgement, in the order in which they come.
    pub(super) const fn receipts(self) -> &'static [Status] {
        match self {
            Self::NotOnWhatsApp | Self::Restricted | Self::NeverAcknowledged | Self::NeverDelivered => &[],
            Self::DisorderlyReceipts => &[Status::Read, Status::Delivered, Status::Delivered],
            Self::Ordinary
            | Self::FailsTwice
            | Self::SlowAcknowledgement
            | Self::LosesConnection
            | Self::UnreachableAtFirst
            | Self::LateReceipts => &[Status::Delivered, Status::Read],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_numbers_last_four_digits_count() {
        for (text, behaviour) in [
            ("+15551230001", Behaviour::NotOnWhatsApp),
            ("+15551230010", Behaviour::LateReceipts),
            ("+15551200101", Behaviour::Ordinary),
            ("+15550004000", Behaviour::Ordinary),
            ("120363025246120001@g.us", Behaviour::Ordinary),
            ("123456789010008@lid", Behaviour::Ordinary),
        ] {
            assert_eq!(Behaviour::of(&Recipient::parse(text).expect(text)), behaviour, "{text}");
        }
    }
}
