//! The store's promises, on both databases.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sanasr_shared::conformance::store::World;
use sanasr_shared::ports::store::{AcceptHook, AcceptedJob, Store};
use sanasr_shared::store::{postgres, sqlite};
use sanasr_shared::store_suite;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, PgConnection};

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
    const LARGE: [&str; 5] = ["messages", "sessions", "idempotency_keys", "users", "quotas"];
    const INDEXES: [&str; 7] = [
        "messages_pkey",
        "messages_open_session",
        "messages_open_recipient",
        "messages_whatsapp_id",
        "sessions_pkey",
        "users_pkey",
        "idempotency_keys_pkey",
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
            if !LARGE.contains(&table) {
                continue;
            }
            scans += 1;
            let context = || format!("{name}, {when}: {line}\n\n{}", plan.join("\n"));
            assert!(INDEXES.iter().any(|index| scan.ends_with(&format!("using {index}"))), "{}", context());
            let condition = plan.get(n + 1).filter(|next| next.contains("Index Cond: "));
            let of_a_key =
                condition.is_some_and(|condition| table != "idempotency_keys" || condition.contains("key = "));
            assert!(of_a_key, "{}", context());
        }
        assert!(scans > 0, "{name}: {}", plan.join("\n"));
    }
}
