//! The quota is exact: what is accepted never exceeds it, and what was never sent gives its unit back, once.

use futures_util::future::join_all;
use proptest::prelude::*;

use super::World;
use super::rig::{Rig, SHARD, failed, from_now, keep_all, property};
use crate::ids::MessageId;
use crate::message::{NewMessage, Status};
use crate::ports::audit::Actor;
use crate::ports::operations::CancelFilter;
use crate::ports::store::*;
use crate::time::Time;
use crate::usage::Quota;

/// With several processes and many callers at once, exactly the limit is accepted.
pub async fn never_more_than_the_limit(world: &dyn World) {
    let handles = [world.store().await, world.store().await, world.store().await];
    let rig = Rig::limited(&handles[0], Some(150)).await;
    let callers = (0..40_u32).map(|caller| {
        let rig = rig.through(&handles[caller as usize % 3]);
        async move {
            let mut accepted = 0;
            for size in 1..=4 {
                let outcomes = rig.accept((0..size).map(|item| rig.draft(caller * 10 + item)).collect()).await;
                for outcome in outcomes {
                    match outcome {
                        AcceptOutcome::Accepted { .. } => accepted += 1,
                        AcceptOutcome::QuotaExceeded(quota) => assert_eq!((quota.limit, quota.used), (Some(150), 150)),
                        other => panic!("accepted or over the quota, not {other:?}"),
                    }
                }
            }
            accepted
        }
    });
    let accepted: i64 = join_all(callers).await.into_iter().sum();
    assert_eq!(accepted, 150);
    let quota = rig.quota().await;
    assert_eq!((quota.limit, quota.used, quota.remaining), (Some(150), 150, Some(0)));
    assert_eq!(rig.usage().await.messages_accepted, 150);
    assert_eq!(rig.list_all(&MessageFilter::default(), 100).await.len(), 150);
}

/// Within a request, the first get what is left, and the refused ones are told how the quota stands.
pub async fn what_is_left_goes_to_the_first(world: &dyn World) {
    let rig = Rig::limited(&world.store().await, Some(7)).await;
    rig.send(1).await;
    let outcomes = rig.accept((0..10).map(|to| rig.draft(to)).collect()).await;
    assert!(outcomes[..6].iter().all(|o| matches!(o, AcceptOutcome::Accepted { .. })), "{outcomes:?}");
    let refused = AcceptOutcome::QuotaExceeded(rig.quota().await);
    assert!(outcomes[6..].iter().all(|o| *o == refused), "{outcomes:?}");
}

/// A user's quota as it stands: limit, used, remaining, and the next midnight in UTC.
pub async fn the_quota_is_told(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::limited(&store, Some(5)).await;
    let today = Time::now().day();
    assert_eq!(rig.quota().await, Quota::new(Some(5), 0, 0, today));
    rig.send(1).await;
    rig.send(2).await;
    assert_eq!(rig.quota().await, Quota::new(Some(5), 2, 2, today));
    assert_eq!(rig.quota().await.resets_at, today.next().start());
    let days = store.usage_days(rig.user, today, today.next()).await.expect("a read");
    assert_eq!(days.iter().map(|day| (day.day, day.messages_accepted)).collect::<Vec<_>>(), [(today, 2)]);
    assert_eq!(store.usage_days(rig.user, today.next(), today.next().next()).await.expect("a read"), []);
    assert_eq!(store.quota(crate::ids::UserId(i64::from(i32::MAX))).await.expect("a read"), None);
}

/// No limit is no limit; a limit of nothing is that; a limit takes effect when it is set, and lowering it below what is
/// used takes nothing back.
pub async fn limits_take_effect_at_once(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    rig.put_all((0..20).map(|to| rig.draft(to)).collect()).await;
    let quota = rig.quota().await;
    assert_eq!((quota.limit, quota.used, quota.remaining), (None, 20, None));
    for limit in [0, 10, 20] {
        assert!(store.set_limit(rig.user, Some(limit)).await.expect("a change"));
        let outcomes = rig.accept(vec![rig.draft(1)]).await;
        assert!(
            matches!(outcomes[..], [AcceptOutcome::QuotaExceeded(quota)] if quota.limit == Some(limit) && quota.used == 20 && quota.remaining == Some(0)),
            "{outcomes:?}"
        );
    }
    assert!(store.set_limit(rig.user, Some(21)).await.expect("a change"));
    let outcomes = rig.accept(vec![rig.draft(1), rig.draft(2)]).await;
    assert!(matches!(outcomes[..], [AcceptOutcome::Accepted { .. }, AcceptOutcome::QuotaExceeded(_)]), "{outcomes:?}");
    assert!(store.set_limit(rig.user, None).await.expect("a change"));
    rig.send(1).await;

    let none = Rig::limited(&store, Some(0)).await;
    let outcomes = none.accept(vec![none.draft(1)]).await;
    assert!(matches!(outcomes[..], [AcceptOutcome::QuotaExceeded(_)]), "{outcomes:?}");
    assert_eq!((none.used().await, none.usage().await.messages_accepted), (0, 0));
}

/// Each way to end without having been sent gives the unit back, once, and the unit can be taken again.
pub async fn a_message_never_sent_gives_its_unit_back_once(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::limited(&store, Some(1)).await;
    let full = async || {
        assert_eq!(rig.used().await, 1);
        let outcomes = rig.accept(vec![rig.draft(1)]).await;
        assert!(matches!(outcomes[..], [AcceptOutcome::QuotaExceeded(_)]), "{outcomes:?}");
    };

    let cancelled = rig.send(1).await;
    full().await;
    assert!(matches!(rig.cancel(cancelled).await, Moved::Done(_)));
    assert!(matches!(rig.cancel(cancelled).await, Moved::Refused(_)));
    assert_eq!(rig.used().await, 0);

    rig.put(NewMessage { send_at: Some(from_now(172_800)), ..rig.draft(1) }).await;
    full().await;
    let scheduled = rig.list_all(&MessageFilter::default(), 1).await[0];
    assert!(matches!(rig.cancel(scheduled).await, Moved::Done(_)), "a unit belongs to the day of acceptance");
    assert_eq!(rig.used().await, 0);

    for end in [failed(), Outcome::Expired] {
        rig.send(1).await;
        full().await;
        let outgoing = rig.attempt(end.clone()).await;
        assert_eq!(rig.settle(&outgoing, end).await, Settled::Refused);
        assert_eq!(rig.used().await, 0);
    }

    rig.put(NewMessage { expires_at: Some(from_now(-1)), ..rig.draft(1) }).await;
    full().await;
    for _ in 0..2 {
        store.expire().await.expect("a sweep");
        assert_eq!(rig.used().await, 0);
    }
    assert_eq!(rig.usage().await.messages_accepted, 5, "what was accepted never falls");
}

/// Ten times the day's limit is accepted and no more, whatever is given back, by whichever process and in whatever batches.
pub async fn ten_times_the_limit_is_accepted_at_most(world: &dyn World) {
    let handles = [world.store().await, world.store().await, world.store().await];
    let rig = Rig::limited(&handles[0], Some(5)).await;
    let callers = (0..9_u32).map(|caller| {
        let rig = rig.through(&handles[caller as usize % 3]);
        async move {
            let (mut accepted, mut told) = (0, false);
            // Far more rounds than there are units, so that every caller comes to the end.
            for round in 0..200 {
                let later = |item| NewMessage { send_at: Some(from_now(3_600)), ..rig.draft(caller * 10 + item) };
                let drafts: Vec<_> = (0..1 + round % 3).map(later).collect();
                let ids: Vec<MessageId> = drafts.iter().map(|draft| draft.id).collect();
                for (id, outcome) in ids.into_iter().zip(rig.accept(drafts).await) {
                    match outcome {
                        AcceptOutcome::Accepted { .. } => {
                            accepted += 1;
                            assert!(matches!(rig.cancel(id).await, Moved::Done(_)));
                        }
                        AcceptOutcome::QuotaExceeded(quota) => {
                            assert!(quota.used <= 5 && quota.accepted <= 50, "{quota:?}");
                            assert_eq!(quota.remaining, Some(0));
                            told |= quota.accepted == 50;
                        }
                        other => panic!("accepted or over the quota, not {other:?}"),
                    }
                }
            }
            (accepted, told)
        }
    });
    let done = join_all(callers).await;
    assert_eq!(done.iter().map(|(accepted, _)| accepted).sum::<i64>(), 50);
    assert!(done.iter().all(|(_, told)| *told), "every caller was told in the end");
    let quota = rig.quota().await;
    assert_eq!((quota.used, quota.accepted, quota.remaining), (0, 50, Some(0)));
    assert_eq!(rig.usage().await.messages_accepted, 50);
    // Within a request the first get what is left; a higher limit gives more at once, none is no bound.
    assert!(handles[0].set_limit(rig.user, Some(6)).await.expect("a change"));
    let outcomes = rig.accept((0..8).map(|to| rig.draft(to)).collect()).await;
    let accepted = outcomes.iter().filter(|outcome| matches!(outcome, AcceptOutcome::Accepted { .. })).count();
    assert_eq!((accepted, rig.quota().await.accepted), (6, 56));
    for message in rig.list_all(&MessageFilter { status: Some(Status::Accepted), ..MessageFilter::default() }, 20).await
    {
        rig.cancel(message).await;
    }
    let outcomes = rig.accept((0..8).map(|to| rig.draft(to)).collect()).await;
    assert!(outcomes[..4].iter().all(|outcome| matches!(outcome, AcceptOutcome::Accepted { .. })), "{outcomes:?}");
    assert!(
        outcomes[4..]
            .iter()
            .all(|outcome| matches!(outcome, AcceptOutcome::QuotaExceeded(quota) if quota.accepted == 60)),
        "{outcomes:?}"
    );
    for limit in [Some(i64::MAX), None] {
        assert!(handles[0].set_limit(rig.user, limit).await.expect("a change"));
        rig.send(1).await;
    }
}

/// Units that are given back and had not been taken don't make the quota larger: that is a defect, and is told of.
pub async fn a_quota_never_falls_below_nothing(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::limited(&store, Some(5)).await;
    let ids = rig.put_all((0..5).map(|to| rig.draft(to)).collect()).await;
    world.alter("UPDATE quotas SET used = 1").await;
    rig.cancel(ids[0]).await;
    rig.cancel(ids[1]).await;
    assert_eq!(rig.used().await, 0);
    assert_eq!(world.numbers("SELECT short FROM quotas").await, [1]);
    let outgoing = rig.pull(1).await.messages.remove(0);
    assert!(matches!(rig.settle(&outgoing, failed()).await, Settled::Done(_)));
    store.cancel_waiting(rig.user, &CancelFilter::default(), None, Actor::MACHINE).await.expect("a sweep");
    assert_eq!(rig.used().await, 0);
    assert_eq!(world.numbers("SELECT short FROM quotas").await, [4]);
    store.retire(&keep_all()).await.expect("a retirement");
    assert_eq!(world.numbers("SELECT short FROM quotas").await, [0], "told once");
}

/// A message that was sent keeps its unit.
pub async fn a_sent_message_keeps_its_unit(world: &dyn World) {
    let rig = Rig::limited(&world.store().await, Some(1)).await;
    let id = rig.send(1).await;
    rig.attempt(Outcome::Sent).await;
    assert!(matches!(rig.cancel(id).await, Moved::Refused(message) if message.status == Status::Sent));
    rig.store.expire().await.expect("a sweep");
    assert_eq!((rig.used().await, rig.status(id).await), (1, Status::Sent));
}

/// A cancel from several processes at once is done once, and gives one unit back.
pub async fn one_cancel_of_many_is_done(world: &dyn World) {
    let handles = [world.store().await, world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let ids = rig.put_all((0..20).map(|to| rig.draft(to)).collect()).await;
    for (n, id) in ids.into_iter().enumerate() {
        let cancels = (0..6).map(|n| handles[n % 3].cancel(Scope::User(rig.user), id, Actor::MACHINE));
        let done = join_all(cancels).await.into_iter().filter(|moved| matches!(moved, Ok(Moved::Done(_)))).count();
        assert_eq!(done, 1);
        assert_eq!(Ok(rig.used().await), i64::try_from(19 - n));
    }
}

/// Cancel against send: the unit is given back, or the message is sent, never both and never neither.
pub async fn cancel_races_with_the_pull(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let mut sent = 0;
    for round in 0..40_i64 {
        let id = rig.send(1).await;
        let other = rig.through(&handles[1]);
        let (pulled, cancelled) = if round % 2 == 0 {
            tokio::join!(rig.pull(1), other.cancel(id))
        } else {
            let (cancelled, pulled) = tokio::join!(other.cancel(id), rig.pull(1));
            (pulled, cancelled)
        };
        let pulled = pulled.messages.first().cloned();
        assert_eq!(pulled.is_none(), matches!(cancelled, Moved::Done(_)), "{pulled:?} and {cancelled:?}");
        if let Some(outgoing) = pulled {
            assert_eq!(rig.settle(&outgoing, Outcome::Sent).await, Settled::Done(Status::Sent));
            sent += 1;
        }
        assert_eq!(rig.used().await, sent);
    }
    assert_eq!(rig.usage().await.messages_sent, sent);
}

/// Whatever is accepted, cancelled, failed and expired at once, in whatever batches and through whichever process: the
/// limit holds at every moment, and in the end the units taken are those of the messages that keep theirs.
pub async fn random_batches_and_refunds_keep_the_quota(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    /// What one caller does in a round.
    #[derive(Debug, Clone)]
    enum Call {
        Accept { size: u32, stale: bool },
        Cancel(usize),
        Fail(u32),
        Sweep,
    }
    let call = prop_oneof![
        4 => (1..6_u32, prop::bool::weighted(0.2)).prop_map(|(size, stale)| Call::Accept { size, stale }),
        3 => (0..100_usize).prop_map(Call::Cancel),
        1 => (1..4_u32).prop_map(Call::Fail),
        1 => Just(Call::Sweep),
    ];
    let cases = (0..25_i64, prop::collection::vec(prop::collection::vec(call, 1..8), 1..5));
    property(24, &cases, |(limit, rounds)| {
        let handles = &handles;
        async move {
            let rig = Rig::limited(&handles[0], Some(limit)).await;
            let mut known: Vec<MessageId> = Vec::new();
            for (round, calls) in (0..).zip(rounds) {
                let known_now = &known;
                let calls = calls.into_iter().enumerate().map(|(n, call)| {
                    let rig = rig.through(&handles[n % 2]);
                    async move {
                        let mut accepted = Vec::new();
                        match call {
                            Call::Accept { size, stale } => {
                                let expires_at = stale.then(|| from_now(-5));
                                let to = |item: u32| round * 1_000 + u32::try_from(n).unwrap_or(0) * 10 + item;
                                let drafts: Vec<NewMessage> =
                                    (0..size).map(|item| NewMessage { expires_at, ..rig.draft(to(item)) }).collect();
                                let ids: Vec<MessageId> = drafts.iter().map(|draft| draft.id).collect();
                                let outcomes = rig.accept(drafts).await;
                                let good = |outcome: &AcceptOutcome| matches!(outcome, AcceptOutcome::Accepted { .. });
                                accepted.extend(ids.iter().zip(&outcomes).filter(|(_, o)| good(o)).map(|(id, _)| *id));
                            }
                            Call::Cancel(_) if known_now.is_empty() => {}
                            Call::Cancel(place) => drop(rig.cancel(known_now[place % known_now.len()]).await),
                            Call::Fail(places) => {
                                for outgoing in rig.pull(places).await.messages {
                                    assert_eq!(rig.settle(&outgoing, failed()).await, Settled::Done(Status::Failed));
                                }
                            }
                            Call::Sweep => drop(rig.store.expire().await.expect("a sweep")),
                        }
                        let used = rig.used().await;
                        assert!((0..=limit).contains(&used), "{used} units of {limit}");
                        accepted
                    }
                });
                known.extend(join_all(calls).await.into_iter().flatten());
            }
            let mut kept = 0;
            for id in &known {
                kept +=
                    i64::from(!matches!(rig.status(*id).await, Status::Cancelled | Status::Failed | Status::Expired));
            }
            assert_eq!(rig.used().await, kept);
            assert_eq!(Ok(rig.usage().await.messages_accepted), i64::try_from(known.len()));
        }
    });
}

/// Requests are counted by user and day, over all processes.
pub async fn requests_are_counted(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    let other = Rig::new(&handles[0]).await;
    let counts = (0..20_usize).map(|n| {
        let shard = SHARD + i64::try_from(n % 3).unwrap_or(0);
        let requests = [(rig.user, 2), (other.user, 1)];
        let store = &handles[n % 2];
        async move { store.count_requests(shard, &requests).await }
    });
    assert!(join_all(counts).await.iter().all(Result::is_ok));
    handles[0].count_requests(SHARD, &[]).await.expect("nothing to count");
    assert_eq!((rig.usage().await.api_requests, other.usage().await.api_requests), (40, 20));
    rig.send(1).await;
    assert_eq!(rig.usage().await.messages_accepted, 1);
}

/// A unit that comes back after midnight goes to the day on which it was taken.
pub async fn a_unit_goes_back_to_its_day(world: &dyn World) {
    let rig = Rig::limited(&world.store().await, Some(3)).await;
    let (first, second) = (rig.send(1).await, rig.send(2).await);
    world.alter("UPDATE messages SET quota_day = quota_day - 1").await;
    world.alter("UPDATE quotas SET day = day - 1").await;
    assert_eq!(rig.used().await, 0, "a new day begins");
    rig.send(3).await;
    assert!(matches!(rig.cancel(first).await, Moved::Done(_)));
    assert_eq!(rig.used().await, 1, "today's are today's");
    assert_eq!(world.numbers("SELECT used FROM quotas ORDER BY day").await, [1, 1]);
    let claimed = rig.pull(10).await.messages;
    let claimed = claimed.iter().find(|message| message.id == second).expect("it can be sent");
    assert_eq!(rig.settle(claimed, failed()).await, Settled::Done(Status::Failed));
    assert_eq!(world.numbers("SELECT used FROM quotas ORDER BY day").await, [0, 1]);
    assert_eq!(world.numbers("SELECT accepted FROM quotas ORDER BY day").await, [2, 1]);
    let counts = world.numbers("SELECT failed FROM usage_stats WHERE failed > 0 ORDER BY day").await;
    let days = world.numbers("SELECT day FROM usage_stats WHERE failed > 0").await;
    assert_eq!(
        (counts, days),
        (vec![1], world.numbers("SELECT min(day) FROM quotas").await),
        "by the day of acceptance"
    );
}
