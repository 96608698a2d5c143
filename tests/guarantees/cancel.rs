//! Cancelling races with sending: the unit comes back, or the message is sent; never both, never neither.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::Status;
use serde_json::json;

use crate::harness::wait::seconds;
use crate::harness::{Message, Mode, System, both_modes, eventually};

both_modes!(a_cancel_that_races_with_the_send_has_one_outcome, cancelling_says_what_it_did);

async fn a_cancel_that_races_with_the_send_has_one_outcome(mode: Mode) {
    const MESSAGES: usize = 300;
    const SEED: u64 = 7;
    println!("seed {SEED}");
    let mut random = StdRng::seed_from_u64(SEED);
    let system = System::with(mode).apis(2).workers(2).start().await;
    let client = system.client();
    let used_before = client.quota().await.used;
    let races = (0..MESSAGES).map(|n| {
        let (client, other) = (system.client_at(n), system.client_at(n + 1));
        // From before the claim to after the send, whatever this machine needs for it.
        let pause = Duration::from_micros(random.random_range(0..20_000));
        let start = Duration::from_millis(random.random_range(0..1_000));
        tokio::spawn(async move {
            tokio::time::sleep(start).await;
            let message = client.text("default", &format!("+1555300{:04}", 1000 + n), "race").await;
            tokio::time::sleep(pause).await;
            let reply = other.cancel(message.id).await;
            (message, reply)
        })
    });
    let mut cancelled = BTreeSet::new();
    let mut sent = BTreeSet::new();
    for race in join_all(races).await {
        let (message, reply) = race.expect("no panic");
        match reply.status {
            200 => assert!(cancelled.insert(message.whatsapp_id)),
            409 => {
                assert_eq!(reply.code(), "conflict");
                assert!(sent.insert(message.whatsapp_id));
            }
            other => panic!("{other}: {}", reply.body),
        }
    }
    println!("{} cancelled, {} sent", cancelled.len(), sent.len());
    let all = client.wait_count("", Status::Read, sent.len(), seconds(60)).await;
    let of = |status| all.iter().filter(|m| m.status == status).map(|m| m.whatsapp_id.clone()).collect::<BTreeSet<_>>();
    assert_eq!(of(Status::Read), sent, "what couldn't be cancelled was sent");
    assert_eq!(of(Status::Cancelled), cancelled, "what was cancelled stays so");
    let seen = system.ledger.read();
    let arrived: BTreeSet<_> = seen.0.iter().map(|a| a.whatsapp_id.clone()).collect();
    assert_eq!(arrived, sent, "WhatsApp saw what was sent, and nothing that was cancelled");
    assert_eq!(seen.repeated().len(), 0);
    let used = client.quota().await.used - used_before;
    assert_eq!(used, i64::try_from(sent.len()).expect("a small number"), "a unit for each that was sent");
}

async fn cancelling_says_what_it_did(mode: Mode) {
    let system = System::with(mode).user("other", 10).start().await;
    let client = system.client();
    client.pause("default").await;
    // While it waits, and while it is scheduled.
    let waiting = client.text("default", "+15553001001", "waits").await;
    let send_at = sanasr_shared::time::Time::now().plus(seconds(3600)).to_string();
    let body = json!({ "to": "+15553001001", "type": "text", "text": "later", "send_at": send_at });
    let scheduled: Message = client.send(&body).await.expect(202).data();
    assert_eq!(scheduled.status, Status::Scheduled);
    for id in [waiting.id, scheduled.id] {
        let cancelled: Message = client.cancel(id).await.expect(200).data();
        assert_eq!(cancelled.status, Status::Cancelled);
    }
    assert_eq!(client.quota().await.used, 0);

    // What is held up by a cancelled one goes on.
    let first = client.text("default", "+15553001002", "first").await;
    let second = client.text("default", "+15553001002", "second").await;
    client.cancel(first.id).await.expect(200);
    client.resume("default").await;
    client.wait_status(second.id, Status::Read, seconds(20)).await;

    // What was sent, what may have been, what isn't there, what is somebody else's.
    assert_eq!(client.cancel(second.id).await.expect(409).code(), "conflict");
    let in_doubt = client.text("default", "+15553010008", "in doubt").await;
    eventually(seconds(10), "WhatsApp has it", async || {
        (!system.ledger.read().of(&in_doubt.whatsapp_id).is_empty()).then_some(())
    })
    .await;
    assert_eq!(client.cancel(in_doubt.id).await.expect(409).code(), "conflict");
    assert_eq!(client.cancel(MessageId::generate()).await.expect(404).code(), "not_found");
    assert_eq!(system.client_of("other", 0).cancel(second.id).await.expect(404).code(), "not_found");
    assert_eq!(client.quota().await.used, 2);
}
