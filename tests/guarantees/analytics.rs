//! What admins see of what users did: right to the unit, whatever happened to the messages.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use sanasr_shared::message::Status;
use sanasr_shared::time::{DAY_MS, Time};
use serde_json::{Value, json};

use crate::harness::wait::seconds;
use crate::harness::{Client, Message, Mode, System, both_modes, eventually};

both_modes!(
    usage_stats_are_right_to_the_unit,
    each_request_is_in_the_api_log,
    the_api_log_can_be_left_out,
    lists_go_page_by_page,
);

/// Usage goes by the day: a test that midnight might cut in two begins after it.
async fn away_from_midnight() {
    let left = DAY_MS - Time::now().0.rem_euclid(DAY_MS);
    if left < 120_000 {
        tokio::time::sleep(std::time::Duration::from_millis(left.unsigned_abs() + 100)).await;
    }
}

/// All of a list, page by page.
async fn list(admin: &Client, path: &str, query: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let reply = admin.get(&format!("{path}?{query}{cursor}")).await.expect(200);
        all.extend(reply.data::<Vec<Value>>());
        match reply.body["pagination"]["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

const USAGE: &str = "/analytics/usage-stats";
const LOGS: &str = "/analytics/api-logs";

async fn system(mode: Mode) -> System {
    away_from_midnight().await;
    let system = System::with(mode).apis(2).workers(2).user("limited", 40).start().await;
    system.client_of("limited", 0).connect("default").await;
    system
}

async fn usage_stats_are_right_to_the_unit(mode: Mode) {
    let system = system(mode).await;
    let (client, limited) = (system.client(), system.client_of("limited", 1));
    // Of each ending of the simulator's table that comes to an end soon, files among them, and some cancelled.
    let message = |n: usize| {
        let ending = ["1001", "0001", "0002", "0005", "0006", "1002"][n % 6];
        let to = format!("+1555{:03}{ending}", 500 + n / 6);
        if n.is_multiple_of(4) {
            json!({ "to": to, "type": "image", "media": { "base64": PIXEL, "mime_type": "image/png" } })
        } else {
            json!({ "to": to, "type": "text", "text": "counted" })
        }
    };
    let (mine, theirs) = tokio::join!(
        join_all((0..120).map(|n| {
            let client = system.client_at(n);
            async move { client.send(&message(n)).await.status }
        })),
        join_all((0..60).map(|n| {
            let client = system.client_of("limited", n);
            async move { client.send(&message(n)).await.status }
        })),
    );
    assert!(mine.iter().all(|status| *status == 202), "{mine:?}");
    assert!(theirs.iter().all(|status| [202, 429].contains(status)), "{theirs:?}");
    client.pause("default").await;
    for n in 0..5 {
        let waiting = client.text("default", &format!("+15556001{n:03}"), "taken back").await;
        client.cancel(waiting.id).await.expect(200);
    }
    let ended = |message: &Message| match message.to.get(8..) {
        Some("0001") => message.status == Status::Failed,
        Some("0005") => message.status == Status::Sent,
        _ => [Status::Read, Status::Cancelled].contains(&message.status),
    };
    client.resume("default").await;
    let mut all = BTreeMap::new();
    for (name, client) in [("tester", &client), ("limited", &limited)] {
        let messages = eventually(seconds(60), "all have ended", async || {
            let messages = client.list("").await;
            messages.iter().all(ended).then_some(messages)
        })
        .await;
        all.insert(name, messages);
    }
    let admin = system.admin().await;
    let users = list(&admin, "/users", "limit=200").await;
    let today = Time::now().day().to_string();
    for (name, messages) in &all {
        let id = users.iter().find(|user| user["username"] == *name).expect("the user")["id"].clone();
        let count = |counts: &dyn Fn(&Message) -> bool| messages.iter().filter(|message| counts(message)).count();
        let sent = |message: &Message| message.sent_at.is_some();
        let days = list(&admin, USAGE, &format!("user_id={id}&from={today}")).await;
        assert_eq!(days.len(), 1, "{days:?}");
        let day = &days[0];
        assert_eq!((&day["user_id"], &day["date"]), (&id, &json!(today)));
        assert_eq!(day["messages_accepted"], json!(messages.len()), "{name}: {day}");
        assert_eq!(day["messages_sent"], json!(count(&sent)), "{name}: {day}");
        assert_eq!(day["messages_failed"], json!(count(&|m| m.status == Status::Failed)), "{name}: {day}");
        assert_eq!(day["media_sent"], json!(count(&|m| sent(m) && m.text.is_none())), "{name}: {day}");
        // The same as the user's own page says.
        let client = if *name == "tester" { &client } else { &limited };
        let own: Value = client.get("/usage").await.expect(200).data();
        let but_requests = |day: &Value| {
            let mut day = day.clone();
            day["api_requests"] = Value::Null;
            day
        };
        assert_eq!(but_requests(&own["days"][0]), but_requests(day));
    }
    let accepted = theirs.iter().filter(|status| **status == 202).count();
    assert_eq!(all["limited"].len(), accepted, "what was refused is nowhere");
    assert!(accepted >= 40 && all["limited"].iter().filter(|m| m.status != Status::Failed).count() <= 40);
}

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

async fn each_request_is_in_the_api_log(mode: Mode) {
    away_from_midnight().await;
    // Nobody has asked anything as this user yet.
    let system = System::with(mode).apis(2).workers(2).user("limited", 40).start().await;
    let admin = system.admin().await;
    let users = list(&admin, "/users", "limit=200").await;
    let id = |name: &str| users.iter().find(|user| user["username"] == name).expect("the user")["id"].clone();
    let (limited, tester) = (id("limited"), id("tester"));
    let counted = async || {
        let days = list(&admin, USAGE, &format!("user_id={limited}")).await;
        days.first().and_then(|day| day["api_requests"].as_i64()).unwrap_or(0)
    };
    let client = system.client_of("limited", 0);
    for n in 0..30 {
        let client = system.client_of("limited", n);
        client.get("/messages/nothing").await.expect(422);
    }
    client.post("/messages", &json!({})).await.expect(422);
    client.get("/no/such/endpoint").await.expect(404);
    client.with_key("sanasr_none_none").get("/usage").await.expect(401);
    // The asker of what doesn't exist is known, too: without valid credentials it counts against the address's limit.
    let logs = eventually(seconds(15), "all are logged", async || {
        let logs = list(&admin, LOGS, &format!("user_id={limited}&limit=7")).await;
        (logs.len() >= 32).then_some(logs)
    })
    .await;
    assert_eq!(logs.len(), 32);
    eventually(seconds(15), "all are counted", async || (counted().await == 32).then_some(())).await;
    let of = |endpoint: &str, status: i64| {
        logs.iter().filter(|line| line["endpoint"] == endpoint && line["status_code"] == status).count()
    };
    assert_eq!((of("/api/v1/messages/{id}", 422), of("/api/v1/messages", 422)), (30, 1));
    for line in &logs {
        assert_eq!((&line["user_id"], &line["ip_address"]), (&limited, &json!("127.0.0.1")));
        assert!(line["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 60_000.0), "{line}");
        assert!(line["timestamp"].as_str().and_then(Time::parse).is_some_and(|at| at <= Time::now()), "{line}");
        assert!(line["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
    }
    let times: Vec<&str> = logs.iter().filter_map(|line| line["timestamp"].as_str()).collect();
    assert!(times.windows(2).all(|pair| pair[0] >= pair[1]), "newest first");

    // The filters, each and together.
    let nobody = list(&admin, LOGS, "status_code=401&method=get&endpoint=/api/v1/usage").await;
    assert_eq!((nobody.len(), &nobody[0]["user_id"]), (1, &Value::Null), "{nobody:?}");
    let lost = list(&admin, LOGS, "endpoint=/api/v1/no/such/endpoint").await;
    assert_eq!((lost.len(), &lost[0]["status_code"]), (1, &json!(404)));
    let posts = list(&admin, LOGS, &format!("user_id={limited}&method=POST&status_code=422")).await;
    assert_eq!(posts.len(), 1);
    let (newest, oldest) = (times[0], times[times.len() - 1]);
    let until = list(&admin, LOGS, &format!("user_id={limited}&limit=200&until={newest}")).await;
    assert!(until.len() < logs.len() && until.iter().all(|line| line["timestamp"].as_str() < Some(newest)));
    assert_eq!(list(&admin, LOGS, &format!("user_id={limited}&limit=200&from={oldest}")).await.len(), logs.len());
    assert_eq!(list(&admin, LOGS, &format!("user_id={limited}&until={oldest}")).await.len(), 0);
    assert!(!list(&admin, LOGS, &format!("user_id={tester}&limit=200")).await.is_empty());

    for (path, field) in [
        (USAGE, "from=yesterday"),
        (USAGE, "until=2026-13-01"),
        (USAGE, "user_id=0"),
        (USAGE, "page=2"),
        (USAGE, "limit=201"),
        (USAGE, "cursor=x"),
        (LOGS, "status_code=99"),
        (LOGS, "status_code=abc"),
        (LOGS, "method=G%20T"),
        (LOGS, "endpoint="),
        (LOGS, "from=25.11.2026"),
        (LOGS, "user_id=-1"),
        (LOGS, "cursor=x"),
    ] {
        let refused = admin.get(&format!("{path}?{field}")).await;
        assert_eq!(refused.status, if field == "cursor=x" { 400 } else { 422 }, "{path}?{field}");
        let name = field.split('=').next().expect("a name");
        assert_eq!(refused.fields(), [name], "{path}?{field}");
    }
    for path in [USAGE, LOGS] {
        assert_eq!(client.get(path).await.expect(403).code(), "forbidden", "an API key opens no admin endpoint");
        assert_eq!(client.with_key("").get(path).await.expect(401).code(), "unauthenticated");
    }
}

async fn the_api_log_can_be_left_out(mode: Mode) {
    away_from_midnight().await;
    let mut system = System::with(mode).env("SANASR_API_LOGS", "false").start().await;
    for _ in 0..10 {
        system.client().get("/usage").await.expect(200);
    }
    // Whatever waits to be written is written when a process stops.
    assert_eq!(system.apis.remove(0).process.stop().await, Some(0));
    system.add_api(&[]).await;
    let admin = system.admin().await;
    assert_eq!(list(&admin, LOGS, "").await, [] as [Value; 0]);
    let usage: Value = system.client().get("/usage").await.expect(200).data();
    assert!(usage["days"][0]["api_requests"].as_i64() >= Some(10), "usage is counted all the same: {usage}");
}

async fn lists_go_page_by_page(mode: Mode) {
    let system = system(mode).await;
    let admin = system.admin().await;
    join_all((0..50).map(|n| {
        let client = system.client_of("limited", n);
        async move { client.get("/usage").await.expect(200) }
    }))
    .await;
    let count = eventually(seconds(15), "all are logged", async || {
        let logs = list(&admin, LOGS, "endpoint=/api/v1/usage&limit=200").await;
        (logs.len() == 50).then_some(logs)
    })
    .await;
    for limit in [1, 7, 49, 50, 51] {
        let again = list(&admin, LOGS, &format!("endpoint=/api/v1/usage&limit={limit}")).await;
        assert_eq!(again, count, "{limit} a page");
    }
    let cursor = admin.get(&format!("{LOGS}?limit=1")).await.expect(200);
    let cursor = cursor.body["pagination"]["next"].as_str().expect("more");
    assert_eq!(admin.get(&format!("{USAGE}?cursor={cursor}")).await.status, 400, "another list's");
    let usage = eventually(seconds(15), "both users' requests are counted", async || {
        let usage = list(&admin, USAGE, "limit=200").await;
        (usage.len() >= 2).then_some(usage)
    })
    .await;
    let keys =
        |days: &[Value]| days.iter().map(|day| (day["date"].clone(), day["user_id"].clone())).collect::<Vec<_>>();
    assert_eq!(keys(&list(&admin, USAGE, "limit=1").await), keys(&usage));
}
