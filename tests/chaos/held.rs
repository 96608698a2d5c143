//! What waits must not hold up what doesn't: thousands of messages behind one recipient, a hundred held as restricted.

use std::time::{Duration, Instant};

use sanasr_shared::message::{BlockedBy, Status};

use super::{ordinary, send_all, special, text, time_to_whatsapp, wait_seen};
use crate::harness::wait::seconds;
use crate::harness::{Mode, System, both_modes, eventually};

both_modes!(what_is_held_up_costs_the_others_nothing);

const HELD: usize = 5_000;
const RESTRICTED: usize = 100;
const OTHERS: usize = 500;
/// The others' time; from then on the held-up recipient may be reached.
const UNREACHABLE: Duration = Duration::from_secs(10);
/// A new message's time to WhatsApp, in a debug build on a busy machine.
const NEW_MAX: Duration = Duration::from_secs(3);

async fn what_is_held_up_costs_the_others_nothing(mode: Mode) {
    let system = System::start(mode).await;
    let client = system.client();
    let held_up = special("0009", 0);
    client.pause("default").await;
    let mut held = Vec::new();
    for batch in 0..HELD / 1000 {
        let items: Vec<_> =
            (batch * 1000..(batch + 1) * 1000).map(|n| text("default", &held_up, &n.to_string())).collect();
        held.extend(send_all(&client, &items).await);
    }
    let items: Vec<_> = (0..RESTRICTED).map(|n| text("default", &special("0007", n), "restricted")).collect();
    let restricted = send_all(&client, &items).await;
    let items: Vec<_> = (0..OTHERS).map(|n| text("default", &ordinary(n), "ordinary")).collect();
    let others = send_all(&client, &items).await;

    let resumed = Instant::now();
    client.resume("default").await;
    wait_seen(&system, &others, seconds(30)).await;
    let took = resumed.elapsed();
    println!("{OTHERS} others after {took:?}");
    assert!(took < UNREACHABLE, "{OTHERS} others took {took:?}");
    assert_eq!(system.ledger.read().to(&held_up).len(), 0, "the first recipient is still held up");
    let last = client.message(held[HELD - 1].id).await;
    assert_eq!((last.status, last.blocked_by), (Status::Accepted, Some(BlockedBy::EarlierMessage)));

    // New ones, while thousands wait and then while they go out.
    let mut slowest = Duration::ZERO;
    for n in 0..10 {
        let (_, took) = time_to_whatsapp(&system, &client, &ordinary(OTHERS + n)).await;
        assert!(took < NEW_MAX, "a new message took {took:?}");
        slowest = slowest.max(took);
    }
    println!("the slowest of ten new ones: {slowest:?}");

    let started = Instant::now();
    eventually(seconds(120), "the held-up recipient's messages follow", async || {
        (system.ledger.read().to(&held_up).len() >= HELD).then_some(())
    })
    .await;
    println!("{HELD} behind one recipient after {:?} more", started.elapsed());
    client.wait_status(held[HELD - 1].id, Status::Read, seconds(30)).await;
    let seen = system.ledger.read();
    let numbers: Vec<usize> =
        seen.to(&held_up).iter().filter_map(|a| a.text.as_deref()).map(|t| t.parse().expect("a number")).collect();
    assert_eq!(numbers, (0..HELD).collect::<Vec<_>>(), "in the order of acceptance, each once");
    for message in [&restricted[0], &restricted[RESTRICTED - 1]] {
        let message = client.message(message.id).await;
        assert_eq!((message.status, message.blocked_by), (Status::Accepted, Some(BlockedBy::Restricted)));
    }
    assert_eq!(seen.repeated().len(), 0);
}
