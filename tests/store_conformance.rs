//! The store's promises, on both databases.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sanasr_shared::conformance::store::World;
use sanasr_shared::ids::{MessageId, SessionId, UserId, WorkerId, new_whatsapp_id};
use sanasr_shared::message::{Content, MessageType, NewMessage};
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::journal::{ApiLogFilter, Newest, UsageFilter};
use sanasr_shared::ports::operations::CancelFilter;
use sanasr_shared::ports::store::{AcceptHook, AcceptRequest, AcceptedJob, PullRequest, Scope, Store};
use sanasr_shared::recipient::Recipient;
use sanasr_shared::session::BridgeKind;
use sanasr_shared::store::{postgres, sqlite};
use sanasr_shared::store_suite;
use sanasr_shared::time::Day;
use sanasr_shared::user::NewUser;
use sqlx::{ConnectOptions, Connection};
use sqlx_postgres::PgConnection;
use sqlx_sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::harness::folder::Folder;
use crate::harness::services::{Database, Kind};

#[derive(Default)]
struct Jobs(Arc<Mutex<Vec<AcceptedJob>>>);

impl Jobs {
    fn hook(&self) -> AcceptHook {
        let kept = Arc::clone(&self.0);
        Arc::new(move |new: &[AcceptedJob]| kept.lock().expect("not poisoned").extend_from_slice(new))
    }

    fn all(&self) -> Vec<AcceptedJob> {
        self.0.lock().expect("not poisoned").clone()
    }
}

struct Embedded {
    store: Arc<dyn Store>,
    jobs: Jobs,
    folder: Folder,
}

impl Embedded {
    /// A connection beside the store's.
    async fn connect(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.folder.join("sanasr.db"));
        options.busy_timeout(Duration::from_secs(10)).connect().await.expect("a connection")
    }
}

async fn sqlite_world() -> Embedded {
    let (jobs, folder) = (Jobs::default(), Folder::new("store"));
    let store = sqlite::open(&folder.join("sanasr.db"), jobs.hook()).await.expect("a store");
    Embedded { store, jobs, folder }
}

#[async_trait]
impl World for Embedded {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    fn accepted_jobs(&self) -> Vec<AcceptedJob> {
        self.jobs.all()
    }

    fn distributed(&self) -> bool {
        false
    }

    async fn numbers(&self, query: &'static str) -> Vec<i64> {
        sqlx::query_scalar(query).fetch_all(&mut self.connect().await).await.expect("numbers")
    }

    async fn alter(&self, statement: &'static str) {
        sqlx::query(statement).execute(&mut self.connect().await).await.expect("a change");
    }
}

struct Distributed {
    jobs: Jobs,
    database: Database,
}

impl Distributed {
    /// A connection beside the store's.
    async fn connect(&self) -> PgConnection {
        PgConnection::connect(self.database.url()).await.expect("a connection")
    }
}

async fn postgres_world() -> Distributed {
    let database = Database::create(&Kind::Postgres.shared()).await;
    postgres::migrate(database.url()).await.expect("a schema");
    Distributed { jobs: Jobs::default(), database }
}

#[async_trait]
impl World for Distributed {
    async fn store(&self) -> Arc<dyn Store> {
        postgres::Postgres::connect(self.database.url(), 4, self.jobs.hook()).await.expect("a store")
    }

    fn accepted_jobs(&self) -> Vec<AcceptedJob> {
        self.jobs.all()
    }

    fn distributed(&self) -> bool {
        true
    }

    async fn numbers(&self, query: &'static str) -> Vec<i64> {
        sqlx::query_scalar(query).fetch_all(&mut self.connect().await).await.expect("numbers")
    }

    async fn alter(&self, statement: &'static str) {
        sqlx::query(statement).execute(&mut self.connect().await).await.expect("a change");
    }
}

store_suite!(on_sqlite, sqlite_world);
store_suite!(on_postgres, postgres_world);

/// Statements that are planned once are planned while the tables are empty, or while nothing is open, and must hold for
/// millions of rows: each table is reached by an index, with a condition on it.
#[tokio::test]
async fn plans_hold_whatever_is_in_the_tables() {
    let world = postgres_world().await;
    check_plans(&world, "on empty tables").await;
    for statement in [
        "INSERT INTO sessions (id, user_id, name, bridge, owner, created_at, updated_at)
         SELECT gen_random_uuid(), n % 50, n::text, 0, gen_random_uuid(), 0, 0 FROM generate_series(1, 2000) n",
        "INSERT INTO messages (id, user_id, session_id, created_at, expires_at, updated_at, quota_day, status, type, open,
             recipient, whatsapp_id, request_id, content)
         SELECT gen_random_uuid(), s.user_id, s.id, 0, 0, 0, 0, 5, 0, false, n::text, n::text, '', ''
         FROM sessions s, generate_series(1, 20) n",
        "ANALYZE",
    ] {
        world.alter(statement).await;
    }
    check_plans(&world, "with nothing open").await;
    world.alter("UPDATE messages SET open = true, status = 1").await;
    world.alter("ANALYZE").await;
    check_plans(&world, "with everything open").await;
}

async fn check_plans(world: &Distributed, when: &str) {
    const LARGE: [&str; 7] = ["messages", "sessions", "idempotency_keys", "users", "quotas", "whatsapp_state", "media"];
    const INDEXES: [&str; 9] = [
        "messages_pkey",
        "messages_open_session",
        "messages_open_recipient",
        "messages_whatsapp_id",
        "sessions_pkey",
        "users_pkey",
        "idempotency_keys_pkey",
        "whatsapp_state_pkey",
        "media_pkey",
    ];
    for (name, plan) in postgres::plans::plans(world.database.url()).await.expect("plans") {
        let mut scans = 0;
        for (n, line) in plan.iter().enumerate() {
            let Some((scan, table)) =
                line.split_once(" on ").filter(|(scan, _)| scan.ends_with("Scan") || scan.contains("Scan using"))
            else {
                continue;
            };
            let table = table.split(' ').next().unwrap_or_default();
            // A row whose place is known already is no search.
            if !LARGE.contains(&table) || scan.ends_with("Tid Scan") {
                continue;
            }
            scans += 1;
            let context = || format!("{name}, {when}: {line}\n\n{}", plan.join("\n"));
            if scan.ends_with("Bitmap Heap Scan") {
                let below = plan.iter().skip(n).take(4).map(String::as_str).collect::<Vec<_>>().join("\n");
                let by = |index: &&str| below.contains(&format!("Bitmap Index Scan on {index}"));
                assert!(INDEXES.iter().any(by) && below.contains("Index Cond: "), "{}", context());
                continue;
            }
            assert!(INDEXES.iter().any(|index| scan.ends_with(&format!("using {index}"))), "{}", context());
            let condition = plan.get(n + 1).filter(|next| next.contains("Index Cond: "));
            let of_a_key =
                condition.is_some_and(|condition| table != "idempotency_keys" || condition.contains("key = "));
            assert!(of_a_key, "{}", context());
        }
        assert!(scans > 0, "{name}: {}", plan.join("\n"));
    }
}

/// A million lines of the API log, a million days of usage, some hundred thousand events: every list is read by an index,
/// whatever it is asked.
#[tokio::test]
async fn the_journals_lists_hold_among_a_million_rows() {
    let world = postgres_world().await;
    for statement in [
        "INSERT INTO api_logs (at, user_id, duration_us, status, endpoint, method, ip_address, request_id)
         SELECT now_ms() / 86400000 * 86400000 + n * 200, n % 50, n, 200, '/api/v1/messages', 'POST', '127.0.0.1', ''
         FROM generate_series(1, 1000000) n",
        "INSERT INTO quotas (user_id, day, used, accepted) SELECT n % 2000 + 1, 20000 - n / 2000, 1, 1
         FROM generate_series(0, 999999) n",
        "INSERT INTO usage_stats (user_id, day, shard) SELECT n % 2000 + 1, 20000 - n / 2000, 0
         FROM generate_series(0, 999999) n",
        "INSERT INTO events (at, user_id, session_id, message_id, status)
         SELECT now_ms(), n % 50, gen_random_uuid(), NULL, 3 FROM generate_series(1, 300000) n",
        "INSERT INTO audit (at, class, actor_id, action, target, detail, count)
         SELECT n, n % 4, n % 50, 'action ' || n % 20, 'user/' || n % 50, '{}', 1 FROM generate_series(1, 300000) n",
        "ANALYZE",
    ] {
        world.alter(statement).await;
    }
    for (name, plan) in postgres::plans::lists(world.database.url()).await.expect("plans") {
        let context = || format!("{name}\n{}", plan.join("\n"));
        // An empty partition is read as quickly either way.
        let whole = |line: &String| line.contains("Seq Scan") && !line.contains("api_logs_default");
        assert!(!plan.iter().any(whole), "{}", context());
        assert!(plan.iter().any(|line| line.contains("Index Cond")), "{}", context());
        let of_user = plan.iter().any(|line| line.contains("user_id_n_idx"));
        assert!(!name.starts_with("events_user") || of_user, "{}", context());
        let own = plan.iter().any(|line| line.contains(&format!("using {} ", audit_index(&name))));
        assert!(!name.starts_with("audit") || own, "by the index of what is asked: {}", context());
        let sorted = plan.iter().any(|line| line.trim_start().starts_with("->  Sort") && !name.starts_with("usage"));
        assert!(!sorted, "in the index's own order: {}", context());
    }
    // And they answer at once: a filter that matches nothing, and a page in the middle.
    let store = world.store().await;
    let start = std::time::Instant::now();
    let filter = ApiLogFilter { status: Some(418), ..ApiLogFilter::default() };
    let page = store.list_api_logs(&filter, None, 50).await.expect("a page");
    assert!(page.items.is_empty() && page.next.is_some());
    let all = UsageFilter { user: None, from: Day(0), until: Day(19_750) };
    assert_eq!(store.list_usage(&all, None, 200).await.expect("a page").items.len(), 200);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// The index by which one of the audit trail's lists finds its lines.
fn audit_index(list: &str) -> &str {
    match list.split(',').next() {
        Some("audit") | None => "audit_list",
        Some(list) => list,
    }
}

/// The same on SQLite, whose plans don't depend on what is in the tables: fewer rows do.
#[tokio::test]
async fn the_journals_lists_go_by_index_on_sqlite() {
    let world = sqlite_world().await;
    let mut connection = world.connect().await;
    for statement in [
        "INSERT INTO quotas (user_id, day, used, accepted) WITH RECURSIVE t (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t
         WHERE n < 299999) SELECT n % 2000 + 1, 20000 - n / 2000, 1, 1 FROM t",
        "INSERT INTO usage_stats (user_id, day, shard) SELECT user_id, day, 0 FROM quotas",
        "INSERT INTO audit (at, class, actor_id, action, target, detail, count)
         SELECT day, 0, user_id, 'action ' || day % 20, 'user/' || user_id, '{}', 1 FROM quotas",
        "ANALYZE",
    ] {
        sqlx::query(statement).execute(&mut connection).await.expect("rows");
    }
    for (name, plan) in sqlite::plans::lists(&world.folder.join("sanasr.db")).await.expect("plans") {
        let context = || format!("{name}\n{}", plan.join("\n"));
        for line in &plan {
            // What is scanned whole is the page itself, as the steps before have found it.
            let whole = line.starts_with("SCAN ") && !["SCAN a", "SCAN b", "SCAN k"].contains(&line.as_str());
            assert!(!whole, "{}", context());
        }
        assert!(plan.iter().any(|line| line.starts_with("SEARCH ")), "{}", context());
        // A page of usage is put together from two, and sorted; what is searched comes in the index's own order.
        let sorted = |pair: &[String]| pair[0].starts_with("SEARCH ") && pair[1].contains("FOR ORDER BY");
        assert!(name.starts_with("usage") || !plan.windows(2).any(sorted), "{}", context());
        let own = plan.iter().any(|line| line.contains(&format!("USING INDEX {} ", audit_index(name))));
        assert!(!name.starts_with("audit") || own, "by the index of what is asked: {}", context());
        let searched = |table| plan.iter().any(|line| line.starts_with(&format!("SEARCH {table} USING")));
        assert!(!name.starts_with("usage") || searched("quotas") && searched("usage_stats"), "{}", context());
    }
    let all = UsageFilter { user: None, from: Day(0), until: Day(19_900) };
    let page = world.store.list_usage(&all, None, 200).await.expect("a page");
    assert_eq!((page.items.len(), page.items[0].day), (200, Day(19_899)));
}

/// A transaction that has drawn its event's number and commits late is told of, and a resumed reader goes back far enough.
#[tokio::test]
async fn a_late_event_is_known_to_be_missing() {
    const EVENT: &str =
        "INSERT INTO events (at, user_id, session_id, status) VALUES (now_ms(), 1, gen_random_uuid(), 3)
         RETURNING n";
    let world = postgres_world().await;
    let store = world.store().await;
    let (mut one, mut two) = (world.connect().await, world.connect().await);
    let first: i64 = sqlx::query_scalar(EVENT).fetch_one(&mut one).await.expect("an event");
    let mut open = one.begin().await.expect("a transaction");
    let late: i64 = sqlx::query_scalar(EVENT).fetch_one(&mut *open).await.expect("an event");
    let last: i64 = sqlx::query_scalar(EVENT).fetch_one(&mut two).await.expect("an event");
    assert_eq!((late, last), (first + 1, first + 2));
    assert_eq!(store.newest_events().await.expect("an answer"), Newest { last, missing: vec![late] });
    assert_eq!(store.events_numbered(&[late]).await.expect("an answer"), []);
    open.commit().await.expect("a commit");
    let found = store.events_numbered(&[late]).await.expect("an answer");
    assert_eq!(found.iter().map(|event| event.n).collect::<Vec<_>>(), [late]);
    for scope in [Scope::All, Scope::User(UserId(1))] {
        let back = store.events_back(scope, last).await.expect("an answer");
        let again = store.events_after(scope, back, 10).await.expect("a page");
        assert!(again.iter().any(|event| event.n == late), "{again:?} after {back}");
    }
    // What is too old to have been under way isn't read again.
    world.alter("UPDATE events SET at = at - 16000 WHERE n = (SELECT min(n) FROM events)").await;
    assert_eq!(store.events_back(Scope::User(UserId(1)), last).await.expect("an answer"), first);
    // With nothing there, the last numbers given may be under way all the same.
    world.alter("DELETE FROM events").await;
    let newest = store.newest_events().await.expect("an answer");
    assert_eq!((newest.last, newest.missing), (last, (1..=last).collect()));
}

/// A worker that drives many sessions, each with a backlog and many places free, gets them all: within the time that the
/// database lets a statement run, whatever their number.
#[tokio::test]
async fn many_sessions_with_many_places_are_pulled_at_once() {
    const SESSIONS: usize = 512;
    const PLACES: u32 = 64;
    let world = postgres_world().await;
    let store = world.store().await;
    let worker = WorkerId::generate();
    store.register(worker, Duration::from_secs(3_600)).await.expect("a worker");
    for statement in [
        "INSERT INTO users (username, password_hash, is_staff, created_at, updated_at) VALUES ('u', '', false, 0, 0)",
        "INSERT INTO sessions (id, user_id, name, bridge, owner, status, created_at, updated_at)
         SELECT gen_random_uuid(), u.id, n::text, 0, w.id, 3, 0, 0
         FROM generate_series(1, 512) n, workers w, users u WHERE u.username = 'u'",
        "INSERT INTO messages (id, user_id, session_id, created_at, expires_at, updated_at, quota_day, status, type, open,
             recipient, whatsapp_id, request_id, content)
         SELECT gen_random_uuid(), s.user_id, s.id, now_ms(), now_ms() + 3600000, now_ms(), 0, 1, 0, true,
             '+1555' || n, s.id::text || n, '', '{\"text\": \"a\"}'
         FROM sessions s, generate_series(1, 80) n WHERE s.owner IS NOT NULL",
        "ANALYZE",
    ] {
        world.alter(statement).await;
    }
    let sessions = store.renew(worker, Duration::from_secs(3_600)).await.expect("a renewal").sessions;
    assert_eq!(sessions.len(), SESSIONS);
    let start = std::time::Instant::now();
    let pulls = sessions.iter().map(|session| {
        store.pull(PullRequest {
            worker,
            session: session.id,
            claim: 1,
            places: PLACES,
            from_seq: 0,
            low: 0,
            scan: 1_000,
            recipients: (0..PLACES).map(|n| Recipient::parse(&format!("+1555{n:07}")).expect("a number")).collect(),
        })
    });
    for pulled in futures_util::future::join_all(pulls).await {
        let pulled = pulled.expect("no statement runs into its limit");
        assert_eq!(pulled.messages.len(), PLACES as usize);
        assert!(pulled.ready && pulled.next_seq.is_some());
    }
    println!("{SESSIONS} sessions with {PLACES} places each: {:?}", start.elapsed());
}

/// Every connection to PostgreSQL sends at once what it has (`TCP_NODELAY`): a statement of more than one write doesn't wait
/// 40 ms for the acknowledgement of the first. The quickest of many tries is looked at, as the machine may be busy.
#[tokio::test]
async fn a_large_statement_waits_for_no_acknowledgement() {
    const DELAYED: Duration = Duration::from_millis(40);
    let world = postgres_world().await;
    let store = world.store().await;
    let session = {
        let user = NewUser {
            username: "user".to_owned(),
            password_hash: "$argon2id$none".to_owned(),
            is_staff: false,
            max_messages_per_day: None,
        };
        let user = store.create_user(&user, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id;
        store.session(user, "default").await.expect("a read").expect("a session")
    };
    let numbers: Vec<i64> = (0..5_000).collect();
    let (mut read, mut accepted) = (Duration::MAX, Duration::MAX);
    for _ in 0..30 {
        let start = std::time::Instant::now();
        store.events_numbered(&numbers).await.expect("an answer");
        read = read.min(start.elapsed());
        let items = (0..50).map(|n| (n, large_message(session.id, n))).collect();
        let start = std::time::Instant::now();
        store
            .accept(AcceptRequest { user: session.user_id, key: None, items, by: Actor::MACHINE })
            .await
            .expect("an answer");
        accepted = accepted.min(start.elapsed());
    }
    assert!(read < DELAYED, "a read of 40 kB: {read:?}");
    assert!(accepted < DELAYED, "an accept of 50 kB: {accepted:?}");
}

fn large_message(session: SessionId, n: u32) -> NewMessage {
    NewMessage {
        id: MessageId::generate(),
        session,
        recipient: Recipient::parse(&format!("+1555{n:07}")).expect("a number"),
        whatsapp_id: new_whatsapp_id(),
        kind: MessageType::Text,
        content: Content { text: Some("x".repeat(1_000)), ..Content::default() },
        reply_to: None,
        replayed_from: None,
        reference: None,
        send_at: None,
        expires_at: None,
        request_id: "large".to_owned(),
    }
}

/// A session's scheduled messages are found without a look at those of all other sessions, whatever the planner knows of them.
#[tokio::test]
async fn a_sessions_scheduled_messages_are_found_by_themselves() {
    const SCHEDULED: &str = "INSERT INTO messages (id, user_id, session_id, created_at, expires_at, updated_at, quota_day, status, type, open,
         recipient, whatsapp_id, request_id, content, due_at, send_at)
     SELECT gen_random_uuid(), s.user_id, s.id, 0, 0, 0, 0, 0, 0, false, n::text, s.id || n::text, '', '', n, n
     FROM sessions s, generate_series(1, 500) n";
    let world = postgres_world().await;
    let check = async |when: &str| {
        for (name, plan) in postgres::plans::waiting(world.database.url()).await.expect("plans") {
            let context = || format!("{name}, {when}\n{}", plan.join("\n"));
            let by = |index: &str| plan.iter().any(|line| line.split_whitespace().any(|word| word == index));
            assert!(by("messages_scheduled_session") && !by("messages_scheduled"), "{}", context());
            assert!(!plan.iter().any(|line| line.contains("Seq Scan on messages")), "{}", context());
        }
    };
    check("on empty tables").await;
    for statement in [
        "INSERT INTO sessions (id, user_id, name, bridge, created_at, updated_at)
         SELECT gen_random_uuid(), n % 2, n::text, 0, 0, 0 FROM generate_series(1, 200) n",
        SCHEDULED,
        "ANALYZE",
    ] {
        world.alter(statement).await;
    }
    check("with 100,000 scheduled").await;
}

/// A cancel of all that waits doesn't end while another has a message of it locked, and takes that message if the other is lost.
#[tokio::test]
async fn a_cancel_of_many_doesnt_end_without_what_another_has_locked() {
    let world = postgres_world().await;
    let store = world.store().await;
    let user = NewUser {
        username: "user".to_owned(),
        password_hash: "$argon2id$none".to_owned(),
        is_staff: false,
        max_messages_per_day: None,
    };
    let user = store.create_user(&user, BridgeKind::Simulator, Actor::MACHINE).await.expect("a user").id;
    let session = store.session(user, "default").await.expect("a read").expect("a session").id;
    let items = (0..3).map(|n| (n, large_message(session, n))).collect();
    store.accept(AcceptRequest { user, key: None, items, by: Actor::MACHINE }).await.expect("an answer");

    let mut connection = world.connect().await;
    let mut other = connection.begin().await.expect("a transaction");
    let lock = "SELECT id FROM messages ORDER BY id LIMIT 1 FOR UPDATE";
    sqlx::query(lock).fetch_all(&mut *other).await.expect("a lock");
    let (filter, mut until) = (CancelFilter::default(), None);
    let mut sweep = async || {
        let (swept, began) = store.cancel_waiting(user, &filter, until, Actor::MACHINE).await.expect("a sweep");
        until = Some(began);
        (swept.messages.len(), swept.more)
    };
    assert_eq!(sweep().await, (2, true));
    assert_eq!(sweep().await, (0, true), "one is left");
    other.rollback().await.expect("the other is lost");
    assert_eq!(sweep().await, (1, true));
    assert_eq!(sweep().await, (0, false));
}
