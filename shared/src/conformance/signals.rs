//! What all signals promise. Each function is one promise; [`signals_suite!`](crate::signals_suite) makes a test of each.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::service::{QUIET, SOON, Setup, eventually, in_time};
use crate::ids::{MessageId, SessionId, UserId};
use crate::ports::signals::{Signal, Signals};

/// A module with a test for each promise of signals. `$setup` gives an `Option<Setup<dyn Signals>>`.
#[macro_export]
macro_rules! signals_suite {
    ($module:ident, $setup:expr) => {
        mod $module {
            use super::*;

            $crate::promises! { signals, $setup;
                every_subscriber_hears_every_signal,
                own_signals_are_heard_at_once_and_once,
                nobody_hears_what_came_before,
                deployments_are_apart,
                a_slow_listener_loses_the_oldest,
                a_burst_reaches_other_processes,
                what_waits_is_sent_on_closing,
                without_a_service_nothing_blocks,
                it_comes_back_after_a_cut,
                it_comes_back_after_a_freeze,
            }
        }
    };
}

type SignalsSetup = Setup<dyn Signals>;
type Ear = Receiver<Arc<Signal>>;

async fn connected(signals: &Arc<dyn Signals>) {
    eventually("signals reach other processes", async || signals.is_connected()).await;
}

/// Two handles, as two processes have them, that hear each other.
async fn two(setup: &SignalsSetup) -> (Arc<dyn Signals>, Arc<dyn Signals>) {
    let (one, other) = (setup.open(), setup.open());
    connected(&one).await;
    connected(&other).await;
    (one, other)
}

fn every_kind() -> Vec<Signal> {
    vec![
        Signal::Messages((0..3).map(|_| MessageId::generate()).collect()),
        Signal::Session(SessionId::generate()),
        Signal::SessionFree,
        Signal::User(UserId(42)),
    ]
}

/// The next signal but [`Signal::Missed`].
async fn hear(ear: &mut Ear) -> Signal {
    loop {
        let signal = in_time(SOON, "a signal is heard", ear.recv()).await.expect("it goes on");
        if *signal != Signal::Missed {
            return Signal::clone(&signal);
        }
    }
}

async fn hears(ear: &mut Ear, wanted: &Signal) {
    while hear(ear).await != *wanted {}
}

async fn hears_missed(ear: &mut Ear) {
    let missed = async { while *ear.recv().await.expect("it goes on") != Signal::Missed {} };
    in_time(SOON, "it is told that signals may have been missed", missed).await;
}

async fn hears_nothing(ear: &mut Ear) {
    tokio::time::sleep(QUIET).await;
    loop {
        match ear.try_recv() {
            Ok(signal) => assert_eq!(*signal, Signal::Missed, "nothing was signalled"),
            Err(TryRecvError::Empty) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Every subscriber of every process hears every kind of signal.
pub async fn every_subscriber_hears_every_signal(setup: &SignalsSetup) {
    let (here, there) = two(setup).await;
    let mut ears = [here.subscribe(), here.subscribe(), there.subscribe(), there.subscribe()];
    for signal in every_kind() {
        here.publish(signal.clone());
        for ear in &mut ears {
            hears(ear, &signal).await;
        }
    }
    there.publish(Signal::SessionFree);
    for ear in &mut ears {
        hears(ear, &Signal::SessionFree).await;
    }
    here.close().await;
    there.close().await;
}

/// A process hears its own signals without a round through any service, and not a second time.
pub async fn own_signals_are_heard_at_once_and_once(setup: &SignalsSetup) {
    let signals = setup.open();
    connected(&signals).await;
    let mut ear = signals.subscribe();
    for signal in every_kind() {
        signals.publish(signal.clone());
        loop {
            let heard = ear.try_recv().expect("heard at once");
            if *heard != Signal::Missed {
                assert_eq!(*heard, signal);
                break;
            }
        }
    }
    hears_nothing(&mut ear).await;
    signals.close().await;
}

/// A subscription begins now.
pub async fn nobody_hears_what_came_before(setup: &SignalsSetup) {
    let signals = setup.open();
    connected(&signals).await;
    signals.publish(Signal::SessionFree);
    let mut late = signals.subscribe();
    hears_nothing(&mut late).await;
    signals.publish(Signal::User(UserId(1)));
    assert_eq!(hear(&mut late).await, Signal::User(UserId(1)));
    signals.close().await;
}

/// Two deployments on one service don't hear each other.
pub async fn deployments_are_apart(setup: &SignalsSetup) {
    let Some(elsewhere) = setup.open_elsewhere() else { return };
    let (here, there) = two(setup).await;
    connected(&elsewhere).await;
    let (mut ear, mut foreign) = (there.subscribe(), elsewhere.subscribe());
    here.publish(Signal::SessionFree);
    hears(&mut ear, &Signal::SessionFree).await;
    hears_nothing(&mut foreign).await;
    here.close().await;
    there.close().await;
    elsewhere.close().await;
}

/// Whoever doesn't listen for long is told that it lost some, and hears the newest; publishing never waits for it.
pub async fn a_slow_listener_loses_the_oldest(setup: &SignalsSetup) {
    let signals = setup.open();
    let mut slow = signals.subscribe();
    let count = 20_000;
    for id in 1..=count {
        signals.publish(Signal::User(UserId(id)));
    }
    assert!(matches!(slow.recv().await, Err(RecvError::Lagged(_))), "it was behind");
    let mut heard = 0;
    let mut newest = None;
    while let Ok(signal) = slow.try_recv() {
        heard += 1;
        if let Signal::User(id) = *signal {
            newest = Some(id);
        }
    }
    assert_eq!(newest, Some(UserId(count)));
    assert!(heard >= 1_024, "{heard} were kept");
    signals.close().await;
}

/// Many changes at once come through, in few signals or many; what is lost is told.
pub async fn a_burst_reaches_other_processes(setup: &SignalsSetup) {
    let (here, there) = two(setup).await;
    let mut ear = there.subscribe();
    let mut awaited: HashSet<_> = (0..3_000).map(|_| MessageId::generate()).collect();
    for id in &awaited {
        here.publish(Signal::Messages(vec![*id]));
    }
    while !awaited.is_empty() {
        if let Signal::Messages(ids) = hear(&mut ear).await {
            ids.iter().for_each(|id| {
                awaited.remove(id);
            });
        }
    }
    here.close().await;
    there.close().await;
}

/// The last signals before closing are sent.
pub async fn what_waits_is_sent_on_closing(setup: &SignalsSetup) {
    let (here, there) = two(setup).await;
    let mut ear = there.subscribe();
    let last = Signal::Session(SessionId::generate());
    here.publish(Signal::SessionFree);
    here.publish(last.clone());
    in_time(Duration::from_secs(3), "closing", here.close()).await;
    hears(&mut ear, &last).await;
    there.close().await;
}

/// With no service at all, nothing hangs and nothing grows, and this process hears itself.
pub async fn without_a_service_nothing_blocks(setup: &SignalsSetup) {
    let Some((proxy, url)) = setup.cuttable().await else { return };
    for frozen in [false, true] {
        if frozen {
            proxy.freeze()
        } else {
            proxy.refuse()
        }
        let signals = setup.open_at(&url);
        let begun = Instant::now();
        for _ in 0..100_000 {
            signals.publish(Signal::SessionFree);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "publishing took {:?}", begun.elapsed());
        assert!(!signals.is_connected());
        let mut ear = signals.subscribe();
        signals.publish(Signal::User(UserId(7)));
        assert_eq!(hear(&mut ear).await, Signal::User(UserId(7)));
        in_time(Duration::from_secs(3), "closing", signals.close()).await;
    }
}

/// A lost connection is noticed and made anew; listeners are told to look again, then signals come and go as before.
pub async fn it_comes_back_after_a_cut(setup: &SignalsSetup) {
    let Some((proxy, url)) = setup.cuttable().await else { return };
    let (cut, steady) = (setup.open_at(&url), setup.open());
    connected(&cut).await;
    connected(&steady).await;
    for round in 0..3 {
        let mut ear = cut.subscribe();
        proxy.refuse();
        eventually("the cut is noticed", async || !cut.is_connected()).await;
        steady.publish(Signal::SessionFree);
        tokio::time::sleep(Duration::from_millis(300) * round).await;
        proxy.pass();
        hears_missed(&mut ear).await;
        both_ways(&cut, &steady).await;
    }
    cut.close().await;
    steady.close().await;
}

/// A service that stays silent is noticed, too, in spite of its open connections.
pub async fn it_comes_back_after_a_freeze(setup: &SignalsSetup) {
    let Some((proxy, url)) = setup.cuttable().await else { return };
    let (frozen, steady) = (setup.open_at(&url), setup.open());
    connected(&frozen).await;
    connected(&steady).await;
    let mut ear = frozen.subscribe();
    proxy.freeze();
    eventually("the silence is noticed", async || !frozen.is_connected()).await;
    proxy.pass();
    hears_missed(&mut ear).await;
    both_ways(&frozen, &steady).await;
    frozen.close().await;
    steady.close().await;
}

async fn both_ways(one: &Arc<dyn Signals>, other: &Arc<dyn Signals>) {
    connected(one).await;
    connected(other).await;
    for (from, to) in [(one, other), (other, one)] {
        let mut ear = to.subscribe();
        let signal = Signal::Session(SessionId::generate());
        from.publish(signal.clone());
        hears(&mut ear, &signal).await;
    }
}
