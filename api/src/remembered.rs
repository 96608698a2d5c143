//! Answers of the store that are remembered for less than a second, so that whatever is revoked stops working everywhere
//! within one, signals or not. Signals only shorten that.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is good for, from the start of its read.
const LIFE: Duration = Duration::from_millis(900);
/// From this age on, one request has it read anew while the others go on with what is there.
const AGEING: Duration = Duration::from_millis(450);

/// A bounded memory of answers.
pub(crate) struct Remembered<K, V> {
    state: Mutex<State<K, V>>,
    capacity: usize,
}

struct State<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Counts what was forgotten: an answer whose read began before isn't remembered.
    forgotten: u64,
}

struct Entry<V> {
    value: V,
    read_at: Instant,
    renewing: bool,
}

/// The start of a read.
struct Ticket {
    at: Instant,
    forgotten: u64,
}

enum Recall<V> {
    Known(V),
    /// Known, and to be read anew by whoever is told so.
    Ageing(V),
    Unknown,
}

impl<K: Eq + Hash + Clone + Send + 'static, V: Clone + Send + 'static> Remembered<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { state: Mutex::new(State { entries: HashMap::new(), forgotten: 0 }), capacity }
    }

    /// The answer for `key`: remembered, or from `read`. An answer is remembered if `keep` says so.
    pub(crate) async fn get<E, F>(self: &Arc<Self>, key: K, keep: fn(&V) -> bool, read: F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>> + Send + 'static,
        E: Send + 'static,
    {
        match self.recall(&key) {
            Recall::Known(value) => Ok(value),
            Recall::Ageing(value) => {
                let memory = Arc::clone(self);
                tokio::spawn(async move {
                    let _ = memory.read(key, keep, read).await;
                });
                Ok(value)
            }
            Recall::Unknown => self.read(key, keep, read).await,
        }
    }

    async fn read<E>(&self, key: K, keep: fn(&V) -> bool, read: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let ticket = Ticket { at: Instant::now(), forgotten: self.lock().forgotten };
        let value = read.await?;
        if keep(&value) {
            self.remember(key, value.clone(), &ticket);
        } else {
            self.lock().entries.remove(&key);
        }
        Ok(value)
    }

    fn recall(&self, key: &K) -> Recall<V> {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(key) else { return Recall::Unknown };
        let age = entry.read_at.elapsed();
        if age > LIFE {
            Recall::Unknown
        } else if age > AGEING && !entry.renewing {
            entry.renewing = true;
            Recall::Ageing(entry.value.clone())
        } else {
            Recall::Known(entry.value.clone())
        }
    }

    fn remember(&self, key: K, value: V, ticket: &Ticket) {
        let mut state = self.lock();
        if state.forgotten != ticket.forgotten {
            return;
        }
        if state.entries.len() >= self.capacity {
            state.entries.retain(|_, entry| entry.read_at.elapsed() <= LIFE);
            if state.entries.len() >= self.capacity {
                state.entries.clear();
            }
        }
        state.entries.insert(key, Entry { value, read_at: ticket.at, renewing: false });
    }

    /// Forgets one answer.
    pub(crate) fn forget(&self, key: &K) {
        let mut state = self.lock();
        state.forgotten += 1;
        state.entries.remove(key);
    }

    /// Forgets all answers.
    pub(crate) fn forget_all(&self) {
        let mut state = self.lock();
        state.forgotten += 1;
        state.entries.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;

    use super::*;

    async fn get(memory: &Arc<Remembered<u32, u32>>, key: u32, value: u32) -> u32 {
        memory.get(key, |value| *value != 0, ready(Ok::<_, Infallible>(value))).await.expect("infallible")
    }

    #[tokio::test]
    async fn an_answer_is_remembered_until_it_is_forgotten_or_old() {
        let memory = Arc::new(Remembered::new(10));
        assert_eq!(get(&memory, 1, 5).await, 5);
        assert_eq!(get(&memory, 1, 6).await, 5);
        memory.forget(&1);
        assert_eq!(get(&memory, 1, 7).await, 7);
        memory.forget_all();
        assert_eq!(get(&memory, 1, 8).await, 8);
        tokio::time::sleep(LIFE + Duration::from_millis(50)).await;
        assert_eq!(get(&memory, 1, 9).await, 9);
    }

    #[tokio::test]
    async fn an_answer_read_before_a_change_isnt_remembered_after_it() {
        let memory = Arc::new(Remembered::new(10));
        let reader = Arc::clone(&memory);
        let read = async move {
            reader.forget_all();
            Ok::<_, Infallible>(5)
        };
        assert_eq!(memory.get(1, |_| true, read).await, Ok(5));
        assert_eq!(get(&memory, 1, 6).await, 6);
    }

    #[tokio::test]
    async fn what_isnt_kept_is_read_each_time_and_the_memory_is_bounded() {
        let memory = Arc::new(Remembered::new(10));
        assert_eq!(get(&memory, 1, 0).await, 0);
        assert_eq!(get(&memory, 1, 1).await, 1);
        for key in 0..100 {
            get(&memory, key, 1).await;
        }
        assert!(memory.lock().entries.len() <= 10);
    }
}
