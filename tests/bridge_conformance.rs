//! The promises of the bridge port, held by the WhatsApp bridge against a WhatsApp server of the tests.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sanasr_shared::bridge::whatsapp::Whatsapp;
use sanasr_shared::conformance::bridge::{BridgeWorld, link_request, text};
use sanasr_shared::ids::{SessionId, UserId, WorkerId};
use sanasr_shared::message::Status;
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::bridge::{Attempt, Bridge, BridgeEvent, Link, LinkRequest, Owner, Receipts, SendRequest};
use sanasr_shared::ports::store::{Pairing, SessionCommand, SessionReport, Store};
use sanasr_shared::recipient::Recipient;
use sanasr_shared::secret::SecretKey;
use sanasr_shared::session::{BridgeKind, SessionStatus};
use sanasr_shared::store::sqlite;
use sanasr_shared::user::NewUser;
use sqlx::ConnectOptions;
use sqlx_sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::timeout;
use whatsapp_test_server::{Account, Behaviour, Server};

use crate::harness::eventually;
use crate::harness::folder::Folder;
use crate::harness::wait::seconds;

/// A store whose sessions one worker owns, and phones that link whatever they see.
struct World {
    server: OnceCell<Server>,
    kept: OnceCell<Kept>,
    accounts: Mutex<HashMap<SessionId, Account>>,
    phones: AtomicU32,
}

struct Kept {
    store: Arc<dyn Store>,
    user: UserId,
    worker: WorkerId,
    folder: Folder,
}

impl World {
    fn new() -> Self {
        Self { server: OnceCell::new(), kept: OnceCell::new(), accounts: Mutex::default(), phones: AtomicU32::new(1) }
    }

    async fn start(self) -> Self {
        self.server.get_or_init(Server::start).await;
        self.kept.get_or_init(Kept::open).await;
        self
    }

    fn server(&self) -> &Server {
        self.server.get().expect("it is started")
    }

    fn kept(&self) -> &Kept {
        self.kept.get().expect("it is started")
    }
}

impl Kept {
    async fn open() -> Self {
        let folder = Folder::new("bridge");
        let store = sqlite::open(&folder.join("sanasr.db"), Arc::new(|_| {})).await.expect("a store");
        let user = NewUser {
            username: "tester".to_owned(),
            password_hash: String::new(),
            is_staff: false,
            max_messages_per_day: None,
        };
        let user = store.create_user(&user, BridgeKind::Whatsapp, Actor::MACHINE).await.expect("a user").id;
        let worker = WorkerId::generate();
        store.register(worker, Duration::from_secs(3_600)).await.expect("a worker");
        Self { store, user, worker, folder }
    }
}

impl Kept {
    /// A connection of the test's own to the database.
    async fn database(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.folder.join("sanasr.db")).busy_timeout(seconds(20));
        options.connect().await.expect("a connection")
    }

    /// Lets the store write nothing until the answer is given to [`unlock`].
    async fn lock(&self) -> SqliteConnection {
        let mut database = self.database().await;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut database).await.expect("the lock");
        database
    }

    async fn sql(&self, statement: &'static str) {
        sqlx::query(statement).execute(&mut self.database().await).await.expect(statement);
    }

    async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.database().await).await.expect(query)
    }
}

async fn unlock(mut lock: SqliteConnection) {
    sqlx::query("COMMIT").execute(&mut lock).await.expect("the end of the lock");
}

#[async_trait]
impl BridgeWorld for World {
    fn bridge(&self) -> Arc<dyn Bridge> {
        let secret = SecretKey::new("a secret of the tests, and of nobody else");
        let bridge = Whatsapp::new(Arc::clone(&self.kept().store), &secret, Some(&self.server().url()));
        Arc::new(bridge.expect("the server's URL is one"))
    }

    fn reader(&self, n: u32) -> Recipient {
        let contact = self.server().contact(&format!("1555{:07}", 1_230_000 + n));
        Recipient::parse(&format!("+{}", contact.number())).expect("a number")
    }

    fn received(&self, session: SessionId) -> Vec<String> {
        let account = self.accounts.lock().expect("sane").get(&session).cloned().expect("a linked session");
        account.wire().into_iter().map(|message| message.id).collect()
    }

    async fn break_connection(&self, _link: &dyn Link) {
        for account in self.accounts.lock().expect("sane").values() {
            account.drop_socket();
        }
    }

    fn shown(&self, reader: u32, whatsapp_id: &str) -> Option<usize> {
        let contact = self.server().contact(&format!("1555{:07}", 1_230_000 + reader));
        Some(contact.messages().iter().filter(|message| message.id == whatsapp_id).count())
    }

    async fn session(&self) -> SessionId {
        let Kept { store, user, worker, .. } = self.kept();
        let name = format!("s{}", self.phones.fetch_add(1, Ordering::Relaxed));
        let session = store
            .create_session(*user, &name, BridgeKind::Whatsapp, u32::MAX, Actor::MACHINE)
            .await
            .expect("a session")
            .id;
        store.command(*user, &name, SessionCommand::Connect, Actor::MACHINE).await.expect("a command");
        assert!(store.take(*worker, 10).await.expect("sessions").iter().any(|taken| taken.id == session));
        session
    }

    async fn owner(&self, _session: SessionId) -> Owner {
        Owner::new(self.kept().worker, || true)
    }

    async fn look(&self, session: SessionId, shown: &BridgeEvent) {
        let number = format!("1555000{:04}", 5_000 + self.phones.fetch_add(1, Ordering::Relaxed));
        let linked = match shown {
            BridgeEvent::QrCode { code, .. } => self.server().scan(code, &number).await,
            BridgeEvent::PairCode { code, .. } => self.server().enter_code("15550001234", code).await,
            _ => return,
        };
        let account = linked.expect("the phone takes the code");
        self.accounts.lock().expect("sane").insert(session, account);
    }

    async fn unlinked(&self, session: SessionId) {
        let unlinked =
            SessionReport { pairing: Some(Pairing::Unlinked), ..SessionReport::new(SessionStatus::LoggedOut) };
        let Kept { store, worker, .. } = self.kept();
        assert!(store.report(*worker, session, &unlinked).await.expect("a report"));
    }
}

async fn open(world: &World, session: SessionId, sender: mpsc::Sender<BridgeEvent>) -> Arc<dyn Link> {
    let request = LinkRequest { owner: world.owner(session).await, ..link_request(session) };
    world.bridge().open(request, sender).await
}

/// Links a phone, and takes no event after that it is.
async fn link_phone(world: &World, session: SessionId, events: &mut mpsc::Receiver<BridgeEvent>) -> Account {
    loop {
        let event = next(events).await;
        if matches!(event, BridgeEvent::Paired { .. }) {
            break;
        }
        world.look(session, &event).await;
    }
    world.accounts.lock().expect("sane")[&session].clone()
}

/// A receipt that WhatsApp won't give again counts, though the session ended before anybody heard it.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_receipts_outlive_the_connection() {
    let world = World::new().start().await;
    let session = world.session().await;
    let jane = world.reader(1);
    world.server().on_send(&jane.as_str()[1..], Behaviour::HoldReceipts);
    let message = text(jane, 1);
    // Whoever tells events waits once nobody takes them: that is how those of WhatsApp stay unheard here.
    let (sender, mut events) = mpsc::channel(1);
    let link = open(&world, session, sender).await;
    let account = link_phone(&world, session, &mut events).await;
    eventually(seconds(20), "it is sent", async || (link.send(&message).await == Attempt::Sent).then_some(())).await;
    let logins = account.logins();
    account.drop_socket();
    eventually(seconds(20), "it is back", async || (account.logins() > logins).then_some(())).await;
    account.release_receipts();
    eventually(seconds(20), "all is acknowledged", async || (account.unsettled() == 0).then_some(())).await;
    link.disconnect().await;
    comes_read(&world, session, &message.whatsapp_id).await;
}

/// A receipt that somebody is to take counts, though WhatsApp ended the session meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn receipts_in_hand_outlive_the_session() {
    let world = World::new().start().await;
    let session = world.session().await;
    let message = text(world.reader(1), 1);
    let (sender, mut events) = mpsc::channel(64);
    let link = open(&world, session, sender).await;
    let account = link_phone(&world, session, &mut events).await;
    eventually(seconds(20), "it is sent", async || (link.send(&message).await == Attempt::Sent).then_some(())).await;
    let in_hand = loop {
        match next(&mut events).await {
            BridgeEvent::Receipts(batch) if is_read(&batch, &message.whatsapp_id) => break batch,
            _ => {}
        }
    };
    eventually(seconds(20), "all is acknowledged", async || (account.unsettled() == 0).then_some(())).await;
    account.replace();
    while !matches!(next(&mut events).await, BridgeEvent::Halted { .. }) {}
    drop((link, events, in_hand));
    comes_read(&world, session, &message.whatsapp_id).await;
}

/// A group of so many, the account among them, that sends no receipts until it is told to; and its address.
fn group_of(world: &World, account: &Account, members: u32) -> Recipient {
    let contacts: Vec<_> = (0..members).map(|n| world.server().contact(&format!("1555{:07}", 2_000_000 + n))).collect();
    let group = world.server().group(&contacts.iter().collect::<Vec<_>>());
    group.add_account(account);
    world.server().on_send(&group.id(), Behaviour::HoldReceipts);
    Recipient::parse(&group.id()).expect("a group")
}

/// Sends messages to a group, one after the other.
async fn send_all(link: &dyn Link, messages: &[SendRequest]) {
    for message in messages {
        eventually(seconds(60), "it is sent", async || (link.send(message).await == Attempt::Sent).then_some(())).await;
    }
}

/// Takes receipts until all these messages are read.
async fn all_come_read(events: &mut mpsc::Receiver<BridgeEvent>, messages: &[SendRequest]) {
    let mut left: HashSet<_> = messages.iter().map(|message| message.whatsapp_id.clone()).collect();
    while !left.is_empty() {
        let event = timeout(seconds(60), events.recv()).await.expect("an event comes in time").expect("the link lives");
        if let BridgeEvent::Receipts(batch) = event {
            for receipt in batch.receipts.iter().filter(|receipt| receipt.status == Status::Read) {
                left.remove(&receipt.whatsapp_id);
            }
            let _ = batch.taken.expect("somebody waits").send(());
        }
    }
}

/// WhatsApp's word on a message counts when it comes, also while the store takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_do_not_wait_for_the_store() {
    let world = World::new().start().await;
    let session = world.session().await;
    let (sender, mut events) = mpsc::channel(64);
    let link = open(&world, session, sender).await;
    let account = link_phone(&world, session, &mut events).await;
    let to_group = [text(group_of(&world, &account, 5), 1)];
    send_all(&*link, &to_group).await;
    let jane = world.reader(1);
    world.server().on_send(&jane.as_str()[1..], Behaviour::AckAfter(seconds(3)));
    let (message, count) = (text(jane, 2), account.wire().len());
    let sending = tokio::spawn({
        let (link, message) = (Arc::clone(&link), message.clone());
        async move { link.send(&message).await }
    });
    eventually(seconds(20), "it is on its way", async || (account.wire().len() > count).then_some(())).await;
    let lock = world.kept().lock().await;
    // The group's receipts are to be written, and can't be.
    account.release_receipts();
    let sent = timeout(seconds(15), sending).await.expect("it is known in time").expect("an end");
    assert_eq!(sent, Attempt::Sent);
    unlock(lock).await;
    all_come_read(&mut events, &[to_group[0].clone(), message]).await;
}

/// While the store takes nothing, what waits has a limit: WhatsApp keeps the rest. All of it comes in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_inbox_stops_the_reading() {
    const MEMBERS: u32 = 250;
    const MESSAGES: i32 = 16;
    /// What may wait, as the bridge has it, what is on its way, and what the client may not have acknowledged yet.
    const HEARD_MAX: usize = 5_000 + 500;
    let world = World::new().start().await;
    let session = world.session().await;
    let (sender, mut events) = mpsc::channel(64);
    let link = open(&world, session, sender).await;
    let account = link_phone(&world, session, &mut events).await;
    let group = group_of(&world, &account, MEMBERS);
    let messages: Vec<_> = (0..MESSAGES).map(|n| text(group.clone(), n)).collect();
    send_all(&*link, &messages).await;
    let lock = world.kept().lock().await;
    account.release_receipts();
    let all = account.unsettled();
    assert!(all > 7_000, "{all} receipts");
    eventually(seconds(60), "the inbox is full", async || (account.unsettled() + 5_000 <= all).then_some(())).await;
    let much_is_heard = async || {
        while account.unsettled() + HEARD_MAX >= all {
            tokio::task::yield_now().await;
        }
    };
    timeout(seconds(1), much_is_heard()).await.expect_err("no more is heard than may wait");
    unlock(lock).await;
    all_come_read(&mut events, &messages).await;
    eventually(seconds(60), "all are heard", async || (account.unsettled() == 0).then_some(())).await;
}

/// What a group's members send of one message is written once for many.
#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_a_group_are_folded() {
    const MEMBERS: u32 = 250;
    let world = World::new().start().await;
    let session = world.session().await;
    let (sender, mut events) = mpsc::channel(64);
    let link = open(&world, session, sender).await;
    let account = link_phone(&world, session, &mut events).await;
    let group = group_of(&world, &account, MEMBERS);
    let first = [text(group.clone(), 1)];
    send_all(&*link, &first).await;
    let kept = world.kept();
    kept.sql("CREATE TABLE written (n integer)").await;
    kept.sql(
        "CREATE TRIGGER counted AFTER UPDATE ON whatsapp_state WHEN NEW.kind = 21 BEGIN INSERT INTO written VALUES (1); END",
    )
    .await;
    let lock = kept.lock().await;
    account.release_receipts();
    eventually(seconds(60), "all are heard", async || (account.unsettled() == 0).then_some(())).await;
    unlock(lock).await;
    all_come_read(&mut events, &first).await;
    let written = kept.number("SELECT count(*) FROM written").await;
    assert!(written <= 20, "{written} writes for {} receipts", MEMBERS * 2);
}

/// Receipts of members who never come round are forgotten, also while the session stays connected.
#[tokio::test(flavor = "multi_thread")]
async fn old_receipts_of_groups_are_forgotten() {
    let world = World::new().start().await;
    let session = world.session().await;
    let (sender, mut events) = mpsc::channel(64);
    let link = open(&world, session, sender).await;
    let account = link_phone(&world, session, &mut events).await;
    let kept = world.kept();
    kept.sql(
        "INSERT INTO whatsapp_state (session_id, kind, key, value, at) SELECT id, 21, x'41', x'00', 0 FROM sessions WHERE wanted",
    )
    .await;
    let group = group_of(&world, &account, 2);
    send_all(&*link, &[text(group, 1)]).await;
    assert_eq!(kept.number("SELECT count(*) FROM whatsapp_state WHERE kind = 21 AND at = 0").await, 0);
}

async fn next(events: &mut mpsc::Receiver<BridgeEvent>) -> BridgeEvent {
    timeout(seconds(20), events.recv()).await.expect("an event comes in time").expect("the link lives")
}

fn is_read(batch: &Receipts, whatsapp_id: &str) -> bool {
    batch.receipts.iter().any(|receipt| receipt.whatsapp_id == whatsapp_id && receipt.status == Status::Read)
}

/// The session's next link tells that a message is read.
async fn comes_read(world: &World, session: SessionId, whatsapp_id: &str) {
    let (sender, mut events) = mpsc::channel(64);
    let _link = open(world, session, sender).await;
    while !matches!(next(&mut events).await, BridgeEvent::Receipts(batch) if is_read(&batch, whatsapp_id)) {}
}

mod whatsapp {
    use super::World;

    sanasr_shared::bridge_suite!(World::new().start().await);
}
