//! A worker's surroundings: SQLite in a folder of its own, the in-process queue and signals, and a bridge that follows a
//! script.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sanasr_shared::ids::{MessageId, SessionId, UserId, new_whatsapp_id};
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::media::FileStore;
use sanasr_shared::message::{Content, Message, MessageType, NewMessage, Status};
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::bridge::{Attempt, Bridge, BridgeEvent, Link, LinkRequest, Receipts, SendRequest};
use sanasr_shared::ports::queue::Queue;
use sanasr_shared::ports::signals::{Signal, Signals};
use sanasr_shared::ports::store::{AcceptOutcome, AcceptRequest, Receipt, Scope, SessionCommand, Store};
use sanasr_shared::queue::memory::MemoryQueue;
use sanasr_shared::recipient::Recipient;
use sanasr_shared::secret::SecretKey;
use sanasr_shared::session::{BridgeKind, SessionStatus};
use sanasr_shared::settings::{MediaSettings, WorkerSettings, defaults};
use sanasr_shared::signals::memory::MemorySignals;
use sanasr_shared::store::sqlite;
use sanasr_shared::time::Time;
use sanasr_shared::user::NewUser;
use sanasr_shared::vault::Vault;
use sanasr_worker::{Parts, run};
use sqlx::ConnectOptions;
use sqlx_sqlite::SqliteConnectOptions;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a condition may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the bridge does with a send.
pub(crate) enum Step {
    Answer(Attempt),
    /// WhatsApp sees it, then nothing is heard.
    Hang,
    Panic,
}

pub(crate) type Script = Arc<dyn Fn(&SendRequest) -> Step + Send + Sync>;

/// What WhatsApp saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) whatsapp_id: String,
    pub(crate) recipient: Recipient,
    pub(crate) at: tokio::time::Instant,
}

#[derive(Clone)]
pub(crate) struct ScriptedBridge {
    pub(crate) script: Script,
    pub(crate) repeats: bool,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) open: Arc<Mutex<Vec<Arc<mpsc::Sender<BridgeEvent>>>>>,
    /// What each link was asked to be.
    pub(crate) requests: Arc<Mutex<Vec<LinkRequest>>>,
    /// Opening takes one of these.
    pub(crate) openings: Arc<Semaphore>,
}

struct ScriptedLink {
    bridge: ScriptedBridge,
    events: Arc<mpsc::Sender<BridgeEvent>>,
}

#[async_trait]
impl Bridge for ScriptedBridge {
    fn kind(&self) -> BridgeKind {
        BridgeKind::Simulator
    }

    fn repeats_under_same_id(&self) -> bool {
        self.repeats
    }

    async fn open(&self, session: LinkRequest, events: mpsc::Sender<BridgeEvent>) -> Arc<dyn Link> {
        let events = Arc::new(events);
        self.requests.lock().expect("sane").push(session.clone());
        self.openings.acquire().await.expect("open").forget();
        if session.paired.is_none() {
            events.send(BridgeEvent::Paired { phone_number: "+15550001111".to_owned() }).await.expect("room");
        }
        events.send(BridgeEvent::Connected).await.expect("room");
        self.open.lock().expect("sane").push(Arc::clone(&events));
        Arc::new(ScriptedLink { bridge: self.clone(), events })
    }
}

#[async_trait]
impl Link for ScriptedLink {
    async fn send(&self, message: &SendRequest) -> Attempt {
        let step = (self.bridge.script)(message);
        if let Step::Panic = step {
            panic!("the script says so");
        }
        self.bridge.seen.lock().expect("sane").push(Seen {
            whatsapp_id: message.whatsapp_id.clone(),
            recipient: message.recipient.clone(),
            at: tokio::time::Instant::now(),
        });
        let attempt = match step {
            Step::Answer(attempt) => attempt,
            Step::Hang | Step::Panic => std::future::pending().await,
        };
        if attempt == Attempt::Sent {
            let receipt = |status| Receipt { whatsapp_id: message.whatsapp_id.clone(), status, at: Time::now() };
            let receipts = vec![receipt(Status::Delivered), receipt(Status::Read)];
            let _ = self.events.send(BridgeEvent::Receipts(Receipts { receipts, taken: None })).await;
        }
        attempt
    }

    async fn disconnect(&self) {}

    async fn logout(&self) {}
}

/// Everything around the workers of a test.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<MemoryQueue>,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) bridge: ScriptedBridge,
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    pub(crate) lease: Duration,
    pub(crate) places: u32,
    pub(crate) media: MediaSettings,
    pub(crate) watchdog: Watchdog,
    folder: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A running worker.
pub(crate) struct Running {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl World {
    pub(crate) async fn new(script: impl Fn(&SendRequest) -> Step + Send + Sync + 'static) -> Self {
        if std::env::var_os("SANASR_TEST_LOG").is_some() {
            let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().try_init();
        }
        let folder = std::env::temp_dir().join(format!("sanasr-worker-{}", SessionId::generate()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let queue = Arc::new(MemoryQueue::new());
        let rung = Arc::clone(&queue);
        let store = sqlite::open(&folder.join("db"), Arc::new(move |jobs| rung.publish(jobs))).await.expect("a store");
        let user = NewUser {
            username: "alice".to_owned(),
            password_hash: String::new(),
            is_staff: false,
            max_messages_per_day: None,
        };
        let user = store.create_user(&user, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id;
        let session = store.session(user, "default").await.expect("an answer").expect("a session").id;
        let bridge = ScriptedBridge {
            script: Arc::new(script),
            repeats: true,
            seen: Arc::default(),
            open: Arc::default(),
            requests: Arc::default(),
            openings: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS / 2)),
        };
        Self {
            store,
            queue,
            signals: Arc::new(MemorySignals::new()),
            bridge,
            user,
            session,
            lease: Duration::from_secs(10),
            places: 64,
            media: defaults(),
            watchdog: Watchdog::default(),
            folder,
        }
    }

    pub(crate) fn start(&self) -> Running {
        let parts = Parts {
            store: Arc::clone(&self.store),
            queue: Arc::clone(&self.queue) as Arc<dyn Queue>,
            signals: Arc::clone(&self.signals),
            bridges: vec![Arc::new(self.bridge.clone())],
            settings: WorkerSettings {
                lease: self.lease,
                send_timeout: Duration::from_secs(1),
                session_places: self.places,
                ..defaults()
            },
            media: self.media.clone(),
            files: FileStore::open(&self.media, &self.folder).expect("a folder for files"),
            shard: 7,
            vault: Arc::new(Vault::new(&SecretKey::new("a secret of the tests, and of nobody else"))),
            watchdog: self.watchdog.clone(),
            alone: false,
        };
        let stop = CancellationToken::new();
        Running { stop: stop.clone(), task: tokio::spawn(run(parts, stop, Duration::from_secs(3))) }
    }

    pub(crate) async fn command(&self, command: SessionCommand) {
        self.store.command(self.user, "default", command, Actor::MACHINE).await.expect("an answer").expect("a session");
        self.signals.publish(Signal::Session(self.session));
        self.signals.publish(Signal::SessionFree);
    }

    pub(crate) async fn connected(&self) {
        self.until("connected", async || {
            let session = self.store.session(self.user, "default").await.expect("an answer").expect("a session");
            session.status == SessionStatus::Connected
        })
        .await;
    }

    /// A worker with the session connected.
    pub(crate) async fn start_connected(&self) -> Running {
        let running = self.start();
        self.command(SessionCommand::Connect).await;
        self.connected().await;
        running
    }

    pub(crate) fn message(&self, to: &str) -> NewMessage {
        NewMessage {
            id: MessageId::generate(),
            session: self.session,
            recipient: Recipient::parse(to).expect(to),
            whatsapp_id: new_whatsapp_id(),
            kind: MessageType::Text,
            content: Content { text: Some("hello".to_owned()), ..Content::default() },
            reply_to: None,
            replayed_from: None,
            reference: None,
            send_at: None,
            expires_at: None,
            request_id: "r-1".to_owned(),
        }
    }

    pub(crate) async fn accept(&self, messages: Vec<NewMessage>) -> Vec<MessageId> {
        let ids = messages.iter().map(|m| m.id).collect();
        let items = (0..).zip(messages).collect();
        let outcomes = self
            .store
            .accept(AcceptRequest { user: self.user, key: None, items, by: Actor::MACHINE })
            .await
            .expect("accepted");
        assert!(outcomes.iter().all(|o| matches!(o, AcceptOutcome::Accepted { .. })), "{outcomes:?}");
        ids
    }

    pub(crate) async fn accept_to(&self, to: &[&str]) -> Vec<MessageId> {
        self.accept(to.iter().map(|to| self.message(to)).collect()).await
    }

    pub(crate) async fn get(&self, id: MessageId) -> Message {
        self.store.message(Scope::All, id).await.expect("an answer").expect("the message")
    }

    pub(crate) async fn becomes(&self, id: MessageId, status: Status) -> Message {
        self.until(status.as_str(), async || self.get(id).await.status == status).await;
        self.get(id).await
    }

    pub(crate) async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let begun = tokio::time::Instant::now();
        while !condition().await {
            assert!(begun.elapsed() < PATIENCE, "it never came to: {what}; WhatsApp saw {} sends", self.seen().len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Changes the database behind the store's back.
    pub(crate) async fn sql(&self, statement: &'static str) {
        let options = SqliteConnectOptions::new().filename(self.folder.join("db")).busy_timeout(PATIENCE);
        let mut connection = options.connect().await.expect("a connection");
        sqlx::query(statement).execute(&mut connection).await.expect(statement);
    }

    /// One number that the database answers.
    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        let options = SqliteConnectOptions::new().filename(self.folder.join("db")).busy_timeout(PATIENCE);
        let mut connection = options.connect().await.expect("a connection");
        sqlx::query_scalar(query).fetch_one(&mut connection).await.expect(query)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.bridge.seen.lock().expect("sane").clone()
    }

    /// How often WhatsApp saw each id.
    pub(crate) fn times_seen(&self) -> HashMap<String, usize> {
        let mut times = HashMap::new();
        for seen in self.seen() {
            *times.entry(seen.whatsapp_id).or_default() += 1;
        }
        times
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it ends in good order");
    }
}
