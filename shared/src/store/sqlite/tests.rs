//! The main path on a real file, and the plans of the statements that must not get slow. The behaviour that both stores
//! promise is in the conformance suite.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{ConnectOptions, Connection, Row};

use super::*;
use crate::ids::{MessageId, SessionId, UserId, WorkerId, new_whatsapp_id};
use crate::message::{BlockedBy, Content, Hold, MAX_CRASHES, Message, MessageError, MessageType, NewMessage, Status};
use crate::ports::audit::Actor;
use crate::ports::store::{
    AcceptOutcome, AcceptRequest, AcceptedJob, IdempotencyKey, MessageFilter, Moved, Outcome, PullRequest, Pulled,
    Receipt, ReceiptBatch, Retention, Scope, SessionCommand, SessionReport, Settled, Settlement,
};
use crate::recipient::Recipient;
use crate::session::{BridgeKind, DEFAULT_SESSION, SessionStatus};
use crate::time::Day;
use crate::usage::{Quota, UsageStats};
use crate::user::NewUser;

const LEASE: Duration = Duration::from_secs(10);

/// A store in a folder of its own, with a user whose session is connected and owned.
struct Bench {
    dir: PathBuf,
    store: Arc<dyn Store>,
    jobs: Arc<Mutex<Vec<MessageId>>>,
    user: UserId,
    session: SessionId,
    worker: WorkerId,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bench {
    async fn new(limit: Option<i64>) -> Self {
        let dir = std::env::temp_dir().join(format!("sanasr-sqlite-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let jobs = Arc::new(Mutex::new(Vec::new()));
        let store = open(&dir.join("sanasr.db"), hook(&jobs)).await.expect("a store");
        let new = NewUser {
            username: "ada".to_owned(),
            password_hash: "x".to_owned(),
            is_staff: false,
            max_messages_per_day: limit,
        };
        let user = store.create_user(&new, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id;
        let worker = WorkerId::generate();
        store.register(worker, LEASE).await.expect("registered");
        store.command(user, DEFAULT_SESSION, SessionCommand::Connect, Actor::MACHINE).await.expect("a command");
        let session = store.take(worker, 10).await.expect("sessions")[0].id;
        let bench = Self { dir, store, jobs, user, session, worker };
        bench.connect().await;
        bench
    }

    async fn connect(&self) {
        let report = SessionReport {
            pairing: Some(crate::ports::store::Pairing::Paired("+15550001111".to_owned())),
            ..SessionReport::new(SessionStatus::Connected)
        };
        assert!(self.store.report(self.worker, self.session, &report).await.expect("a report"));
    }

    fn message(&self, to: &str) -> NewMessage {
        NewMessage {
            id: MessageId::generate(),
            session: self.session,
            recipient: Recipient::parse(to).expect("a number"),
            whatsapp_id: new_whatsapp_id(),
            kind: MessageType::Text,
            content: Content { text: Some("héllo \"you\"\u{1F600}".to_owned()), ..Content::default() },
            reply_to: None,
            replayed_from: None,
            reference: Some("order 1".to_owned()),
            send_at: None,
            expires_at: None,
            request_id: "r".to_owned(),
        }
    }

    async fn accept(&self, messages: Vec<NewMessage>, key: Option<IdempotencyKey>) -> Vec<AcceptOutcome> {
        let items = (0..).zip(messages).collect();
        self.store.accept(AcceptRequest { user: self.user, key, items, by: Actor::MACHINE }).await.expect("outcomes")
    }

    async fn accepted(&self, to: &str) -> NewMessage {
        let message = self.message(to);
        let outcomes = self.accept(vec![message.clone()], None).await;
        assert!(matches!(outcomes[..], [AcceptOutcome::Accepted { .. }]), "{outcomes:?}");
        message
    }

    fn request(&self, places: u32) -> PullRequest {
        PullRequest {
            worker: self.worker,
            session: self.session,
            claim: 1,
            places,
            from_seq: 0,
            low: 0,
            scan: 1_000,
            recipients: Vec::new(),
        }
    }

    async fn pull(&self, places: u32) -> Pulled {
        self.store.pull(self.request(places)).await.expect("a pull")
    }

    async fn settle(&self, message: MessageId, attempt: i32, outcome: Outcome) -> Settled {
        let settlement = Settlement { worker: self.worker, claim: 1, shard: 7, message, attempt, outcome };
        self.store.settle(settlement).await.expect("a settlement")
    }

    async fn receipts(&self, receipts: Vec<Receipt>) -> Vec<MessageId> {
        let batch = ReceiptBatch { worker: self.worker, session: self.session, shard: 7, receipts };
        self.store.receipts(batch).await.expect("receipts")
    }

    async fn show(&self, id: MessageId) -> Message {
        self.store.message(Scope::User(self.user), id).await.expect("an answer").expect("a message")
    }

    async fn used(&self) -> i64 {
        self.store.quota(self.user).await.expect("a quota").expect("a user").used
    }

    async fn usage(&self) -> UsageStats {
        let today = Time::now().day();
        let days = self.store.usage_days(self.user, Day(today.0 - 1), today.next()).await.expect("usage");
        days[0]
    }

    async fn sql(&self, text: &'static str) {
        let mut conn = self.raw().await;
        sqlx::query(text).execute(&mut conn).await.expect(text);
    }

    async fn raw(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.dir.join("sanasr.db")).connect().await.expect("a connection")
    }
}

fn hook(jobs: &Arc<Mutex<Vec<MessageId>>>) -> AcceptHook {
    let jobs = Arc::clone(jobs);
    Arc::new(move |accepted: &[AcceptedJob]| {
        jobs.lock().expect("no panic").extend(accepted.iter().map(|job| job.message));
    })
}

fn key(name: &str, hash: u8, batch: bool) -> Option<IdempotencyKey> {
    Some(IdempotencyKey { key: name.to_owned(), hash: [hash; 32], batch })
}

fn receipt(message: &NewMessage, status: Status, at: i64) -> Receipt {
    Receipt { whatsapp_id: message.whatsapp_id.clone(), status, at: Time(at) }
}

fn transient() -> MessageError {
    MessageError::new("disconnected", "gone", true)
}

/// 3.51.3 mends a race on the write-ahead log that could lose what was committed.
#[tokio::test]
async fn the_database_is_a_current_one() {
    let mut conn = SqliteConnectOptions::new().connect().await.expect("a database in memory");
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut conn).await.expect("a version");
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().expect("a number")).collect();
    assert!(parts >= vec![3, 51, 3], "{version}");
}

#[tokio::test]
async fn a_message_goes_its_way_to_read() {
    let bench = Bench::new(None).await;
    let message = bench.accepted("+15551230001").await;
    let behind = bench.accepted("+15551230001").await;
    assert_eq!(*bench.jobs.lock().expect("no panic"), [message.id, behind.id]);
    assert_eq!(bench.show(behind.id).await.blocked_by, Some(BlockedBy::EarlierMessage));
    assert_eq!(bench.show(message.id).await.blocked_by, None);

    let pulled = bench.pull(5).await;
    assert_eq!(pulled.messages.iter().map(|m| m.id).collect::<Vec<_>>(), [message.id]);
    assert_eq!((pulled.messages[0].attempt, pulled.messages[0].unknown_attempts), (1, 1));
    assert_eq!(pulled.messages[0].content, Ok(message.content.clone()));
    assert_eq!((pulled.next_seq, pulled.first_seq), (None, Some(pulled.messages[0].seq)));
    assert_eq!(bench.show(message.id).await.status, Status::Sending);
    assert!(matches!(bench.store.cancel(Scope::All, message.id, Actor::MACHINE).await, Ok(Moved::Refused(_))));

    assert_eq!(bench.settle(message.id, 1, Outcome::Sent).await, Settled::Done(Status::Sent));
    assert_eq!(bench.settle(message.id, 1, Outcome::Sent).await, Settled::Refused);
    assert_eq!(bench.pull(5).await.messages[0].id, behind.id);

    // Later than the acknowledgement, which is timed by our clock: a receipt's earlier time would be raised to that.
    let (delivered, read) = (Time::now().0 + 60_000, Time::now().0 + 70_000);
    let news = vec![receipt(&message, Status::Read, read), receipt(&message, Status::Delivered, delivered)];
    assert_eq!(bench.receipts(news.clone()).await, [message.id]);
    assert_eq!(bench.receipts(news).await, []);
    let shown = bench.show(message.id).await;
    assert_eq!(shown.status, Status::Read);
    assert_eq!((shown.delivered_at, shown.read_at), (Some(Time(delivered)), Some(Time(read))));

    // A receipt before its acknowledgement, which then changes nothing.
    assert_eq!(bench.receipts(vec![receipt(&behind, Status::Delivered, 30)]).await, [behind.id]);
    assert_eq!(bench.settle(behind.id, 1, Outcome::Sent).await, Settled::Refused);
    let usage = bench.usage().await;
    assert_eq!((usage.messages_accepted, usage.messages_sent, usage.messages_failed), (2, 2, 0));
    bench.store.close().await;
    assert!(
        bench
            .store
            .accept(AcceptRequest { user: bench.user, key: None, items: vec![(0, message)], by: Actor::MACHINE })
            .await
            .is_err()
    );
}

#[tokio::test]
async fn quota_and_keys_are_exact() {
    let bench = Bench::new(Some(3)).await;
    let four = (0..4).map(|_| bench.message("+15551230001")).collect();
    let outcomes = bench.accept(four, key("k", 1, true)).await;
    assert!(matches!(outcomes[2], AcceptOutcome::Accepted { .. }));
    assert!(matches!(outcomes[3], AcceptOutcome::QuotaExceeded(Quota { used: 3, remaining: Some(0), .. })));

    let again = (0..4).map(|_| bench.message("+15551230001")).collect();
    let replayed = bench.accept(again, key("k", 1, true)).await;
    assert!(matches!(replayed[0], AcceptOutcome::Replayed(_)));
    assert!(matches!(replayed[3], AcceptOutcome::QuotaExceeded(_)));
    let other = bench.accept(vec![bench.message("+15551230001")], key("k", 2, false)).await;
    assert_eq!(other, [AcceptOutcome::KeyReused]);
    let (hash, kept) = bench.store.replay(bench.user, "k").await.expect("an answer").expect("a key");
    assert_eq!((hash, kept.len(), kept[0].0), (vec![1; 32], 3, 1));

    assert!(matches!(bench.store.cancel(Scope::User(bench.user), kept[0].1, Actor::MACHINE).await, Ok(Moved::Done(_))));
    assert_eq!(bench.used().await, 2);
    // What was accepted under the same id counts as accepted, and takes nothing.
    let message = bench.message("+15551230001");
    for _ in 0..2 {
        let outcomes = bench.accept(vec![message.clone()], None).await;
        assert!(matches!(outcomes[..], [AcceptOutcome::Accepted { .. }]));
    }
    assert_eq!(bench.used().await, 3);
}

#[tokio::test]
async fn twins_at_once_are_one_message_and_poison_stands_alone() {
    let bench = Bench::new(None).await;
    let twins = (0..20).map(|_| bench.accept(vec![bench.message("+15551230001")], key("twin", 1, false)));
    let outcomes = futures_util::future::join_all(twins).await;
    let made = outcomes.iter().filter(|o| matches!(o[0], AcceptOutcome::Accepted { .. })).count();
    assert_eq!((made, bench.used().await), (1, 1));

    let mut items: Vec<NewMessage> = (0..9).map(|_| bench.message("+15551230002")).collect();
    items[3].whatsapp_id = items[0].whatsapp_id.clone();
    items[5].reference = Some("a\0b".to_owned());
    let outcomes = bench.accept(items, key("poison", 1, true)).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(matches!(outcome, AcceptOutcome::Accepted { .. }), n != 3 && n != 5, "{n}: {outcome:?}");
        assert_eq!(matches!(outcome, AcceptOutcome::Invalid(_)), n == 3 || n == 5, "{n}: {outcome:?}");
    }
    assert_eq!(bench.used().await, 8);
}

/// What is asked at once is written in one transaction, of a part for each kind.
#[tokio::test]
async fn a_part_that_fails_leaves_the_others() {
    let bench = Bench::new(None).await;
    let first = bench.accepted("+15551230001").await;
    bench.pull(1).await;
    let poison = NewMessage { whatsapp_id: first.whatsapp_id.clone(), ..bench.message("+15551230002") };
    let good: Vec<NewMessage> = (3..6).map(|n| bench.message(&format!("+1555123000{n}"))).collect();
    let new = |username: &str| NewUser {
        username: username.to_owned(),
        password_hash: "x".to_owned(),
        is_staff: false,
        max_messages_per_day: None,
    };
    let (taken, free) = (new("ada"), new("grace"));
    let (settled, one, bad, two, three, refused, made, pulled) = tokio::join!(
        bench.settle(first.id, 1, Outcome::Sent),
        bench.accept(vec![good[0].clone()], None),
        bench.accept(vec![poison.clone()], None),
        bench.accept(vec![good[1].clone()], None),
        bench.accept(vec![good[2].clone()], None),
        bench.store.create_user(&taken, BridgeKind::Simulator, Actor::MACHINE),
        bench.store.create_user(&free, BridgeKind::Simulator, Actor::MACHINE),
        bench.pull(9),
    );
    assert_eq!(settled, Settled::Done(Status::Sent));
    assert!(matches!(bad[..], [AcceptOutcome::Invalid(_)]), "{bad:?}");
    for accepted in [one, two, three] {
        assert!(matches!(accepted[..], [AcceptOutcome::Accepted { .. }]), "{accepted:?}");
    }
    assert!(matches!(refused, Err(StoreError::Taken(_))) && made.is_ok());
    assert!(pulled.messages.iter().map(|m| m.id).eq(good.iter().map(|m| m.id)), "{pulled:?}");
    assert_eq!((bench.used().await, bench.usage().await.messages_sent), (4, 1));

    // Alone, and as the first part of several.
    assert!(bench.store.create_user(&taken, BridgeKind::Simulator, Actor::MACHINE).await.is_err());
    assert_eq!(bench.settle(good[0].id, 1, Outcome::Released).await, Settled::Done(Status::Accepted));
    let (bad, pulled) = tokio::join!(bench.accept(vec![poison], None), bench.pull(9));
    assert!(matches!(bad[..], [AcceptOutcome::Invalid(_)]), "{bad:?}");
    assert_eq!((pulled.messages.len(), bench.used().await), (1, 4));
}

#[tokio::test]
async fn what_is_not_sent_waits_or_gives_its_unit_back() {
    let bench = Bench::new(None).await;
    let message = bench.accepted("+15551230001").await;
    bench.pull(1).await;
    let retry = Outcome::Retry { error: transient(), after: Duration::from_secs(60), hold: Hold::Restricted };
    assert_eq!(bench.settle(message.id, 1, retry).await, Settled::Done(Status::Accepted));
    assert_eq!(bench.show(message.id).await.blocked_by, Some(BlockedBy::Restricted));
    let pulled = bench.pull(1).await;
    assert!(pulled.messages.is_empty() && pulled.next_due.is_some(), "{pulled:?}");

    bench.sql("UPDATE messages SET due_at = 1").await;
    assert_eq!(bench.pull(1).await.messages[0].attempt, 2);
    let doubt = Outcome::InDoubt { error: transient(), after: Duration::ZERO };
    assert_eq!(bench.settle(message.id, 2, doubt).await, Settled::Done(Status::Sending));
    let pulled = bench.pull(1).await;
    assert_eq!((pulled.messages[0].attempt, pulled.messages[0].unknown_attempts), (3, 2));
    // The third attempt's "not sent" leaves the second one's doubt.
    let failed = Outcome::Failed { error: transient() };
    assert_eq!(bench.settle(message.id, 2, failed.clone()).await, Settled::Refused);
    assert_eq!(bench.settle(message.id, 3, failed.clone()).await, Settled::Done(Status::Failed));
    let shown = bench.show(message.id).await;
    assert_eq!(shown.error.expect("an error").code, MessageError::UNKNOWN_OUTCOME);
    assert_eq!((bench.used().await, bench.usage().await.messages_failed), (1, 1));
    assert_eq!(bench.receipts(vec![receipt(&message, Status::Read, 5)]).await, [message.id]);
    let usage = bench.usage().await;
    assert_eq!((usage.messages_failed, usage.messages_sent), (0, 1));

    let refused = bench.accepted("+15551230002").await;
    bench.pull(1).await;
    assert_eq!(bench.settle(refused.id, 1, failed).await, Settled::Done(Status::Failed));
    assert_eq!((bench.used().await, bench.usage().await.messages_failed), (1, 1));

    let poison = bench.accepted("+15551230003").await;
    for n in 0..MAX_CRASHES {
        bench.sql("UPDATE messages SET due_at = 1 WHERE due_at IS NOT NULL").await;
        assert_eq!(bench.pull(1).await.messages[0].crashes, n);
        bench.settle(poison.id, 1, Outcome::Crashed { called: false, after: Duration::ZERO }).await;
    }
    let shown = bench.show(poison.id).await;
    assert_eq!((shown.status, shown.error.expect("an error").code.as_str()), (Status::Failed, MessageError::INTERNAL));
    assert_eq!(bench.used().await, 1);
}

#[tokio::test]
async fn a_pull_is_bounded_and_goes_on() {
    let bench = Bench::new(None).await;
    let held: Vec<NewMessage> = (0..6).map(|_| bench.message("+15551230009")).collect();
    bench.accept(held, None).await;
    let free = bench.accepted("+15551230001").await;
    let first = bench.pull(1).await;
    let start = first.messages[0].seq;
    assert_eq!(first.next_seq, Some(start + 1));

    let request = PullRequest { scan: 3, from_seq: start, ..bench.request(5) };
    let pulled = bench.store.pull(request.clone()).await.expect("a pull");
    assert_eq!((pulled.messages.len(), pulled.next_seq, pulled.first_seq), (0, Some(start + 3), Some(start)));
    let on = PullRequest { from_seq: start + 3, scan: 9, ..request };
    let pulled = bench.store.pull(on.clone()).await.expect("a pull");
    assert_eq!((pulled.messages[0].id, pulled.next_seq), (free.id, None));

    for harmless in [PullRequest { places: 0, ..on.clone() }, PullRequest { scan: 0, ..on.clone() }] {
        assert!(bench.store.pull(harmless).await.expect("a pull").messages.is_empty());
    }
    // Another actor of the same worker takes what the first left.
    let left = PullRequest { claim: 2, ..bench.request(9) };
    let pulled = bench.store.pull(left).await.expect("a pull");
    assert_eq!(pulled.messages.iter().map(|m| m.unknown_attempts).collect::<Vec<_>>(), [2, 2]);
    let stranger = PullRequest { worker: WorkerId::generate(), ..on };
    assert!(matches!(bench.store.pull(stranger).await, Err(StoreError::Fenced)));
}

/// Rows that can't be read: those that can be claimed are, and end as dead letters; the others are skipped. No one else waits.
#[tokio::test]
async fn a_row_that_cannot_be_read_holds_up_no_other() {
    let bench = Bench::new(None).await;
    let mut messages = Vec::new();
    for to in ["+15550000001", "+15550000002", "+15550000003", "+15550000004"] {
        messages.push(bench.accepted(to).await);
    }
    bench.sql("UPDATE messages SET crashes = 3000000000 WHERE recipient = '+15550000001'").await;
    bench
        .sql("UPDATE messages SET attempts = -7, whatsapp_id = CAST(x'ff' AS TEXT) WHERE recipient = '+15550000002'")
        .await;
    bench.sql("UPDATE messages SET id = x'00' WHERE recipient = '+15550000003'").await;
    let pulled = bench.pull(10).await;
    let ids: Vec<_> = pulled.messages.iter().map(|message| message.id).collect();
    assert_eq!(ids, [messages[0].id, messages[1].id, messages[3].id]);
    let read: Vec<_> = pulled.messages.iter().map(|message| message.content.is_ok()).collect();
    assert_eq!(read, [false, false, true]);
    // A single place isn't held either: the look gets further.
    let pulled_again = bench.pull(1).await;
    assert!(pulled_again.messages.is_empty() && pulled_again.next_seq > pulled_again.first_seq, "{pulled_again:?}");

    let unreadable = || Outcome::Failed { error: MessageError::internal("can't be read") };
    let settlement = Settlement {
        worker: bench.worker,
        claim: 1,
        shard: 7,
        message: messages[0].id,
        attempt: pulled.messages[0].attempt,
        outcome: unreadable(),
    };
    let refused = bench.store.settle(settlement).await;
    assert!(matches!(refused, Err(StoreError::Corrupt(_))), "{refused:?}");
    assert!(bench.store.abandon(bench.worker, 1, messages[0].id).await.expect("an answer"));
    let abandoned = bench.show(messages[0].id).await;
    assert_eq!(abandoned.error.map(|error| error.code).as_deref(), Some(MessageError::UNKNOWN_OUTCOME));
    // The rest of this row is in order.
    let second = &pulled.messages[1];
    assert_eq!(bench.settle(second.id, second.attempt, unreadable()).await, Settled::Done(Status::Failed));
    assert_eq!(bench.settle(messages[3].id, 1, Outcome::Sent).await, Settled::Done(Status::Sent));
}

#[tokio::test]
async fn sweeps_promote_expire_count_and_drain() {
    let bench = Bench::new(None).await;
    let mut later = bench.message("+15551230001");
    later.send_at = Some(Time::now().plus(Duration::from_secs(3600)));
    let outcomes = bench.accept(vec![later.clone()], None).await;
    assert!(matches!(outcomes[..], [AcceptOutcome::Accepted { .. }]));
    assert!(bench.jobs.lock().expect("no panic").is_empty());
    assert_eq!(bench.show(later.id).await.blocked_by, Some(BlockedBy::Scheduled));
    let now = bench.accepted("+15551230001").await;
    let (backlog, oldest) = bench.store.count_backlog().await.expect("counted");
    assert_eq!((backlog.total, backlog.by_user.get(&bench.user)), (2, Some(&2)));
    assert!(oldest.is_some());
    assert_eq!(bench.store.backlog().await.expect("a backlog"), backlog);

    bench.sql("UPDATE messages SET due_at = 1, send_at = 1 WHERE status = 0").await;
    let (jobs, more) = bench.store.promote().await.expect("promoted");
    assert_eq!((jobs.len(), jobs[0].message, more), (1, later.id, false));
    let next = bench.accepted("+15551230002").await;
    let pulled = bench.pull(9).await;
    assert_eq!(pulled.messages.iter().map(|m| m.id).collect::<Vec<_>>(), [now.id, next.id]);
    assert_eq!(bench.show(later.id).await.blocked_by, Some(BlockedBy::EarlierMessage));

    bench.sql("UPDATE messages SET expires_at = 1").await;
    assert_eq!(bench.store.expire().await.expect("swept").messages, [later.id]);
    assert_eq!((bench.show(later.id).await.status, bench.used().await), (Status::Expired, 2));

    let queued = bench.accepted("+15551230001").await;
    assert!(bench.store.delete_session(bench.user, DEFAULT_SESSION, Actor::MACHINE).await.expect("deleted"));
    assert_eq!(bench.accept(vec![bench.message("+15551230001")], None).await, [AcceptOutcome::SessionGone]);
    bench.store.give_back(bench.worker, &[bench.session]).await.expect("given back");
    assert!(bench.store.drain_deleted().await.expect("drained").1.is_empty(), "the grace isn't over");
    bench.sql("UPDATE sessions SET deleting_at = 1").await;
    let (swept, removed) = bench.store.drain_deleted().await.expect("drained");
    assert_eq!((swept.messages.len(), removed), (3, vec![bench.session]));
    assert_eq!(bench.show(queued.id).await.status, Status::Cancelled);
    assert_eq!(bench.show(now.id).await.error.expect("an error").code, MessageError::UNKNOWN_OUTCOME);
    assert_eq!((bench.show(now.id).await.session.as_str(), bench.used().await), (DEFAULT_SESSION, 2));

    let none = Duration::ZERO;
    let all = Retention {
        events: none,
        api_logs: none,
        idempotency_keys: none,
        unsent: none,
        messages: Some(none),
        api_log_lines: 0,
        audit: none,
        audit_lines: 0,
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(!bench.store.retire(&all).await.expect("retired"));
    assert_eq!(bench.store.message(Scope::All, now.id).await.expect("an answer"), None);
}

#[tokio::test]
async fn lists_page_through_everything_once() {
    let bench = Bench::new(None).await;
    let messages: Vec<NewMessage> = (0..25).map(|n| bench.message(&format!("+1555123{n:04}"))).collect();
    bench.accept(messages.clone(), None).await;
    let filters = [
        MessageFilter::default(),
        MessageFilter {
            status: Some(Status::Accepted),
            session: Some(DEFAULT_SESSION.to_owned()),
            ..Default::default()
        },
        MessageFilter { reference: Some("order 1".to_owned()), from: Some(Time(1)), ..Default::default() },
    ];
    for scope in [Scope::All, Scope::User(bench.user)] {
        for filter in &filters {
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let page = bench.store.list_messages(scope, filter, after, 10).await.expect("a page");
                seen.extend(page.items.iter().map(|m| m.id));
                let Some(next) = page.next else { break };
                after = Some(MessageId(next));
            }
            assert!(seen.iter().rev().copied().eq(messages.iter().map(|m| m.id)), "{filter:?}");
        }
    }
    let none = MessageFilter { to: Some(Recipient::parse("+15559999999").expect("a number")), ..Default::default() };
    assert!(bench.store.list_messages(Scope::All, &none, None, 10).await.expect("a page").items.is_empty());
    let stranger = Scope::User(UserId(bench.user.0 + 1));
    assert_eq!(bench.store.message(stranger, messages[0].id).await.expect("an answer"), None);
}

#[tokio::test]
async fn a_second_start_keeps_everything_and_frees_the_sessions() {
    let bench = Bench::new(None).await;
    let message = bench.accepted("+15551230001").await;
    bench.pull(1).await;
    let deployment = bench.store.deployment().to_owned();
    bench.store.close().await;
    let store = open(&bench.dir.join("sanasr.db"), hook(&bench.jobs)).await.expect("a store");
    assert_eq!(store.deployment(), deployment);
    assert!(matches!(store.renew(bench.worker, LEASE).await, Err(StoreError::Fenced)));
    let session = store.session(bench.user, DEFAULT_SESSION).await.expect("an answer").expect("a session");
    assert_eq!(session.status, SessionStatus::Connecting);
    assert_eq!(store.message(Scope::All, message.id).await.expect("an answer").expect("it").status, Status::Sending);
    store.close().await;
}

/// While somebody reads in one transaction, the write-ahead log can't be cut and grows. Afterwards it shrinks again.
#[tokio::test]
async fn the_write_ahead_log_shrinks_after_a_long_read() {
    let bench = Bench::new(None).await;
    let size = || std::fs::metadata(bench.dir.join("sanasr.db-wal")).map_or(0, |file| file.len());
    let mut reader = bench.raw().await;
    let mut reading = reader.begin().await.expect("a transaction");
    sqlx::query("SELECT count(*) FROM messages").fetch_one(&mut *reading).await.expect("a count");
    bench.sql("CREATE TABLE filling (bytes BLOB)").await;
    while size() < 3 * WAL_MAX / 2 {
        bench.sql("INSERT INTO filling VALUES (zeroblob(4000000))").await;
    }
    // It can't be cut yet, and grows when something is written.
    bench.accepted("+15551230001").await;
    assert!(size() > WAL_MAX);
    reading.rollback().await.expect("an end");
    for _ in 0..100 {
        if size() <= WAL_MAX {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{} bytes are left of the log", size());
}

/// Each statement of the hot paths goes by the index that it is meant to, and walks no table.
#[tokio::test]
async fn hot_statements_use_their_indexes() {
    let bench = Bench::new(None).await;
    let mut conn = bench.raw().await;
    for (text, expected) in [
        (pull::LOOK, "SEARCH m USING INDEX messages_open_session (session_id=? AND seq>? AND seq<?)"),
        (pull::LOOK, "SEARCH e USING INDEX messages_open_recipient"),
        (pull::CLAIM, "SEARCH messages USING INTEGER PRIMARY KEY"),
        (moves::MOVE, "SEARCH messages USING INTEGER PRIMARY KEY"),
        (accept::LOOK, "SEARCH m USING INDEX sqlite_autoindex_messages_1 (id=?)"),
        (accept::LOOK_KEYS, "SEARCH k USING PRIMARY KEY (user_id=? AND key=?)"),
        (receipts::MATCH, "SEARCH m USING INDEX messages_whatsapp_id (whatsapp_id=? AND session_id=?)"),
    ] {
        assert!(!text.contains("LIMIT $"), "prepared anew each time: {text}");
        let explain = format!("EXPLAIN QUERY PLAN {text}");
        let plan: Vec<String> = sqlx::query(&explain)
            .fetch_all(&mut conn)
            .await
            .expect(text)
            .iter()
            .map(|row| row.get::<String, _>("detail"))
            .collect();
        assert!(plan.iter().any(|step| step.starts_with(expected)), "{expected}: {plan:#?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN m") && !step.contains("VIRTUAL")), "{plan:#?}");
    }
    conn.close().await.expect("closed");
}
