//! Care for the account: a new session's defaults, first messages that take turns, typing, the ramp of the first weeks.

use sanasr_shared::message::{BlockedBy, Status};
use sanasr_shared::session::SessionStatus;
use serde_json::{Value, json};

use crate::harness::wait::seconds;
use crate::harness::whatsapp::{hasty, start};
use crate::harness::{Mode, both_modes, eventually};

both_modes!(a_session_is_careful_unless_told_otherwise);

async fn a_session_is_careful_unless_told_otherwise(mode: Mode) {
    let (system, server) = start(mode).await;
    let client = system.client();
    let made: Value =
        client.post("/sessions", &json!({ "name": "new", "bridge": "whatsapp" })).await.expect(201).data();
    let careful = json!({
        "per_minute": 20, "burst": 5, "jitter_ms": 2000, "first_contacts_per_minute": 12, "typing": true, "warm_up": true,
    });
    assert_eq!(made["pace"], careful);
    let reset: Value = client.patch("/sessions/new", &json!({ "pace": hasty() })).await.expect(200).data();
    assert_eq!(reset["pace"], hasty());
    let reset: Value = client.patch("/sessions/new", &json!({ "pace": null })).await.expect(200).data();
    assert_eq!(reset["pace"], careful, "null brings the bridge's defaults back");

    // First messages take turns; who is known needs none.
    let account = client.link(&server, "shop", "15550003001").await;
    let known = server.contact("15551230301");
    known.write(&account, "hello").await;
    for n in 2..5 {
        server.contact(&format!("1555123030{n}"));
    }
    let mut pace = hasty();
    pace["first_contacts_per_minute"] = 1.into();
    client.patch("/sessions/shop", &json!({ "pace": pace })).await.expect(200);
    // A change comes to the worker within seconds; a new connection has it at once.
    client.post("/sessions/shop/disconnect", &json!({})).await.expect(202);
    client.wait_session("shop", SessionStatus::Disconnected, seconds(10)).await;
    client.connect("shop").await;
    let send = async |n: u32| {
        client.send_any("shop", &format!("+1555123030{n}"), json!({ "type": "text", "text": "hello" })).await
    };
    let first = send(2).await;
    client.wait_status(first.id, Status::Read, seconds(20)).await;
    let (second, third) = (send(3).await, send(4).await);
    for waiting in [&second, &third] {
        eventually(seconds(20), "it waits for its turn", async || {
            let message = client.message(waiting.id).await;
            (message.blocked_by == Some(BlockedBy::Pacing) && message.status == Status::Accepted).then_some(())
        })
        .await;
        assert_eq!(client.message(waiting.id).await.attempts, 0, "it wasn't tried");
    }
    let (to_known, again) = (send(1).await, send(2).await);
    for message in [&to_known, &again] {
        client.wait_status(message.id, Status::Read, seconds(20)).await;
    }
    assert_eq!(client.message(third.id).await.status, Status::Accepted, "still waiting");

    // Typing is shown before a message, if it is to be.
    assert!(account.typing().is_empty());
    let mut pace = hasty();
    pace["typing"] = true.into();
    client.patch("/sessions/shop", &json!({ "pace": pace })).await.expect(200);
    eventually(seconds(20), "typing is shown", async || {
        let message = send(1).await;
        client.wait_status(message.id, Status::Read, seconds(20)).await;
        (!account.typing().is_empty()).then_some(())
    })
    .await;
}
