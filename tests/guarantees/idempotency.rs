//! One key, one message: at any concurrency, on any process, whatever else is in the same transaction.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use sanasr_shared::ids::MessageId;
use sanasr_shared::message::Status;
use serde_json::{Value, json};

use crate::harness::files::Parts;
use crate::harness::wait::seconds;
use crate::harness::{Client, Message, Mode, System, both_modes};

both_modes!(
    a_key_makes_one_message_at_any_concurrency,
    a_batch_under_a_key_tries_what_was_refused_again,
    a_key_covers_a_file_with_its_name_and_type,
);

fn text(text: &str) -> Value {
    json!({ "to": "+15553001001", "type": "text", "text": text })
}

async fn a_key_makes_one_message_at_any_concurrency(mode: Mode) {
    let system = System::with(mode).apis(3).start().await;
    let client = system.client();
    let used = client.quota().await.used;
    for round in 0..5 {
        // Every visible character is fine in a key.
        let key = format!("order-{round}/!\"#$%&'()*+,-.:;<=>?@[]^_`{{|}}~");
        let sends = (0..30).map(|n| {
            let (client, key) = (system.client_at(n), key.clone());
            tokio::spawn(async move { client.send_once(&key, &text("once")).await })
        });
        let replies: Vec<_> = join_all(sends).await.into_iter().map(|r| r.expect("no panic").expect(202)).collect();
        let ids: BTreeSet<MessageId> = replies.iter().map(|r| r.data::<Message>().id).collect();
        assert_eq!(ids.len(), 1, "one message");
        assert_eq!(replies.iter().filter(|r| !r.is_replayed()).count(), 1, "made once, replayed 29 times");
    }
    assert_eq!(client.quota().await.used, used + 5, "one unit each");

    // Another body, or another kind of request, under a used key.
    let first = client.send_once("k", &text("first")).await.expect(202).data::<Message>();
    let other = client.send_once("k", &text("second")).await.expect(422);
    assert_eq!(other.code(), "idempotency_key_reused");
    let batch = json!({ "messages": [text("first")] });
    let other = client.attempt(reqwest::Method::POST, "/messages/batch", Some("k"), Some(&batch));
    assert_eq!(other.await.expect("an answer").expect(422).code(), "idempotency_key_reused");
    // The same body written in another order is the same body; the answer is the message as it is now.
    client.wait_status(first.id, Status::Read, seconds(20)).await;
    let again = json!({ "text": "first", "type": "text", "to": "+15553001001" });
    let again = client.send_once("k", &again).await.expect(202);
    assert!(again.is_replayed());
    assert_eq!((again.data::<Message>().id, again.data::<Message>().status), (first.id, Status::Read));
    // A refused request leaves no trace under its key.
    client.send_once("fresh", &json!({ "to": "nobody", "type": "text", "text": "x" })).await.expect(422);
    assert!(!client.send_once("fresh", &text("now right")).await.expect(202).is_replayed());
    // A key belongs to its user and to its own message: all of them went out, once.
    client.wait_count("", Status::Read, 7, seconds(30)).await;
    assert_eq!(system.ledger.read().shown().len(), 7);
}

async fn a_batch_under_a_key_tries_what_was_refused_again(mode: Mode) {
    let system = System::with(mode).apis(2).user("limited", 3).start().await;
    let client = system.client_of("limited", 0);
    client.pause("default").await;
    let items: Vec<_> = (0..5).map(|n| text(&n.to_string())).collect();
    let first = client.batch(Some("all"), &items).await;
    let accepted = |answers: &[Result<Message, Value>]| -> Vec<Option<MessageId>> {
        answers.iter().map(|a| a.as_ref().ok().map(|m| m.id)).collect()
    };
    let before = accepted(&first);
    assert_eq!(before.iter().flatten().count(), 3, "{first:?}");
    // Two more fit once two are cancelled; what was accepted stays what it was.
    for id in before.iter().flatten().take(2) {
        client.cancel(*id).await.expect(200);
    }
    let second = system.client_of("limited", 1).batch(Some("all"), &items).await;
    let after = accepted(&second);
    assert_eq!(after.iter().flatten().count(), 5, "{second:?}");
    for (before, after) in before.iter().zip(&after) {
        assert!(before.is_none() || before == after, "the same message for the same item");
    }
    assert_eq!(accepted(&client.batch(Some("all"), &items).await), after);
    assert_eq!(client.quota().await.used, 3);
}

async fn a_key_covers_a_file_with_its_name_and_type(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let client = system.client();
    let send = async |disposition: &str, headers: &str, bytes: &[u8]| {
        let parts = Parts::default().text("recipient", "+15553001001").text("media_type", "document");
        let body = parts.part(&format!("name=\"file\"{disposition}"), headers, bytes).end();
        let headers: [(&str, &[u8]); 2] = [("content-type", Parts::TYPE), ("idempotency-key", b"k")];
        client.raw(reqwest::Method::POST, "/messages/send-media", &headers, body).await.expect("an answer")
    };
    let (csv, plain) = ("Content-Type: text/csv\r\n", "Content-Type: text/plain\r\n");
    let first = send("; filename=\"a.csv\"", csv, b"a,b").await.expect(202);
    // Another spelling of the same name is the same request.
    for same in ["; filename=\"a.csv\"", "; filename*=utf-8''a.csv", "; filename=\"C:\\a.csv\""] {
        let again = send(same, csv, b"a,b").await.expect(202);
        assert!(again.is_replayed() && again.body["data"]["id"] == first.body["data"]["id"], "{}", again.body);
    }
    for (disposition, headers, bytes) in [
        ("; filename=\"b.csv\"", csv, &b"a,b"[..]),
        ("", csv, b"a,b"),
        ("; filename=\"a.csv\"", plain, b"a,b"),
        ("; filename=\"a.csv\"", "", b"a,b"),
        ("; filename=\"a.csv\"", csv, b"a,c"),
    ] {
        let other = send(disposition, headers, bytes).await.expect(422);
        assert_eq!(other.code(), "idempotency_key_reused", "{disposition} {headers}");
    }
}

/// One (user, key) of the test below: its batch, and what the three processes answered.
type Answers = BTreeMap<(usize, usize), Vec<Vec<Result<Message, Value>>>>;

/// Three processes share users and keys in opposite orders, and the database refuses one item of each batch: what the
/// obvious locking answers with deadlocks, and a batch that fails as a whole would take good items down with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opposite_orders_and_poisoned_items_harm_nobody() {
    const USERS: usize = 3;
    const KEYS: usize = 40;
    const SEED: u64 = 20_261_124;
    let mut builder = System::with(Mode::Distributed).apis(3).unconnected();
    for user in 0..USERS {
        builder = builder.user(&format!("user{user}"), 100_000);
    }
    let system = builder.start().await;
    let database = system.database().await;
    for statement in [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'poisoned' USING ERRCODE = 'character_not_in_repertoire'; END $$",
        "CREATE TRIGGER poisoned BEFORE INSERT ON messages FOR EACH ROW
         WHEN (NEW.content LIKE '%POISON%') EXECUTE FUNCTION refuse()",
    ] {
        sqlx::query(statement).execute(&database).await.expect("a trigger");
    }
    println!("seed {SEED}");
    let orders: [Vec<(usize, usize)>; 3] = {
        let ascending: Vec<_> = (0..KEYS).flat_map(|key| (0..USERS).map(move |user| (user, key))).collect();
        let descending = ascending.iter().rev().copied().collect();
        let mut shuffled = ascending.clone();
        shuffled.shuffle(&mut StdRng::seed_from_u64(SEED));
        [ascending, descending, shuffled]
    };

    let processes = orders.into_iter().enumerate().map(|(api, order)| {
        let clients: Vec<Client> = (0..USERS).map(|user| system.client_of(&format!("user{user}"), api)).collect();
        tokio::spawn(async move {
            futures_util::stream::iter(order)
                .map(|(user, key)| {
                    let client = clients[user].clone();
                    async move {
                        let items = [text("good"), text("POISON"), text("good too")];
                        ((user, key), client.batch(Some(&format!("key{key}")), &items).await)
                    }
                })
                .buffer_unordered(16)
                .collect::<Vec<_>>()
                .await
        })
    });
    let mut answers = Answers::new();
    for process in join_all(processes).await {
        for (request, items) in process.expect("no panic") {
            answers.entry(request).or_default().push(items);
        }
    }

    assert_eq!(answers.len(), USERS * KEYS);
    for (request, of_each) in &answers {
        assert_eq!(of_each.len(), 3);
        for item in [0, 2] {
            let ids: BTreeSet<_> = of_each
                .iter()
                .map(|items| items[item].as_ref().map(|m| m.id).unwrap_or_else(|e| panic!("{request:?}: {e}")))
                .collect();
            assert_eq!(ids.len(), 1, "{request:?}: one message for item {item}, on every process");
        }
        for items in of_each {
            let problem = items[1].as_ref().expect_err("the poisoned item is refused");
            assert!(!problem.to_string().to_lowercase().contains("deadlock"), "{problem}");
        }
    }
    for user in 0..USERS {
        let client = system.client_of(&format!("user{user}"), user);
        assert_eq!(client.list("").await.len(), KEYS * 2, "each good item of each key, once");
        assert_eq!(client.quota().await.used, i64::try_from(KEYS * 2).expect("a small number"));
    }
    let orphans: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM idempotency_keys k WHERE message_id IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = k.message_id)",
    )
    .fetch_one(&database)
    .await
    .expect("a count");
    assert_eq!(orphans, 0, "keys without their message");
}
