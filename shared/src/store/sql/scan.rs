//! Lists that are looked through in steps, so that a filter that matches much costs little and one that matches little ends at
//! [`LIST_SCAN_MAX`] rows.

use crate::ports::store::{LIST_SCAN_MAX, Page};

/// A look through a list: it asks for rows step by step, until it has a page, or the list or its limit ends.
pub(crate) struct Scan<T, P> {
    /// Rows of the page.
    limit: usize,
    /// The place below which it goes on.
    pub(crate) below: P,
    step: i64,
    left: i64,
    ended: bool,
    hits: Vec<T>,
}

impl<T, P: Copy> Scan<T, P> {
    /// For a page of `limit` rows, one at least, below a place.
    pub(crate) fn new(limit: u32, below: P) -> Self {
        // One more than the page shows whether there is a next one.
        let step = i64::from(limit.max(1)).saturating_add(1).min(LIST_SCAN_MAX);
        let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        Self { limit, below, step, left: LIST_SCAN_MAX, ended: false, hits: Vec::new() }
    }

    /// How many rows to read now; `None` when that is enough.
    pub(crate) fn next_step(&self) -> Option<i64> {
        let goes_on = self.hits.len() <= self.limit && self.left > 0 && !self.ended;
        goes_on.then(|| self.step.min(self.left))
    }

    /// Takes the rows of a step of `size`: their places, and those that are asked for.
    pub(crate) fn add(&mut self, size: i64, rows: Vec<T>, place: impl Fn(&T) -> P, is_hit: impl Fn(&T) -> bool) {
        let seen = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        self.ended = seen < size;
        self.left -= seen;
        self.below = rows.last().map_or(self.below, place);
        self.hits.extend(rows.into_iter().filter(is_hit));
        self.step = self.step.saturating_mul(4);
    }

    /// The page.
    pub(crate) fn page(mut self, place: impl Fn(&T) -> P) -> Page<T, P> {
        let next = if self.hits.len() > self.limit {
            self.hits.truncate(self.limit);
            self.hits.last().map(place)
        } else {
            (!self.ended).then_some(self.below)
        };
        Page { items: self.hits, next }
    }
}
