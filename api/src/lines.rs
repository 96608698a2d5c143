//! Lines that wait to be written, in bounded number.

use std::collections::VecDeque;

/// At most so many lines, oldest first.
pub(crate) struct Lines<T> {
    waiting: VecDeque<T>,
    max: usize,
}

impl<T> Lines<T> {
    pub(crate) const fn new(max: usize) -> Self {
        Self { waiting: VecDeque::new(), max }
    }

    /// Takes a line, and answers how many wait now; `None` if there is no room for it.
    pub(crate) fn push(&mut self, line: T) -> Option<usize> {
        if self.waiting.len() >= self.max {
            return None;
        }
        self.waiting.push_back(line);
        Some(self.waiting.len())
    }

    /// The oldest lines, `count` at most.
    pub(crate) fn take(&mut self, count: usize) -> Vec<T> {
        let count = self.waiting.len().min(count);
        self.waiting.drain(..count).collect()
    }

    /// Puts lines back in front; of those that find no room, the oldest are lost: their number.
    pub(crate) fn give_back(&mut self, batch: Vec<T>) -> usize {
        let room = self.max.saturating_sub(self.waiting.len());
        let lost = batch.len().saturating_sub(room);
        for line in batch.into_iter().skip(lost).rev() {
            self.waiting.push_front(line);
        }
        lost
    }
}
