//! One session's client, from its opening to its end: pairing, connecting, and what WhatsApp tells of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use wacore::store::{Device, DevicePropsOverride};
use wacore::types::events::{Event, EventHandler, EventInterest, EventKind};
use whatsapp_rust::bot::{Bot, BotHandle};
use whatsapp_rust::pair_code::{PairCodeOptions, PairCodeRejection};
use whatsapp_rust::{CacheConfig, Client, Jid};

use super::backend::Backend;
use super::inbox::{News, Reader};
use super::link::Shared;
use super::net::{Net, Trouble, Way};
use super::runtime::Tasks;
use super::state::{Kind, StateError};
use crate::ports::bridge::{BridgeEvent, LinkRequest};
use crate::proxy::Proxy;
use crate::time::Time;

/// How often new codes are asked for when all have run out unused: some three minutes each.
const CODE_ROUNDS: u32 = 3;
/// How long without a connection until people are told why.
const TOLD_AFTER: Duration = Duration::from_secs(15);
/// How long without a connection until the client begins anew: by then it waits a minute and a half from one try to the next,
/// and would go on to a quarter of an hour.
const ANEW_AFTER: Duration = Duration::from_secs(240);
/// One-time keys kept at WhatsApp for those who write to us first: few, as they are topped up, and each is a row.
const PRE_KEYS: usize = 50;
/// How long the store's failure is waited out before the device is read again.
const STATE_AGAIN: Duration = Duration::from_secs(5);
/// How long a phone may take to confirm a code that was typed in its last second.
const CODE_GRACE: Duration = Duration::from_secs(60);

/// How long a session that is to be unlinked may take to connect for that.
const UNLINK_WAIT: Duration = Duration::from_secs(5);

/// What people see in the phone's list of linked devices.
const DEVICE_NAME: &str = "sanasr";

/// The events that mean something to us.
const KINDS: &[EventKind] = &[
    EventKind::Connected,
    EventKind::Disconnected,
    EventKind::PairSuccess,
    EventKind::PairError,
    EventKind::LoggedOut,
    EventKind::PairingQrCode,
    EventKind::PairingCode,
    EventKind::PairingCodeRefresh,
    EventKind::PairingCodeError,
    EventKind::PairingQrCodesExhausted,
    EventKind::QrScannedWithoutMultidevice,
    EventKind::ClientOutdated,
    EventKind::Messages,
    EventKind::Receipt,
    EventKind::StreamReplaced,
    EventKind::TemporaryBan,
    EventKind::ConnectFailure,
    EventKind::PairPasskeyRequest,
    EventKind::PairPasskeyError,
    EventKind::ServerAck,
];

/// Hears a client's events, in the client's own tasks: nothing may wait here. Acknowledgements are resolved at once; what other
/// people send goes to the inbox; the rest is the connection's own state, in its order.
struct Ear {
    shared: Arc<Shared>,
    /// Not bounded by itself: a connection changes its state a few times at most while it is read.
    state: mpsc::UnboundedSender<Arc<Event>>,
}

impl EventHandler for Ear {
    fn handle_event(&self, event: Arc<Event>) {
        match &*event {
            Event::ServerAck(ack) => {
                if ack.class.as_deref() == Some("message") {
                    self.shared.acknowledged(&ack.id, ack.error.clone());
                }
            }
            Event::Receipt(_) | Event::Messages(_) => {
                for news in News::of(&event) {
                    if let News::Receipt { ids, .. } = &news {
                        // A receipt implies that the server has the message.
                        ids.iter().for_each(|id| self.shared.acknowledged(id, None));
                    }
                    self.shared.inbox.put(news);
                }
            }
            _ => drop(self.state.send(event)),
        }
    }

    fn interest(&self) -> EventInterest {
        EventInterest::of(KINDS)
    }
}

/// How a client's life ended.
pub(super) enum End {
    /// With this event; nothing more is tried.
    Told(BridgeEvent),
    /// All codes ran out.
    CodesRanOut,
    /// It has been without a connection for long.
    Anew,
    /// The link is closing.
    Closed,
}

/// Drives one session.
pub(super) struct Driver {
    pub(super) net: Arc<Net>,
    pub(super) request: LinkRequest,
    pub(super) proxy: Option<Proxy>,
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<BridgeEvent>,
}

impl Driver {
    /// Whether the device isn't linked any more.
    pub(super) fn is_unlinked(&self, end: &End) -> bool {
        matches!(end, End::Told(BridgeEvent::LoggedOut { .. })) || self.shared.unlink.load(Ordering::Acquire)
    }

    /// Says why the session can't go on. Whoever hears it may open the session again at once.
    pub(super) async fn tell(self, end: End) {
        if let End::Told(event) = end {
            self.emit(event).await;
        }
    }

    /// Runs until the link closes or the session can't go on.
    pub(super) async fn run(&self) -> End {
        if self.shared.closing.is_cancelled() && !self.shared.unlink.load(Ordering::Acquire) {
            return End::Closed; // before its turn came
        }
        self.emit(BridgeEvent::Connecting).await;
        if self.proxy.is_none() && self.request.proxy.is_some() {
            return halted("wrong_secret_key"); // it was sealed, and can't be opened: no other way is taken
        }
        if let Some(end) = self.check_state().await {
            return end;
        }
        let mut rounds = 0;
        while rounds < CODE_ROUNDS {
            let trouble = Trouble::default();
            let (sender, events) = mpsc::unbounded_channel();
            let handle = match self.start(&trouble, sender).await {
                Ok(handle) => handle,
                Err(error) => {
                    // The store may have gone since its last look.
                    tracing::warn!(session = %self.request.session, error, "no WhatsApp client yet; trying again");
                    tokio::select! {
                        () = self.shared.closing.cancelled() => return End::Closed,
                        () = sleep(STATE_AGAIN) => continue,
                    }
                }
            };
            let client = handle.client();
            let mut life = Life {
                driver: self,
                client: &client,
                events,
                trouble,
                down_since: Some(Instant::now()),
                told: None,
                number: self.request.paired.clone(),
                asking: JoinSet::new(),
            };
            let ended = CancellationToken::new();
            let follow = async {
                let _ended = ended.clone().drop_guard();
                let end = life.follow().await;
                self.shared.connected(None);
                if self.shared.unlink.load(Ordering::Acquire) {
                    // Unheard, it would stay in the phone's list of devices.
                    if client.pn().is_some() {
                        let _ = client.wait_for_connected(UNLINK_WAIT).await;
                    }
                    client.logout().await;
                }
                handle.shutdown().await;
                end
            };
            let reader = Reader { shared: &self.shared, client: &client, ended: &ended };
            let (end, ()) = tokio::join!(follow, reader.run());
            match end {
                End::CodesRanOut => rounds += 1,
                End::Anew => {}
                End::Told(_) | End::Closed => return end,
            }
        }
        halted(if self.request.pair_phone.is_some() { "pair_code_ran_out" } else { "qr_codes_ran_out" })
    }

    /// Whether the device can be read: nothing is done to one that can't.
    async fn check_state(&self) -> Option<End> {
        loop {
            match self.shared.state.get_json::<Device>(Kind::Device, b"").await {
                Ok(_) => {
                    if let Err(error) = self.shared.postbox.load(&self.shared.state).await {
                        tracing::debug!(session = %self.request.session, %error, "kept receipts couldn't be read");
                    }
                    return None;
                }
                Err(StateError::Sealed(crate::vault::Sealed::OtherKey)) => return Some(halted("wrong_secret_key")),
                Err(error @ (StateError::Sealed(_) | StateError::Unreadable(_))) => {
                    tracing::error!(session = %self.request.session, %error, "the device can't be read");
                    return Some(halted("state_damaged"));
                }
                Err(StateError::Store(_) | StateError::NotOurs) => tokio::select! {
                    () = self.shared.closing.cancelled() => return Some(End::Closed),
                    () = sleep(STATE_AGAIN) => {}
                },
            }
        }
    }

    async fn start(&self, trouble: &Trouble, state: mpsc::UnboundedSender<Arc<Event>>) -> Result<BotHandle, String> {
        let inbox = Arc::clone(&self.shared.inbox);
        let owner = self.shared.owner.clone();
        let tasks = Tasks::default();
        let way = Way::new(Arc::clone(&self.net), self.proxy.clone(), owner, trouble.clone(), inbox, tasks.clone())?;
        let cache = CacheConfig {
            msg_secret_policy: wacore::msg_secret::MsgSecretPolicy::Disabled,
            seed_msg_secrets_from_history: false,
            ..CacheConfig::default()
        };
        let bot = Bot::builder()
            .with_backend(Backend::new(Arc::clone(&self.shared.state)))
            .with_transport_factory(way.clone())
            .with_http_client(way)
            .with_runtime(tasks)
            .with_device_props(DevicePropsOverride::new().with_os(DEVICE_NAME))
            .with_wanted_pre_key_count(PRE_KEYS)
            .with_cache_config(cache)
            .skip_history_sync()
            .build()
            .await
            .map_err(|e| e.to_string())?;
        bot.client().subscribe_handler(Arc::new(Ear { shared: Arc::clone(&self.shared), state })).detach();
        Ok(bot.spawn())
    }

    /// Tells the session's actor something, unless the link is closing.
    async fn emit(&self, event: BridgeEvent) {
        tokio::select! {
            biased;
            () = self.shared.closing.cancelled() => {}
            _ = self.events.send(event) => {}
        }
    }
}

fn halted(reason: &str) -> End {
    End::Told(BridgeEvent::Halted { reason: reason.to_owned() })
}

fn logged_out(reason: &str) -> End {
    End::Told(BridgeEvent::LoggedOut { reason: reason.to_owned() })
}

/// One client's life.
struct Life<'a> {
    driver: &'a Driver,
    client: &'a Arc<Client>,
    events: mpsc::UnboundedReceiver<Arc<Event>>,
    trouble: Trouble,
    /// Since when there is no connection.
    down_since: Option<Instant>,
    /// Why not, as far as people have been told.
    told: Option<&'static str>,
    /// The number that the session is known to be paired with.
    number: Option<String>,
    /// Codes that are being asked for; given up with the client.
    asking: JoinSet<()>,
}

impl Life<'_> {
    async fn follow(&mut self) -> End {
        let mut code_ends: Option<Instant> = None;
        loop {
            let watch = self.down_since.map(|since| (since + TOLD_AFTER).max(Instant::now() + Duration::from_secs(1)));
            tokio::select! {
                biased;
                () = self.driver.shared.closing.cancelled() => return End::Closed,
                () = self.driver.events.closed() => return End::Closed,
                event = self.events.recv() => {
                    let Some(event) = event else { return End::Closed };
                    match &*event {
                        Event::PairingCode(code) => code_ends = Some(Instant::now() + code.timeout + CODE_GRACE),
                        Event::PairSuccess(_) => code_ends = None,
                        _ => {}
                    }
                    if let Some(end) = self.hear(&event).await {
                        return end;
                    }
                }
                Some(_) = self.asking.join_next() => {}
                () = until(code_ends) => return End::CodesRanOut,
                () = self.driver.shared.suspected.notified() => self.reconnect().await,
                () = until(watch) => {
                    if self.number.is_some() && self.down_since.is_some_and(|since| since.elapsed() >= ANEW_AFTER) {
                        return End::Anew;
                    }
                    self.watch().await;
                }
            }
        }
    }

    /// A message wasn't acknowledged: the connection may be dead without looking so.
    async fn reconnect(&mut self) {
        if self.down_since.is_none() {
            tracing::warn!(session = %self.driver.request.session, "WhatsApp doesn't acknowledge; connecting anew");
            self.down("no_answer").await;
            self.client.reconnect_immediately().await;
        }
    }

    async fn down(&mut self, reason: &'static str) {
        self.driver.shared.connected(None);
        (self.down_since, self.told) = (Some(Instant::now()), Some(reason));
        self.driver.emit(BridgeEvent::Disconnected { reason: reason.to_owned() }).await;
    }

    /// Says why there is no connection, once it has been away for a while.
    async fn watch(&mut self) {
        if self.down_since.is_some_and(|since| since.elapsed() < TOLD_AFTER) {
            return;
        }
        let reason = self.trouble.reason().unwrap_or("no_answer");
        let is_pairing = self.client.is_connected() && self.number.is_none();
        if !is_pairing && self.told != Some(reason) {
            self.told = Some(reason);
            self.driver.emit(BridgeEvent::Disconnected { reason: reason.to_owned() }).await;
        }
    }

    /// What an event means; the end, if it is that.
    async fn hear(&mut self, event: &Event) -> Option<End> {
        let driver = self.driver;
        match event {
            Event::PairingQrCode(code) => match &driver.request.pair_phone {
                None => {
                    let event =
                        BridgeEvent::QrCode { code: code.code.clone(), expires_at: Time::now().plus(code.timeout) };
                    driver.emit(event).await;
                }
                Some(phone) => {
                    let phone = phone.clone();
                    self.ask_for_code(&phone);
                }
            },
            Event::PairingCode(code) => {
                let event =
                    BridgeEvent::PairCode { code: shown(&code.code), expires_at: Time::now().plus(code.timeout) };
                driver.emit(event).await;
            }
            Event::PairingCodeRefresh(_) => {
                let (client, phone) = (Arc::clone(self.client), driver.request.pair_phone.clone()?);
                self.asking.spawn(async move {
                    client.cancel_pair_code().await;
                    let _ = client.pair_with_code(options(&phone)).await;
                });
            }
            Event::PairingCodeError(error) => return Some(code_refused(error.rejection)),
            Event::PairingQrCodesExhausted(codes) if codes.disconnected => return Some(End::CodesRanOut),
            Event::PairSuccess(success) => {
                self.settle().await;
                self.paired(&success.id).await;
            }
            Event::PairError(error) => {
                tracing::warn!(session = %driver.request.session, error = error.error, "pairing failed");
                return Some(halted("pairing_refused"));
            }
            Event::QrScannedWithoutMultidevice(_) => return Some(halted("phone_outdated")),
            Event::PairPasskeyRequest(_) | Event::PairPasskeyError(_) => return Some(halted("passkey_needed")),
            Event::Connected(_) => {
                self.settle().await;
                if let Some(number) = self.client.pn() {
                    self.paired(&number).await;
                }
                (self.down_since, self.told) = (None, None);
                driver.shared.connected(Some(Arc::clone(self.client)));
                driver.emit(BridgeEvent::Connected).await;
            }
            Event::Disconnected(gone) => {
                tracing::debug!(session = %driver.request.session, reason = %gone.reason, "the connection is gone");
                self.down("connection_lost").await;
            }
            Event::LoggedOut(out) => {
                use wacore::types::events::ConnectFailureReason as Reason;
                return Some(logged_out(match out.reason {
                    Reason::AccountLocked => "account_locked",
                    _ => "logged_out_on_phone",
                }));
            }
            Event::StreamReplaced(_) => return Some(halted("replaced")),
            Event::TemporaryBan(ban) => {
                let until = Time::now().plus(ban.expire.to_std().unwrap_or_default());
                let reason = format!("banned: {}", ban.code);
                return Some(End::Told(BridgeEvent::Banned { reason, until }));
            }
            Event::ClientOutdated(_) => return Some(halted("client_outdated")),
            Event::ConnectFailure(failure) if !failure.reason.should_reconnect() => {
                tracing::warn!(session = %driver.request.session, code = failure.reason.code(), message = failure.message, "WhatsApp refuses the connection");
                return Some(halted("connection_refused"));
            }
            _ => {}
        }
        None
    }

    fn ask_for_code(&mut self, phone: &str) {
        let (client, options) = (Arc::clone(self.client), options(phone));
        // Later QR codes come beside a code that still waits: then this is refused, and says nothing.
        self.asking.spawn(async move { drop(client.pair_with_code(options).await) });
    }

    /// Has the device in the store before anybody is told what it is now.
    async fn settle(&self) {
        if let Err(error) = self.client.persistence_manager().flush().await {
            tracing::warn!(session = %self.driver.request.session, %error, "the device couldn't be stored");
        }
    }

    async fn paired(&mut self, id: &Jid) {
        let number = format!("+{}", id.user);
        if self.number.as_ref() != Some(&number) {
            self.number = Some(number.clone());
            self.driver.emit(BridgeEvent::Paired { phone_number: number }).await;
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn options(phone: &str) -> PairCodeOptions {
    PairCodeOptions { phone_number: phone.trim_start_matches('+').to_owned(), ..PairCodeOptions::default() }
}

/// Why no code is coming.
fn code_refused(rejection: Option<PairCodeRejection>) -> End {
    halted(match rejection {
        Some(PairCodeRejection::FeatureNotAvailable) => "pair_code_unavailable",
        Some(rejection) if rejection.is_throttled() => "pair_code_too_often",
        _ => "pair_code_refused",
    })
}

/// A code as people read it: in two halves.
fn shown(code: &str) -> String {
    match code.split_at_checked(4) {
        Some((first, second)) if !second.is_empty() && !code.contains('-') => format!("{first}-{second}"),
        _ => code.to_owned(),
    }
}
