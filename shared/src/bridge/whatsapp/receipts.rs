//! Receipts on their way to the store: kept until they are taken, and those of a group's members counted together.
//!
//! WhatsApp counts a receipt as taken once the client has read it, before our store has it. So what isn't taken yet is kept
//! by the process, and with the device's state when its connection ends; only a crash within the few milliseconds until they
//! are stored loses some, and then a status stays behind what happened, never ahead of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::state::{Kind, Result, State, from_json};
use crate::bridge::lock;
use crate::message::Status;
use crate::ports::bridge::{BridgeEvent, Receipts};
use crate::ports::store::Receipt;
use crate::time::Time;

/// Receipts given out at once, at most.
const AT_ONCE: usize = 500;
/// How long until receipts are given out again that nobody took.
const AGAIN: Duration = Duration::from_secs(1);
/// Receipts kept for a session that nobody takes; with more than that, whoever brings them waits.
const KEPT_MAX: usize = 10_000;
/// Groups' messages whose receipts are read and written together: with a thousand members each has some 60 kB.
const GROUPS_AT_ONCE: usize = 16;

/// One session's receipts.
#[derive(Default)]
pub(super) struct Postbox {
    mail: Mutex<Vec<Receipt>>,
    bell: Notify,
    /// Some were taken.
    room: Notify,
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
        lock(&self.mail).extend(receipts);
    }

    /// Receipts have come.
    pub(super) fn put(&self, receipts: impl IntoIterator<Item = Receipt>) {
        self.keep(receipts);
        self.bell.notify_one();
    }

    /// Waits until there is room for more.
    pub(super) async fn has_room(&self) {
        while lock(&self.mail).len() >= KEPT_MAX {
            self.room.notified().await;
        }
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
                self.room.notify_one();
                tokio::select! {
                    () = closing.cancelled() => return,
                    () = events.closed() => return,
                    () = self.bell.notified() => continue,
                }
            }
            let rest = receipts.split_off(receipts.len().min(AT_ONCE));
            self.keep(rest);
            self.room.notify_one();
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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

/// What a member's receipt says of a message to a group.
pub(super) struct Mark {
    /// The member, by all the names that are known.
    pub(super) names: Vec<String>,
    pub(super) status: Status,
    pub(super) at: Time,
}

/// Receipts of people, folded: for each message what it takes to write its state once.
#[derive(Default)]
pub(super) struct Folded {
    /// When somebody got a message, and when they read it, at the earliest.
    direct: HashMap<String, (Option<Time>, Option<Time>)>,
    /// What members of groups have of a message.
    groups: BTreeMap<String, Vec<Mark>>,
}

impl Folded {
    /// Somebody has a message, or has read it.
    pub(super) fn add(&mut self, whatsapp_id: &str, status: Status, at: Time) {
        let (delivered, read) = self.direct.entry(whatsapp_id.to_owned()).or_default();
        let known = if status == Status::Read { read } else { delivered };
        *known = Some(known.map_or(at, |known| known.min(at)));
    }

    /// A member of a group has a message, or has read it.
    pub(super) fn add_member(&mut self, whatsapp_id: &str, mark: Mark) {
        self.groups.entry(whatsapp_id.to_owned()).or_default().push(mark);
    }

    /// The messages' receipts.
    pub(super) fn take_direct(&mut self) -> Vec<Receipt> {
        let mut receipts = Vec::with_capacity(self.direct.len());
        for (id, (delivered, read)) in self.direct.drain() {
            let mut add = |status, at: Option<Time>| {
                receipts.extend(at.map(|at| Receipt { whatsapp_id: id.clone(), status, at }));
            };
            add(Status::Delivered, delivered);
            add(Status::Read, read);
        }
        receipts
    }

    /// Some of the messages to groups, to be written together; empty when there are no more.
    pub(super) fn take_groups(&mut self) -> BTreeMap<String, Vec<Mark>> {
        let rest = self.groups.keys().nth(GROUPS_AT_ONCE).cloned();
        let rest = rest.map(|first| self.groups.split_off(&first)).unwrap_or_default();
        std::mem::replace(&mut self.groups, rest)
    }
}

/// Notes what members' receipts say of messages to groups: one write for all. Answers the messages' receipts where all members
/// have them; `again` answers those of an earlier try, too, whose outcome isn't known.
pub(super) async fn of_members(
    state: &State,
    marks: &BTreeMap<String, Vec<Mark>>,
    again: bool,
) -> Result<Vec<Receipt>> {
    let _turn = state.alone().await;
    let kept = state.get_all(Kind::GroupReceipts, marks.keys().map(|id| id.as_bytes().to_vec()).collect()).await?;
    let (mut changes, mut news) = (Vec::new(), Vec::new());
    for (key, bytes) in kept {
        let whatsapp_id = String::from_utf8_lossy(&key).into_owned();
        let Ok(mut group) = from_json::<Group>(&bytes) else {
            tracing::warn!(whatsapp_id, "a group's receipts can't be read, and are forgotten");
            changes.push(State::gone(Kind::GroupReceipts, &key));
            continue;
        };
        let before = group.clone();
        for Mark { names, status, at } in marks.get(&whatsapp_id).into_iter().flatten() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let change = group.add(&names, *status);
            let status = change.or_else(|| group.status().filter(|_| again));
            news.extend(status.map(|status| Receipt { whatsapp_id: whatsapp_id.clone(), status, at: *at }));
        }
        if group.status() == Some(Status::Read) {
            changes.push(State::gone(Kind::GroupReceipts, &key));
        } else if group != before {
            changes.push(state.put_json(Kind::GroupReceipts, &key, &group, Time::now())?);
        }
    }
    state.write(changes).await?;
    Ok(news)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_of_one_message_are_folded() {
        let mut folded = Folded::default();
        for second in [3, 2, 4] {
            folded.add("A", Status::Delivered, Time(second));
            folded.add("A", Status::Read, Time(second + 10));
        }
        folded.add("B", Status::Read, Time(1));
        for n in 0..1_000 {
            let mark = Mark { names: vec![n.to_string()], status: Status::Delivered, at: Time(n) };
            folded.add_member(&format!("G{}", n % 20), mark);
        }
        let receipt = |id: &str, status, at| Receipt { whatsapp_id: id.to_owned(), status, at: Time(at) };
        let mut direct = folded.take_direct();
        direct.sort_by(|a, b| (&a.whatsapp_id, a.status).cmp(&(&b.whatsapp_id, b.status)));
        let (delivered, read) = (receipt("A", Status::Delivered, 2), receipt("A", Status::Read, 12));
        assert_eq!(direct, [delivered, read, receipt("B", Status::Read, 1)]);
        let sizes: Vec<_> = std::iter::from_fn(|| Some(folded.take_groups()).filter(|groups| !groups.is_empty()))
            .map(|groups| (groups.len(), groups.values().map(Vec::len).sum::<usize>()))
            .collect();
        assert_eq!(sizes, [(16, 800), (4, 200)]);
    }

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
