//! A store in memory with just enough truth for the API's own tests; what stores must really do is the conformance
//! suite's business.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sanasr_shared::ids::{ApiKeyId, FamilyId, MediaId, MessageId, SessionId, UserId, WorkerId};
use sanasr_shared::message::{Message, Status};
use sanasr_shared::ports::accounts::Accounts;
use sanasr_shared::ports::audit::{Actor, AuditEntry};
use sanasr_shared::ports::devices::{DeviceRange, DeviceWrite, Devices};
use sanasr_shared::ports::files::{Files, NewFile, StoredFile};
use sanasr_shared::ports::journal::{ApiLog, Event};
use sanasr_shared::ports::logins::{Attempt, Credentials, Login, Logins, Reserved, Rotation};
use sanasr_shared::ports::operations::{CancelFilter, Operations, SessionQueue, WorkerState};
use sanasr_shared::ports::queue::{Doorbell, Queue};
use sanasr_shared::ports::signals::{Signal, Signals};
use sanasr_shared::ports::store::*;
use sanasr_shared::session::{BridgeKind, DEFAULT_SESSION, Pace, Session, SessionStatus};
use sanasr_shared::time::{Day, Time};
use sanasr_shared::usage::{Quota, UsageStats};
use sanasr_shared::user::{ApiKey, KeyOwner, NewUser, RawApiKey, User, UserChange, UserFilter};
use std::sync::Arc;
use tokio::sync::broadcast;

pub(crate) const USER: UserId = UserId(1);
/// The daily limit of every user.
pub(crate) const LIMIT: i64 = 20;

#[derive(Default)]
pub(crate) struct FakeStore {
    pub(crate) data: Mutex<Data>,
    /// The database is away.
    pub(crate) away: AtomicBool,
    pub(crate) key_reads: AtomicUsize,
}

#[derive(Default)]
pub(crate) struct Data {
    pub(crate) keys: HashMap<String, KeyOwner>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) messages: Vec<Message>,
    kept: HashMap<(UserId, String), Kept>,
    pub(crate) used: i64,
    pub(crate) backlog: Backlog,
    pub(crate) requests: HashMap<UserId, i64>,
    pub(crate) events: Vec<Event>,
    pub(crate) api_logs: Vec<ApiLog>,
    pub(crate) audit: Vec<AuditEntry>,
}

/// A key's hash and what was accepted under it.
type Kept = ([u8; 32], Vec<(u32, MessageId)>);

/// What the API's own tests don't ask for.
pub(super) fn beyond() -> StoreError {
    StoreError::Internal("the store in memory can't do this".to_owned())
}

fn session(user: UserId, name: &str) -> Session {
    Session {
        id: SessionId::generate(),
        name: name.to_owned(),
        user_id: user,
        bridge: BridgeKind::Simulator,
        status: SessionStatus::Connected,
        paused: false,
        blocked_reason: None,
        blocked_until: None,
        advice: None,
        phone_number: None,
        qr_code: None,
        qr_expires_at: None,
        connected_at: None,
        last_active_at: None,
        waiting: 0,
        pace: Pace::default(),
        proxy: None,
        created_at: Time::now(),
        updated_at: Time::now(),
    }
}

impl FakeStore {
    /// A user with a key and a session `default`.
    pub(crate) fn add_user(&self, user: UserId) -> RawApiKey {
        let key = RawApiKey::generate();
        let (lookup, hash) = key.stored();
        let owner = KeyOwner {
            key_id: ApiKeyId(user.0),
            hash: hash.to_vec(),
            key_is_active: true,
            expires_at: None,
            user_id: user,
            user_is_active: true,
        };
        let mut data = self.data();
        data.keys.insert(lookup, owner);
        data.sessions.push(session(user, DEFAULT_SESSION));
        key
    }

    pub(crate) fn data(&self) -> std::sync::MutexGuard<'_, Data> {
        self.data.lock().expect("no test panics with it")
    }

    pub(super) fn reach(&self) -> Result<std::sync::MutexGuard<'_, Data>> {
        if self.away.load(Ordering::Relaxed) { Err(StoreError::Unavailable("cut".to_owned())) } else { Ok(self.data()) }
    }
}

fn sees(scope: Scope, message: &Message) -> bool {
    scope.user().is_none_or(|user| user == message.user_id)
}

#[async_trait]
impl Accepting for FakeStore {
    async fn accept(&self, request: AcceptRequest) -> Result<Vec<AcceptOutcome>> {
        let mut data = self.reach()?;
        let key = request.key.as_ref().map(|key| (request.user, key.key.clone()));
        let mut outcomes = Vec::new();
        for (position, new) in request.items {
            let Some(session) = data.sessions.iter().find(|s| s.id == new.session).cloned() else {
                outcomes.push(AcceptOutcome::SessionGone);
                continue;
            };
            if data.used >= LIMIT {
                outcomes.push(AcceptOutcome::QuotaExceeded(Quota::new(
                    Some(LIMIT),
                    data.used,
                    data.used,
                    Time::now().day(),
                )));
                continue;
            }
            data.used += 1;
            let created_at = Time::now();
            if let (Some(at), Some(key)) = (&key, &request.key) {
                let item = if key.batch { position + 1 } else { 0 };
                let kept = data.kept.entry(at.clone()).or_insert_with(|| (key.hash, Vec::new()));
                kept.1.push((item, new.id));
            }
            let (status, expires_at) = (new.initial_status(), new.expires_at(created_at));
            data.messages.push(Message {
                id: new.id,
                user_id: request.user,
                session: session.name,
                bridge: session.bridge,
                to: new.recipient,
                kind: new.kind,
                text: new.content.text,
                media: new.content.media,
                location: new.content.location,
                contact: new.content.contact,
                caption: new.content.caption,
                reply_to: new.reply_to,
                status,
                error: None,
                blocked_by: None,
                reference: new.reference,
                attempts: 0,
                whatsapp_id: new.whatsapp_id,
                replayed_from: None,
                created_at,
                send_at: new.send_at,
                expires_at,
                sent_at: None,
                delivered_at: None,
                read_at: None,
                updated_at: created_at,
            });
            outcomes.push(AcceptOutcome::Accepted { created_at });
        }
        Ok(outcomes)
    }

    async fn replay(&self, user: UserId, key: &str) -> Result<Option<(Vec<u8>, Vec<(u32, MessageId)>)>> {
        let data = self.reach()?;
        Ok(data.kept.get(&(user, key.to_owned())).map(|(hash, kept)| (hash.to_vec(), kept.clone())))
    }

    async fn backlog(&self) -> Result<Backlog> {
        Ok(self.reach()?.backlog.clone())
    }
}

#[async_trait]
impl Messages for FakeStore {
    async fn message(&self, scope: Scope, id: MessageId) -> Result<Option<Message>> {
        Ok(self.reach()?.messages.iter().find(|m| m.id == id && sees(scope, m)).cloned())
    }

    async fn messages(&self, scope: Scope, ids: &[MessageId]) -> Result<Vec<Message>> {
        Ok(self.reach()?.messages.iter().filter(|m| ids.contains(&m.id) && sees(scope, m)).cloned().collect())
    }

    async fn list_messages(
        &self,
        scope: Scope,
        filter: &MessageFilter,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<Page<Message>> {
        let data = self.reach()?;
        let fits = |m: &&Message| {
            sees(scope, m) && after.is_none_or(|after| m.id < after) && filter.status.is_none_or(|s| s == m.status)
        };
        let mut items: Vec<_> = data.messages.iter().filter(fits).cloned().collect();
        items.sort_by_key(|m| std::cmp::Reverse(m.id));
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(|m| m.id.0);
        Ok(Page { items, next })
    }

    async fn cancel(&self, scope: Scope, id: MessageId, _: Actor) -> Result<Moved<Message>> {
        let mut data = self.reach()?;
        let Some(message) = data.messages.iter_mut().find(|m| m.id == id && sees(scope, m)) else {
            return Ok(Moved::Absent);
        };
        if !Status::Cancelled.origins().contains(&message.status) {
            return Ok(Moved::Refused(message.clone()));
        }
        message.status = Status::Cancelled;
        Ok(Moved::Done(message.clone()))
    }

    async fn quota(&self, _: UserId) -> Result<Option<Quota>> {
        let used = self.reach()?.used;
        Ok(Some(Quota::new(Some(LIMIT), used, used, Time::now().day())))
    }

    async fn usage_days(&self, _: UserId, _: Day, _: Day) -> Result<Vec<UsageStats>> {
        Ok(Vec::new())
    }

    async fn count_requests(&self, _: i64, requests: &[(UserId, i64)]) -> Result<()> {
        let mut data = self.reach()?;
        for (user, number) in requests {
            *data.requests.entry(*user).or_default() += number;
        }
        Ok(())
    }
}

#[async_trait]
impl People for FakeStore {
    async fn any_user(&self) -> Result<bool> {
        unreachable!("not the API's")
    }
    async fn create_user(&self, _: &NewUser, _: BridgeKind, _: Actor) -> Result<User> {
        unreachable!("not the API's")
    }
    async fn user(&self, _: UserId) -> Result<Option<User>> {
        Err(beyond())
    }

    async fn user_by_name(&self, _: &str) -> Result<Option<User>> {
        unreachable!("not the API's")
    }
    async fn set_password(&self, _: &str, _: &str, _: Actor) -> Result<bool> {
        unreachable!("not the API's")
    }
    async fn set_active(&self, _: UserId, _: bool) -> Result<bool> {
        unreachable!("not the API's")
    }
    async fn set_limit(&self, _: UserId, _: Option<i64>) -> Result<bool> {
        unreachable!("not the API's")
    }
    async fn create_api_key(
        &self,
        _: UserId,
        _: &str,
        _: &str,
        _: &[u8],
        _: Option<Time>,
        _: Actor,
    ) -> Result<ApiKeyId> {
        unreachable!("not the API's")
    }
    async fn key_owner(&self, lookup: &str) -> Result<Option<KeyOwner>> {
        self.key_reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.reach()?.keys.get(lookup).cloned())
    }
    async fn revoke_api_key(&self, _: ApiKeyId, _: Actor) -> Result<bool> {
        unreachable!("not the API's")
    }
}

#[async_trait]
impl Operations for FakeStore {
    async fn list_workers(&self, _: Option<WorkerId>, _: u32) -> Result<Page<WorkerState>> {
        Err(beyond())
    }

    async fn list_queues(&self, _: Scope, _: Option<SessionId>, _: u32) -> Result<Page<SessionQueue>> {
        Err(beyond())
    }

    async fn list_dead_letters(&self, _: Scope, _: Option<MessageId>, _: u32) -> Result<Page<Message>> {
        Err(beyond())
    }

    async fn dead_letter(&self, _: MessageId) -> Result<Option<Message>> {
        Err(beyond())
    }

    async fn cancel_waiting(&self, _: UserId, _: &CancelFilter, _: Option<Time>, _: Actor) -> Result<(Swept, Time)> {
        Err(beyond())
    }
}

#[async_trait]
impl Accounts for FakeStore {
    async fn add_user(&self, _: &NewUser, _: &UserChange, _: BridgeKind, _: Actor) -> Result<User> {
        Err(beyond())
    }
    async fn list_users(&self, _: &UserFilter, _: Option<UserId>, _: u32) -> Result<(Vec<User>, bool)> {
        Err(beyond())
    }
    async fn change_user(&self, _: UserId, _: &UserChange, _: Option<FamilyId>, _: Actor) -> Result<Moved<User>> {
        Err(beyond())
    }
    async fn delete_user(&self, _: UserId, _: Actor) -> Result<Moved<Vec<SessionId>>> {
        Err(beyond())
    }
    async fn api_key(&self, _: ApiKeyId) -> Result<Option<ApiKey>> {
        Err(beyond())
    }
    async fn list_api_keys(&self, _: Option<UserId>, _: Option<ApiKeyId>, _: u32) -> Result<(Vec<ApiKey>, bool)> {
        Err(beyond())
    }
    async fn mark_keys_used(&self, _: &[(ApiKeyId, Time)]) -> Result<()> {
        self.reach().map(|_| ())
    }
}

#[async_trait]
impl Logins for FakeStore {
    async fn credentials(&self, _: &str) -> Result<Option<Credentials>> {
        Err(beyond())
    }
    async fn credentials_of(&self, _: UserId) -> Result<Option<Credentials>> {
        Err(beyond())
    }
    async fn start_login(&self, _: UserId, _: &str, _: Duration) -> Result<Option<(FamilyId, User)>> {
        Err(beyond())
    }
    async fn login(&self, _: FamilyId) -> Result<Option<Login>> {
        Err(beyond())
    }
    async fn rotate(&self, _: FamilyId, _: i64, _: Duration) -> Result<Rotation> {
        Err(beyond())
    }
    async fn end_login(&self, _: FamilyId) -> Result<Option<UserId>> {
        Err(beyond())
    }
    async fn change_password(&self, _: UserId, _: &str, _: &str, _: Option<FamilyId>, _: Actor) -> Result<bool> {
        Err(beyond())
    }
    async fn attempt(&self, _: &str, _: &str) -> Result<Attempt> {
        Err(beyond())
    }
    async fn attempt_succeeded(&self, _: &str, _: &str, _: Reserved) -> Result<()> {
        Err(beyond())
    }
    async fn login_addresses(&self, _: u32) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    async fn forget_failures(&self, _: &str) -> Result<()> {
        Err(beyond())
    }
}

#[async_trait]
impl Sessions for FakeStore {
    async fn create_session(&self, user: UserId, name: &str, _: BridgeKind, _: u32, _: Actor) -> Result<Session> {
        let mut data = self.reach()?;
        if data.sessions.iter().any(|s| s.user_id == user && s.name == name) {
            return Err(StoreError::Taken("name"));
        }
        let made = session(user, name);
        data.sessions.push(made.clone());
        Ok(made)
    }

    async fn session(&self, user: UserId, name: &str) -> Result<Option<Session>> {
        Ok(self.reach()?.sessions.iter().find(|s| s.user_id == user && s.name == name).cloned())
    }

    async fn session_name(&self, _: Scope, _: SessionId) -> Result<Option<(UserId, String)>> {
        Err(beyond())
    }

    async fn list_sessions(&self, scope: Scope, _: Option<SessionId>, _: u32) -> Result<Page<Session>> {
        let data = self.reach()?;
        let own = data.sessions.iter().filter(|s| scope.user() == Some(s.user_id));
        Ok(Page { items: own.cloned().collect(), next: None })
    }

    async fn set_pace(&self, user: UserId, name: &str, pace: &Pace, _: Actor) -> Result<Option<Session>> {
        let mut data = self.reach()?;
        let found = data.sessions.iter_mut().find(|s| s.user_id == user && s.name == name);
        Ok(found.map(|session| {
            session.pace = *pace;
            session.clone()
        }))
    }

    async fn set_proxy(&self, _: UserId, _: &str, _: Option<(Vec<u8>, String)>, _: Actor) -> Result<Option<Session>> {
        Err(beyond())
    }
    async fn command(&self, user: UserId, name: &str, command: SessionCommand, _: Actor) -> Result<Option<Session>> {
        let mut data = self.reach()?;
        let found = data.sessions.iter_mut().find(|s| s.user_id == user && s.name == name);
        Ok(found.map(|session| {
            match command {
                SessionCommand::Connect => session.status = SessionStatus::Connecting,
                SessionCommand::Disconnect => session.status = SessionStatus::Disconnected,
                SessionCommand::Logout => session.status = SessionStatus::LoggedOut,
                SessionCommand::Pause => session.paused = true,
                SessionCommand::Resume => session.paused = false,
            }
            session.clone()
        }))
    }

    async fn request_pair_code(&self, _: UserId, _: &str, _: &str, _: Actor) -> Result<Moved<Session>> {
        Err(beyond())
    }

    async fn pair_code(&self, _: SessionId) -> Result<Option<(String, Time)>> {
        Err(beyond())
    }

    async fn delete_session(&self, user: UserId, name: &str, _: Actor) -> Result<bool> {
        let mut data = self.reach()?;
        let before = data.sessions.len();
        data.sessions.retain(|s| s.user_id != user || s.name != name);
        Ok(data.sessions.len() < before)
    }
}

#[async_trait]
impl Working for FakeStore {
    async fn register(&self, _: WorkerId, _: Duration) -> Result<()> {
        unreachable!("not the API's")
    }
    async fn renew(&self, _: WorkerId, _: Duration) -> Result<Renewed> {
        unreachable!("not the API's")
    }
    async fn take(&self, _: WorkerId, _: usize) -> Result<Vec<OwnedSession>> {
        unreachable!("not the API's")
    }
    async fn give_back(&self, _: WorkerId, _: &[SessionId]) -> Result<()> {
        unreachable!("not the API's")
    }
    async fn bury(&self, _: WorkerId, _: bool) -> Result<Vec<WorkerId>> {
        unreachable!("not the API's")
    }
    async fn leave(&self, _: WorkerId) -> Result<()> {
        unreachable!("not the API's")
    }
    async fn report(&self, _: WorkerId, _: SessionId, _: &SessionReport) -> Result<bool> {
        unreachable!("not the API's")
    }
    async fn report_pacing(&self, _: WorkerId, _: SessionId, _: Option<Time>) -> Result<()> {
        unreachable!("not the API's")
    }
    async fn pull(&self, _: PullRequest) -> Result<Pulled> {
        unreachable!("not the API's")
    }
    async fn settle(&self, _: Settlement) -> Result<Settled> {
        unreachable!("not the API's")
    }
    async fn abandon(&self, _: WorkerId, _: i64, _: MessageId) -> Result<bool> {
        unreachable!("not the API's")
    }
    async fn receipts(&self, _: ReceiptBatch) -> Result<Vec<MessageId>> {
        unreachable!("not the API's")
    }
    async fn awaiting_receipts(&self, _: SessionId, _: u32) -> Result<Vec<Awaiting>> {
        unreachable!("not the API's")
    }
}

#[async_trait]
impl Housekeeping for FakeStore {
    async fn lead(&self, _: WorkerId, _: Duration) -> Result<bool> {
        unreachable!("not the API's")
    }
    async fn promote(&self) -> Result<(Vec<AcceptedJob>, bool)> {
        unreachable!("not the API's")
    }
    async fn expire(&self) -> Result<Swept> {
        unreachable!("not the API's")
    }
    async fn count_backlog(&self) -> Result<(Backlog, Option<Duration>)> {
        unreachable!("not the API's")
    }
    async fn drain_deleted(&self) -> Result<(Swept, Vec<SessionId>)> {
        unreachable!("not the API's")
    }
    async fn retire(&self, _: &Retention) -> Result<bool> {
        unreachable!("not the API's")
    }
}

#[async_trait]
impl Files for FakeStore {
    async fn add_files(&self, _: UserId, _: &[NewFile], _: Duration, _: u64, _: Actor) -> Result<Vec<StoredFile>> {
        Err(beyond())
    }
    async fn stored_bytes(&self, _: UserId) -> Result<u64> {
        Ok(0)
    }
    async fn remove_file(&self, _: Scope, _: MediaId, _: Actor) -> Result<Moved<StoredFile>> {
        Err(beyond())
    }
    async fn file(&self, _: Scope, _: MediaId) -> Result<Option<StoredFile>> {
        Err(beyond())
    }
    async fn files(&self, _: UserId, _: &[MediaId], _: Duration) -> Result<Vec<StoredFile>> {
        Err(beyond())
    }
    async fn discard_files(&self, _: &[MediaId]) -> Result<()> {
        Err(beyond())
    }
    async fn gone_files(&self) -> Result<Vec<MediaId>> {
        unreachable!("not the API's")
    }
    async fn forget_files(&self, _: &[MediaId]) -> Result<()> {
        unreachable!("not the API's")
    }
}

#[async_trait]
impl Devices for FakeStore {
    async fn write_device(&self, _: DeviceWrite) -> Result<bool> {
        unreachable!("not the API's")
    }
    async fn clear_device(&self, _: WorkerId, _: SessionId, _: i16, _: DeviceRange) -> Result<Option<u64>> {
        unreachable!("not the API's")
    }
    async fn device_values(&self, _: SessionId, _: i16, _: Vec<Vec<u8>>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        unreachable!("not the API's")
    }
    async fn device_prefix(&self, _: SessionId, _: i16, _: Vec<u8>, _: u32) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        unreachable!("not the API's")
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn ping(&self) -> Result<()> {
        self.reach().map(|_| ())
    }

    fn moves(&self) -> Result<()> {
        Ok(())
    }
    fn deployment(&self) -> &str {
        "fake"
    }
    async fn close(&self) {}
}

/// Signals that only this process hears, and a broker that is or isn't there.
pub(crate) struct FakeWires {
    signals: broadcast::Sender<Arc<Signal>>,
    pub(crate) broker: AtomicBool,
}

impl FakeWires {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { signals: broadcast::channel(100).0, broker: AtomicBool::new(true) })
    }
}

#[async_trait]
impl Signals for FakeWires {
    fn publish(&self, signal: Signal) {
        let _ = self.signals.send(Arc::new(signal));
    }
    fn subscribe(&self) -> broadcast::Receiver<Arc<Signal>> {
        self.signals.subscribe()
    }
    fn is_connected(&self) -> bool {
        true
    }
    async fn close(&self) {}
}

#[async_trait]
impl Queue for FakeWires {
    fn publish(&self, _: &[AcceptedJob]) {}
    async fn consume(&self, _: SessionId, _: u16) -> Box<dyn Doorbell> {
        unreachable!("not the API's")
    }
    async fn delete(&self, _: SessionId) {}
    async fn depth(&self, _: SessionId) -> Option<u64> {
        None
    }
    fn is_connected(&self) -> bool {
        self.broker.load(Ordering::Relaxed)
    }
    async fn close(&self) {}
}
