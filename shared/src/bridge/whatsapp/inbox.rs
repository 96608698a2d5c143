//! What other people send, on its way to the store: receipts, and that somebody wrote to us.
//!
//! A client hears much at once (a group of a thousand members sends two thousand receipts for a message), and the store may be
//! slow. So nothing is written where it is heard: it waits here, is folded, and is written together. When too much waits, the
//! connection is read no further; WhatsApp keeps what isn't read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use wacore::types::events::{Event, Receipt};
use wacore::types::presence::ReceiptType;
use whatsapp_rust::wacore_binary::JidExt;
use whatsapp_rust::{Client, Jid};

use super::link::Shared;
use super::receipts::{Folded, Mark, of_members};
use super::state::StateError;
use crate::bridge::lock;
use crate::lifecycle::Backoff;
use crate::message::Status;
use crate::ports::store::StoreError;
use crate::time::Time;

/// What may wait, counted in receipts; past it the connection is read no further. What the client has read by then comes on top.
const WAITING_MAX: usize = 5_000;
/// What is taken to be written together, at most.
const BATCH_MAX: usize = 2_000;
/// How long what waits at the end of a connection may take.
const FINISH_MAX: Duration = Duration::from_secs(3);
/// That somebody wrote is noted once in so long.
const WROTE_EVERY: Duration = Duration::from_secs(3_600);

/// What is heard.
pub(super) enum News {
    /// Somebody has messages of ours, or has read them.
    Receipt {
        ids: Vec<String>,
        /// Who, by all the names that are known, if the messages went to a group.
        member: Option<Vec<String>>,
        status: Status,
        at: Time,
    },
    /// Somebody wrote to us: by the names that are known.
    Wrote(Jid, Option<Jid>),
    /// A first message was sent to this number.
    SentTo(String),
}

impl News {
    /// What an event of the client says of other people.
    pub(super) fn of(event: &Event) -> Vec<Self> {
        match event {
            Event::Receipt(receipt) => Self::of_receipt(receipt).into_iter().collect(),
            Event::Messages(batch) => batch
                .iter()
                .map(|message| &message.info.source)
                .filter(|source| !source.is_from_me && !source.chat.is_group())
                .map(|source| Self::Wrote(source.sender.clone(), source.sender_alt.clone()))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn of_receipt(receipt: &Receipt) -> Option<Self> {
        let status = match receipt.r#type {
            ReceiptType::Delivered => Status::Delivered,
            ReceiptType::Read | ReceiptType::Played => Status::Read,
            _ => return None,
        };
        let source = &receipt.source;
        if source.is_from_me {
            return None; // another device of our own
        }
        let names = || [Some(&source.sender), source.sender_alt.as_ref()].into_iter().flatten();
        Some(Self::Receipt {
            ids: receipt.message_ids.iter().map(ToString::to_string).collect(),
            // The client leaves `is_group` false in receipts.
            member: source.chat.is_group().then(|| names().map(|jid| jid.user.to_string()).collect()),
            status,
            at: Time(receipt.timestamp.timestamp_millis()),
        })
    }

    fn weight(&self) -> usize {
        match self {
            Self::Receipt { ids, .. } => ids.len().max(1),
            Self::Wrote(..) | Self::SentTo(_) => 1,
        }
    }
}

/// What one session has heard and not yet written.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    room: Notify,
}

#[derive(Default)]
struct Waiting {
    news: VecDeque<News>,
    /// Of all that isn't written, what is being written included.
    weight: usize,
}

impl Inbox {
    /// Takes what was heard. It never waits: whoever reads the connection does, by [`Self::has_room`].
    pub(super) fn put(&self, news: News) {
        let mut waiting = lock(&self.waiting);
        waiting.weight += news.weight();
        waiting.news.push_back(news);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits until the connection may be read on.
    pub(super) async fn has_room(&self) {
        loop {
            let room = self.room.notified();
            if lock(&self.waiting).weight < WAITING_MAX {
                return;
            }
            room.await;
        }
    }

    fn take(&self) -> Vec<News> {
        let mut waiting = lock(&self.waiting);
        let (mut weight, mut count) = (0, 0);
        for news in &waiting.news {
            if weight >= BATCH_MAX {
                break;
            }
            weight += news.weight();
            count += 1;
        }
        waiting.news.drain(..count).collect()
    }

    fn written(&self, weight: usize) {
        let mut waiting = lock(&self.waiting);
        waiting.weight = waiting.weight.saturating_sub(weight);
        drop(waiting);
        self.room.notify_waiters();
    }
}

/// Writes what is heard, during one client's life.
pub(super) struct Reader<'a> {
    pub(super) shared: &'a Shared,
    pub(super) client: &'a Arc<Client>,
    /// Cancelled when the client hears no more: what waits then is written, and it ends.
    pub(super) ended: &'a CancellationToken,
}

impl Reader<'_> {
    pub(super) async fn run(&self) {
        let inbox = &self.shared.inbox;
        let mut until = None;
        loop {
            let batch = inbox.take();
            if batch.is_empty() {
                tokio::select! {
                    biased;
                    () = inbox.arrived.notified() => continue,
                    () = self.ended.cancelled() => return,
                }
            }
            let weight = batch.iter().map(News::weight).sum();
            if self.ended.is_cancelled() {
                // WhatsApp won't tell it again: the client acknowledges once it has handed an event over.
                let until = *until.get_or_insert_with(|| Instant::now() + FINISH_MAX);
                if timeout_at(until, self.write(batch)).await.is_err() {
                    tracing::warn!(session = %self.shared.session, receipts = weight, "what was heard last couldn't be stored");
                    inbox.written(weight);
                    return;
                }
            } else {
                self.write(batch).await;
            }
            inbox.written(weight);
        }
    }

    async fn write(&self, batch: Vec<News>) {
        let mut folded = Folded::default();
        let (mut writers, mut sent) = (HashMap::new(), Vec::new());
        for news in batch {
            match news {
                News::Receipt { ids, member: None, status, at } => {
                    ids.iter().for_each(|id| folded.add(id, status, at));
                }
                News::Receipt { ids, member: Some(names), status, at } => {
                    ids.iter().for_each(|id| folded.add_member(id, Mark { names: names.clone(), status, at }));
                }
                News::Wrote(sender, other) => drop(writers.insert(sender.user.clone(), (sender, other))),
                News::SentTo(number) => sent.push(number),
            }
        }
        let direct = folded.take_direct();
        if !direct.is_empty() {
            self.put(direct).await;
        }
        loop {
            let marks = folded.take_groups();
            if marks.is_empty() {
                break;
            }
            let news = self.noted(&marks).await;
            if !news.is_empty() {
                self.put(news).await;
            }
        }
        for (sender, other) in writers.into_values() {
            self.wrote(&sender, other.as_ref()).await;
        }
        for number in sent {
            if let Err(error) = self.shared.contacts.keep_sent(&number).await {
                tracing::debug!(%error, "that a message was sent to a number couldn't be noted");
            }
        }
    }

    async fn put(&self, receipts: Vec<crate::ports::store::Receipt>) {
        if !self.ended.is_cancelled() {
            tokio::select! {
                () = self.shared.postbox.has_room() => {}
                () = self.ended.cancelled() => {}
            }
        }
        self.shared.postbox.put(receipts);
    }

    /// Notes what members say of messages to groups; answers the messages' receipts. It is tried until the store takes it, or
    /// never will.
    async fn noted(&self, marks: &BTreeMap<String, Vec<Mark>>) -> Vec<crate::ports::store::Receipt> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut again = false;
        loop {
            match of_members(&self.shared.state, marks, again).await {
                Ok(news) => return news,
                Err(StateError::Store(error)) if error.is_transient() => {
                    tracing::debug!(%error, session = %self.shared.session, "a group's receipts can't be written yet");
                }
                // The session is another worker's, which hears from WhatsApp itself.
                Err(StateError::NotOurs | StateError::Store(StoreError::Fenced)) => return Vec::new(),
                Err(error) => {
                    tracing::warn!(%error, session = %self.shared.session, "a group's receipts can't be written, and are dropped");
                    return Vec::new();
                }
            }
            again = true;
            sleep(backoff.pause()).await;
        }
    }

    /// Somebody has written to us.
    async fn wrote(&self, sender: &Jid, other: Option<&Jid>) {
        let known = [Some(sender), other].into_iter().flatten().find(|jid| jid.is_pn()).map(|jid| jid.user.to_string());
        let number = match known {
            Some(number) => number,
            None => match self.client.get_lid_pn_entry(sender).await {
                Ok(Some(entry)) => entry.phone_number.to_string(),
                Ok(None) | Err(_) => return,
            },
        };
        let noted = self.shared.contacts.change(&number, |contact| {
            let now = Time::now();
            if contact.wrote_at.is_none_or(|at| now.since(at) > WROTE_EVERY) {
                contact.wrote_at = Some(now);
            }
        });
        if let Err(error) = noted.await {
            tracing::debug!(%error, "that somebody wrote couldn't be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn receipts(count: usize) -> News {
        News::Receipt { ids: vec![String::new(); count], member: None, status: Status::Read, at: Time(0) }
    }

    #[test]
    fn a_receipt_from_a_group_is_one_members() {
        let receipt = |chat: &str| {
            // As the client makes it: `is_group` is left out.
            let source = wacore::types::message::MessageSource {
                chat: chat.parse().expect("a chat"),
                sender: "15551230101@s.whatsapp.net".parse().expect("a member"),
                ..Default::default()
            };
            let receipt = Receipt::builder()
                .message_ids(vec!["A".into()])
                .source(source)
                .r#type(ReceiptType::Read)
                .offline(false);
            News::of(&Event::Receipt(receipt.timestamp(wacore::time::now_utc()).build()))
        };
        let members = |news: &[News]| match news {
            [News::Receipt { member, .. }] => member.clone(),
            _ => panic!("one receipt"),
        };
        assert_eq!(members(&receipt("120363000000000001@g.us")), Some(vec!["15551230101".to_owned()]));
        assert_eq!(members(&receipt("15551230101@s.whatsapp.net")), None);
    }

    #[test]
    fn a_full_inbox_stops_the_reading_until_it_is_written() {
        let inbox = Inbox::default();
        let has_room = || inbox.has_room().now_or_never().is_some();
        assert!(has_room());
        for _ in 0..WAITING_MAX / 100 {
            inbox.put(receipts(100));
        }
        assert!(!has_room());
        let batch = inbox.take();
        let weight: usize = batch.iter().map(News::weight).sum();
        assert_eq!(weight, BATCH_MAX);
        assert!(!has_room(), "what is being written counts");
        inbox.written(weight);
        assert!(has_room());
        inbox.put(receipts(WAITING_MAX));
        assert!(!has_room());
        while !inbox.take().is_empty() {}
        inbox.written(WAITING_MAX * 2);
        assert!(has_room());
    }
}
