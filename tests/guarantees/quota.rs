//! The quota is exact: with any number of processes and clients, to the unit, and what was never sent is given back once.

use futures_util::future::join_all;
use sanasr_shared::message::Status;
use sanasr_shared::time::{DAY_MS, Time};
use serde_json::{Value, json};

use crate::harness::wait::seconds;
use crate::harness::{Client, Mode, System, both_modes};

both_modes!(forty_clients_get_exactly_the_limit, what_was_never_sent_is_given_back_once);

const LIMIT: i64 = 500;

/// Waits if midnight is near: the quota begins anew then.
async fn away_from_midnight() {
    let left = DAY_MS - Time::now().0.rem_euclid(DAY_MS);
    if left < 120_000 {
        tokio::time::sleep(std::time::Duration::from_millis(left.unsigned_abs() + 100)).await;
    }
}

fn text(n: usize) -> Value {
    json!({ "to": format!("+1555300{:04}", 1000 + n % 50), "type": "text", "text": n.to_string() })
}

/// Tries to send `count` messages, singly or in batches of seven. Gives how many were accepted.
async fn try_all(client: Client, app: usize, count: usize) -> i64 {
    let mut accepted = 0;
    let mut tried = 0;
    while tried < count {
        if app.is_multiple_of(2) {
            let reply = client.send(&text(tried)).await;
            match reply.status {
                202 => accepted += 1,
                _ => check_refusal(reply.status, &reply.body, reply.header("retry-after")),
            }
            tried += 1;
        } else {
            let items: Vec<_> = (tried..count.min(tried + 7)).map(text).collect();
            for item in client.batch(None, &items).await {
                match item {
                    Ok(_) => accepted += 1,
                    Err(problem) => assert_eq!(problem["code"], "quota_exceeded", "{problem}"),
                }
            }
            tried += items.len();
        }
    }
    accepted
}

fn check_refusal(status: u16, body: &Value, retry_after: &str) {
    assert_eq!((status, &body["code"]), (429, &json!("quota_exceeded")), "{body}");
    let wait: i64 = retry_after.parse().unwrap_or_else(|_| panic!("Retry-After: {retry_after:?}"));
    assert!((1..=86_400).contains(&wait), "until midnight: {wait} s");
    let text = body.to_string();
    assert!(text.contains(&LIMIT.to_string()) && text.contains("T00:00:00.000Z"), "limit and reset: {text}");
}

async fn forty_clients_get_exactly_the_limit(mode: Mode) {
    away_from_midnight().await;
    let system = System::with(mode).apis(3).user("limited", LIMIT).start().await;
    let client = system.client_of("limited", 0);
    client.connect("default").await;
    let apps = (0..40).map(|app| tokio::spawn(try_all(system.client_of("limited", app), app, 20)));
    let accepted: i64 = join_all(apps).await.into_iter().map(|app| app.expect("no panic")).sum();
    assert_eq!(accepted, LIMIT, "answered with 202");
    let quota = client.quota().await;
    assert_eq!((quota.limit, quota.used, quota.remaining), (Some(LIMIT), LIMIT, Some(0)));
    let count = usize::try_from(LIMIT).expect("a small number");
    assert_eq!(client.list("").await.len(), count, "stored");
    // Another user of the same system isn't concerned.
    let other = system.client().text("default", "+15553001001", "mine").await;
    system.client().wait_status(other.id, Status::Read, seconds(30)).await;
    client.wait_count("", Status::Read, count, seconds(60)).await;
    assert_eq!(system.ledger.read().shown().len(), count + 1);
    if mode == Mode::Distributed {
        let rows: (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM messages m WHERE m.user_id = u.id), q.used, q.accepted
             FROM users u JOIN quotas q ON q.user_id = u.id WHERE u.username = 'limited'",
        )
        .fetch_one(&system.database().await)
        .await
        .expect("the user's rows");
        assert_eq!(rows, (LIMIT, LIMIT, LIMIT), "messages, used, accepted");
    }
}

async fn what_was_never_sent_is_given_back_once(mode: Mode) {
    away_from_midnight().await;
    let system = System::with(mode).apis(3).user("limited", 20).start().await;
    let client = system.client_of("limited", 0);
    client.connect("default").await;
    client.pause("default").await;

    // Cancelled while it waits, by several at once.
    let mut waiting = Vec::new();
    for n in 0..20 {
        waiting.push(client.send(&text(n)).await.expect(202).data::<crate::harness::Message>());
    }
    assert_eq!(client.send(&text(0)).await.status, 429);
    let cancels = waiting[..8].iter().flat_map(|m| (0..3).map(|api| (system.client_of("limited", api), m.id)));
    let cancels = cancels.map(|(client, id)| async move { client.cancel(id).await.status });
    let answers = join_all(cancels).await;
    for (n, of_one) in answers.chunks(3).enumerate() {
        assert!(of_one.contains(&200), "message {n}: {of_one:?}");
        assert!(of_one.iter().all(|status| [200, 409].contains(status)), "message {n}: {of_one:?}");
    }
    assert_eq!(client.quota().await.used, 12, "eight were given back, once");

    // Expired while it waits.
    let mut expiring = text(1);
    expiring["expires_at"] = json!(Time::now().plus(seconds(2)).to_string());
    let expiring: crate::harness::Message = client.send(&expiring).await.expect(202).data();
    assert_eq!(client.quota().await.used, 13);
    client.wait_status(expiring.id, Status::Expired, seconds(20)).await;
    assert_eq!(client.quota().await.used, 12, "an expired one was given back");

    // Refused by WhatsApp.
    client.resume("default").await;
    client.wait_count("", Status::Read, 12, seconds(30)).await;
    let refused = client.text("default", "+15553010001", "to nobody").await;
    client.wait_status(refused.id, Status::Failed, seconds(20)).await;
    assert_eq!(client.quota().await.used, 12, "a refused one was given back");

    // What is left can be used, to the unit.
    let accepted = join_all((0..12).map(|n| {
        let client = system.client_of("limited", n);
        async move { client.send(&text(n)).await.status }
    }))
    .await;
    assert_eq!(accepted.iter().filter(|s| **s == 202).count(), 8, "{accepted:?}");
    assert_eq!(client.quota().await.used, 20);
}
