//! The audit trail: its list, and the writer of logins and refusals.
//!
//! What must hold: no login and no refusal waits for its line. Lines wait in a bounded queue and are written in batches by a task
//! of its own, on the store's connections for writes, never on those that look up credentials. A line that finds no room, or that
//! the database refuses, is lost: that is counted and logged. Refusals beyond an address's limit are only counted, by address
//! and hour. Changes aren't written here: each has its line in its own transaction.

mod list;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::ports::audit::{Action, Actor, AuditEntry};
use sanasr_shared::ports::store::{Store, StoreError};
use sanasr_shared::time::Time;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;

use crate::limits::network;
use crate::lines::Lines;
use crate::state::App;

/// Time between two writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Lines of one write.
const BATCH: usize = 500;
/// Lines that may wait to be written: some MB.
const WAITING_MAX: usize = 10_000;
/// Time between two writes of counts.
const COUNTS_EVERY: Duration = Duration::from_secs(10);
/// Addresses that are counted apart between two writes; the rest are counted together.
const COUNTED_MAX: usize = 10_000;
const HOUR_MS: i64 = 3_600_000;

/// The endpoints in the reference, in its order.
#[derive(OpenApi)]
#[openapi(paths(list::list))]
pub(crate) struct Reference;

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/api/v1/audit", get(list::list))
}

/// Writes logins and refusals.
pub(crate) struct AuditWriter {
    store: Arc<dyn Store>,
    state: Mutex<State>,
    /// Held while lines are written.
    writing: tokio::sync::Mutex<()>,
}

/// Refusals of a network (`None`: of all that were too many to be counted apart) in an hour since 1970.
type Counts = HashMap<(Option<IpAddr>, i64), i64>;

struct State {
    waiting: Lines<AuditEntry>,
    /// Lines that found no room since the last write.
    lost: usize,
    counts: Counts,
    counts_written: Option<Instant>,
}

impl AuditWriter {
    /// Begins to write; what is added is written until `life` ends.
    pub(crate) fn start(store: Arc<dyn Store>, watchdog: &Watchdog, life: CancellationToken) -> Arc<Self> {
        let state = State { waiting: Lines::new(WAITING_MAX), lost: 0, counts: Counts::new(), counts_written: None };
        let audit = Arc::new(Self { store, state: Mutex::new(state), writing: tokio::sync::Mutex::default() });
        let (writer, watchdog) = (Arc::clone(&audit), watchdog.clone());
        tokio::spawn(async move {
            let write = async |_| {
                while life.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
                    writer.write(false).await;
                }
                writer.flush().await;
            };
            watchdog.keep("the audit trail", write).await;
        });
        audit
    }

    /// Takes a line.
    pub(crate) fn add(&self, entry: AuditEntry) {
        let mut state = self.lock();
        if state.waiting.push(entry).is_none() {
            state.lost += 1;
        }
    }

    /// Counts a refusal beyond an address's limit.
    pub(crate) fn count(&self, address: IpAddr) {
        let key = (Some(network(address)), Time::now().0 / HOUR_MS);
        self.lock().count(key, 1);
    }

    /// Writes what was added and counted so far.
    pub(crate) async fn flush(&self) {
        self.write(true).await;
    }

    async fn write(&self, counts_at_once: bool) {
        let _alone = self.writing.lock().await;
        let lost = std::mem::take(&mut self.lock().lost);
        if lost > 0 {
            tell_lost(lost, "too many wait for the database");
        }
        self.write_lines().await;
        let counts = self.lock().due_counts(counts_at_once);
        self.write_counts(counts).await;
    }

    async fn write_lines(&self) {
        loop {
            let batch = self.lock().waiting.take(BATCH);
            if batch.is_empty() {
                return;
            }
            match self.store.write_audit(&batch).await {
                Ok(()) => {}
                // Once more, next time.
                Err(StoreError::Unavailable(_) | StoreError::Overloaded) => {
                    let mut state = self.lock();
                    let lost = state.waiting.give_back(batch);
                    state.lost += lost;
                    return;
                }
                Err(error) => tell_lost(batch.len(), &error.to_string()),
            }
        }
    }

    async fn write_counts(&self, counts: Counts) {
        let counts: Vec<_> = counts.into_iter().collect();
        for chunk in counts.chunks(BATCH) {
            let entries: Vec<AuditEntry> =
                chunk.iter().map(|((network, hour), n)| counting(*network, *hour, *n)).collect();
            match self.store.write_audit(&entries).await {
                Ok(()) => {}
                Err(StoreError::Unavailable(_) | StoreError::Overloaded) => {
                    let mut state = self.lock();
                    chunk.iter().for_each(|(key, n)| state.count(*key, *n));
                }
                Err(error) => tell_lost(chunk.len(), &error.to_string()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, (network, hour): (Option<IpAddr>, i64), refusals: i64) {
        let apart = self.counts.len() < COUNTED_MAX || self.counts.contains_key(&(network, hour));
        *self.counts.entry((network.filter(|_| apart), hour)).or_default() += refusals;
    }

    /// Takes the counts, if it is time to write them.
    fn due_counts(&mut self, at_once: bool) -> Counts {
        let due = at_once || self.counts_written.is_none_or(|at| at.elapsed() >= COUNTS_EVERY);
        if !due || self.counts.is_empty() {
            return Counts::new();
        }
        self.counts_written = Some(Instant::now());
        std::mem::take(&mut self.counts)
    }
}

/// The line of a count: one for all processes.
fn counting(network: Option<IpAddr>, hour: i64, refusals: i64) -> AuditEntry {
    let actor = Actor { user: None, address: network };
    let whose = network.map_or_else(|| "others".to_owned(), |network| network.to_string());
    let start = Time(hour.saturating_mul(HOUR_MS));
    let entry = AuditEntry::now(actor, Action::RequestsRefused, None).with("hour", start.to_string());
    AuditEntry { counted: Some((format!("{whose} {hour}"), refusals)), ..entry }
}

fn tell_lost(lines: usize, why: &str) {
    metrics::counter!("sanasr_audit_lines_lost_total").increment(u64::try_from(lines).unwrap_or(u64::MAX));
    tracing::error!(lines, why, "lines of the audit trail are lost");
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::Ordering;

    use sanasr_shared::ids::UserId;
    use sanasr_shared::ports::audit::Target;

    use super::*;
    use crate::tests::fake::FakeStore;

    fn entry(n: usize) -> AuditEntry {
        let user = UserId(i64::try_from(n).expect("a small number"));
        AuditEntry::new(Actor::MACHINE, Action::Login, Some(Target::User(user)))
    }

    fn writer() -> (Arc<FakeStore>, Arc<AuditWriter>) {
        let store = Arc::new(FakeStore::default());
        let ended = CancellationToken::new();
        ended.cancel();
        let audit = AuditWriter::start(Arc::clone(&store) as Arc<dyn Store>, &Watchdog::default(), ended);
        (store, audit)
    }

    #[tokio::test]
    async fn lines_wait_for_a_database_that_is_away_and_only_so_many() {
        let (store, audit) = writer();
        store.away.store(true, Ordering::Relaxed);
        (0..BATCH).for_each(|n| audit.add(entry(n)));
        audit.flush().await;
        (BATCH..WAITING_MAX + 5).for_each(|n| audit.add(entry(n)));
        assert_eq!(audit.lock().lost, 5, "what finds no room is known to be lost");
        audit.flush().await;
        assert_eq!(store.data().audit.len(), 0);
        store.away.store(false, Ordering::Relaxed);
        audit.flush().await;
        let written: Vec<_> = store.data().audit.iter().map(|entry| entry.target).collect();
        let expected: Vec<_> = (0..WAITING_MAX).map(|n| entry(n).target).collect();
        assert_eq!(written, expected, "the first ones, in order, each once");
    }

    #[tokio::test]
    async fn refusals_are_counted_by_network_and_hour_within_bounds() {
        let (store, audit) = writer();
        let networks = u32::try_from(COUNTED_MAX).expect("a small number") + 100;
        store.away.store(true, Ordering::Relaxed);
        for n in 0..networks {
            let address = IpAddr::V4(Ipv4Addr::from_bits(n));
            audit.count(address);
            audit.count(address);
        }
        // An hour may end meanwhile: what is counted together has a count for each.
        assert!(audit.lock().counts.len() <= COUNTED_MAX + 2);
        audit.flush().await;
        store.away.store(false, Ordering::Relaxed);
        audit.flush().await;
        let data = store.data();
        let counts = || data.audit.iter().filter_map(|entry| entry.counted.as_ref());
        assert_eq!(counts().map(|(_, n)| n).sum::<i64>(), 2 * i64::from(networks), "none is lost");
        assert!(data.audit.iter().all(|entry| entry.action == Action::RequestsRefused));
        let apart = data.audit.iter().filter(|entry| entry.actor.address.is_some()).count();
        assert!((COUNTED_MAX - 2..=COUNTED_MAX).contains(&apart), "{apart}");
    }

    #[tokio::test]
    async fn counts_are_written_now_and_then() {
        let (store, audit) = writer();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        audit.count(address);
        audit.write(false).await;
        assert_eq!(store.data().audit.len(), 1, "the first at once");
        audit.count(address);
        audit.write(false).await;
        assert_eq!(store.data().audit.len(), 1, "the next ones later");
        audit.flush().await;
        assert_eq!(store.data().audit.len(), 2);
    }
}
