//! The far side: what WhatsApp received, what it showed, and the receipts that it has for each account.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::bridge::lock;
use crate::ids::SessionId;
use crate::ports::bridge::SendRequest;
use crate::recipient::Recipient;

use super::ledger::{Ledger, SeenFile};
use super::mailbox::Mailbox;

/// Messages remembered as shown, so that a second arrival isn't shown again: more than can be in doubt at once.
const SHOWN_MAX: usize = 65_536;
/// Accounts remembered after their link is gone, for the receipts that nobody took.
const IDLE_ACCOUNTS_MAX: usize = 10_000;
/// Recipients of one account that are remembered as unreachable at first.
const UNREACHABLE_MAX: usize = 10_000;

pub(super) struct WhatsApp {
    ledger: Option<Ledger>,
    shown: Mutex<Shown>,
    accounts: Mutex<HashMap<SessionId, Arc<Account>>>,
}

/// What WhatsApp has for one session, connected or not.
#[derive(Default)]
pub(super) struct Account {
    pub(super) mailbox: Mailbox,
    unreachable_since: Mutex<HashMap<Recipient, Instant>>,
}

/// Hashes of what was shown, the oldest first to be forgotten.
#[derive(Default)]
struct Shown {
    hasher: RandomState,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl WhatsApp {
    pub(super) fn new(ledger: Option<Ledger>) -> Self {
        Self { ledger, shown: Mutex::default(), accounts: Mutex::default() }
    }

    /// A session's account, made if it is new.
    pub(super) fn account(&self, session: SessionId) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        if accounts.len() >= IDLE_ACCOUNTS_MAX && !accounts.contains_key(&session) {
            accounts.retain(|_, account| Arc::strong_count(account) > 1);
        }
        Arc::clone(accounts.entry(session).or_default())
    }

    /// Forgets an account that has nothing more to give, or that was unlinked.
    pub(super) fn leave(&self, session: SessionId, account: &Account, unlinked: bool) {
        if unlinked || (account.mailbox.is_empty() && lock(&account.unreachable_since).is_empty()) {
            let mut accounts = lock(&self.accounts);
            let same = accounts.get(&session).filter(|a| std::ptr::eq(Arc::as_ptr(a), account));
            // The map's and the leaver's own: a link that has opened meanwhile keeps it.
            if same.is_some_and(|a| unlinked || Arc::strong_count(a) <= 2) {
                accounts.remove(&session);
            }
        }
    }

    /// Takes a message: it stands in the ledger before anything else happens to it.
    pub(super) async fn receive(&self, session: SessionId, message: &SendRequest) -> io::Result<()> {
        let media = match &message.file {
            Some(file) => Some(SeenFile::read(file).await?),
            None => None,
        };
        self.ledger.as_ref().map_or(Ok(()), |ledger| ledger.append(session, message, media.as_ref()))
    }

    /// Shows a message to its recipient; `false` if it was shown before.
    pub(super) fn show(&self, session: SessionId, whatsapp_id: &str) -> bool {
        lock(&self.shown).insert(session, whatsapp_id)
    }
}

impl Account {
    /// Whether a recipient can be reached yet: `after` its first message.
    pub(super) fn reaches(&self, recipient: &Recipient, now: Instant, after: Duration) -> bool {
        let mut since = lock(&self.unreachable_since);
        if let Some(first) = since.get(recipient) {
            return now >= *first + after;
        }
        if since.len() >= UNREACHABLE_MAX {
            since.retain(|_, first| now < *first + after);
        }
        // With no room left a recipient is reached at once, rather than never.
        if since.len() >= UNREACHABLE_MAX {
            return true;
        }
        since.insert(recipient.clone(), now);
        false
    }
}

impl Shown {
    fn insert(&mut self, session: SessionId, whatsapp_id: &str) -> bool {
        let hash = self.hasher.hash_one((session, whatsapp_id));
        if !self.known.insert(hash) {
            return false;
        }
        if self.order.len() >= SHOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(hash);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_shown_once_and_memory_is_bounded() {
        let (mut shown, session) = (Shown::default(), SessionId::generate());
        assert!(shown.insert(session, "a"));
        assert!(!shown.insert(session, "a"));
        assert!(shown.insert(SessionId::generate(), "a"), "ids of two sessions have nothing to do with each other");
        for n in 0..SHOWN_MAX * 2 {
            shown.insert(session, &n.to_string());
        }
        assert_eq!((shown.known.len(), shown.order.len()), (SHOWN_MAX, SHOWN_MAX));
    }

    #[tokio::test]
    async fn a_recipient_is_reached_some_time_after_its_first_message() {
        let (account, now, after) = (Account::default(), Instant::now(), Duration::from_secs(10));
        let recipient = Recipient::parse("+15551230009").expect("a number");
        assert!(!account.reaches(&recipient, now, after));
        assert!(!account.reaches(&recipient, now + after - Duration::from_millis(1), after));
        assert!(account.reaches(&recipient, now + after, after));
        for n in 0..UNREACHABLE_MAX + 10 {
            let other = Recipient::parse(&format!("+1{:06}0009", 200_000 + n)).expect("a number");
            account.reaches(&other, now, after);
        }
        assert!(lock(&account.unreachable_since).len() <= UNREACHABLE_MAX);
        assert!(account.reaches(&recipient, now + after, after), "it stays reached");
    }

    #[tokio::test]
    async fn an_account_with_nothing_left_is_forgotten() {
        let (whatsapp, session) = (WhatsApp::new(None), SessionId::generate());
        let account = whatsapp.account(session);
        account.mailbox.push("a", &[crate::message::Status::Read]);
        whatsapp.leave(session, &account, false);
        assert!(Arc::ptr_eq(&account, &whatsapp.account(session)), "it has a receipt to give");
        whatsapp.leave(session, &account, true);
        assert!(!Arc::ptr_eq(&account, &whatsapp.account(session)));
    }
}
