//! Requests without valid credentials: what they cost, and what they can't do to others.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use sanasr_shared::settings::{HttpSettings, defaults};
use sanasr_shared::user::RawApiKey;

use super::{Answer, Api, MESSAGES};

/// Requests that an address may make without valid credentials, before it must wait a second for the next.
const BURST: usize = 5;

fn api() -> Api {
    Api::with(HttpSettings { address_rate: 1, address_burst: 5, ..defaults() })
}

async fn ask(api: &Api, method: Method, path: &str, key: Option<&str>) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    api.ask(request.body(Body::empty()).expect("a request")).await
}

/// Lines that the API log has once all that was asked so far is written.
async fn lines(api: &Api) -> usize {
    let marks = |api: &Api| api.store.data().api_logs.iter().filter(|line| line.endpoint == MESSAGES).count();
    let before = marks(api);
    assert_eq!(api.get(MESSAGES).await.status, StatusCode::OK);
    let start = std::time::Instant::now();
    while marks(api) == before {
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "lines are written");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let lines = api.store.data().api_logs.len();
    lines - marks(api)
}

#[tokio::test]
async fn endpoints_that_dont_exist_count_and_leave_few_lines() {
    for (method, path, status) in [
        (Method::GET, "/api/v1/nothing", StatusCode::NOT_FOUND),
        (Method::GET, "/api/v1", StatusCode::NOT_FOUND),
        (Method::DELETE, "/api/v1/usage", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/api/v1/usage", StatusCode::UNAUTHORIZED),
        (Method::POST, "/api/v1/auth/login", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let api = api();
        assert_eq!(api.get(MESSAGES).await.status, StatusCode::OK, "its key is known to be good from now on");
        let mut seen = Vec::new();
        for _ in 0..200 {
            seen.push(ask(&api, method.clone(), path, None).await.status);
        }
        let past = seen.iter().filter(|seen| **seen == StatusCode::TOO_MANY_REQUESTS).count();
        assert_eq!(seen[0], status, "{path}");
        assert!(seen.iter().all(|seen| [status, StatusCode::TOO_MANY_REQUESTS].contains(seen)), "{path}: {seen:?}");
        assert!(past >= 190 - BURST, "{path}: {past}");
        assert_eq!(lines(&api).await, 200 - past, "{path}: what is past the limit leaves no line");
        // Somebody with credentials asks for the same from the same address: it counts in their own limit.
        let asked = ask(&api, method, path, Some(api.key.as_str())).await;
        assert_ne!(asked.status, StatusCode::UNAUTHORIZED);
        if path != "/api/v1/auth/login" {
            assert_ne!(asked.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
            assert!(asked.headers.contains_key("ratelimit"), "{path}");
        }
    }
    // Outside the API's path nothing is counted.
    let api = api();
    for _ in 0..2 * BURST {
        assert_eq!(ask(&api, Method::GET, "/nothing", None).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn junk_keys_cost_no_queries_past_the_limit_and_lock_nobody_out() {
    let api = api();
    assert_eq!(api.get(MESSAGES).await.status, StatusCode::OK);
    let before = api.store.key_reads.load(Ordering::Relaxed);
    for _ in 0..300 {
        let junk = RawApiKey::generate();
        let status = ask(&api, Method::GET, MESSAGES, Some(junk.as_str())).await.status;
        assert!([StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&status), "{status}");
        // Somebody else at the same address, whose key was found good before.
        assert_eq!(api.get(MESSAGES).await.status, StatusCode::OK);
    }
    let reads = api.store.key_reads.load(Ordering::Relaxed) - before;
    assert!(reads < 50, "{reads} look-ups for 300 junk keys and one good one");
    // A good key that this process hasn't seen has to wait with the others at its address.
    let mut refused = false;
    for user in 2..20 {
        let new = api.store.add_user(sanasr_shared::ids::UserId(user));
        while ask(&api, Method::GET, MESSAGES, Some(RawApiKey::generate().as_str())).await.status
            != StatusCode::TOO_MANY_REQUESTS
        {}
        let reads = api.store.key_reads.load(Ordering::Relaxed);
        // On a busy machine the second in which nothing is let in may be over by now.
        if ask(&api, Method::GET, MESSAGES, Some(new.as_str())).await.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(api.store.key_reads.load(Ordering::Relaxed), reads, "it isn't even looked up");
            refused = true;
            break;
        }
    }
    assert!(refused);
    // A key that is revoked is known good no longer than its next use.
    api.store.data().keys.values_mut().for_each(|key| key.key_is_active = false);
    api.signals.publish(sanasr_shared::ports::signals::Signal::User(super::USER));
    let start = std::time::Instant::now();
    while api.get(MESSAGES).await.status == StatusCode::OK {
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "a revocation is heard");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let reads = api.store.key_reads.load(Ordering::Relaxed);
    for _ in 0..50 {
        assert_ne!(api.get(MESSAGES).await.status, StatusCode::OK);
    }
    assert!(api.store.key_reads.load(Ordering::Relaxed) - reads < 10, "a stale key costs no more than other junk");
}
