//! Who may fetch files at once: a share for each user, and all of them together. One user's slow files hold up that user alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sanasr_shared::ids::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places, in one process.
pub(super) struct Places {
    all: Arc<Semaphore>,
    per_user: usize,
    users: Mutex<HashMap<UserId, Arc<Semaphore>>>,
}

/// A place, given back when it is dropped.
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(all: usize, per_user: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), per_user, users: Mutex::default() }
    }

    /// Waits for a place: first for one of the user's own, so that nobody waits in the common queue who couldn't go.
    /// `None` never happens, as no semaphore is closed.
    pub(super) async fn take(&self, user: UserId) -> Option<Place> {
        let own = self.of(user).acquire_owned().await.ok()?;
        let shared = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { _own: own, _shared: shared })
    }

    /// The user's share. Those of users who have no place and wait for none are forgotten.
    fn of(&self, user: UserId) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, share| Arc::strong_count(share) > 1);
        Arc::clone(users.entry(user).or_insert_with(|| Arc::new(Semaphore::new(self.per_user))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_user_has_a_share() {
        let places = Places::new(5, 2);
        let take = |user| places.take(UserId(user)).now_or_never().flatten();
        let mut held: Vec<_> = (0..2).map(|_| take(1).expect("a place")).collect();
        assert!(take(1).is_none(), "the share is used up");
        held.extend((2..5).map(|user| take(user).expect("others have theirs")));
        assert!(take(9).is_none(), "all are taken");
        held.remove(0);
        held.push(take(9).expect("a place got free"));
        assert!(take(1).is_none() && take(2).is_none());
        drop(held);
        assert!(take(1).is_some());
        assert_eq!(places.users.lock().expect("sane").len(), 1, "who has no place is forgotten");
    }
}
