//! Room that users share: memory for bodies and pages, places for uploads, places for reads.
//!
//! What must hold: a request waits for its own user's share first, and only with that in hand for what all users share. So a
//! greedy user's requests wait for each other. The order of all shares is written in `ARCHITECTURE.md`; nobody waits for an
//! earlier one while holding a later one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sanasr_shared::ids::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Users whose shares are remembered though they hold nothing, at most.
const IDLE_MAX: usize = 1_024;

/// Room of one kind.
pub(crate) struct Room {
    all: Arc<Semaphore>,
    /// What one user may hold.
    share: u32,
    /// How long a request waits for its place.
    patience: Duration,
    users: Mutex<HashMap<UserId, Arc<Semaphore>>>,
}

/// A place in a room; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

/// No place was free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Room {
    /// A room of `all` units, of which one user may hold `share`.
    pub(crate) fn new(all: usize, share: usize, patience: Duration) -> Self {
        let all = all.clamp(1, Semaphore::MAX_PERMITS);
        let share = u32::try_from(share.clamp(1, all)).unwrap_or(u32::MAX);
        Self { all: Arc::new(Semaphore::new(all)), share, patience, users: Mutex::default() }
    }

    /// A room without a bound over all users.
    pub(crate) fn of_shares(share: usize, patience: Duration) -> Self {
        Self::new(Semaphore::MAX_PERMITS, share, patience)
    }

    /// Waits for `units` of a user's share; a whole share if that is less.
    ///
    /// # Errors
    /// There was no room in time.
    pub(crate) async fn take(&self, user: UserId, units: usize) -> Result<Place, Full> {
        let units = u32::try_from(units).unwrap_or(u32::MAX).clamp(1, self.share);
        let share = self.share_of(user);
        let taken = async {
            let own = share.acquire_many_owned(units).await.ok()?;
            let all = Arc::clone(&self.all).acquire_many_owned(units).await.ok()?;
            Some(Place { own, all })
        };
        tokio::time::timeout(self.patience, taken).await.ok().flatten().ok_or(Full)
    }

    fn share_of(&self, user: UserId) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = users.get(&user) {
            return Arc::clone(share);
        }
        if users.len() >= IDLE_MAX && users.len().is_power_of_two() {
            // Whoever holds or awaits a place has a reference of their own.
            users.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let share = Arc::new(Semaphore::new(self.share as usize));
        users.insert(user, Arc::clone(&share));
        share
    }
}

impl Place {
    /// Gives back all but `units`.
    pub(crate) fn shrink(&mut self, units: usize) {
        for permit in [&mut self.own, &mut self.all] {
            let rest = permit.num_permits().saturating_sub(units.max(1));
            drop(permit.split(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: UserId = UserId(1);
    const OTHER: UserId = UserId(2);

    fn room(all: usize, share: usize) -> Room {
        Room::new(all, share, Duration::from_millis(20))
    }

    #[tokio::test]
    async fn a_user_waits_for_its_own_share_and_not_for_anothers() {
        let room = room(10, 4);
        let held = room.take(ONE, 4).await.expect("its share");
        assert_eq!(room.take(ONE, 1).await.err(), Some(Full));
        let other = room.take(OTHER, 4).await.expect("another's share");
        drop(held);
        let small = room.take(ONE, 1).await.expect("a place");
        drop((other, small));
        assert_eq!(room.all.available_permits(), 10);
    }

    #[tokio::test]
    async fn more_than_a_share_takes_the_share() {
        let room = room(10, 4);
        let mut place = room.take(ONE, 400).await.expect("a share");
        assert_eq!(room.all.available_permits(), 6);
        place.shrink(1);
        assert_eq!(room.all.available_permits(), 9);
        place.shrink(3);
        assert_eq!(room.all.available_permits(), 9, "a place never grows");
    }

    #[tokio::test]
    async fn who_waits_for_a_share_holds_nothing_of_the_rest() {
        let room = Arc::new(Room::new(8, 4, Duration::from_secs(60)));
        let _held = room.take(ONE, 4).await.expect("a share");
        let waits = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.take(ONE, 4).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(room.take(OTHER, 4).await.is_ok());
        waits.abort();
    }

    #[tokio::test]
    async fn the_shares_of_users_who_hold_nothing_are_forgotten() {
        let room = Room::of_shares(2, Duration::from_secs(1));
        let _held = room.take(UserId(0), 2).await.expect("a share");
        for user in 1..5_000 {
            drop(room.take(UserId(user), 1).await);
        }
        let users = room.users.lock().expect("the users");
        assert!(users.len() <= 2 * IDLE_MAX, "{}", users.len());
        assert!(users.contains_key(&UserId(0)));
    }
}
