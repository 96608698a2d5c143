//! The gate before the accepting path: past the limit of what may wait, sends are refused.
//!
//! The count is the housekeeper's, some seconds old; what this process has accepted since is added to it. So the limit
//! holds within a few seconds' worth of accepts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sanasr_shared::ids::UserId;
use sanasr_shared::ports::store::{Backlog, Store};
use sanasr_shared::settings::AcceptSettings;

use crate::problem::Problem;

/// From this age on the count is read anew in the background.
const AGEING: Duration = Duration::from_secs(1);
/// From this age on nobody is judged by it before it is read anew.
const STALE: Duration = Duration::from_secs(3);
/// Reads that may bring the same count before it is taken to be a new one that is equal.
const SAME_MAX: u32 = 5;

/// The gate.
pub(crate) struct BacklogGate {
    store: Arc<dyn Store>,
    limit: i64,
    user_limit: i64,
    state: Mutex<State>,
    /// Held by whoever reads.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    counted: Backlog,
    read_at: Option<Instant>,
    refreshing: bool,
    /// Accepted here since the last read, and before it but maybe after the count.
    now: Accepted,
    before: Accepted,
    same: u32,
}

#[derive(Default)]
struct Accepted {
    total: i64,
    by_user: HashMap<UserId, i64>,
}

impl BacklogGate {
    pub(crate) fn new(store: Arc<dyn Store>, settings: &AcceptSettings) -> Self {
        let limit = settings.backlog_limit;
        let share = i128::from(limit) * i128::from(settings.backlog_user_percent) / 100;
        let user_limit = i64::try_from(share).unwrap_or(limit).max(1);
        Self { store, limit, user_limit, state: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// Lets `messages` more of a user through, or says that there is no room.
    pub(crate) async fn check(self: &Arc<Self>, user: UserId, messages: usize) -> Result<(), Problem> {
        self.refresh().await;
        let messages = i64::try_from(messages).unwrap_or(i64::MAX);
        let (total, users) = self.waiting(user);
        if total.saturating_add(messages) > self.limit {
            Err(Problem::overloaded("Too many messages wait to be sent. Try again later."))
        } else if users.saturating_add(messages) > self.user_limit {
            Err(Problem::overloaded("Too many of your messages wait to be sent. Try again when some have gone out."))
        } else {
            Ok(())
        }
    }

    /// Notes what was accepted.
    pub(crate) fn accepted(&self, user: UserId, messages: usize) {
        let messages = i64::try_from(messages).unwrap_or(0);
        let mut state = self.lock();
        state.now.total += messages;
        *state.now.by_user.entry(user).or_default() += messages;
    }

    fn waiting(&self, user: UserId) -> (i64, i64) {
        let state = self.lock();
        let of = |by_user: &HashMap<UserId, i64>| by_user.get(&user).copied().unwrap_or(0);
        (
            state.counted.total + state.before.total + state.now.total,
            of(&state.counted.by_user) + of(&state.before.by_user) + of(&state.now.by_user),
        )
    }

    async fn refresh(self: &Arc<Self>) {
        let age = {
            let mut state = self.lock();
            let age = state.read_at.map(|at| at.elapsed());
            match age {
                Some(age) if age < AGEING => return,
                Some(age) if age < STALE && state.refreshing => return,
                _ => {}
            }
            state.refreshing = true;
            age
        };
        if age.is_some_and(|age| age < STALE) {
            let gate = Arc::clone(self);
            tokio::spawn(async move { gate.read().await });
        } else {
            self.read().await;
        }
    }

    async fn read(&self) {
        let _reading = self.reading.lock().await;
        if self.lock().read_at.is_some_and(|at| at.elapsed() < AGEING) {
            return;
        }
        let result = self.store.backlog().await;
        let mut state = self.lock();
        state.refreshing = false;
        state.read_at = Some(Instant::now());
        match result {
            Ok(counted) => state.take(counted),
            // Whoever sends will hear of it from the store itself; an old count isn't held against anybody.
            Err(error) => {
                tracing::debug!(%error, "the backlog could not be read");
                state.counted = Backlog::default();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A new count has in it what was accepted before it was made, in the time since the last read: that may count twice
    /// for a second. The same count again has none of it.
    fn take(&mut self, counted: Backlog) {
        let since = std::mem::take(&mut self.now);
        self.same = if counted == self.counted { self.same + 1 } else { 0 };
        if self.same == 0 || self.same >= SAME_MAX {
            self.before = since;
            self.same = 0;
        } else {
            self.before.total += since.total;
            for (user, number) in since.by_user {
                *self.before.by_user.entry(user).or_default() += number;
            }
        }
        self.counted = counted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(total: i64) -> Accepted {
        Accepted { total, by_user: HashMap::from([(UserId(1), total)]) }
    }

    fn counted(total: i64) -> Backlog {
        Backlog { total, by_user: HashMap::from([(UserId(1), total)]) }
    }

    #[test]
    fn what_was_accepted_counts_until_a_count_has_it() {
        let mut state = State { now: accepted(5), ..State::default() };
        state.take(Backlog::default());
        state.now = accepted(2);
        state.take(Backlog::default());
        assert_eq!((state.before.total, state.before.by_user[&UserId(1)]), (7, 7));
        state.now = accepted(1);
        state.take(counted(8));
        assert_eq!((state.counted.total, state.before.total), (8, 1));
        state.take(counted(9));
        assert_eq!((state.counted.total, state.before.total), (9, 0));
    }

    #[test]
    fn an_equal_count_lets_go_in_the_end() {
        let mut state = State::default();
        for _ in 0..20 {
            state.now = accepted(1);
            state.take(Backlog::default());
            assert!(state.before.total <= i64::from(SAME_MAX));
        }
    }
}
