//! Operations on the messages of one session, done to the store and to the model side by side: every answer and every row
//! must be what the model says.

use proptest::prelude::*;

use super::model::{Due, End, Model};
use super::rig::{Rig, from_now, receipt};
use crate::message::{Message, MessageType, NewMessage, Status};
use crate::ports::store::*;
use crate::time::Time;

/// When a message is to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// At once.
    Now,
    /// It was to be sent so many seconds ago: scheduled, and due.
    Due(u8),
    /// Much later.
    Later,
    /// At once, but its time is over already.
    Stale,
    /// At once, and its time ends then.
    Until(Time),
}

/// A message to be accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) when: When,
    pub(super) to: u32,
    pub(super) media: bool,
}

/// What happens to a session's messages. Messages go by their place in the walk, modulo their number.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Accept(Vec<Plan>),
    Cancel(usize),
    Pull(u32),
    /// As the owner writes it; with `other_attempt` for an attempt that isn't the last.
    Settle {
        message: usize,
        end: End,
        other_attempt: bool,
    },
    Receipts(Vec<(usize, Status)>),
    /// The session's actor starts again.
    Restart,
}

/// A session's messages in the store, and what they must be.
pub(super) struct Walk {
    pub(super) rig: Rig,
    messages: Vec<Tracked>,
    /// The next place in the order.
    next: u64,
}

struct Tracked {
    draft: NewMessage,
    model: Model,
    order: u64,
}

impl Op {
    /// The owner of the last attempt writes how it ended.
    pub(super) const fn settle(message: usize, end: End) -> Self {
        Self::Settle { message, end, other_attempt: false }
    }

    /// Anything, with messages to a few recipients.
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let message = 0..100_usize;
        let end = prop::sample::select(End::ALL.to_vec());
        let seen = prop::sample::select(vec![Status::Sent, Status::Delivered, Status::Read]);
        prop_oneof![
            3 => prop::collection::vec(Plan::any(), 1..5).prop_map(Self::Accept),
            2 => message.clone().prop_map(Self::Cancel),
            5 => (1..6_u32).prop_map(Self::Pull),
            8 => (message.clone(), end, prop::bool::weighted(0.1))
                .prop_map(|(message, end, other_attempt)| Self::Settle { message, end, other_attempt }),
            3 => prop::collection::vec((message, seen), 1..5).prop_map(Self::Receipts),
            1 => Just(Self::Restart),
        ]
    }
}

impl Plan {
    fn any() -> impl Strategy<Value = Self> {
        let when = prop_oneof![
            6 => Just(When::Now),
            2 => any::<u8>().prop_map(When::Due),
            1 => Just(When::Later),
            1 => Just(When::Stale),
        ];
        (when, 0..3_u32, prop::bool::weighted(0.3)).prop_map(|(when, to, media)| Self { when, to, media })
    }

    fn draft(self, rig: &Rig) -> NewMessage {
        let mut draft = rig.draft(self.to);
        if self.media {
            draft.kind = MessageType::Image;
        }
        match self.when {
            When::Now => {}
            When::Due(ago) => draft.send_at = Some(from_now(-1 - i64::from(ago))),
            When::Later => draft.send_at = Some(from_now(3_600)),
            When::Stale => draft.expires_at = Some(from_now(-60)),
            When::Until(end) => draft.expires_at = Some(end),
        }
        draft
    }

    const fn model(self) -> Model {
        match self.when {
            When::Now | When::Until(_) => Model::accepted(false),
            When::Due(_) => Model::scheduled(Due::Now),
            When::Later => Model::scheduled(Due::Later),
            When::Stale => Model::accepted(true),
        }
    }
}

impl Walk {
    /// A session without messages.
    pub(super) const fn new(rig: Rig) -> Self {
        Self { rig, messages: Vec::new(), next: 0 }
    }

    /// Does something to the store and to the model.
    pub(super) async fn apply(&mut self, op: &Op) {
        match op {
            Op::Accept(plans) => self.accept(plans).await,
            Op::Restart => self.rig = self.rig.restarted(),
            Op::Pull(places) => self.pull(*places).await,
            _ if self.messages.is_empty() => {}
            Op::Cancel(message) => self.cancel(*message).await,
            Op::Settle { message, end, other_attempt } => self.settle(*message, *end, *other_attempt).await,
            Op::Receipts(receipts) => self.receipts(receipts).await,
        }
    }

    /// The store has promoted what fell due.
    pub(super) fn promoted(&mut self) {
        let mut due: Vec<&mut Tracked> =
            self.messages.iter_mut().filter(|m| m.model.status == Status::Scheduled).collect();
        due.sort_by_key(|message| (message.draft.send_at, message.order));
        for message in due {
            if message.model.promote() {
                message.order = self.next;
                self.next += 1;
            }
        }
    }

    /// The store has swept what expired.
    pub(super) fn expired(&mut self) {
        self.messages.iter_mut().for_each(|message| message.model.expire());
    }

    /// The time of the messages that end at a time is over.
    pub(super) fn grow_stale(&mut self) {
        self.messages.iter_mut().for_each(|message| message.model.stale = true);
    }

    /// The first message as it stands.
    pub(super) async fn first(&self) -> Message {
        self.rig.message(self.messages[0].draft.id).await
    }

    /// Every row and every sum must be as the model has it.
    pub(super) async fn check(&self) {
        for message in &self.messages {
            check(&self.rig.message(message.draft.id).await, &message.model);
        }
        let count = |what: fn(&Tracked) -> bool| i64::try_from(self.messages.iter().filter(|m| what(m)).count());
        let usage = self.rig.usage().await;
        assert_eq!(Ok(self.rig.used().await), count(|m| !m.model.refunded), "units taken");
        assert_eq!(Ok(usage.messages_accepted), count(|_| true), "accepted");
        assert_eq!(Ok(usage.messages_sent), count(|m| m.model.sent), "sent");
        assert_eq!(Ok(usage.messages_failed), count(|m| m.model.status == Status::Failed), "failed");
        assert_eq!(Ok(usage.media_sent), count(|m| m.model.sent && m.draft.kind.is_media()), "media sent");
    }

    async fn accept(&mut self, plans: &[Plan]) {
        let drafts: Vec<NewMessage> = plans.iter().map(|plan| plan.draft(&self.rig)).collect();
        self.rig.put_all(drafts.clone()).await;
        for (plan, draft) in plans.iter().zip(drafts) {
            self.messages.push(Tracked { draft, model: plan.model(), order: self.next });
            self.next += 1;
        }
    }

    async fn cancel(&mut self, place: usize) {
        let message = self.at(place);
        let (id, expected) = (message.draft.id, message.model.cancel());
        match self.rig.cancel(id).await {
            Moved::Done(after) => {
                assert!(expected, "a cancel was too late: {after:?}");
                assert_eq!(after.status, Status::Cancelled);
            }
            Moved::Refused(after) => assert!(!expected, "a cancel was in time: {after:?}"),
            Moved::Absent => panic!("the message is there"),
        }
    }

    async fn pull(&mut self, places: u32) {
        let claim = self.rig.claim;
        let mut open: Vec<&mut Tracked> = self.messages.iter_mut().filter(|m| m.model.status.is_open()).collect();
        open.sort_by_key(|message| message.order);
        let mut blocked = Vec::new();
        let mut expected = Vec::new();
        for message in open {
            let to = &message.draft.recipient;
            if !blocked.contains(to) && message.model.claimable(claim) && expected.len() < places as usize {
                message.model.claim(claim);
                expected.push((message.draft.id, message.model.attempts, message.model.unknown));
            }
            blocked.push(to.clone());
        }
        let pulled = self.rig.pull(places).await;
        assert!(pulled.ready, "the session is connected");
        let seqs: Vec<i64> = pulled.messages.iter().map(|message| message.seq).collect();
        assert!(seqs.is_sorted(), "the oldest first: {seqs:?}");
        let claimed: Vec<_> = pulled.messages.iter().map(|m| (m.id, m.attempt, m.unknown_attempts)).collect();
        assert_eq!(claimed, expected, "claimed (id, attempt, attempts that may have been sent)");
    }

    async fn settle(&mut self, place: usize, end: End, other_attempt: bool) {
        let claim = self.rig.claim;
        let message = self.at(place);
        let attempt = message.model.attempts - i32::from(other_attempt);
        let (id, before) = (message.draft.id, message.model.clone());
        let expected = message.model.settle(claim, attempt, end);
        let settlement = self.rig.settlement(id, attempt, end.outcome());
        let settled = self.rig.store.settle(settlement).await.expect("a settlement answers");
        assert!(
            expected.is_none_or(|expected| settled == expected),
            "{end:?} of attempt {attempt}: {settled:?} instead of {expected:?}, before: {before:?}"
        );
    }

    async fn receipts(&mut self, receipts: &[(usize, Status)]) {
        let mut expected = Vec::new();
        let mut batch = Vec::new();
        // Folded to the highest status per message: a batch is one change of each.
        let mut folded: Vec<(usize, Status)> = Vec::new();
        for (place, status) in receipts {
            let place = place % self.messages.len();
            batch.push(receipt(&self.messages[place].draft.whatsapp_id, *status, Time::now()));
            match folded.iter_mut().find(|(known, _)| *known == place) {
                Some((_, highest)) => *highest = (*highest).max(*status),
                None => folded.push((place, *status)),
            }
        }
        for (place, status) in folded {
            let message = &mut self.messages[place];
            if message.model.receipt(status) {
                expected.push(message.draft.id);
            }
        }
        let mut changed = self.rig.receive(batch).await;
        changed.sort();
        expected.sort();
        assert_eq!(changed, expected, "messages that the receipts changed");
    }

    fn at(&mut self, place: usize) -> &mut Tracked {
        let place = place % self.messages.len();
        &mut self.messages[place]
    }
}

/// A row must be as the model has it.
fn check(row: &Message, model: &Model) {
    let sent = matches!(row.status, Status::Sent | Status::Delivered | Status::Read);
    assert_eq!(row.status, model.status, "{row:?}\n{model:?}");
    assert_eq!(row.attempts, model.attempts, "{row:?}\n{model:?}");
    assert_eq!(row.sent_at.is_some(), sent, "sent_at of {row:?}");
    assert_eq!(row.delivered_at.is_some(), sent && row.status >= Status::Delivered, "delivered_at of {row:?}");
    assert_eq!(row.read_at.is_some(), sent && row.status >= Status::Read, "read_at of {row:?}");
    if sent || row.status == Status::Failed {
        assert_eq!(row.error.as_ref().map(|error| error.code.as_str()), model.code, "{row:?}\n{model:?}");
    }
}
