//! The store's promises, on both databases.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sanasr_shared::conformance::store::World;
use sanasr_shared::ports::store::{AcceptHook, AcceptedJob, Store};
use sanasr_shared::store::{postgres, sqlite};
use sanasr_shared::store_suite;

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
    _folder: Folder,
}

async fn sqlite_world() -> Embedded {
    let (jobs, folder) = (Jobs::default(), Folder::new("store"));
    let store = sqlite::open(&folder.join("sanasr.db"), jobs.hook()).await.expect("a store");
    Embedded { store, jobs, _folder: folder }
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
}

struct Distributed {
    jobs: Jobs,
    database: Database,
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
}

store_suite!(on_sqlite, sqlite_world);
store_suite!(on_postgres, postgres_world);
