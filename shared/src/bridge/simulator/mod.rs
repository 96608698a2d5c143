//! A bridge that behaves like WhatsApp without a phone: for the first run, demos, tests and benchmarks.
//!
//! `whatsapp` is the far side: what it received, what it showed, the receipts that it has for each account. It lasts
//! as long as the process and knows nothing of connections. `link` is one session's connection to it. What a
//! recipient's last digits mean is in `behaviour`, and nowhere else.

mod behaviour;
mod ledger;
mod link;
mod mailbox;
#[cfg(test)]
mod tests;
mod whatsapp;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::ports::bridge::{Bridge, BridgeEvent, Link, LinkRequest};
use crate::session::BridgeKind;
use crate::settings::{ReceiptTimes, SimulatorSettings};

use self::ledger::Ledger;
use self::link::SimulatedLink;
use self::whatsapp::WhatsApp;

/// How long things take.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// From the first QR code to its scan.
    scan_after: Duration,
    /// How long a QR code can be scanned; WhatsApp's web client shows a new one every 20 s.
    qr_life: Duration,
    /// From losing the connection to having it back.
    reconnect_after: Duration,
    /// The acknowledgement of a recipient who has to be waited for.
    slow_acknowledgement: Duration,
    /// How long a recipient can't be reached, counted from the first message.
    unreachable: Duration,
    /// From an acknowledgement to its receipts.
    receipts: ReceiptTimes,
    /// Between receipts that come one by one.
    receipt_gap: Duration,
    /// From a message's expiry to its late receipts.
    late_receipts: Duration,
}

impl Timing {
    const fn new(scan_after: Duration, receipts: ReceiptTimes) -> Self {
        Self {
            scan_after,
            receipts,
            qr_life: Duration::from_secs(20),
            reconnect_after: Duration::from_millis(200),
            slow_acknowledgement: Duration::from_secs(2),
            unreachable: Duration::from_secs(10),
            receipt_gap: Duration::from_millis(50),
            late_receipts: Duration::from_secs(1),
        }
    }
}

/// The simulated WhatsApp: one for a process.
pub struct Simulator {
    whatsapp: Arc<WhatsApp>,
    timing: Timing,
}

impl Simulator {
    /// A simulator that nothing has been sent to yet.
    ///
    /// # Errors
    /// If the ledger can't be opened for appending, in words.
    pub fn new(settings: &SimulatorSettings) -> Result<Self, String> {
        let ledger = match &settings.simulator_ledger {
            Some(path) => Some(
                Ledger::open(path)
                    .map_err(|e| format!("SANASR_SIMULATOR_LEDGER: {} can't be opened: {e}", path.display()))?,
            ),
            None => None,
        };
        Ok(Self {
            whatsapp: Arc::new(WhatsApp::new(ledger)),
            timing: Timing::new(settings.simulator_scan_after, settings.simulator_receipts),
        })
    }
}

#[async_trait]
impl Bridge for Simulator {
    fn kind(&self) -> BridgeKind {
        BridgeKind::Simulator
    }

    fn repeats_under_same_id(&self) -> bool {
        true
    }

    /// A simulator that starts afresh has forgotten what it was sent.
    fn wants_awaiting(&self) -> bool {
        true
    }

    async fn open(&self, session: LinkRequest, events: mpsc::Sender<BridgeEvent>) -> Arc<dyn Link> {
        Arc::new(SimulatedLink::open(Arc::clone(&self.whatsapp), self.timing, session, events))
    }
}
