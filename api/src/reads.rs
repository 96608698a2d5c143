//! Reading pages: few at once for each user, so that a user who lists without end waits for themselves and not others for them.
//!
//! A read's place is held while its query runs, and no longer. Once begun, a query runs to its end with its place, also when
//! its client has left: the database goes on with it all the same.

use std::sync::Arc;
use std::time::Duration;

use sanasr_shared::ids::UserId;
use sanasr_shared::ports::store::{Store, StoreError};

use crate::body::kib;
use crate::problem::Problem;
use crate::room::{Full, Place, Room};
use crate::state::App;

/// How long a read waits for its place.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a row of a page takes in memory, in bytes: a message with a long text.
const ROW_BYTES: usize = 4 << 10;

/// Where pages are read.
pub(crate) struct Reads {
    store: Arc<dyn Store>,
    places: Room,
}

impl Reads {
    pub(crate) fn new(store: Arc<dyn Store>, for_each_user: usize) -> Self {
        Self { store, places: Room::of_shares(for_each_user, PATIENCE) }
    }

    /// Reads in one of a user's places.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] if no place was free in time; what the store says.
    pub(crate) async fn run<T, F>(
        &self,
        user: UserId,
        read: impl FnOnce(Arc<dyn Store>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let place = self.places.take(user, 1).await.map_err(|Full| StoreError::Overloaded)?;
        let store = Arc::clone(&self.store);
        let running = tokio::spawn(async move {
            let read = read(store).await;
            drop(place);
            read
        });
        running.await.unwrap_or_else(|error| Err(StoreError::Internal(format!("a read panicked: {error}"))))
    }
}

impl App {
    /// Reads a page of at most `rows` rows, and the room that it has in memory until the client has it: first the room, then
    /// the place to read.
    ///
    /// # Errors
    /// The user's share is used up; what the store says.
    pub(crate) async fn page<T, F>(
        &self,
        user: UserId,
        rows: u32,
        read: impl FnOnce(Arc<dyn Store>) -> F + Send + 'static,
    ) -> Result<(T, Place), Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let room = self.bodies.take(user, kib(rows.saturating_mul(ROW_BYTES))).await?;
        Ok((self.reads.run(user, read).await?, room))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;
    use tokio::task::{JoinHandle, yield_now};

    use super::*;
    use crate::tests::fake::FakeStore;

    /// Reads that run until they are let go.
    struct Rig {
        reads: Arc<Reads>,
        running: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
    }

    impl Rig {
        fn new() -> Self {
            let reads = Arc::new(Reads::new(Arc::new(FakeStore::default()), 2));
            Self { reads, running: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
        }

        fn read(&self, user: i64) -> JoinHandle<Result<(), StoreError>> {
            let (reads, running, gate) = (Arc::clone(&self.reads), Arc::clone(&self.running), Arc::clone(&self.gate));
            let read = async move |_: Arc<dyn Store>| {
                running.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.expect("an open gate").forget();
                running.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            };
            tokio::spawn(async move { reads.run(UserId(user), read).await })
        }

        async fn running(&self) -> usize {
            for _ in 0..100 {
                yield_now().await;
            }
            self.running.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_users_reads_wait_for_each_other_and_for_nobody_elses() {
        let rig = Rig::new();
        let greedy: Vec<_> = (0..10).map(|_| rig.read(1)).collect();
        assert_eq!(rig.running().await, 2);
        let other = rig.read(2);
        assert_eq!(rig.running().await, 3);
        rig.gate.add_permits(11);
        for read in greedy.into_iter().chain([other]) {
            read.await.expect("no panic").expect("its turn");
        }
    }

    #[tokio::test]
    async fn a_read_keeps_its_place_when_its_client_leaves() {
        let rig = Rig::new();
        let left: Vec<_> = (0..2).map(|_| rig.read(1)).collect();
        assert_eq!(rig.running().await, 2);
        left.iter().for_each(JoinHandle::abort);
        let next = rig.read(1);
        assert_eq!(rig.running().await, 2, "the database still works on those");
        rig.gate.add_permits(1);
        assert_eq!(rig.running().await, 2);
        rig.gate.add_permits(2);
        next.await.expect("no panic").expect("its turn");
    }
}
