//! One session's connection to the simulated WhatsApp: a task that reports what happens and gives out receipts, and a
//! handle that sends.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::ids::SessionId;
use crate::message::{MessageError, Status};
use crate::ports::bridge::{Attempt, BridgeEvent, Link, LinkRequest, Receipts, SendRequest};
use crate::ports::store::Awaiting;
use crate::settings::ReceiptTimes;
use crate::time::Time;

use super::Timing;
use super::behaviour::Behaviour;
use super::whatsapp::{Account, WhatsApp};

/// Receipts in one event, at most.
const RECEIPTS_AT_ONCE: usize = 1_000;

/// The handle. Dropping it disconnects.
pub(super) struct SimulatedLink(Arc<Shared>);

struct Shared {
    session: SessionId,
    whatsapp: Arc<WhatsApp>,
    account: Arc<Account>,
    timing: Timing,
    /// Held while an event is handed over, so that none follows once the link is closed.
    connection: Mutex<Connection>,
    closing: CancellationToken,
    ended: CancellationToken,
}

enum Connection {
    Down,
    /// Up until the token is cancelled.
    Up(CancellationToken),
    Closed,
}

/// The link is closed, or nobody listens to it any more.
struct Closed;

impl SimulatedLink {
    /// Starts to connect; a session that isn't paired is paired first.
    pub(super) fn open(
        whatsapp: Arc<WhatsApp>,
        timing: Timing,
        request: LinkRequest,
        events: mpsc::Sender<BridgeEvent>,
    ) -> Self {
        let shared = Arc::new(Shared {
            session: request.session,
            account: whatsapp.account(request.session),
            whatsapp,
            timing,
            connection: Mutex::new(Connection::Down),
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        shared.remember(&request.awaiting);
        let task = Task {
            ring: shared.account.mailbox.take_over(),
            shared: Arc::clone(&shared),
            paired: request.paired.is_some(),
            pair_phone: request.pair_phone,
            events,
        };
        tokio::spawn(task.run());
        Self(shared)
    }
}

impl Drop for SimulatedLink {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[async_trait]
impl Link for SimulatedLink {
    async fn send(&self, message: &SendRequest) -> Attempt {
        let Some(connection) = self.0.connection() else {
            return Attempt::Transient(not_connected());
        };
        let (shared, timing) = (&self.0, &self.0.timing);
        let behaviour = Behaviour::of(&message.recipient);
        match behaviour {
            Behaviour::NotOnWhatsApp => return Attempt::Permanent(not_on_whatsapp(message)),
            Behaviour::Restricted => return Attempt::Restricted(restricted()),
            Behaviour::FailsTwice if message.attempt <= 2 => return Attempt::Transient(rate_limited()),
            Behaviour::UnreachableAtFirst
                if !shared.account.reaches(&message.recipient, Instant::now(), timing.unreachable) =>
            {
                return Attempt::Transient(rate_limited());
            }
            _ => {}
        }
        if let Err(error) = shared.whatsapp.receive(shared.session, message).await {
            return Attempt::Transient(ledger_failed(&error));
        }
        match behaviour {
            Behaviour::LosesConnection if message.attempt <= 1 => {
                shared.lose(&connection);
                Attempt::InDoubt(connection_lost())
            }
            Behaviour::NeverAcknowledged => {
                connection.cancelled().await;
                Attempt::InDoubt(connection_lost())
            }
            Behaviour::LateReceipts => {
                shared.show(message, behaviour, after_expiry(message.expires_at, timing.late_receipts));
                connection.cancelled().await;
                Attempt::InDoubt(connection_lost())
            }
            Behaviour::SlowAcknowledgement => {
                let acknowledged_at = Instant::now() + timing.slow_acknowledgement;
                shared.show(message, behaviour, acknowledged_at);
                tokio::select! {
                    biased;
                    () = connection.cancelled() => Attempt::InDoubt(connection_lost()),
                    () = sleep_until(acknowledged_at) => Attempt::Sent,
                }
            }
            _ => {
                shared.show(message, behaviour, Instant::now());
                Attempt::Sent
            }
        }
    }

    async fn disconnect(&self) {
        self.0.close();
        self.0.ended.cancelled().await;
    }

    async fn logout(&self) {
        self.disconnect().await;
        self.0.whatsapp.leave(self.0.session, &self.0.account, true);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> Option<CancellationToken> {
        match &*self.lock() {
            Connection::Up(token) => Some(token.clone()),
            Connection::Down | Connection::Closed => None,
        }
    }

    fn connect(&self) -> Result<CancellationToken, Closed> {
        let mut connection = self.lock();
        if matches!(*connection, Connection::Closed) {
            return Err(Closed);
        }
        let token = CancellationToken::new();
        *connection = Connection::Up(token.clone());
        Ok(token)
    }

    /// Loses this connection; whatever waits for an acknowledgement on it is in doubt.
    fn lose(&self, lost: &CancellationToken) {
        let mut connection = self.lock();
        // Cancelled already: another message lost it, and the one that is up now isn't this one.
        if !lost.is_cancelled() {
            lost.cancel();
            *connection = Connection::Down;
        }
    }

    fn close(&self) {
        if let Connection::Up(token) = std::mem::replace(&mut *self.lock(), Connection::Closed) {
            token.cancel();
        }
        self.closing.cancel();
    }

    /// Shows a message to its recipient, whose receipts come from `from` on. One id is one message, however often it
    /// arrives.
    fn show(&self, message: &SendRequest, behaviour: Behaviour, from: Instant) {
        if self.whatsapp.show(self.session, &message.whatsapp_id) {
            self.receipts(&message.whatsapp_id, behaviour, from);
        }
    }

    fn receipts(&self, whatsapp_id: &str, behaviour: Behaviour, from: Instant) {
        let mailbox = &self.account.mailbox;
        match behaviour {
            Behaviour::DisorderlyReceipts => {
                let mut when = from;
                for status in behaviour.receipts() {
                    mailbox.push_later(whatsapp_id, *status, when);
                    when += self.timing.receipt_gap;
                }
            }
            Behaviour::LateReceipts => {
                for status in behaviour.receipts() {
                    mailbox.push_later(whatsapp_id, *status, from);
                }
            }
            _ if from <= Instant::now() && self.timing.receipts == ReceiptTimes::default() => {
                mailbox.push(whatsapp_id, behaviour.receipts());
            }
            _ => {
                let ReceiptTimes { delivered, read } = self.timing.receipts;
                for status in behaviour.receipts() {
                    let after = if *status == Status::Read { read } else { delivered };
                    mailbox.push_later(whatsapp_id, *status, from + after);
                }
            }
        }
    }

    /// Has the receipts ready that the session's messages await, but for those that are here already: this process may
    /// not be the one that sent them.
    fn remember(&self, awaiting: &[Awaiting]) {
        if awaiting.is_empty() {
            return;
        }
        let here = self.account.mailbox.whatsapp_ids();
        for message in awaiting.iter().filter(|m| !here.contains(&m.whatsapp_id)) {
            let behaviour = Behaviour::of(&message.recipient);
            let from = match behaviour {
                Behaviour::LateReceipts => after_expiry(message.expires_at, self.timing.late_receipts),
                _ if matches!(message.status, Status::Sent | Status::Delivered) => Instant::now(),
                // Not known to have arrived: it is sent again, and gets its receipts then.
                _ => continue,
            };
            self.whatsapp.show(self.session, &message.whatsapp_id);
            self.receipts(&message.whatsapp_id, behaviour, from);
        }
    }
}

/// The moment `later` than a message's expiry.
fn after_expiry(expires_at: Time, later: Duration) -> Instant {
    Instant::now() + expires_at.since(Time::now()) + later
}

/// What drives a link.
struct Task {
    shared: Arc<Shared>,
    paired: bool,
    pair_phone: Option<String>,
    events: mpsc::Sender<BridgeEvent>,
    ring: Arc<Notify>,
}

impl Task {
    async fn run(self) {
        // Last of all, also if this panics: whoever disconnects waits for it.
        let _ended = self.shared.ended.clone().drop_guard();
        let Err(Closed) = self.live().await;
        self.shared.close();
        self.shared.whatsapp.leave(self.shared.session, &self.shared.account, false);
        drop(self.events);
    }

    async fn live(&self) -> Result<Infallible, Closed> {
        self.emit(BridgeEvent::Connecting).await?;
        if !self.paired {
            match &self.pair_phone {
                Some(phone) => self.pair_by_code(phone).await?,
                None => self.pair().await?,
            }
        }
        loop {
            let connection = self.shared.connect()?;
            self.shared.account.mailbox.connected();
            self.emit(BridgeEvent::Connected).await?;
            self.give_receipts(&connection).await?;
            let reason = "The simulator dropped the connection.".to_owned();
            self.emit(BridgeEvent::Disconnected { reason }).await?;
            self.emit(BridgeEvent::Connecting).await?;
            self.pause(self.shared.timing.reconnect_after).await?;
        }
    }

    /// Shows QR codes until one is scanned.
    async fn pair(&self) -> Result<(), Closed> {
        let Timing { scan_after, qr_life, .. } = self.shared.timing;
        let scanned_at = Instant::now() + scan_after;
        loop {
            let code = qr_code(self.shared.session);
            self.emit(BridgeEvent::QrCode { code, expires_at: Time::now().plus(qr_life) }).await?;
            let left = scanned_at.saturating_duration_since(Instant::now());
            self.pause(left.min(qr_life)).await?;
            if left <= qr_life {
                return self.emit(BridgeEvent::Paired { phone_number: phone_number(self.shared.session) }).await;
            }
        }
    }

    /// Shows codes until one is typed.
    async fn pair_by_code(&self, phone: &str) -> Result<(), Closed> {
        let Timing { scan_after, qr_life, .. } = self.shared.timing;
        let typed_at = Instant::now() + scan_after;
        loop {
            self.emit(BridgeEvent::PairCode { code: pair_code(), expires_at: Time::now().plus(qr_life) }).await?;
            let left = typed_at.saturating_duration_since(Instant::now());
            self.pause(left.min(qr_life)).await?;
            if left <= qr_life {
                return self.emit(BridgeEvent::Paired { phone_number: phone.to_owned() }).await;
            }
        }
    }

    /// Gives out receipts as they fall due, until the connection is lost. One event at a time: what comes until it is
    /// taken goes into the next, so that under load they come by the hundred.
    async fn give_receipts(&self, connection: &CancellationToken) -> Result<(), Closed> {
        let mailbox = &self.shared.account.mailbox;
        while !connection.is_cancelled() {
            match mailbox.collect(Instant::now(), RECEIPTS_AT_ONCE) {
                Ok(receipts) => {
                    let (taken, answer) = oneshot::channel();
                    let event = Receipts { receipts: receipts.clone(), taken: Some(taken) };
                    let given = self.emit(BridgeEvent::Receipts(event)).await;
                    let is_taken = tokio::select! {
                        answer = answer => answer.is_ok(),
                        () = self.shared.closing.cancelled() => false,
                        () = connection.cancelled() => false,
                    };
                    if !is_taken {
                        mailbox.put_back(receipts);
                    }
                    given?;
                }
                Err(next) => tokio::select! {
                    biased;
                    () = self.shared.closing.cancelled() => return Err(Closed),
                    () = self.events.closed() => return Err(Closed),
                    () = connection.cancelled() => {}
                    () = self.ring.notified() => {}
                    () = until(next) => {}
                },
            }
        }
        Ok(())
    }

    /// Hands an event over, waiting for room.
    async fn emit(&self, event: BridgeEvent) -> Result<(), Closed> {
        let permit = tokio::select! {
            biased;
            () = self.shared.closing.cancelled() => return Err(Closed),
            permit = self.events.reserve() => permit.map_err(|_| Closed)?,
        };
        match &*self.shared.lock() {
            Connection::Closed => Err(Closed),
            Connection::Down | Connection::Up(_) => {
                permit.send(event);
                Ok(())
            }
        }
    }

    async fn pause(&self, duration: Duration) -> Result<(), Closed> {
        tokio::select! {
            () = self.shared.closing.cancelled() => Err(Closed),
            () = self.events.closed() => Err(Closed),
            () = sleep(duration) => Ok(()),
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// Shaped like the text in WhatsApp's own QR codes, and plainly not one.
fn qr_code(session: SessionId) -> String {
    format!("2@simulated,{session},{:032x}", rand::random::<u128>())
}

/// Of WhatsApp's form: eight characters of its alphabet, which leaves out what is easily mistaken.
fn pair_code() -> String {
    const ALPHABET: &[u8; 32] = b"123456789ABCDEFGHJKLMNPQRSTVWXYZ";
    let random = rand::random::<u64>();
    let letter = |n: u32| char::from(ALPHABET[(random >> (5 * n) & 31) as usize]);
    let (first, second): (String, String) = ((0..4).map(letter).collect(), (4..8).map(letter).collect());
    format!("{first}-{second}")
}

/// A number made from the session's random bits: always the same, and nobody's (the exchange 555 isn't given out).
fn phone_number(session: SessionId) -> String {
    format!("+1555{:07}", session.0.as_u128() % 10_000_000)
}

fn not_connected() -> MessageError {
    MessageError::new("connection_lost", "The session isn't connected; nothing was sent.", true)
}

fn connection_lost() -> MessageError {
    MessageError::new("connection_lost", "The connection was lost before WhatsApp acknowledged the message.", true)
}

fn not_on_whatsapp(message: &SendRequest) -> MessageError {
    MessageError::new("not_on_whatsapp", format!("{} isn't on WhatsApp.", message.recipient), false)
}

fn restricted() -> MessageError {
    MessageError::new(
        "restricted",
        "WhatsApp restricts this account's messages to new contacts (error 463); nothing was sent.",
        true,
    )
}

fn rate_limited() -> MessageError {
    MessageError::new("whatsapp_rate_limited", "WhatsApp asks to send more slowly; nothing was sent.", true)
}

fn ledger_failed(error: &std::io::Error) -> MessageError {
    MessageError::new(
        "ledger_failed",
        format!("The message's file can't be read, or the ledger not written: {error}."),
        true,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipient::Recipient;

    #[test]
    fn the_phone_number_is_a_number_and_always_the_same() {
        for _ in 0..100 {
            let session = SessionId::generate();
            let number = phone_number(session);
            assert_eq!(Recipient::parse(&number).expect("a number").as_str(), number);
            assert_eq!(phone_number(session), number);
        }
    }
}
