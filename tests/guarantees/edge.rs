//! What every request meets: limits of rate, whose address counts, who may call from another origin.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Client, Mode, Reply, System, both_modes, wait::seconds};

both_modes!(
    each_key_has_its_own_limit,
    whoever_has_no_key_is_limited_by_address,
    only_listed_origins_may_call,
    metrics_are_for_loopback,
    a_strange_proxy_is_warned_of_once,
);

/// `/metrics`, as a proxy brings it for a client at this address.
async fn metrics(origin: &str, forwarded_for: Option<&str>) -> u16 {
    let mut request = crate::harness::client::http().get(format!("{origin}/metrics"));
    if let Some(address) = forwarded_for {
        request = request.header("x-forwarded-for", address);
    }
    request.send().await.expect("an answer").status().as_u16()
}

async fn metrics_are_for_loopback(mode: Mode) {
    let mut system = System::with(mode).unconnected().start().await;
    let origin = system.apis[0].origin.clone();
    assert_eq!(metrics(&origin, None).await, 200, "from loopback");
    // A proxy on the same machine that isn't known as one: who is behind it?
    assert_eq!(metrics(&origin, Some("127.0.0.1")).await, 403);
    if mode == Mode::Embedded {
        return;
    }
    let trusting = [("SANASR_TRUSTED_PROXIES", "127.0.0.1")];
    let open = [("SANASR_TRUSTED_PROXIES", "127.0.0.1"), ("SANASR_METRICS_ALLOW", "203.0.113.0/24")];
    let (trusting, open) = (system.add_api(&trusting).await, system.add_api(&open).await);
    for (api, client, status) in [
        (trusting, None, 200),
        (trusting, Some("203.0.113.9"), 403),
        // What the client writes itself stands before what the proxy has seen.
        (trusting, Some("127.0.0.1, 203.0.113.9"), 403),
        (open, Some("203.0.113.9"), 200),
        (open, Some("198.51.100.7"), 403),
        (open, None, 403),
    ] {
        assert_eq!(metrics(&system.apis[api].origin, client).await, status, "{client:?}");
    }
    // A worker's address has health and metrics, the same way.
    let worker = &system.workers[0].origin;
    assert_eq!((metrics(worker, None).await, metrics(worker, Some("203.0.113.9")).await), (200, 403));
    // A listener of its own answers whoever reaches it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let own = system.add_api(&[("SANASR_METRICS_LISTEN", &port.to_string())]).await;
    // It says both addresses, in any order.
    let said = system.apis[own].process.wait_for_line("listening on http://", seconds(10)).await;
    let origin = said.split("listening on ").nth(1).expect("an address").trim();
    assert_eq!(metrics(origin, None).await, 404);
    assert_eq!(metrics(&format!("http://{port}"), Some("203.0.113.9")).await, 200);
}

async fn a_strange_proxy_is_warned_of_once(mode: Mode) {
    let mut system = System::with(mode).unconnected().start().await;
    let client = system.client();
    for _ in 0..5 {
        ask(&client, &[("x-forwarded-for", b"203.0.113.9")]).await.expect(200);
    }
    let said = system.apis[0].process.wait_for_line("SANASR_TRUSTED_PROXIES", seconds(5)).await;
    assert!(said.contains("WARN") && said.contains("127.0.0.1"), "{said}");
    let process = &system.apis[0].process;
    let lines = process.stderr() + &process.stdout();
    assert_eq!(lines.matches("SANASR_TRUSTED_PROXIES").count(), 1, "{lines}");
}

async fn ask(client: &Client, headers: &[(&str, &[u8])]) -> Reply {
    client.raw(Method::GET, "/usage", headers, Vec::new()).await.expect("an answer")
}

/// The number after `name=` in a header of the form `"default";q=10;w=2`.
fn part(reply: &Reply, header: &str, name: &str) -> u64 {
    let text = reply.header(header);
    let found = text.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {header}: {text:?}"))
}

async fn each_key_has_its_own_limit(mode: Mode) {
    let system = System::with(mode)
        .user("busy", 100)
        .user("calm", 100)
        .env("SANASR_KEY_RATE", "1")
        .env("SANASR_KEY_BURST", "20")
        .unconnected()
        .start()
        .await;
    let (busy, calm) = (system.client_of("busy", 0), system.client_of("calm", 0));
    let first = ask(&busy, &[]).await.expect(200);
    assert_eq!((part(&first, "ratelimit-policy", "q"), part(&first, "ratelimit-policy", "w")), (20, 20));
    let mut remaining = part(&first, "ratelimit", "r");
    assert!(remaining < 20, "{remaining}");
    let refused = loop {
        let reply = ask(&busy, &[]).await;
        if reply.status != 200 {
            break reply;
        }
        let now = part(&reply, "ratelimit", "r");
        assert!(now <= remaining, "{now} after {remaining}");
        remaining = now;
    };
    assert_eq!((refused.status, refused.code()), (429, "rate_limited"), "{}", refused.body);
    assert_eq!(part(&refused, "ratelimit", "r"), 0);
    let wait: u64 = refused.header("retry-after").parse().expect("Retry-After in seconds");
    assert!((1..=2).contains(&wait), "{wait} s");
    ask(&calm, &[]).await.expect(200);
    tokio::time::sleep(seconds(wait)).await;
    ask(&busy, &[]).await.expect(200);
}

async fn whoever_has_no_key_is_limited_by_address(mode: Mode) {
    let system = System::with(mode)
        .env("SANASR_ADDRESS_RATE", "1")
        .env("SANASR_ADDRESS_BURST", "10")
        .env("SANASR_TRUSTED_PROXIES", "127.0.0.1")
        .unconnected()
        .start()
        .await;
    let client = system.client();
    let wrong = client.with_key("sanasr_nobody_knowsthis");
    let forwarded: &[(&str, &[u8])] = &[("x-forwarded-for", b"198.51.100.7, 203.0.113.9")];
    let mut statuses = Vec::new();
    for _ in 0..15 {
        let reply = ask(&wrong, forwarded).await;
        let expected = if reply.status == 429 { "rate_limited" } else { "invalid_api_key" };
        assert_eq!(reply.code(), expected, "{}", reply.body);
        assert_eq!(reply.header("ratelimit"), "", "only whoever is known is told");
        statuses.push(reply.status);
    }
    assert!(statuses[..10].iter().all(|status| *status == 401), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    // The proxy's last entry counts; what the client wrote before it doesn't.
    let same: &[(&str, &[u8])] = &[("x-forwarded-for", b"192.0.2.1, 203.0.113.9")];
    let blocked = async || ask(&wrong, same).await.status;
    let mut last = 401;
    for _ in 0..5 {
        last = blocked().await;
    }
    assert_eq!(last, 429);
    let other: &[(&str, &[u8])] = &[("x-forwarded-for", b"203.0.113.10")];
    assert_eq!(ask(&wrong, other).await.status, 401);
    // A key that this process has found good isn't concerned, wherever it comes from.
    ask(&client, other).await.expect(200);
    for _ in 0..20 {
        ask(&client, forwarded).await.expect(200);
    }
    let secure: &[(&str, &[u8])] = &[("x-forwarded-for", b"203.0.113.10"), ("x-forwarded-proto", b"https")];
    assert!(ask(&client, secure).await.header("strict-transport-security").starts_with("max-age="));
    assert_eq!(ask(&client, forwarded).await.header("strict-transport-security"), "");
}

async fn only_listed_origins_may_call(mode: Mode) {
    let system = System::with(mode).env("SANASR_CORS_ORIGINS", "https://app.example.org").unconnected().start().await;
    let client = system.client();
    let from = |origin: &'static [u8]| [("origin", origin)];
    let listed = ask(&client, &from(b"https://app.example.org")).await.expect(200);
    assert_eq!(listed.header("access-control-allow-origin"), "https://app.example.org");
    let other = ask(&client, &from(b"https://evil.example.org")).await.expect(200);
    assert_eq!(other.header("access-control-allow-origin"), "");
    let preflight: &[(&str, &[u8])] = &[
        ("origin", b"https://app.example.org"),
        ("access-control-request-method", b"POST"),
        ("access-control-request-headers", b"x-api-key,content-type,idempotency-key"),
    ];
    let nobody = client.with_key("");
    let allowed = nobody.raw(Method::OPTIONS, "/messages", preflight, Vec::new()).await.expect("an answer");
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.org");
    let named = allowed.header("access-control-allow-headers").to_ascii_lowercase();
    assert!(named.contains("x-api-key") && named.contains("idempotency-key"), "{named}");
    // A problem is readable there, too.
    let refused = nobody.raw(Method::GET, "/usage", &from(b"https://app.example.org"), Vec::new()).await;
    let refused = refused.expect("an answer");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, "https://app.example.org"));
    let body: &Value = &refused.body;
    assert_eq!(body["success"], json!(false));
}
