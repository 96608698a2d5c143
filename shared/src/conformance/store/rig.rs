//! What the promises are tried with: users whose sessions are owned and connected, messages, and waiting for a state.

use std::collections::HashSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};

use crate::ids::{MessageId, SessionId, UserId, WorkerId, new_whatsapp_id};
use crate::message::{Content, Hold, Message, MessageError, MessageType, NewMessage, Status};
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::recipient::Recipient;
use crate::session::{BridgeKind, DEFAULT_SESSION, SessionStatus};
use crate::time::{Day, Time};
use crate::usage::{Quota, UsageStats};
use crate::user::NewUser;

/// How long a promise may take to be kept before its test fails. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// A lease that no test outlives.
pub(super) const LONG: Duration = Duration::from_secs(3_600);
/// The shard under which the tests count.
pub(super) const SHARD: i64 = 7;

/// A user with a session that is connected and owned by a living worker.
#[derive(Clone)]
pub(super) struct Rig {
    pub(super) store: Arc<dyn Store>,
    pub(super) user: UserId,
    pub(super) session: SessionId,
    pub(super) name: String,
    pub(super) worker: WorkerId,
    /// The number of the session's actor.
    pub(super) claim: i64,
}

impl Rig {
    /// A user without a limit.
    pub(super) async fn new(store: &Arc<dyn Store>) -> Self {
        Self::limited(store, None).await
    }

    /// A user with a limit of messages a day.
    pub(super) async fn limited(store: &Arc<dyn Store>, limit: Option<i64>) -> Self {
        Self::several(store, 1, limit).await.swap_remove(0)
    }

    /// As many users, whose sessions one worker owns.
    pub(super) async fn several(store: &Arc<dyn Store>, count: usize, limit: Option<i64>) -> Vec<Self> {
        before_midnight().await;
        let worker = new_worker(store).await;
        let users: Vec<UserId> =
            futures_util::stream::iter(0..count).map(|_| new_user(store, limit)).buffer_unordered(16).collect().await;
        let wanted = users.iter().map(|user| async move { (*user, want(store, *user, DEFAULT_SESSION).await) });
        let wanted: Vec<(UserId, SessionId)> = futures_util::stream::iter(wanted).buffer_unordered(16).collect().await;
        take_all(store, worker, wanted.iter().map(|(_, session)| *session)).await;
        let rigs = wanted.into_iter().map(|(user, session)| async move {
            let name = DEFAULT_SESSION.to_owned();
            let rig = Self { store: Arc::clone(store), user, session, name, worker, claim: 1 };
            rig.report(SessionStatus::Connected).await;
            rig
        });
        futures_util::stream::iter(rigs).buffer_unordered(16).collect().await
    }

    /// Another session of the same user, owned by the same worker and connected.
    pub(super) async fn another_session(&self, name: &str) -> Self {
        self.store
            .create_session(self.user, name, BridgeKind::Simulator, u32::MAX, Actor::MACHINE)
            .await
            .expect("a session");
        let session = want(&self.store, self.user, name).await;
        take_all(&self.store, self.worker, [session]).await;
        let rig = Self { session, name: name.to_owned(), ..self.clone() };
        rig.report(SessionStatus::Connected).await;
        rig
    }

    /// The same rig through another process's handle.
    pub(super) fn through(&self, store: &Arc<dyn Store>) -> Self {
        Self { store: Arc::clone(store), ..self.clone() }
    }

    /// The same rig after its actor has started again: what the earlier one claimed is in doubt.
    pub(super) fn restarted(&self) -> Self {
        Self { claim: self.claim + 1, ..self.clone() }
    }

    /// The same session in the hands of a new worker, the old one having been declared dead.
    pub(super) async fn taken_over(&self) -> Self {
        bury(&self.store, self.worker).await;
        let worker = new_worker(&self.store).await;
        take_all(&self.store, worker, [self.session]).await;
        let rig = Self { worker, ..self.clone() };
        rig.report(SessionStatus::Connected).await;
        rig
    }

    /// Reports a status as the session's owner.
    pub(super) async fn report(&self, status: SessionStatus) {
        let report = report(status);
        assert!(self.store.report(self.worker, self.session, &report).await.expect("a report"), "the session is ours");
    }

    /// A text to the recipient of that number.
    pub(super) fn draft(&self, to: u32) -> NewMessage {
        draft(self.session, to)
    }

    /// Accepts messages without a key, in one request.
    pub(super) async fn accept(&self, drafts: Vec<NewMessage>) -> Vec<AcceptOutcome> {
        self.store.accept(request(self.user, None, drafts)).await.expect("accepting answers")
    }

    /// Accepts one message that must be.
    pub(super) async fn put(&self, draft: NewMessage) -> MessageId {
        self.put_all(vec![draft]).await[0]
    }

    /// Accepts messages that all must be, in one request.
    pub(super) async fn put_all(&self, drafts: Vec<NewMessage>) -> Vec<MessageId> {
        let ids = drafts.iter().map(|draft| draft.id).collect();
        for outcome in self.accept(drafts).await {
            assert!(matches!(outcome, AcceptOutcome::Accepted { .. }), "{outcome:?}");
        }
        ids
    }

    /// Accepts a text to the recipient of that number.
    pub(super) async fn send(&self, to: u32) -> MessageId {
        self.put(self.draft(to)).await
    }

    /// A pull over the whole session.
    pub(super) fn pull_request(&self, places: u32) -> PullRequest {
        PullRequest {
            worker: self.worker,
            session: self.session,
            claim: self.claim,
            places,
            from_seq: 0,
            low: 0,
            scan: 1_000,
            recipients: Vec::new(),
        }
    }

    /// Pulls from the whole session.
    pub(super) async fn pull(&self, places: u32) -> Pulled {
        self.store.pull(self.pull_request(places)).await.expect("a pull answers")
    }

    /// Pulls all that can be sent now: their ids, oldest first.
    pub(super) async fn pull_ids(&self) -> Vec<MessageId> {
        self.pull(1_000).await.messages.iter().map(|message| message.id).collect()
    }

    /// Claims the one message that can be sent.
    pub(super) async fn claim_one(&self) -> Outgoing {
        let mut messages = self.pull(1_000).await.messages;
        assert_eq!(messages.len(), 1, "one message can be sent: {messages:?}");
        messages.swap_remove(0)
    }

    /// How an attempt of this rig ended, to be written.
    pub(super) fn settlement(&self, message: MessageId, attempt: i32, outcome: Outcome) -> Settlement {
        Settlement { worker: self.worker, claim: self.claim, shard: SHARD, message, attempt, outcome }
    }

    /// Writes how an attempt ended.
    pub(super) async fn settle(&self, sent: &Outgoing, outcome: Outcome) -> Settled {
        self.store.settle(self.settlement(sent.id, sent.attempt, outcome)).await.expect("a settlement answers")
    }

    /// Claims the one message that can be sent, and writes how the attempt ended.
    pub(super) async fn attempt(&self, outcome: Outcome) -> Outgoing {
        let outgoing = self.claim_one().await;
        let settled = self.settle(&outgoing, outcome.clone()).await;
        assert!(matches!(settled, Settled::Done(_)), "{outcome:?}: {settled:?}");
        outgoing
    }

    /// Writes receipts; answers the messages that changed.
    pub(super) async fn receive(&self, receipts: Vec<Receipt>) -> Vec<MessageId> {
        let batch = ReceiptBatch { worker: self.worker, session: self.session, shard: SHARD, receipts };
        self.store.receipts(batch).await.expect("receipts answer")
    }

    /// A message as it stands.
    pub(super) async fn message(&self, id: MessageId) -> Message {
        self.store.message(Scope::User(self.user), id).await.expect("a read").expect("the message is there")
    }

    /// A message's status.
    pub(super) async fn status(&self, id: MessageId) -> Status {
        self.message(id).await.status
    }

    /// The code of a message's error.
    pub(super) async fn error_code(&self, id: MessageId) -> Option<String> {
        self.message(id).await.error.map(|error| error.code)
    }

    /// Takes a message back.
    pub(super) async fn cancel(&self, id: MessageId) -> Moved<Message> {
        self.store.cancel(Scope::User(self.user), id, Actor::MACHINE).await.expect("a cancel answers")
    }

    /// The user's quota.
    pub(super) async fn quota(&self) -> Quota {
        self.store.quota(self.user).await.expect("a read").expect("the user is there")
    }

    /// The quota's units that are taken.
    pub(super) async fn used(&self) -> i64 {
        self.quota().await.used
    }

    /// The user's usage, all days together.
    pub(super) async fn usage(&self) -> UsageStats {
        let days = self.store.usage_days(self.user, Day(0), Day(i64::from(i32::MAX))).await.expect("a read");
        let none = UsageStats {
            user_id: self.user,
            day: Day(0),
            messages_accepted: 0,
            messages_sent: 0,
            messages_failed: 0,
            media_sent: 0,
            api_requests: 0,
        };
        days.iter().fold(none, |sum, day| UsageStats {
            messages_accepted: sum.messages_accepted + day.messages_accepted,
            messages_sent: sum.messages_sent + day.messages_sent,
            messages_failed: sum.messages_failed + day.messages_failed,
            media_sent: sum.media_sent + day.media_sent,
            api_requests: sum.api_requests + day.api_requests,
            ..sum
        })
    }

    /// The database's clock, as this session's owner learns it.
    pub(super) async fn clock(&self) -> Time {
        self.pull(0).await.now
    }

    /// Waits until the database's clock is past `time`.
    pub(super) async fn past(&self, time: Time) {
        eventually("the database's clock goes on", || async { (self.clock().await > time).then_some(()) }).await;
    }

    /// The ids of every message of the user, newest first, page by page.
    pub(super) async fn list_all(&self, filter: &MessageFilter, limit: u32) -> Vec<MessageId> {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let page = self
                .store
                .list_messages(Scope::User(self.user), filter, after, limit)
                .await
                .expect("a page of messages");
            assert!(page.items.len() <= limit as usize, "a page is never longer than asked for");
            ids.extend(page.items.iter().map(|message| message.id));
            let Some(next) = page.next.map(MessageId) else { return ids };
            assert!(after.is_none_or(|after| next < after), "every page gets further");
            after = Some(next);
        }
    }
}

/// Everything is kept.
pub(super) const fn keep_all() -> Retention {
    Retention {
        events: LONG,
        api_logs: LONG,
        idempotency_keys: LONG,
        unsent: LONG,
        messages: None,
        api_log_lines: i64::MAX,
        audit: LONG,
        audit_lines: i64::MAX,
    }
}

/// A text of the session to the recipient of that number.
pub(super) fn draft(session: SessionId, to: u32) -> NewMessage {
    NewMessage {
        id: MessageId::generate(),
        session,
        recipient: recipient(to),
        whatsapp_id: new_whatsapp_id(),
        kind: MessageType::Text,
        content: Content { text: Some("Your code is 123456.".to_owned()), ..Content::default() },
        reply_to: None,
        replayed_from: None,
        reference: None,
        send_at: None,
        expires_at: None,
        request_id: "req-conformance".to_owned(),
    }
}

/// The recipient of that number.
pub(super) fn recipient(number: u32) -> Recipient {
    Recipient::parse(&format!("+1555{number:07}")).expect("a number of North America")
}

/// A request with its messages at the positions 0, 1, ….
pub(super) fn request(user: UserId, key: Option<IdempotencyKey>, drafts: Vec<NewMessage>) -> AcceptRequest {
    AcceptRequest { user, key, items: (0..).zip(drafts).collect(), by: Actor::MACHINE }
}

/// A user of a name of its own.
pub(super) async fn new_user(store: &Arc<dyn Store>, limit: Option<i64>) -> UserId {
    let user = NewUser {
        username: unique("user"),
        password_hash: "$argon2id$none".to_owned(),
        is_staff: false,
        max_messages_per_day: limit,
    };
    store.create_user(&user, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id
}

/// A registered worker with a long lease.
pub(super) async fn new_worker(store: &Arc<dyn Store>) -> WorkerId {
    let worker = WorkerId::generate();
    store.register(worker, LONG).await.expect("a worker");
    worker
}

/// Wants a session connected.
pub(super) async fn want(store: &Arc<dyn Store>, user: UserId, name: &str) -> SessionId {
    let session = store.command(user, name, SessionCommand::Connect, Actor::MACHINE).await.expect("a command");
    session.expect("the session is there").id
}

/// Takes these sessions, which are the only free ones that need an owner.
pub(super) async fn take_all(store: &Arc<dyn Store>, worker: WorkerId, sessions: impl IntoIterator<Item = SessionId>) {
    let sessions: HashSet<SessionId> = sessions.into_iter().collect();
    let mut taken = HashSet::new();
    let start = Instant::now();
    while taken != sessions {
        let missing = sessions.len() - taken.len();
        taken.extend(store.take(worker, missing).await.expect("a take").into_iter().map(|session| session.id));
        assert!(start.elapsed() < PATIENCE, "free sessions can be taken: {taken:?} of {sessions:?}");
        assert!(taken.is_subset(&sessions), "only sessions that need an owner: {taken:?} of {sessions:?}");
    }
}

/// Lets a worker's lease run out and has another declare it dead.
pub(super) async fn bury(store: &Arc<dyn Store>, worker: WorkerId) {
    store.renew(worker, Duration::ZERO).await.expect("a renewal");
    let undertaker = new_worker(store).await;
    let buried = || async { store.bury(undertaker, true).await.expect("a burial").contains(&worker).then_some(()) };
    eventually("a worker whose lease is over is declared dead", buried).await;
    store.leave(undertaker).await.expect("leaving");
}

/// A report of a status and nothing else, but for the pairing that being connected needs.
pub(super) fn report(status: SessionStatus) -> SessionReport {
    let pairing = (status == SessionStatus::Connected).then(|| Pairing::Paired("+15550000000".to_owned()));
    SessionReport { pairing, ..SessionReport::new(status) }
}

/// Definitely not sent; again after a while.
pub(super) fn retry(after: Duration) -> Outcome {
    Outcome::Retry { error: error("disconnected"), after, hold: Hold::Retry }
}

/// Maybe sent; again after a while.
pub(super) fn in_doubt(after: Duration) -> Outcome {
    Outcome::InDoubt { error: error("timeout"), after }
}

/// Never to be sent.
pub(super) fn failed() -> Outcome {
    Outcome::Failed { error: error("not_on_whatsapp") }
}

fn error(code: &str) -> MessageError {
    MessageError::new(code, "As the tests have it.", true)
}

/// A receipt for what was sent.
pub(super) fn receipt(whatsapp_id: &str, status: Status, at: Time) -> Receipt {
    Receipt { whatsapp_id: whatsapp_id.to_owned(), status, at }
}

/// A time that lies so far back or ahead, by this process's clock.
pub(super) fn from_now(seconds: i64) -> Time {
    Time(Time::now().0 + seconds * 1_000)
}

/// A name that nothing else in this process has.
pub(super) fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{stem}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits for a condition, and fails if it doesn't come true in time.
pub(super) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Quota and usage go by the UTC day: a test that midnight might cut in two begins after it.
async fn before_midnight() {
    while Time::now().day().next().start().since(Time::now()) < 2 * PATIENCE {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Tries a property with random values, and prints the smallest one found that breaks it. Needs a runtime with several
/// threads.
pub(super) fn property<S, F, Fut>(cases: u32, values: &S, holds: F)
where
    S: Strategy,
    S::Value: Debug,
    F: Fn(S::Value) -> Fut,
    Fut: Future<Output = ()>,
{
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_time: u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX),
        ..Config::default()
    };
    let runtime = tokio::runtime::Handle::current();
    let outcome = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(values, |value| {
            runtime.block_on(holds(value));
            Ok(())
        })
    });
    if let Err(broken) = outcome {
        panic!("{broken}");
    }
}
