//! Lists: pages that miss nothing and repeat nothing, filters, and whose things one sees.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::World;
use super::rig::{Rig, from_now, property, recipient, retry, unique};
use crate::ids::{MessageId, UserId};
use crate::message::{Message, MessageType, NewMessage, Status};
use crate::ports::audit::Actor;
use crate::ports::store::*;
use crate::session::BridgeKind;
use crate::time::Time;

/// However many are accepted meanwhile, a walk through the pages sees every message that was there before exactly once,
/// newest first.
pub async fn pages_are_stable_under_inserts(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let other = Rig::new(&store).await;
    let shape = (prop::collection::vec(1..30_u32, 0..5), 1..20_u32, 1..4_u32);
    property(16, &shape, |(batches, limit, inserts)| {
        let (rig, other) = (&rig, &other);
        async move {
            for size in batches {
                rig.put_all((0..size).map(|to| rig.draft(to)).collect()).await;
                other.send(1).await;
            }
            let before = rig.list_all(&MessageFilter::default(), 200).await;
            let done = AtomicBool::new(false);
            let inserting = async {
                let mut fresh = HashSet::new();
                while !done.load(Ordering::Relaxed) {
                    fresh.extend(rig.put_all((0..inserts).map(|to| rig.draft(to)).collect()).await);
                }
                fresh
            };
            let walking = async {
                let seen = rig.list_all(&MessageFilter::default(), limit).await;
                done.store(true, Ordering::Relaxed);
                seen
            };
            let (fresh, seen) = tokio::join!(inserting, walking);
            assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first, none twice");
            let old: Vec<MessageId> = seen.iter().copied().filter(|id| !fresh.contains(id)).collect();
            assert_eq!(old, before, "what was there before, all of it");
        }
    });
}

/// Any filter gives what it says, all of it and nothing else, on pages of any size.
pub async fn every_filter_gives_what_it_says(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let second = rig.another_session("second").await;
    let other = Rig::new(&store).await;
    populate(&[&rig, &second, &other]).await;
    let mut mine =
        rig.store.messages(Scope::All, &rig.list_all(&MessageFilter::default(), 200).await).await.expect("a read");
    mine.sort_by_key(|message| std::cmp::Reverse(message.id));
    assert_eq!(mine.len(), 80);
    let mut times: Vec<Time> = mine.iter().map(|message| message.created_at).collect();
    times.push(from_now(100));
    let filter = (
        prop::option::of(prop::sample::select(Status::ALL.to_vec())),
        prop::option::of(prop::sample::select(vec!["default", "second", "none"])),
        prop::option::of(0..6_u32),
        prop::option::of(prop::sample::select(vec![MessageType::Text, MessageType::Image, MessageType::Contact])),
        prop::option::of(prop::sample::select(vec!["order-0", "order-1", "order", "ORDER-1"])),
        prop::option::of(prop::sample::select(times.clone())),
        prop::option::of(prop::sample::select(times)),
    );
    property(96, &(filter, 1..60_u32), |((status, session, to, kind, reference, from, until), limit)| {
        let (rig, mine) = (&rig, &mine);
        async move {
            let filter = MessageFilter {
                status,
                session: session.map(str::to_owned),
                to: to.map(recipient),
                kind,
                reference: reference.map(str::to_owned),
                from,
                until,
            };
            let expected: Vec<MessageId> = mine.iter().filter(|m| matches(&filter, m)).map(|m| m.id).collect();
            assert_eq!(rig.list_all(&filter, limit).await, expected, "{filter:?}");
        }
    });
}

/// A filter that matches little is answered in short pages, each with a bounded look, and gets to the end.
pub async fn a_rare_match_is_found_in_bounded_pages(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let rare = rig.send(7).await;
    let looks = 1 + LIST_SCAN_MAX / 1_000;
    for _ in 0..looks {
        rig.put_all((0..1_000).map(|_| rig.draft(1)).collect()).await;
    }
    for filter in [
        MessageFilter { to: Some(recipient(7)), ..MessageFilter::default() },
        MessageFilter {
            until: Some(Time(rig.message(rare).await.created_at.0 + 1)),
            to: Some(recipient(7)),
            ..MessageFilter::default()
        },
    ] {
        let page = rig.store.list_messages(Scope::User(rig.user), &filter, None, 10).await.expect("a page");
        assert!(page.items.len() + usize::from(page.next.is_some()) == 1, "found, or more to look at: {page:?}");
        assert_eq!(rig.list_all(&filter, 10).await, [rare]);
    }
    let none = MessageFilter { reference: Some("none".to_owned()), ..MessageFilter::default() };
    assert_eq!(rig.list_all(&none, 10).await, []);
}

/// One sees and touches one's own messages only; what is another's is absent. An operator sees all.
pub async fn one_sees_ones_own_only(world: &dyn World) {
    let store = world.store().await;
    let (rig, other) = (Rig::new(&store).await, Rig::new(&store).await);
    let (mine, theirs) = (rig.send(1).await, other.send(1).await);
    let scope = Scope::User(rig.user);
    assert_eq!(store.message(scope, theirs).await.expect("a read"), None);
    assert_eq!(store.message(scope, MessageId::generate()).await.expect("a read"), None);
    assert_eq!(store.cancel(scope, theirs, Actor::MACHINE).await.expect("an answer"), Moved::Absent);
    assert_eq!(
        store.cancel(Scope::All, MessageId::generate(), Actor::MACHINE).await.expect("an answer"),
        Moved::Absent
    );
    assert_eq!(other.status(theirs).await, Status::Accepted);
    let read = async |scope| {
        let ids = [mine, theirs, mine, MessageId::generate()];
        let messages = store.messages(scope, &ids).await.expect("a read");
        messages.iter().map(|message| message.id).collect::<HashSet<_>>()
    };
    assert_eq!(read(scope).await, [mine].into());
    assert_eq!(read(Scope::All).await, [mine, theirs].into());
    let list = async |scope| {
        let page = store.list_messages(scope, &MessageFilter::default(), None, 10).await.expect("a page");
        page.items.iter().map(|message| message.id).collect::<Vec<_>>()
    };
    assert_eq!(list(scope).await, [mine]);
    assert_eq!(list(Scope::All).await, [theirs, mine]);
    // Another user's session of the same name is another session.
    let filter = MessageFilter { session: Some(rig.name.clone()), ..MessageFilter::default() };
    assert_eq!(rig.list_all(&filter, 10).await, [mine]);
    assert!(matches!(store.cancel(Scope::All, theirs, Actor::MACHINE).await.expect("an answer"), Moved::Done(_)));
    assert_eq!((rig.used().await, other.used().await), (1, 0));
}

/// A page is as long as asked for while there is more, and the last one says that it is the last.
pub async fn pages_end(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let list = async |after, limit| {
        rig.store.list_messages(Scope::User(rig.user), &MessageFilter::default(), after, limit).await.expect("a page")
    };
    let empty = list(None, 5).await;
    assert_eq!((empty.items.len(), empty.next), (0, None));
    let ids = rig.put_all((0..10).map(|to| rig.draft(to)).collect()).await;
    let first = list(None, 4).await;
    assert_eq!(first.items.iter().map(|m| m.id).collect::<Vec<_>>(), [ids[9], ids[8], ids[7], ids[6]]);
    assert_eq!(first.next, Some(ids[6].0), "the next page begins after the last one seen");
    let last = list(Some(ids[2]), 4).await;
    assert_eq!(last.items.iter().map(|m| m.id).collect::<Vec<_>>(), [ids[1], ids[0]]);
    assert_eq!(last.next, None);
    let nothing = list(Some(ids[0]), 4).await;
    assert_eq!((nothing.items.len(), nothing.next), (0, None));
}

/// Sessions are listed newest first, page by page, a user's own or everybody's.
pub async fn sessions_are_listed(world: &dyn World) {
    let store = world.store().await;
    let (one, two) = (super::rig::new_user(&store, None).await, super::rig::new_user(&store, None).await);
    let mut all = Vec::new();
    for n in 0..7_usize {
        let user = if n % 3 == 0 { two } else { one };
        all.push((
            user,
            store
                .create_session(user, &unique("s"), BridgeKind::Simulator, u32::MAX, Actor::MACHINE)
                .await
                .expect("a session")
                .id,
        ));
    }
    let list = async |scope: Scope| {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.list_sessions(scope, after, 2).await.expect("a page");
            assert!(page.items.len() <= 2);
            seen.extend(page.items.iter().map(|session| (session.user_id, session.id)));
            let Some(next) = page.next else { return seen };
            after = Some(crate::ids::SessionId(next));
        }
    };
    let expected = |user: Option<UserId>| {
        all.iter().rev().filter(|(owner, _)| user.is_none_or(|user| user == *owner)).copied().collect::<Vec<_>>()
    };
    // Each user has a session `default` as well, which is older.
    let everybody = list(Scope::All).await;
    assert_eq!(everybody[..7], expected(None));
    assert_eq!(everybody.len(), 9);
    let mine = list(Scope::User(one)).await;
    assert_eq!(mine[..mine.len() - 1], expected(Some(one)));
}

/// Eighty messages of the first two rigs and a few of the third, of many kinds and in many states.
async fn populate(rigs: &[&Rig]) {
    let kinds = [MessageType::Text, MessageType::Image, MessageType::Contact];
    for n in 0..100_u32 {
        let rig = rigs[if n % 5 == 4 { 2 } else { (n % 5 % 2) as usize }];
        let draft = NewMessage {
            kind: kinds[n as usize % 3],
            reference: (n % 4 < 2).then(|| format!("order-{}", n % 4)),
            send_at: (n % 10 == 3).then(|| from_now(900)),
            ..rig.draft(n % 5)
        };
        let id = rig.put(draft).await;
        if n % 10 == 6 {
            rig.cancel(id).await;
        }
        let ends = [Outcome::Sent, retry(super::rig::LONG), super::rig::failed()];
        if let Some(end) = ends.get(n as usize % 7) {
            for outgoing in rig.pull(1).await.messages {
                rig.settle(&outgoing, end.clone()).await;
            }
        }
    }
}

fn matches(filter: &MessageFilter, message: &Message) -> bool {
    filter.status.is_none_or(|status| message.status == status)
        && filter.session.as_ref().is_none_or(|session| message.session == *session)
        && filter.to.as_ref().is_none_or(|to| message.to == *to)
        && filter.kind.is_none_or(|kind| message.kind == kind)
        && filter.reference.as_ref().is_none_or(|reference| message.reference.as_ref() == Some(reference))
        && filter.from.is_none_or(|from| message.created_at >= from)
        && filter.until.is_none_or(|until| message.created_at < until)
}
