//! People and what is known of them: whether they are on WhatsApp, under which number, whether they have written to us.
//!
//! WhatsApp bans numbers that ask after many others: each number is looked up once and the answer is kept for days. A first
//! message to somebody new waits for its turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::state::{Kind, Result, State};
use crate::bridge::lock;
use crate::lifecycle::jitter;
use crate::time::Time;

/// How long an answer is believed: that somebody is on WhatsApp, and that they aren't.
const IS_KNOWN: Duration = Duration::from_secs(30 * 24 * 3600);
const IS_NOT_KNOWN: Duration = Duration::from_secs(24 * 3600);
/// People kept in memory, at most.
const REMEMBERED_MAX: usize = 1_000;
/// The longest that a first message is told to wait for its turn; then it asks again.
const TURN_MAX: Duration = Duration::from_secs(300);

/// What is known of a number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contact {
    /// The number as WhatsApp has it (Brazil's ninth digit); `None` if it isn't on WhatsApp, as far as is known.
    pub(super) number: Option<String>,
    /// When that was asked.
    pub(super) asked_at: Option<Time>,
    /// When a message was first sent there.
    pub(super) sent_at: Option<Time>,
    /// When they last wrote to us.
    pub(super) wrote_at: Option<Time>,
}

impl Contact {
    /// Whether the last answer still counts.
    pub(super) fn is_fresh(&self, now: Time) -> bool {
        let life = if self.number.is_some() { IS_KNOWN } else { IS_NOT_KNOWN };
        self.asked_at.is_some_and(|at| now.since(at) < life)
    }

    /// They wrote to us, or we to them: another message is no first one.
    pub(super) const fn is_known(&self) -> bool {
        self.sent_at.is_some() || self.wrote_at.is_some()
    }
}

/// A session's people.
pub(super) struct Contacts {
    state: Arc<State>,
    remembered: Mutex<HashMap<String, Contact>>,
    turns: Mutex<Turns>,
}

impl Contacts {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state, remembered: Mutex::default(), turns: Mutex::default() }
    }

    /// What is known of a number (digits).
    pub(super) async fn get(&self, number: &str) -> Result<Contact> {
        let remembered = lock(&self.remembered).get(number).cloned();
        match remembered {
            Some(contact) => Ok(contact),
            None => {
                let contact: Contact = self.state.get_json(Kind::Contact, number).await?.unwrap_or_default();
                self.remember(number, contact.clone());
                Ok(contact)
            }
        }
    }

    /// Changes what is known of a number, if there is a change.
    pub(super) async fn change(&self, number: &str, change: impl FnOnce(&mut Contact)) -> Result<()> {
        let _turn = self.state.alone().await;
        let old = self.get(number).await?;
        let mut new = old.clone();
        change(&mut new);
        if new != old {
            self.state.set_json(Kind::Contact, number, &new).await?;
            self.remember(number, new);
        }
        Ok(())
    }

    /// A message was sent to a number: at once for whoever asks in this process, and in the store by [`Self::keep_sent`].
    pub(super) fn sent(&self, number: &str) {
        if let Some(contact) = lock(&self.remembered).get_mut(number) {
            contact.sent_at.get_or_insert_with(Time::now);
        }
    }

    /// Notes in the store that a message was sent to a number.
    pub(super) async fn keep_sent(&self, number: &str) -> Result<()> {
        let _turn = self.state.alone().await;
        let mut contact = self.get(number).await?;
        contact.sent_at.get_or_insert_with(Time::now);
        self.state.set_json(Kind::Contact, number, &contact).await?;
        self.remember(number, contact);
        Ok(())
    }

    fn remember(&self, number: &str, contact: Contact) {
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear(); // they are all in the store
        }
        remembered.insert(number.to_owned(), contact);
    }

    /// Takes the turn for a first message to somebody, at so many a minute, if it is free: zero. Otherwise how long to wait
    /// before asking again.
    pub(super) fn wait(&self, per_minute: u32, now: Instant) -> Duration {
        lock(&self.turns).wait(per_minute, now)
    }
}

/// Whose turn it is for a first message. A turn is taken when it is used: whoever is told to wait holds nothing, as its message
/// may be cancelled meanwhile. So that those who wait don't come back together, each is told a later time than the one before.
#[derive(Default)]
struct Turns {
    /// When the next turn is free.
    next: Option<Instant>,
    /// How many were told to wait since the last turn was taken.
    told: u32,
}

impl Turns {
    fn wait(&mut self, per_minute: u32, now: Instant) -> Duration {
        let interval = Duration::from_secs(60) / per_minute.max(1);
        match self.next.filter(|next| *next > now) {
            None => {
                *self = Self { next: Some(now + interval), told: 0 };
                Duration::ZERO
            }
            Some(next) => {
                let wait = (next - now).saturating_add(interval.saturating_mul(self.told));
                self.told = self.told.saturating_add(1);
                if wait > TURN_MAX { jitter(TURN_MAX).max(next - now) } else { wait }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_messages_take_turns() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut turns = Turns::default();
        assert_eq!(turns.wait(12, start), Duration::ZERO);
        assert_eq!(turns.wait(12, start), Duration::from_secs(5));
        assert_eq!(turns.wait(12, start), Duration::from_secs(10));
        assert_eq!(turns.wait(12, after(5)), Duration::ZERO, "a turn is for whoever asks when it is free");
        assert_eq!(turns.wait(12, after(6)), Duration::from_secs(4));
        assert_eq!(turns.wait(12, after(10)), Duration::ZERO);
        assert_eq!(turns.wait(12, after(60)), Duration::ZERO, "after a rest at once");
        assert_eq!(turns.wait(1, after(60)), Duration::from_secs(5));
    }

    #[test]
    fn whoever_gives_up_holds_nobody_up() {
        let start = Instant::now();
        let mut turns = Turns::default();
        for n in 0..5_000 {
            let wait = turns.wait(12, start);
            assert!(wait <= TURN_MAX.mul_f64(1.2), "the {n}th is told to wait {wait:?}");
        }
        assert_eq!(turns.wait(12, start + Duration::from_secs(5)), Duration::ZERO, "they were all cancelled");
        assert!(turns.wait(12, start + Duration::from_secs(6)) <= Duration::from_secs(5));
    }

    #[test]
    fn those_who_wait_go_one_after_the_other() {
        let start = Instant::now();
        let mut turns = Turns::default();
        let mut asks: std::collections::BinaryHeap<_> = (0..200).map(|_| std::cmp::Reverse(start)).collect();
        let mut gone = Vec::new();
        let mut asked = 0;
        while let Some(std::cmp::Reverse(now)) = asks.pop() {
            asked += 1;
            match turns.wait(60, now) {
                Duration::ZERO => gone.push(now),
                wait => asks.push(std::cmp::Reverse(now + wait)),
            }
        }
        assert!(gone.windows(2).all(|two| two[1] - two[0] >= Duration::from_secs(1)));
        assert!(gone[199] - start < Duration::from_secs(210), "no turn is left unused: {:?}", gone[199] - start);
        assert!(asked < 200 * 3, "they rarely ask in vain: {asked}");
    }

    #[test]
    fn an_answer_is_believed_for_a_while() {
        let now = Time::now();
        let asked = |number: Option<&str>, ago: Duration| Contact {
            number: number.map(str::to_owned),
            asked_at: Some(Time(now.0 - crate::time::millis(ago))),
            ..Contact::default()
        };
        assert!(!Contact::default().is_fresh(now));
        assert!(asked(Some("1"), IS_NOT_KNOWN).is_fresh(now) && !asked(Some("1"), IS_KNOWN).is_fresh(now));
        assert!(asked(None, IS_NOT_KNOWN / 2).is_fresh(now) && !asked(None, IS_NOT_KNOWN).is_fresh(now));
    }
}
