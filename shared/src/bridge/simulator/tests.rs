//! Each row of the contract's table of recipients, at the port, with shorter times than the real ones.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{Simulator, Timing};
use crate::conformance::bridge::link_request;
use crate::ids::{SessionId, new_whatsapp_id};
use crate::message::{Content, MessageType, Status};
use crate::ports::bridge::{Attempt, Bridge, BridgeEvent, Link, LinkRequest, SendRequest};
use crate::ports::store::{Awaiting, Receipt};
use crate::recipient::Recipient;
use crate::settings::{ReceiptTimes, SimulatorSettings};
use crate::time::Time;

/// A ledger of its own, removed at the end.
struct LedgerFile(PathBuf);

impl LedgerFile {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("sanasr-ledger-{:032x}", rand::random::<u128>())))
    }

    fn simulator(&self) -> Simulator {
        let mut simulator = Simulator::new(&SimulatorSettings {
            simulator_receipts: ReceiptTimes::default(),
            simulator_scan_after: Duration::from_millis(100),
            simulator_ledger: Some(self.0.clone()),
        })
        .expect("the ledger can be made");
        simulator.timing = Timing {
            receipts: ReceiptTimes::default(),
            scan_after: Duration::from_millis(100),
            qr_life: Duration::from_millis(40),
            reconnect_after: Duration::from_millis(100),
            slow_acknowledgement: Duration::from_millis(100),
            unreachable: Duration::from_secs(1),
            receipt_gap: Duration::from_millis(10),
            late_receipts: Duration::from_millis(50),
        };
        simulator
    }

    /// The ids received, in order, with the sessions they came from.
    fn received(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.0).expect("the ledger is there");
        let word = |line: &serde_json::Value, name: &str| line[name].as_str().expect("a word").to_owned();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .map(|line| (word(&line, "session_id"), word(&line, "whatsapp_id")))
            .collect()
    }

    fn count(&self, id: &str) -> usize {
        self.received().iter().filter(|(_, received)| received == id).count()
    }
}

impl Drop for LedgerFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Session {
    link: Arc<dyn Link>,
    events: mpsc::Receiver<BridgeEvent>,
}

impl Session {
    async fn open(simulator: &Simulator, awaiting: Vec<Awaiting>) -> Self {
        let (sender, events) = mpsc::channel(64);
        let paired = Some("+15550000000".to_owned());
        let request = LinkRequest { paired, awaiting, ..link_request(SessionId::generate()) };
        let mut session = Self { link: simulator.open(request, sender).await, events };
        while !matches!(session.next().await, BridgeEvent::Connected) {}
        session
    }

    async fn next(&mut self) -> BridgeEvent {
        timeout(Duration::from_secs(20), self.events.recv()).await.expect("an event in time").expect("the link lives")
    }

    async fn send(&self, message: &SendRequest) -> Attempt {
        timeout(Duration::from_secs(20), self.link.send(message)).await.expect("an answer in time")
    }

    /// Takes receipts until there are `count`.
    async fn receipts(&mut self, count: usize) -> Vec<Receipt> {
        let mut all = Vec::new();
        while all.len() < count {
            if let BridgeEvent::Receipts(batch) = self.next().await {
                all.extend(batch.receipts);
                batch.taken.expect("the simulator wants an answer").send(()).expect("and waits for it");
            }
        }
        all
    }

    /// The receipts that come before those of a message to somebody ordinary.
    async fn receipts_so_far(&mut self) -> Vec<Receipt> {
        let marker = message("7777", 1);
        assert_eq!(self.send(&marker).await, Attempt::Sent);
        let mut all = Vec::new();
        loop {
            let (marks, others): (Vec<_>, Vec<_>) =
                self.receipts(1).await.into_iter().partition(|r| r.whatsapp_id == marker.whatsapp_id);
            all.extend(others);
            if marks.iter().any(|r| r.status == Status::Read) {
                return all;
            }
        }
    }
}

fn message(ending: &str, attempt: i32) -> SendRequest {
    SendRequest {
        whatsapp_id: new_whatsapp_id(),
        recipient: Recipient::parse(&format!("+1555123{ending}")).expect("a number"),
        kind: MessageType::Text,
        content: Content { text: Some("Hello".to_owned()), ..Content::default() },
        file: None,
        quoted: None,
        attempt,
        expires_at: Time::now().plus(Duration::from_secs(3600)),
        patience: Duration::from_secs(30),
    }
}

fn awaiting(message: &SendRequest, status: Status) -> Awaiting {
    Awaiting {
        whatsapp_id: message.whatsapp_id.clone(),
        recipient: message.recipient.clone(),
        status,
        expires_at: message.expires_at,
    }
}

fn code(attempt: &Attempt) -> &str {
    match attempt {
        Attempt::Sent => "sent",
        Attempt::Held(..) => "held",
        Attempt::Transient(error)
        | Attempt::Restricted(error)
        | Attempt::Permanent(error)
        | Attempt::InDoubt(error) => &error.code,
    }
}

fn statuses(receipts: &[Receipt]) -> Vec<Status> {
    receipts.iter().map(|r| r.status).collect()
}

#[tokio::test]
async fn refusals_say_why_and_send_nothing() {
    let ledger = LedgerFile::new();
    let session = Session::open(&ledger.simulator(), Vec::new()).await;
    let nobody = session.send(&message("0001", 1)).await;
    assert!(matches!(&nobody, Attempt::Permanent(e) if e.code == "not_on_whatsapp" && !e.retryable), "{nobody:?}");
    let restricted = session.send(&message("0007", 1)).await;
    assert!(
        matches!(&restricted, Attempt::Restricted(e) if e.code == "restricted" && e.retryable && e.detail.contains("463")),
        "{restricted:?}"
    );
    assert!(ledger.received().is_empty());
}

#[tokio::test]
async fn the_third_attempt_is_the_first_that_works() {
    let ledger = LedgerFile::new();
    let mut session = Session::open(&ledger.simulator(), Vec::new()).await;
    let mut message = message("0002", 1);
    for attempt in [1, 2] {
        message.attempt = attempt;
        assert!(matches!(session.send(&message).await, Attempt::Transient(_)));
    }
    assert!(ledger.received().is_empty());
    message.attempt = 3;
    assert_eq!(session.send(&message).await, Attempt::Sent);
    assert_eq!(statuses(&session.receipts(2).await), [Status::Delivered, Status::Read]);
    assert_eq!(ledger.count(&message.whatsapp_id), 1);
}

#[tokio::test]
async fn a_slow_acknowledgement_comes() {
    let ledger = LedgerFile::new();
    let mut session = Session::open(&ledger.simulator(), Vec::new()).await;
    let (message, start) = (message("0003", 1), Instant::now());
    assert_eq!(session.send(&message).await, Attempt::Sent);
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(statuses(&session.receipts(2).await), [Status::Delivered, Status::Read]);
}

#[tokio::test]
async fn a_connection_is_lost_once_with_all_that_is_in_flight() {
    let ledger = LedgerFile::new();
    let mut session = Session::open(&ledger.simulator(), Vec::new()).await;
    let mut lost = message("0004", 1);
    let (never, slow) = (message("0008", 1), message("0003", 1));
    let (first, second, third) =
        tokio::join!(session.send(&never), session.send(&slow), async { session.send(&lost).await });
    for attempt in [first, second, third] {
        assert!(matches!(&attempt, Attempt::InDoubt(e) if e.code == "connection_lost"), "{attempt:?}");
    }
    assert!(matches!(session.send(&message("7777", 1)).await, Attempt::Transient(_)), "it isn't connected");
    assert!(matches!(session.next().await, BridgeEvent::Disconnected { .. }));
    assert!(matches!(session.next().await, BridgeEvent::Connecting));
    assert!(matches!(session.next().await, BridgeEvent::Connected));
    lost.attempt = 2;
    assert_eq!(session.send(&lost).await, Attempt::Sent);
    assert_eq!(ledger.count(&lost.whatsapp_id), 2, "one id, twice");
    let receipts = session.receipts(4).await;
    let of_lost: Vec<_> = receipts.iter().filter(|r| r.whatsapp_id == lost.whatsapp_id).collect();
    assert_eq!(of_lost.len(), 2, "shown once: {receipts:?}");
}

#[tokio::test]
async fn what_is_never_delivered_has_no_receipts() {
    let ledger = LedgerFile::new();
    let mut session = Session::open(&ledger.simulator(), vec![awaiting(&message("0005", 1), Status::Sent)]).await;
    assert_eq!(session.send(&message("0005", 1)).await, Attempt::Sent);
    assert_eq!(session.receipts_so_far().await, []);
    assert_eq!(ledger.received().len(), 2);
}

#[tokio::test]
async fn receipts_come_in_disorder_and_twice() {
    let ledger = LedgerFile::new();
    let mut session = Session::open(&ledger.simulator(), Vec::new()).await;
    assert_eq!(session.send(&message("0006", 1)).await, Attempt::Sent);
    assert_eq!(statuses(&session.receipts(3).await), [Status::Read, Status::Delivered, Status::Delivered]);
}

#[tokio::test]
async fn what_is_never_acknowledged_is_taken_each_time() {
    let ledger = LedgerFile::new();
    let mut session = Session::open(&ledger.simulator(), Vec::new()).await;
    let mut message = message("0008", 1);
    for attempt in [1, 2] {
        message.attempt = attempt;
        assert!(timeout(Duration::from_millis(50), session.link.send(&message)).await.is_err());
    }
    assert_eq!(ledger.count(&message.whatsapp_id), 2);
    assert_eq!(session.receipts_so_far().await, []);
}

#[tokio::test]
async fn a_recipient_is_unreachable_from_its_first_message_on() {
    let ledger = LedgerFile::new();
    let mut session = Session::open(&ledger.simulator(), Vec::new()).await;
    let mut first = message("0009", 1);
    assert!(matches!(session.send(&first).await, Attempt::Transient(_)));
    assert!(matches!(session.send(&message("0009", 1)).await, Attempt::Transient(_)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.attempt = 2;
    assert_eq!(session.send(&first).await, Attempt::Sent);
    assert_eq!(session.send(&message("0009", 1)).await, Attempt::Sent);
    session.receipts(4).await;
}

#[tokio::test]
async fn late_receipts_come_once_after_the_expiry() {
    let ledger = LedgerFile::new();
    let simulator = ledger.simulator();
    let mut session = Session::open(&simulator, Vec::new()).await;
    let mut message = message("0010", 1);
    message.expires_at = Time::now().plus(Duration::from_millis(300));
    for attempt in [1, 2] {
        message.attempt = attempt;
        assert!(timeout(Duration::from_millis(20), session.link.send(&message)).await.is_err());
    }
    let receipts = session.receipts(2).await;
    assert_eq!(statuses(&receipts), [Status::Delivered, Status::Read]);
    assert!(receipts.iter().all(|r| r.at > message.expires_at));
    assert_eq!(session.receipts_so_far().await, []);
    assert_eq!(ledger.count(&message.whatsapp_id), 2);
}

#[tokio::test]
async fn a_fresh_simulator_gives_what_is_awaited() {
    let ledger = LedgerFile::new();
    let mut late = message("0010", 1);
    late.expires_at = Time::now().plus(Duration::from_millis(200));
    let (sent, disorderly) = (message("7777", 1), message("0006", 1));
    let never = [
        awaiting(&message("0005", 1), Status::Sent),
        awaiting(&message("0008", 1), Status::Sending),
        awaiting(&message("7777", 1), Status::Sending),
        awaiting(&message("7777", 1), Status::Failed),
    ];
    let mut all =
        vec![awaiting(&late, Status::Failed), awaiting(&sent, Status::Sent), awaiting(&disorderly, Status::Delivered)];
    all.extend(never.iter().cloned());
    let mut session = Session::open(&ledger.simulator(), all).await;
    let receipts = session.receipts(7).await;
    let of = |id: &str| receipts.iter().filter(|r| r.whatsapp_id == id).count();
    assert_eq!([of(&late.whatsapp_id), of(&sent.whatsapp_id), of(&disorderly.whatsapp_id)], [2, 2, 3]);
    assert!(never.iter().all(|a| of(&a.whatsapp_id) == 0));
}

#[tokio::test]
async fn qr_codes_are_renewed_until_one_is_scanned() {
    let ledger = LedgerFile::new();
    let (sender, mut events) = mpsc::channel(64);
    let request = link_request(SessionId::generate());
    let _link = ledger.simulator().open(request, sender).await;
    let mut codes = Vec::new();
    loop {
        match events.recv().await.expect("the link lives") {
            BridgeEvent::QrCode { code, .. } => codes.push(code),
            BridgeEvent::Connected => break,
            _ => {}
        }
    }
    // One each 40 ms, scanned after 100 ms; on a busy machine each lasts longer.
    assert!(codes.len() >= 2, "{codes:?}");
    assert!(codes.windows(2).all(|pair| pair[0] != pair[1]), "{codes:?}");
}

#[tokio::test]
async fn a_ledger_line_says_what_was_received() {
    let ledger = LedgerFile::new();
    let session = Session::open(&ledger.simulator(), Vec::new()).await;
    let message = message("7777", 1);
    assert_eq!(code(&session.send(&message).await), "sent");
    let text = std::fs::read_to_string(&ledger.0).expect("the ledger is there");
    let line: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
    assert_eq!(line["whatsapp_id"], message.whatsapp_id.as_str());
    assert_eq!((&line["to"], &line["type"], &line["text"]), (&"+15551237777".into(), &"text".into(), &"Hello".into()));
    assert!(Time::parse(line["at"].as_str().expect("a time")).is_some());
}

#[test]
fn a_ledger_that_cannot_be_opened_is_told() {
    let settings = SimulatorSettings {
        simulator_scan_after: Duration::ZERO,
        simulator_receipts: ReceiptTimes::default(),
        simulator_ledger: Some("/nowhere/at/all".into()),
    };
    let error = Simulator::new(&settings).err().expect("no such folder");
    assert!(error.contains("SANASR_SIMULATOR_LEDGER") && error.contains("/nowhere/at/all"), "{error}");
}

#[cfg(feature = "conformance")]
mod conformance {
    use super::*;
    use crate::conformance::bridge::BridgeWorld;

    #[async_trait::async_trait]
    impl BridgeWorld for LedgerFile {
        fn bridge(&self) -> Arc<dyn Bridge> {
            Arc::new(self.simulator())
        }

        fn reader(&self, n: u32) -> Recipient {
            Recipient::parse(&format!("+1555{n:03}7777")).expect("a number")
        }

        fn received(&self, session: SessionId) -> Vec<String> {
            let session = session.to_string();
            LedgerFile::received(self).into_iter().filter(|(from, _)| *from == session).map(|(_, id)| id).collect()
        }

        async fn break_connection(&self, link: &dyn Link) {
            assert!(matches!(link.send(&message("0004", 1)).await, Attempt::InDoubt(_)));
        }
    }

    crate::bridge_suite!(LedgerFile::new());
}

#[tokio::test]
async fn receipts_take_their_time() {
    let ledger = LedgerFile::new();
    let mut simulator = ledger.simulator();
    let (delivered, read) = (Duration::from_millis(60), Duration::from_millis(180));
    simulator.timing.receipts = ReceiptTimes { delivered, read };
    let mut session = Session::open(&simulator, Vec::new()).await;
    let start = std::time::Instant::now();
    assert_eq!(session.send(&message("7777", 1)).await, Attempt::Sent);
    assert_eq!(session.receipts(1).await[0].status, Status::Delivered);
    assert!(start.elapsed() >= delivered);
    assert_eq!(session.receipts(1).await[0].status, Status::Read);
    assert!(start.elapsed() >= read);
}
