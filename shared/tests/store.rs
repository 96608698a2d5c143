#![cfg(feature = "conformance")]
//! The store's promises on SQLite.
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sanasr_shared::conformance::store::World;
use sanasr_shared::ports::store::{AcceptedJob, Store};
use sanasr_shared::store_suite;

struct Sqlite {
    store: Arc<dyn Store>,
    jobs: Arc<Mutex<Vec<AcceptedJob>>>,
    dir: PathBuf,
}

#[async_trait]
impl World for Sqlite {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
    fn accepted_jobs(&self) -> Vec<AcceptedJob> {
        self.jobs.lock().expect("jobs").clone()
    }
    fn distributed(&self) -> bool {
        false
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn sqlite_world() -> Sqlite {
    let dir = std::env::temp_dir().join(format!("sanasr-conform-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let jobs = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&jobs);
    let hook = Arc::new(move |new: &[AcceptedJob]| kept.lock().expect("jobs").extend_from_slice(new));
    let store = sanasr_shared::store::sqlite::open(&dir.join("s.db"), hook).await.expect("a store");
    Sqlite { store, jobs, dir }
}

store_suite!(sqlite, sqlite_world);
