//! Clients that connect and do nothing, or don't read what they asked for.

use crate::harness::raw::Raw;
use crate::harness::wait::seconds;
use crate::harness::{Mode, System, both_modes, eventually};

both_modes!(
    health_is_answered_when_connections_have_run_short,
    a_head_has_a_largest_size_and_a_time,
    half_open_connections_cost_little,
);

/// Asks for so many large pages at once, and reads none.
async fn ask_for_pages(raw: &mut Raw, pages: usize) {
    let request = "GET /api/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n";
    assert!(raw.send(request.repeat(pages)).await);
}

async fn health_is_answered_when_connections_have_run_short(mode: Mode) {
    let system = System::with(mode).env("SANASR_CONNECTION_LIMIT", "20").unconnected().start().await;
    let origin = &system.apis[0].origin;
    let client = system.client();
    client.get("/usage").await.expect(200);
    let mut greedy = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::to(origin).await;
        // More than the buffers of a connection hold.
        ask_for_pages(&mut raw, 100).await;
        greedy.push(raw);
    }
    let mut more = Vec::new();
    let refused = async || {
        // Some may have given way before their requests had come.
        let mut raw = Raw::to(origin).await;
        ask_for_pages(&mut raw, 100).await;
        more.push(raw);
        let mut other = Raw::to(origin).await;
        other.send("GET /api/v1/usage HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        other.answer(seconds(5)).await.filter(|reply| reply.status == 503)
    };
    let refused = eventually(seconds(10), "connections run short", refused).await;
    assert_eq!(refused.code(), "overloaded");
    assert!(refused.head.contains("retry-after:") && refused.head.contains("x-request-id:"), "{}", refused.head);
    for _ in 0..50 {
        let mut health = Raw::to(origin).await;
        health.send("GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert_eq!(health.answer(seconds(5)).await.expect("an answer").status, 200);
    }
    // A client that takes nothing is cut off, and others have its place.
    eventually(seconds(60), "the greedy ones are cut off", async || {
        client.raw(reqwest::Method::GET, "/usage", &[], Vec::new()).await.ok().filter(|reply| reply.status == 200)
    })
    .await;
    for raw in greedy.iter_mut().chain(&mut more) {
        raw.hung_up(seconds(60)).await;
    }
}

async fn a_head_has_a_largest_size_and_a_time(mode: Mode) {
    let system = System::with(mode).unconnected().start().await;
    let origin = &system.apis[0].origin;
    let head =
        |bytes: usize| format!("GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n", "x".repeat(bytes));
    let mut silent = Raw::to(origin).await;
    let mut dripping = Raw::to(origin).await;
    dripping.send(head(10)).await;

    let mut fine = Raw::to(origin).await;
    fine.send(head(20_000) + "\r\n").await;
    assert_eq!(fine.answer(seconds(10)).await.expect("an answer").status, 200);
    let mut large = Raw::to(origin).await;
    large.send(head(21_000)).await;
    let refused = large.answer(seconds(10)).await.expect("an answer");
    assert_eq!((refused.status, refused.code()), (431, "head_too_large"));
    assert!(refused.head.contains("content-type: application/problem+json"), "{}", refused.head);
    large.closed(seconds(5)).await;
    let mut many = Raw::to(origin).await;
    many.send(format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "a: b\r\n".repeat(101))).await;
    assert_eq!(many.answer(seconds(10)).await.expect("an answer").status, 431);
    let mut other = Raw::to(origin).await;
    other.send("anything but HTTP\r\n\r\n").await;
    let refused = other.answer(seconds(10)).await.expect("an answer");
    assert_eq!((refused.status, refused.code()), (400, "malformed_request"));

    dripping.send("x-next: 1\r\n").await;
    silent.closed(seconds(30)).await;
    dripping.closed(seconds(30)).await;
    // A connection that has served its first request may rest longer than a head may take.
    fine.send("GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(fine.answer(seconds(10)).await.expect("an answer").status, 200);
}

async fn half_open_connections_cost_little(mode: Mode) {
    const COUNT: u64 = 1_000;
    /// Measured: 34 to 36. Of a thousand connections, what else the process does meanwhile hardly counts.
    const EACH_KIB_MAX: u64 = 40;
    let system = System::with(mode).unconnected().start().await;
    let origin = &system.apis[0].origin;
    let process = &system.apis[0].process;
    let open = async |count: u64| {
        let mut raws = Vec::new();
        for _ in 0..count {
            let mut raw = Raw::to(origin).await;
            let unfinished = format!("GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-long: {}", "x".repeat(15_800));
            assert!(raw.send(unfinished).await);
            raws.push(raw);
        }
        raws
    };
    let first = open(50).await;
    let before = process.memory_kib();
    let raws = open(COUNT).await;
    // Served after them: by now their heads have been read as far as they go.
    system.client().get("/usage").await.expect(200);
    let each = (process.memory_kib().saturating_sub(before)) / COUNT;
    drop((first, raws));
    assert!(each <= EACH_KIB_MAX, "{each} KiB for each half-open connection");
}
