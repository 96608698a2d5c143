//! Sending through one session's connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use whatsapp_rust::wacore_binary::JidExt;
use whatsapp_rust::{Client, ErrorChainExt, Jid, SendError, SendOptions, UploadOptions};

use super::contacts::Contacts;
use super::inbox::{Inbox, News};
use super::receipts::{Group, Postbox};
use super::state::{Kind, State, StateError};
use super::{content, refusal};
use crate::bridge::lock;
use crate::ids::SessionId;
use crate::lifecycle::jitter;
use crate::message::{Hold, MAX_LIFE, MessageError, MessageType};
use crate::ports::bridge::{Attempt, Link, Owner, SendRequest};
use crate::ports::devices::DeviceRange;
use crate::session::Pace;
use crate::time::{Time, millis};

/// How much of the sender's patience everything before the message itself may take: looking the recipient up, uploading a file.
const PREPARE_SHARE: f64 = 0.75;
/// How long nobody new is written to after WhatsApp has refused one who was: doubled each time, up to an hour.
const RESTRICTED_FIRST: Duration = Duration::from_secs(180);
const RESTRICTED_MAX: Duration = Duration::from_secs(3_600);
/// How long until an unacknowledged message makes for a new connection again.
const SUSPECT_AGAIN: Duration = Duration::from_secs(60);
/// How often old group receipts are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);
/// How long "typing" is shown: at first, and more for each character, but not longer than that.
const TYPING_MIN: Duration = Duration::from_millis(600);
const TYPING_MAX: Duration = Duration::from_secs(3);
const TYPING_CHARACTER: Duration = Duration::from_millis(25);

/// What a session's driver and its link share.
pub(super) struct Shared {
    pub(super) state: Arc<State>,
    pub(super) contacts: Contacts,
    pub(super) postbox: Postbox,
    pub(super) inbox: Arc<Inbox>,
    pub(super) session: SessionId,
    pub(super) owner: Owner,
    pub(super) closing: CancellationToken,
    /// The driver has ended.
    pub(super) closed: CancellationToken,
    /// Its user wants it unlinked.
    pub(super) unlink: AtomicBool,
    pub(super) uploads: Arc<Semaphore>,
    pub(super) pace: Mutex<Pace>,
    client: Mutex<Option<Arc<Client>>>,
    acks: Mutex<HashMap<String, oneshot::Sender<Ack>>>,
    restricted: Mutex<Restricted>,
    /// The connection may be dead without looking so.
    pub(super) suspected: Notify,
    suspected_at: Mutex<Option<Instant>>,
    /// When old group receipts were last removed.
    swept: Mutex<Option<Instant>>,
}

/// What became of a message on its way.
enum Ack {
    /// The server has it; or it refused it for this reason.
    Answer(Option<String>),
    /// The connection is gone.
    Lost,
}

#[derive(Default)]
struct Restricted {
    until: Option<Instant>,
    pause: Option<Duration>,
}

impl Shared {
    pub(super) fn new(
        session: SessionId,
        state: Arc<State>,
        owner: Owner,
        closing: CancellationToken,
        uploads: Arc<Semaphore>,
        pace: Pace,
    ) -> Self {
        Self {
            contacts: Contacts::new(Arc::clone(&state)),
            state,
            postbox: Postbox::default(),
            inbox: Arc::default(),
            session,
            owner,
            closing,
            closed: CancellationToken::new(),
            unlink: AtomicBool::new(false),
            uploads,
            pace: Mutex::new(pace),
            client: Mutex::default(),
            acks: Mutex::default(),
            restricted: Mutex::default(),
            suspected: Notify::new(),
            suspected_at: Mutex::default(),
            swept: Mutex::default(),
        }
    }

    /// It is connected, or no longer.
    pub(super) fn connected(&self, client: Option<Arc<Client>>) {
        let lost = client.is_none();
        *lock(&self.client) = client;
        if lost {
            for (_, waiting) in lock(&self.acks).drain() {
                let _ = waiting.send(Ack::Lost);
            }
        }
    }

    /// The server has answered for a message.
    pub(super) fn acknowledged(&self, id: &str, error: Option<String>) {
        if let Some(waiting) = lock(&self.acks).remove(id) {
            let _ = waiting.send(Ack::Answer(error));
        }
    }

    /// A message wasn't acknowledged in time. Now and then that is the connection's fault, and others must not pay for it often.
    fn suspect(&self) {
        let now = Instant::now();
        let mut at = lock(&self.suspected_at);
        if at.is_none_or(|at| now - at >= SUSPECT_AGAIN) {
            *at = Some(now);
            self.suspected.notify_one();
        }
    }

    fn client(&self) -> Option<Arc<Client>> {
        lock(&self.client).as_ref().filter(|client| client.is_connected() && client.is_logged_in()).cloned()
    }

    /// How long nobody new may be written to.
    fn restricted(&self, now: Instant) -> Option<Duration> {
        lock(&self.restricted).until.filter(|until| *until > now).map(|until| until - now)
    }

    /// WhatsApp has refused somebody new, or has taken a message to one.
    fn restrict(&self, refused: bool) {
        let mut restricted = lock(&self.restricted);
        if !refused {
            *restricted = Restricted::default();
            return;
        }
        let pause = restricted.pause.map_or(RESTRICTED_FIRST, |pause| (pause * 2).min(RESTRICTED_MAX));
        *restricted = Restricted { until: Some(Instant::now() + pause), pause: Some(pause) };
    }

    /// Sends a message.
    async fn send(&self, request: &SendRequest) -> Attempt {
        let Some(client) = self.client() else { return Attempt::Transient(not_connected()) };
        let prepared = timeout(request.patience.mul_f64(PREPARE_SHARE), self.prepare(&client, request)).await;
        let prepared = prepared.unwrap_or_else(|_| {
            self.suspect();
            let detail = "Preparing the message took too long: looking the recipient up, or uploading its file.";
            Err(Attempt::Transient(MessageError::new("whatsapp_unavailable", detail, true)))
        });
        let Prepared { to, person, message } = match prepared {
            Ok(prepared) => prepared,
            Err(attempt) => return attempt,
        };
        let (answer, acknowledged) = oneshot::channel();
        let mut waiting = Waiting::new(self, &request.whatsapp_id, answer);
        if self.client().is_none() {
            return Attempt::Transient(not_connected());
        }
        let options = SendOptions::default().with_message_id(request.whatsapp_id.as_str());
        waiting.unanswered = true;
        if let Err(error) = client.send_message_with_options(to, message, options).await {
            waiting.unanswered = false;
            return failed(&error);
        }
        let ack = acknowledged.await;
        waiting.unanswered = false;
        drop(waiting);
        match ack {
            Ok(Ack::Answer(None)) => {
                if let Some(person) = person {
                    self.sent_to(person);
                }
                Attempt::Sent
            }
            Ok(Ack::Answer(Some(code))) => {
                let attempt = refusal::attempt(&code);
                if let Attempt::Restricted(_) = &attempt {
                    self.restrict(true);
                }
                attempt
            }
            Ok(Ack::Lost) | Err(_) => Attempt::InDoubt(connection_lost()),
        }
    }

    /// Everything before the message is given to WhatsApp.
    async fn prepare(&self, client: &Arc<Client>, request: &SendRequest) -> Result<Prepared, Attempt> {
        let (to, person) = self.recipient(client, request).await?;
        let me = client.pn().map(|jid| jid.to_non_ad().to_string()).unwrap_or_default();
        let uploaded = match (content::media_type(request.kind), &request.file) {
            (Some(kind), Some(file)) => {
                let _permit = self.uploads.acquire().await.map_err(|_| Attempt::Transient(not_connected()))?;
                let bytes = tokio::fs::read(&file.path)
                    .await
                    .map_err(|e| unsent("media_unreachable", &format!("its file can't be read: {e}")))?;
                Some(client.upload(bytes, kind, UploadOptions::new()).await.map_err(|e| upload_failed(e.as_ref()))?)
            }
            _ => None,
        };
        let message = content::message(request, &me, uploaded)
            .map_err(|detail| Attempt::Permanent(MessageError::new(MessageError::INTERNAL, detail, false)))?;
        if to.is_group() {
            self.note_members(client, &to, request).await?;
        }
        self.type_for(client, &to, request).await;
        Ok(Prepared { to, person, message })
    }

    /// To whom it goes, as WhatsApp has them.
    async fn recipient(&self, client: &Arc<Client>, request: &SendRequest) -> Result<(Jid, Option<Person>), Attempt> {
        let text = request.recipient.as_str();
        let Some(number) = text.strip_prefix('+') else {
            let jid: Jid = text.parse().map_err(|_| {
                Attempt::Permanent(MessageError::new("refused", "The recipient is none that WhatsApp knows.", false))
            })?;
            return Ok((jid, None));
        };
        let contact = self.contacts.get(number).await.map_err(state_failed)?;
        let now = Instant::now();
        if contact.wrote_at.is_none()
            && let Some(left) = self.restricted(now)
        {
            return Err(Attempt::Held(jitter(left), Hold::Restricted));
        }
        if !contact.is_known()
            && let Some(per_minute) = lock(&self.pace).first_contacts_per_minute
        {
            let wait = self.contacts.wait(per_minute, now);
            if !wait.is_zero() {
                return Err(Attempt::Held(wait, Hold::Pacing));
            }
        }
        let (is_warm, is_new) = (contact.wrote_at.is_some(), contact.sent_at.is_none());
        let canonical =
            if contact.is_fresh(Time::now()) { contact.number } else { self.look_up(client, number).await? };
        let Some(canonical) = canonical else {
            let detail = format!("{text} isn't on WhatsApp.");
            return Err(Attempt::Permanent(MessageError::new("not_on_whatsapp", detail, false)));
        };
        Ok((Jid::pn(canonical.as_str()), Some(Person { number: number.to_owned(), is_warm, is_new })))
    }

    /// Asks WhatsApp for a number: the one that it has for it, or none.
    async fn look_up(&self, client: &Arc<Client>, number: &str) -> Result<Option<String>, Attempt> {
        let answers = client.contacts().is_on_whatsapp(&[Jid::pn(number)]).await.map_err(|error| {
            tracing::debug!(%error, "a recipient couldn't be looked up");
            unsent("whatsapp_unavailable", "whether the recipient is on WhatsApp couldn't be found out")
        })?;
        let answer = answers.into_iter().next().ok_or_else(|| {
            unsent("whatsapp_unavailable", "WhatsApp didn't say whether the recipient is on WhatsApp")
        })?;
        let jid = if answer.jid.is_pn() { Some(answer.jid) } else { answer.pn_jid };
        let canonical = answer.is_registered.then(|| jid.map_or_else(|| number.to_owned(), |jid| jid.user.to_string()));
        let known = canonical.clone();
        let noted = self.contacts.change(number, |contact| {
            contact.number = known;
            contact.asked_at = Some(Time::now());
        });
        noted.await.map_err(state_failed)?;
        Ok(canonical)
    }

    /// Notes who must have a message to a group until it counts as delivered.
    async fn note_members(&self, client: &Arc<Client>, group: &Jid, request: &SendRequest) -> Result<(), Attempt> {
        self.sweep_group_receipts().await;
        let info = client.groups().query_info(group).await.map_err(|error| match error.server_rejection() {
            Some(rejection) if matches!(rejection.code, 401 | 403 | 404) => {
                let detail = "This account isn't in the group, or there is no such group.";
                Attempt::Permanent(MessageError::new("recipient_not_allowed", detail, false))
            }
            _ => unsent("whatsapp_unavailable", "the group's members couldn't be found out"),
        })?;
        // Sent again, what is known of an earlier attempt's receipts stays.
        let whatsapp_id = request.whatsapp_id.as_str();
        if request.attempt > 1 && self.state.any(Kind::GroupReceipts, whatsapp_id).await.map_err(state_failed)? {
            return Ok(());
        }
        let own: Vec<_> = client.pn().into_iter().chain(client.lid()).map(|jid| jid.user).collect();
        let members = info.participants.iter().map(|jid| jid.user.clone()).filter(|user| !own.contains(user));
        let group = Group::new(members.map(|user| user.to_string()));
        self.state.set_json(Kind::GroupReceipts, whatsapp_id, &group).await.map_err(state_failed)
    }

    /// Forgets the group receipts of messages that are too old to matter: members who never read a message must not keep its
    /// row for ever. Done with the first message to a group, and then at most once an hour.
    async fn sweep_group_receipts(&self) {
        {
            let mut swept = lock(&self.swept);
            if swept.is_some_and(|at| at.elapsed() < SWEEP_EVERY) {
                return;
            }
            *swept = Some(Instant::now());
        }
        let old = Time(Time::now().0 - millis(MAX_LIFE));
        if let Err(error) = self.state.clear(Kind::GroupReceipts, DeviceRange::Before(old)).await {
            tracing::debug!(session = %self.session, %error, "old receipts couldn't be removed");
        }
    }

    /// Shows that somebody types, as somebody would. That it can't be shown keeps no message back.
    async fn type_for(&self, client: &Arc<Client>, to: &Jid, request: &SendRequest) {
        if !lock(&self.pace).typing {
            return;
        }
        let characters = request.content.text.as_ref().map_or(0, |text| text.chars().count());
        let longer = TYPING_CHARACTER * u32::try_from(characters).unwrap_or(u32::MAX);
        let shown = match request.kind {
            MessageType::Audio => client.chatstate().send_recording(to).await,
            _ => client.chatstate().send_composing(to).await,
        };
        if shown.is_ok() {
            sleep(jitter((TYPING_MIN + longer).min(TYPING_MAX))).await;
            let _ = client.chatstate().send_paused(to).await;
        }
    }

    /// Somebody has a message: they aren't new any more. The store learns it later, as the sender must not wait for that.
    fn sent_to(&self, person: Person) {
        if !person.is_warm {
            self.restrict(false);
        }
        if person.is_new {
            self.contacts.sent(&person.number);
            self.inbox.put(News::SentTo(person.number));
        }
    }
}

/// A message that is ready to be given to WhatsApp.
struct Prepared {
    to: Jid,
    /// Unless it is a group.
    person: Option<Person>,
    message: whatsapp_rust::prelude::wa::Message,
}

/// Somebody who is written to.
struct Person {
    /// Digits.
    number: String,
    /// They have written to us before.
    is_warm: bool,
    /// Nothing was sent to them before, as far as is known.
    is_new: bool,
}

/// A wait for an acknowledgement, forgotten when it is over.
struct Waiting<'a> {
    shared: &'a Shared,
    id: &'a str,
    /// The message may be on its way, and nothing has come back.
    unanswered: bool,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, id: &'a str, answer: oneshot::Sender<Ack>) -> Self {
        lock(&shared.acks).insert(id.to_owned(), answer);
        Self { shared, id, unanswered: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.shared.acks).remove(self.id);
        if self.unanswered {
            self.shared.suspect();
        }
    }
}

/// How an attempt ended that the client gave up. Only what may have reached the socket is in doubt.
fn failed(error: &SendError) -> Attempt {
    tracing::debug!(%error, "a message couldn't be sent");
    match error {
        SendError::InvalidRequest(detail) => Attempt::Permanent(MessageError::new("refused", detail.clone(), false)),
        SendError::NotLoggedIn => Attempt::Transient(not_connected()),
        SendError::Iq(_) => unsent("whatsapp_unavailable", "WhatsApp didn't answer a question about the recipient"),
        _ if error.store_failure().is_some() => unsent("state_unavailable", "the session's keys couldn't be stored"),
        _ => Attempt::InDoubt(connection_lost()),
    }
}

fn upload_failed(error: &(dyn std::error::Error + 'static)) -> Attempt {
    tracing::debug!(%error, "a file couldn't be uploaded");
    match error.http_status() {
        Some(413 | 415) => {
            Attempt::Permanent(MessageError::new("media_refused", "WhatsApp doesn't take this file.", false))
        }
        _ => unsent("media_upload_failed", "the file couldn't be uploaded to WhatsApp"),
    }
}

fn state_failed(error: StateError) -> Attempt {
    tracing::debug!(%error, "the device's state");
    unsent("state_unavailable", "the session's state couldn't be read or written")
}

fn unsent(code: &str, what: &str) -> Attempt {
    Attempt::Transient(MessageError::new(code, format!("Nothing was sent: {what}."), true))
}

fn not_connected() -> MessageError {
    MessageError::new("connection_lost", "The session isn't connected; nothing was sent.", true)
}

fn connection_lost() -> MessageError {
    MessageError::new("connection_lost", "The connection was lost before WhatsApp acknowledged the message.", true)
}

/// How long the end of a driver is waited for.
const CLOSE_MAX: Duration = Duration::from_secs(12);

/// A session's link. Dropping it disconnects.
pub(super) struct WhatsappLink(pub(super) Arc<Shared>);

#[async_trait]
impl Link for WhatsappLink {
    async fn send(&self, message: &SendRequest) -> Attempt {
        self.0.send(message).await
    }

    fn set_pace(&self, pace: Pace) {
        *lock(&self.0.pace) = pace;
    }

    async fn disconnect(&self) {
        self.0.closing.cancel();
        let _ = timeout(CLOSE_MAX, self.0.closed.cancelled()).await;
    }

    async fn logout(&self) {
        self.0.unlink.store(true, Ordering::Release);
        self.disconnect().await;
    }
}

impl Drop for WhatsappLink {
    fn drop(&mut self) {
        self.0.closing.cancel();
    }
}
