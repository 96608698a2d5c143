//! The promises of the [`Bridge`] port, one function each. [`bridge_suite!`](crate::bridge_suite) makes a test of every
//! one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::ids::{SessionId, WorkerId, new_whatsapp_id};
use crate::message::{Content, MessageType, Status};
use crate::ports::bridge::{Attempt, Bridge, BridgeEvent, Link, LinkRequest, Owner, SendRequest};
use crate::ports::store::{Awaiting, Receipt};
use crate::recipient::Recipient;
use crate::session::Pace;
use crate::time::Time;

/// What the suite needs of a kind of bridge.
#[async_trait]
pub trait BridgeWorld: Send + Sync {
    /// A bridge as a process that has just started has it. All of one world reach the same WhatsApp.
    fn bridge(&self) -> Arc<dyn Bridge>;

    /// Somebody who gets and reads every message; another one for each `n`.
    fn reader(&self, n: u32) -> Recipient;

    /// The ids that WhatsApp received from a session, each as often as it came, in the order in which they came.
    fn received(&self, session: SessionId) -> Vec<String>;

    /// Breaks a session's connection once; it comes back by itself.
    async fn break_connection(&self, link: &dyn Link);

    /// A session that nobody has opened yet.
    async fn session(&self) -> SessionId {
        SessionId::generate()
    }

    /// Somebody who may open that session.
    async fn owner(&self, _session: SessionId) -> Owner {
        Owner::new(WorkerId::generate(), || true)
    }

    /// A person with a phone looks at what a session shows, and links it if that is a code.
    async fn look(&self, _session: SessionId, _shown: &BridgeEvent) {}

    /// A session's pairing is over, and the store knows.
    async fn unlinked(&self, _session: SessionId) {}

    /// How many messages the reader of that number shows under an id; `None` if only its receipts tell.
    fn shown(&self, _reader: u32, _whatsapp_id: &str) -> Option<usize> {
        None
    }
}

/// Makes a test of every promise: `bridge_suite!(world)`, where `world` is an expression that makes a
/// [`BridgeWorld`] of its own for each.
#[macro_export]
macro_rules! bridge_suite {
    ($world:expr) => {
        $crate::bridge_suite! { @tests $world;
            an_unpaired_session_shows_a_code_and_pairs
            a_session_pairs_by_a_code_that_is_typed
            a_paired_session_connects_without_a_code
            an_acknowledged_message_was_received
            messages_to_one_recipient_are_received_in_order
            calls_run_side_by_side
            receipts_come_again_until_they_are_taken
            receipts_come_again_when_their_taker_is_gone
            receipts_of_another_process_come_too
            a_repeated_message_is_one_message
            a_lost_connection_comes_back
            nothing_follows_a_disconnect
            dropping_a_link_disconnects
            a_logout_ends_the_pairing
            sessions_do_not_hear_each_other
        }
    };
    (@tests $world:expr; $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                $crate::conformance::bridge::$promise(&$world).await;
            }
        )*
    };
}

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(20);

struct Opened<'w> {
    world: &'w dyn BridgeWorld,
    session: SessionId,
    /// The number that it was paired with, once it is.
    number: Option<String>,
    link: Arc<dyn Link>,
    events: mpsc::Receiver<BridgeEvent>,
}

/// A session that isn't paired, opened by somebody who may.
pub fn link_request(session: SessionId) -> LinkRequest {
    LinkRequest {
        session,
        owner: Owner::new(WorkerId::generate(), || true),
        pace: Pace::default(),
        proxy: None,
        paired: None,
        pair_phone: None,
        awaiting: Vec::new(),
    }
}

impl<'w> Opened<'w> {
    async fn open(
        world: &'w dyn BridgeWorld,
        bridge: &dyn Bridge,
        session: SessionId,
        paired: Option<&str>,
        awaiting: Vec<Awaiting>,
    ) -> Self {
        let paired = paired.map(str::to_owned);
        Self::request(world, bridge, LinkRequest { paired, awaiting, ..link_request(session) }).await
    }

    async fn request(world: &'w dyn BridgeWorld, bridge: &dyn Bridge, request: LinkRequest) -> Self {
        let (sender, events) = mpsc::channel(64);
        let session = request.session;
        let request = LinkRequest { owner: world.owner(session).await, ..request };
        Self { world, session, number: request.paired.clone(), link: bridge.open(request, sender).await, events }
    }

    /// Opens a session that is paired already, and waits until it is connected. It gets its pairing first.
    async fn connected(world: &'w dyn BridgeWorld, bridge: &dyn Bridge) -> Self {
        let mut opened = Self::open(world, bridge, world.session().await, None, Vec::new()).await;
        opened.until_connected().await;
        opened
    }

    async fn reopened(
        world: &'w dyn BridgeWorld,
        bridge: &dyn Bridge,
        session: SessionId,
        awaiting: Vec<Awaiting>,
    ) -> Self {
        // The number is for people to see; no bridge connects by it.
        let mut opened = Self::open(world, bridge, session, Some("+15550000000"), awaiting).await;
        opened.until_connected().await;
        opened
    }

    async fn next(&mut self) -> BridgeEvent {
        let event = timeout(PATIENCE, self.events.recv()).await.expect("an event comes in time");
        let event = event.expect("the link lives");
        if let BridgeEvent::Paired { phone_number } = &event {
            self.number = Some(phone_number.clone());
        }
        self.world.look(self.session, &event).await;
        event
    }

    async fn until_connected(&mut self) {
        while !matches!(self.next().await, BridgeEvent::Connected) {}
    }

    async fn ends(mut self) {
        while let Some(event) = timeout(PATIENCE, self.events.recv()).await.expect("the events end in time") {
            assert!(!matches!(event, BridgeEvent::Connected), "it must not connect again");
        }
    }

    async fn send(&self, message: &SendRequest) -> Attempt {
        timeout(PATIENCE, self.link.send(message)).await.expect("an acknowledgement in time")
    }

    /// Takes receipts until all of `ids` are read, and answers what came.
    async fn until_read<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>) -> Vec<Receipt> {
        let mut unread: HashSet<&str> = ids.into_iter().collect();
        let mut all = Vec::new();
        while !unread.is_empty() {
            for receipt in self.receipts().await {
                if receipt.status == Status::Read {
                    unread.remove(receipt.whatsapp_id.as_str());
                }
                all.push(receipt);
            }
        }
        all
    }

    /// Takes the next receipts.
    async fn receipts(&mut self) -> Vec<Receipt> {
        loop {
            if let BridgeEvent::Receipts(batch) = self.next().await {
                if let Some(taken) = batch.taken {
                    // The bridge may have lost its connection meanwhile; then they come again.
                    let _ = taken.send(());
                }
                return batch.receipts;
            }
        }
    }
}

/// A text that may take half a minute.
pub fn text(to: Recipient, attempt: i32) -> SendRequest {
    SendRequest {
        whatsapp_id: new_whatsapp_id(),
        recipient: to,
        kind: MessageType::Text,
        content: Content { text: Some("Hello".to_owned()), ..Content::default() },
        file: None,
        quoted: None,
        attempt,
        expires_at: Time::now().plus(Duration::from_secs(3600)),
        patience: Duration::from_secs(30),
    }
}

fn statuses_of(receipts: &[Receipt]) -> HashSet<Status> {
    receipts.iter().map(|r| r.status).collect()
}

fn of<'a>(receipts: &'a [Receipt], id: &str) -> Vec<&'a Receipt> {
    receipts.iter().filter(|r| r.whatsapp_id == id).collect()
}

/// Connecting, one code or more, paired with a number that is one, connected: in this order.
pub async fn an_unpaired_session_shows_a_code_and_pairs(world: &dyn BridgeWorld) {
    let bridge = world.bridge();
    let mut opened = Opened::open(world, &*bridge, world.session().await, None, Vec::new()).await;
    assert!(matches!(opened.next().await, BridgeEvent::Connecting));
    let mut codes = HashSet::new();
    loop {
        match opened.next().await {
            BridgeEvent::QrCode { code, expires_at } => {
                assert!(expires_at > Time::now(), "a code that can be scanned");
                assert!(codes.insert(code), "a new code each time");
            }
            BridgeEvent::Paired { phone_number } => {
                assert_eq!(Recipient::parse(&phone_number).expect("a number").as_str(), phone_number);
                break;
            }
            event => panic!("{event:?} before it was paired"),
        }
    }
    assert!(!codes.is_empty(), "a code was shown");
    opened.until_connected().await;
}

/// Wanted paired by a code, it shows one that people can type, is paired with the number that was asked for, and connects.
pub async fn a_session_pairs_by_a_code_that_is_typed(world: &dyn BridgeWorld) {
    let (bridge, session) = (world.bridge(), world.session().await);
    let pair_phone = Some("+15550001234".to_owned());
    let request = LinkRequest { pair_phone, ..link_request(session) };
    let mut opened = Opened::request(world, &*bridge, request).await;
    let mut shown = false;
    loop {
        match opened.next().await {
            BridgeEvent::Connecting => {}
            BridgeEvent::PairCode { code, expires_at } => {
                assert!(expires_at > Time::now(), "a code that can be typed");
                let letters = code.chars().filter(|c| c.is_ascii_uppercase() || c.is_ascii_digit()).count();
                assert_eq!((letters, code.len()), (8, 9), "{code}");
                shown = true;
            }
            BridgeEvent::Paired { phone_number } => {
                assert_eq!(phone_number, "+15550001234");
                break;
            }
            event => panic!("{event:?} before it was paired"),
        }
    }
    assert!(shown, "a code was shown");
    opened.until_connected().await;
}

/// With its pairing a session connects at once.
pub async fn a_paired_session_connects_without_a_code(world: &dyn BridgeWorld) {
    let bridge = world.bridge();
    let first = Opened::connected(world, &*bridge).await;
    first.link.disconnect().await;
    let mut again = Opened::open(world, &*bridge, first.session, first.number.as_deref(), Vec::new()).await;
    loop {
        match again.next().await {
            BridgeEvent::Connecting => {}
            BridgeEvent::Connected => break,
            event => panic!("{event:?} of a session that is paired"),
        }
    }
}

/// `Sent` means that WhatsApp has it; delivered and read follow.
pub async fn an_acknowledged_message_was_received(world: &dyn BridgeWorld) {
    let mut opened = Opened::connected(world, &*world.bridge()).await;
    let message = text(world.reader(1), 1);
    let before = Time(Time::now().0 / 1_000 * 1_000); // WhatsApp counts whole seconds
    assert_eq!(opened.send(&message).await, Attempt::Sent);
    assert_eq!(world.received(opened.session), [message.whatsapp_id.as_str()]);
    let mut receipts = Vec::new();
    // Which of them is told first is nobody's promise.
    while !statuses_of(&receipts).is_superset(&HashSet::from([Status::Delivered, Status::Read])) {
        receipts.extend(opened.receipts().await);
    }
    assert!(receipts.iter().all(|r| r.whatsapp_id == message.whatsapp_id && r.at >= before));
}

/// One after another to one recipient, they are received in that order.
pub async fn messages_to_one_recipient_are_received_in_order(world: &dyn BridgeWorld) {
    let opened = Opened::connected(world, &*world.bridge()).await;
    let messages: Vec<_> = (0..50).map(|_| text(world.reader(1), 1)).collect();
    for message in &messages {
        assert_eq!(opened.send(message).await, Attempt::Sent);
    }
    let sent: Vec<_> = messages.into_iter().map(|m| m.whatsapp_id).collect();
    assert_eq!(world.received(opened.session), sent);
}

/// Many calls at once, each acknowledged for itself, and no receipt is lost.
pub async fn calls_run_side_by_side(world: &dyn BridgeWorld) {
    let mut opened = Opened::connected(world, &*world.bridge()).await;
    let messages: Vec<_> = (0..100).map(|n| text(world.reader(n), 1)).collect();
    let sends = messages.iter().map(|message| opened.send(message));
    assert!(futures_util::future::join_all(sends).await.iter().all(|attempt| *attempt == Attempt::Sent));
    opened.until_read(messages.iter().map(|m| m.whatsapp_id.as_str())).await;
    let received: HashSet<_> = world.received(opened.session).into_iter().collect();
    assert_eq!(received, messages.into_iter().map(|m| m.whatsapp_id).collect());
}

/// A receipt that nobody took comes again after the next connect; one that was taken doesn't.
pub async fn receipts_come_again_until_they_are_taken(world: &dyn BridgeWorld) {
    let bridge = world.bridge();
    let mut opened = Opened::connected(world, &*bridge).await;
    let session = opened.session;
    let first = text(world.reader(1), 1);
    assert_eq!(opened.send(&first).await, Attempt::Sent);
    loop {
        if let BridgeEvent::Receipts(unanswered) = opened.next().await {
            opened.link.disconnect().await;
            drop(unanswered);
            break;
        }
    }
    let mut opened = Opened::reopened(world, &*bridge, session, Vec::new()).await;
    opened.until_read([first.whatsapp_id.as_str()]).await;
    let second = text(world.reader(2), 1);
    assert_eq!(opened.send(&second).await, Attempt::Sent);
    opened.until_read([second.whatsapp_id.as_str()]).await;
    opened.link.disconnect().await;

    let mut opened = Opened::reopened(world, &*bridge, session, Vec::new()).await;
    let third = text(world.reader(3), 1);
    assert_eq!(opened.send(&third).await, Attempt::Sent);
    let receipts = opened.until_read([third.whatsapp_id.as_str()]).await;
    assert!(of(&receipts, &first.whatsapp_id).is_empty(), "they were taken: {receipts:?}");
}

/// A taker that goes without an answer hasn't taken them; others are given meanwhile.
pub async fn receipts_come_again_when_their_taker_is_gone(world: &dyn BridgeWorld) {
    let mut opened = Opened::connected(world, &*world.bridge()).await;
    let (first, second) = (text(world.reader(1), 1), text(world.reader(2), 1));
    assert_eq!(opened.send(&first).await, Attempt::Sent);
    loop {
        if let BridgeEvent::Receipts(batch) = opened.next().await {
            drop(batch);
            break;
        }
    }
    assert_eq!(opened.send(&second).await, Attempt::Sent);
    let receipts = opened.until_read([second.whatsapp_id.as_str()]).await;
    // They may have come again already.
    if of(&receipts, &first.whatsapp_id).iter().all(|receipt| receipt.status != Status::Read) {
        world.break_connection(&*opened.link).await;
        opened.until_read([first.whatsapp_id.as_str()]).await;
    }
}

/// A process that starts afresh gives the receipts that a session's messages still await.
pub async fn receipts_of_another_process_come_too(world: &dyn BridgeWorld) {
    let first = Opened::connected(world, &*world.bridge()).await;
    let message = text(world.reader(1), 1);
    assert_eq!(first.send(&message).await, Attempt::Sent);
    first.link.disconnect().await;
    let awaiting = Awaiting {
        whatsapp_id: message.whatsapp_id.clone(),
        recipient: message.recipient.clone(),
        status: Status::Sent,
        expires_at: message.expires_at,
    };
    let mut second = Opened::reopened(world, &*world.bridge(), first.session, vec![awaiting]).await;
    second.until_read([message.whatsapp_id.as_str()]).await;
}

/// One id, sent twice: acknowledged twice, one message to its recipient.
pub async fn a_repeated_message_is_one_message(world: &dyn BridgeWorld) {
    let bridge = world.bridge();
    if !bridge.repeats_under_same_id() {
        return;
    }
    let mut opened = Opened::connected(world, &*bridge).await;
    let mut message = text(world.reader(1), 1);
    assert_eq!(opened.send(&message).await, Attempt::Sent);
    message.attempt = 2;
    assert_eq!(opened.send(&message).await, Attempt::Sent);
    let last = text(world.reader(2), 1);
    assert_eq!(opened.send(&last).await, Attempt::Sent);
    // A receipt for the first attempt ends the second one, too, perhaps before the server has it. Messages arrive in
    // order: once a later one is there, the second attempt is.
    let id = &message.whatsapp_id;
    let [first, second, third] = &*world.received(opened.session) else { panic!("three messages arrived") };
    assert_eq!([first, second, third], [id, id, &last.whatsapp_id], "it arrived twice");
    let receipts = opened.until_read([message.whatsapp_id.as_str(), last.whatsapp_id.as_str()]).await;
    let read = of(&receipts, &message.whatsapp_id).into_iter().filter(|r| r.status == Status::Read).count();
    assert_eq!(world.shown(1, &message.whatsapp_id).unwrap_or(read), 1, "it was shown once: {receipts:?}");
}

/// Disconnected, then connected, in this order and by itself; then it sends again.
pub async fn a_lost_connection_comes_back(world: &dyn BridgeWorld) {
    let mut opened = Opened::connected(world, &*world.bridge()).await;
    world.break_connection(&*opened.link).await;
    let mut lost = false;
    loop {
        match opened.next().await {
            BridgeEvent::Disconnected { reason } => {
                assert!(!lost && !reason.is_empty());
                lost = true;
            }
            BridgeEvent::Connected => break,
            BridgeEvent::Connecting | BridgeEvent::Receipts(_) => {}
            event => panic!("{event:?} while it reconnects"),
        }
    }
    assert!(lost, "it said that the connection was gone");
    assert_eq!(opened.send(&text(world.reader(1), 1)).await, Attempt::Sent);
}

/// After a disconnect there are no events and nothing goes out.
pub async fn nothing_follows_a_disconnect(world: &dyn BridgeWorld) {
    let mut opened = Opened::connected(world, &*world.bridge()).await;
    assert_eq!(opened.send(&text(world.reader(1), 1)).await, Attempt::Sent);
    opened.link.disconnect().await;
    // What was given before may still lie in the channel; after it comes the end.
    let mut left = 0;
    while opened.events.try_recv().is_ok() {
        left += 1;
    }
    assert!(left <= 1, "{left} events beside the receipts");
    let (session, late) = (opened.session, text(world.reader(2), 1));
    assert!(matches!(opened.send(&late).await, Attempt::Transient(_)), "definitely not sent");
    opened.link.disconnect().await;
    opened.ends().await;
    assert!(!world.received(session).contains(&late.whatsapp_id));
}

/// Whoever drops the link has disconnected.
pub async fn dropping_a_link_disconnects(world: &dyn BridgeWorld) {
    let Opened { link, mut events, .. } = Opened::connected(world, &*world.bridge()).await;
    drop(link);
    let event = timeout(PATIENCE, events.recv()).await.expect("the events end in time");
    assert!(event.is_none(), "{event:?} after the link was dropped");
}

/// Unlinked, a session must be paired afresh, and its old receipts are gone.
pub async fn a_logout_ends_the_pairing(world: &dyn BridgeWorld) {
    let bridge = world.bridge();
    let opened = Opened::connected(world, &*bridge).await;
    let session = opened.session;
    opened.link.logout().await;
    opened.ends().await;
    world.unlinked(session).await;
    let mut again = Opened::open(world, &*bridge, session, None, Vec::new()).await;
    let mut paired = false;
    loop {
        match again.next().await {
            BridgeEvent::Paired { .. } => paired = true,
            BridgeEvent::Connected => break,
            _ => {}
        }
    }
    assert!(paired);
}

/// Each session has its own receipts.
pub async fn sessions_do_not_hear_each_other(world: &dyn BridgeWorld) {
    let bridge = world.bridge();
    let (mut one, mut other) = (Opened::connected(world, &*bridge).await, Opened::connected(world, &*bridge).await);
    let (first, second) = (text(world.reader(1), 1), text(world.reader(1), 1));
    assert_eq!(one.send(&first).await, Attempt::Sent);
    assert_eq!(other.send(&second).await, Attempt::Sent);
    let (ones, others) =
        (one.until_read([first.whatsapp_id.as_str()]).await, other.until_read([second.whatsapp_id.as_str()]).await);
    assert!(ones.iter().all(|r| r.whatsapp_id == first.whatsapp_id));
    assert!(others.iter().all(|r| r.whatsapp_id == second.whatsapp_id));
    assert_eq!(world.received(one.session), [first.whatsapp_id]);
}
