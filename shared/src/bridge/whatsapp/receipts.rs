//! Receipts on their way to the store: kept until they are taken, and those of a group's members counted together.
//!
//! WhatsApp counts a receipt as taken once the client has read it, before our store has it. So what isn't taken yet is kept
//! by the process, and with the device's state when its connection ends; only a crash within the few milliseconds until they
//! are stored loses some, and then a status stays behind what happened, never ahead of it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::state::{Kind, Result, State};
use crate::bridge::lock;
use crate::message::Status;
use crate::ports::bridge::{BridgeEvent, Receipts};
use crate::ports::store::Receipt;
use crate::time::Time;

/// Receipts given out at once, at most.
const AT_ONCE: usize = 500;
/// How long until receipts are given out again that nobody took.
const AGAIN: Duration = Duration::from_secs(1);
/// Receipts kept for a session that nobody takes, at most; then the oldest go.
const KEPT_MAX: usize = 10_000;

/// One session's receipts.
#[derive(Default)]
pub(super) struct Postbox {
    mail: Mutex<Vec<Receipt>>,
    bell: Notify,
}

/// A receipt as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    whatsapp_id: String,
    status: Status,
    at: Time,
}

impl Postbox {
    fn take(&self) -> Vec<Receipt> {
        std::mem::take(&mut *lock(&self.mail))
    }

    fn keep(&self, receipts: impl IntoIterator<Item = Receipt>) {
        let mut kept = lock(&self.mail);
        kept.extend(receipts);
        let surplus = kept.len().saturating_sub(KEPT_MAX);
        kept.drain(..surplus);
    }

    /// Receipts have come.
    pub(super) fn put(&self, receipts: impl IntoIterator<Item = Receipt>) {
        self.keep(receipts);
        self.bell.notify_one();
    }

    /// Takes back what was left when the session's last connection ended.
    pub(super) async fn load(&self, state: &State) -> Result<()> {
        if let Some(kept) = state.get_json::<Vec<Kept>>(Kind::Mail, b"").await? {
            self.put(kept.into_iter().map(|Kept { whatsapp_id, status, at }| Receipt { whatsapp_id, status, at }));
            state.remove(Kind::Mail, b"").await?;
        }
        Ok(())
    }

    /// Keeps what nobody has taken.
    pub(super) async fn save(&self, state: &State) -> Result<()> {
        let left = self.take().into_iter().map(|Receipt { whatsapp_id, status, at }| Kept { whatsapp_id, status, at });
        let left: Vec<Kept> = left.collect();
        if left.is_empty() { Ok(()) } else { state.set_json(Kind::Mail, b"", &left).await }
    }

    /// Gives receipts out until it is closed: the next ones when the last are taken, or again when they aren't.
    pub(super) async fn deliver(&self, events: mpsc::Sender<BridgeEvent>, closing: CancellationToken) {
        loop {
            let mut receipts = self.take();
            if receipts.is_empty() {
                tokio::select! {
                    () = closing.cancelled() => return,
                    () = events.closed() => return,
                    () = self.bell.notified() => continue,
                }
            }
            let rest = receipts.split_off(receipts.len().min(AT_ONCE));
            self.keep(rest);
            let (taken, answer) = oneshot::channel();
            let event = BridgeEvent::Receipts(Receipts { receipts: receipts.clone(), taken: Some(taken) });
            let given = tokio::select! {
                () = closing.cancelled() => false,
                given = events.send(event) => given.is_ok(),
            };
            let is_taken = given
                && tokio::select! {
                    answer = answer => answer.is_ok(),
                    () = closing.cancelled() => false,
                };
            if !is_taken {
                receipts.extend(self.take()); // they were first
                self.keep(receipts);
                if !given {
                    return;
                }
                tokio::select! {
                    () = closing.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    }
}

/// Who of a group has a message of ours.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Group {
    /// The members but for ourselves, when it was sent.
    members: BTreeSet<String>,
    delivered: BTreeSet<String>,
    read: BTreeSet<String>,
}

impl Group {
    /// Nobody has it yet.
    pub(super) fn new(members: impl IntoIterator<Item = String>) -> Self {
        Self { members: members.into_iter().collect(), ..Self::default() }
    }

    /// A member has it, or has read it; members have several names. The status that the message has now, if that is news.
    fn add(&mut self, names: &[&str], status: Status) -> Option<Status> {
        let member = (*names.iter().find(|name| self.members.contains(**name))?).to_owned();
        let before = self.status();
        self.delivered.insert(member.clone());
        if status == Status::Read {
            self.read.insert(member);
        }
        self.status().filter(|now| Some(*now) != before)
    }

    fn status(&self) -> Option<Status> {
        if self.members.is_empty() {
            None
        } else if self.members.is_subset(&self.read) {
            Some(Status::Read)
        } else if self.members.is_subset(&self.delivered) {
            Some(Status::Delivered)
        } else {
            None
        }
    }
}

/// Notes what a member's receipt says of a message to a group; answers the message's receipt once all have it.
pub(super) async fn of_member(
    state: &State,
    whatsapp_id: &str,
    names: &[&str],
    status: Status,
    at: Time,
) -> Result<Option<Receipt>> {
    let _turn = state.alone().await;
    let Some(mut group) = state.get_json::<Group>(Kind::GroupReceipts, whatsapp_id).await? else { return Ok(None) };
    let news = group.add(names, status);
    if group.status() == Some(Status::Read) {
        state.remove(Kind::GroupReceipts, whatsapp_id).await?;
    } else {
        state.set_json(Kind::GroupReceipts, whatsapp_id, &group).await?;
    }
    Ok(news.map(|status| Receipt { whatsapp_id: whatsapp_id.to_owned(), status, at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_a_message_once_all_have() {
        let mut group = Group::new(["a".to_owned(), "b".to_owned()]);
        assert_eq!(group.add(&["a"], Status::Delivered), None);
        assert_eq!(group.add(&["a"], Status::Delivered), None);
        assert_eq!(group.add(&["another name", "b"], Status::Read), Some(Status::Delivered));
        assert_eq!(group.add(&["stranger"], Status::Read), None);
        assert_eq!(group.add(&["a"], Status::Read), Some(Status::Read));
        assert_eq!(group.add(&["a"], Status::Read), None);
    }
}
