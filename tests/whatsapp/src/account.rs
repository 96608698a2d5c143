//! An account as tests see it: a number with a linked device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::{Device, conflict};

/// A `<message>` as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireMessage {
    /// Its id.
    pub id: String,
    /// A number, or the address of a group.
    pub to: String,
    /// When it came.
    pub at: Instant,
}

/// A linked device of somebody's number: the client under test.
#[derive(Clone)]
pub struct Account {
    device: Arc<Device>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.device.peer)
    }
}

impl Account {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Self { device }
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Its phone number.
    pub fn number(&self) -> String {
        self.device.number.clone()
    }

    /// Whether the client is logged in and has asked for what came while it was away.
    pub fn is_connected(&self) -> bool {
        self.device.is_active()
    }

    /// Waits until it is connected.
    pub async fn wait_connected(&self) {
        // The sender lives as long as the device, so this ends with `true` only.
        let _ = self.device.watch().wait_for(|active| *active).await;
    }

    /// Waits until it isn't connected.
    pub async fn wait_disconnected(&self) {
        let _ = self.device.watch().wait_for(|active| !*active).await;
    }

    /// Closes the connection without a word.
    pub fn drop_socket(&self) {
        self.device.disconnect(None);
    }

    /// Tells the client that another connection has taken its place.
    pub fn replace(&self) {
        self.device.disconnect(Some(conflict("replaced")));
    }

    /// The owner removes the device on the phone.
    pub fn log_out(&self) {
        self.device.unlink();
        self.device.disconnect(Some(conflict("device_removed")));
    }

    /// WhatsApp bans the number for a time: the connection closes, and logins are refused until it is over.
    pub fn ban(&self, time: Duration) {
        self.device.ban(Some(time));
        self.device.disconnect(None);
    }

    /// Lifts a ban.
    pub fn unban(&self) {
        self.device.ban(None);
    }

    /// Sends the receipts that were held back, now or after the next login.
    pub fn release_receipts(&self) {
        self.device.release(usize::MAX);
    }

    /// Sends the first of them: a member's receipt of arrival, then that of reading.
    pub fn release_first_receipts(&self, count: usize) {
        self.device.release(count);
    }

    /// Every `<message>` it has sent, in order, repeats included; messages to the own phone aside.
    pub fn wire(&self) -> Vec<WireMessage> {
        self.device.wire()
    }

    /// How many messages and receipts for it the client hasn't acknowledged; those sent and those that wait for a login.
    pub fn unsettled(&self) -> usize {
        self.device.unsettled()
    }

    /// How often it has logged in.
    pub fn logins(&self) -> usize {
        self.device.logins()
    }

    /// Whether the number still has it as a linked device: not after the client or the owner has removed it.
    pub fn is_linked(&self) -> bool {
        self.device.is_linked()
    }

    /// To whom it was shown as typing, in order.
    pub fn typing(&self) -> Vec<String> {
        self.device.typing()
    }

    /// What the owner's phone couldn't decrypt of the copies sent to it.
    pub fn phone_decrypt_errors(&self) -> Vec<String> {
        self.device.phone.decrypt_errors()
    }
}
