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
use crate::time::Time;

/// How long an answer is believed: that somebody is on WhatsApp, and that they aren't.
const IS_KNOWN: Duration = Duration::from_secs(30 * 24 * 3600);
const IS_NOT_KNOWN: Duration = Duration::from_secs(24 * 3600);
/// People kept in memory, and turns given, at most.
const REMEMBERED_MAX: usize = 1_000;
const TURNS_MAX: usize = 10_000;

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

    fn remember(&self, number: &str, contact: Contact) {
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear(); // they are all in the store
        }
        remembered.insert(number.to_owned(), contact);
    }

    /// How long a first message to somebody must wait, at so many a minute.
    pub(super) fn wait(&self, number: &str, per_minute: u32, now: Instant) -> Duration {
        lock(&self.turns).wait(number, per_minute, now)
    }
}

/// Whose turn it is for a first message. Each is given a turn once, the next one a while after the last.
#[derive(Default)]
struct Turns {
    next: Option<Instant>,
    given: HashMap<String, Instant>,
}

impl Turns {
    fn wait(&mut self, number: &str, per_minute: u32, now: Instant) -> Duration {
        let interval = Duration::from_secs(60) / per_minute.max(1);
        if let Some(at) = self.given.get(number) {
            return at.saturating_duration_since(now);
        }
        let at = self.next.map_or(now, |next| next.max(now));
        self.next = Some(at + interval);
        if self.given.len() >= TURNS_MAX {
            self.given.retain(|_, at| *at > now);
        }
        self.given.insert(number.to_owned(), at);
        at - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_messages_take_turns() {
        let start = Instant::now();
        let mut turns = Turns::default();
        assert_eq!(turns.wait("1", 12, start), Duration::ZERO);
        assert_eq!(turns.wait("2", 12, start), Duration::from_secs(5));
        assert_eq!(turns.wait("3", 12, start), Duration::from_secs(10));
        assert_eq!(turns.wait("2", 12, start), Duration::from_secs(5), "a turn is given once");
        assert_eq!(turns.wait("2", 12, start + Duration::from_secs(5)), Duration::ZERO);
        assert_eq!(turns.wait("4", 12, start + Duration::from_secs(60)), Duration::ZERO, "after a rest at once");
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
