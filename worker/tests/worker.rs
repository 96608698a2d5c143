//! The worker against the real embedded store and queue, with a bridge that follows a script.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sanasr_shared::message::{BlockedBy, Content, Media, MessageError, MessageType, Status};
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::bridge::{Attempt, BridgeEvent};
use sanasr_shared::ports::signals::{Signal, Signals};
use sanasr_shared::ports::store::SessionCommand;
use sanasr_shared::session::{BridgeKind, Pace, SessionStatus};

use tokio::net::TcpListener;

use crate::support::{Step, World};

fn error(code: &str) -> MessageError {
    MessageError::new(code, "as the script says", true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_out_once_and_in_order() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    let running = world.start_connected().await;
    let recipients: Vec<String> = (0..20).map(|n| format!("+1555000{n:04}")).collect();
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.extend(world.accept(recipients.iter().map(|to| world.message(to)).collect()).await);
    }
    let mut expected: HashMap<String, Vec<String>> = HashMap::new();
    for id in ids {
        let message = world.becomes(id, Status::Read).await;
        assert!(message.sent_at.is_some() && message.attempts == 1, "{message:?}");
        expected.entry(message.to.to_string()).or_default().push(message.whatsapp_id);
    }
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    for send in world.seen() {
        seen.entry(send.recipient.to_string()).or_default().push(send.whatsapp_id);
    }
    assert_eq!(seen, expected);
    running.stop().await;
    let session = world.store.session(world.user, "default").await.expect("an answer").expect("a session");
    assert_eq!(session.status, SessionStatus::Connecting, "wanted, but nobody drives it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transient_fault_is_tried_again_and_those_behind_it_wait() {
    let world = World::new(|message| {
        let faulty = message.recipient.as_str().ends_with("0002") && message.attempt == 1;
        Step::Answer(if faulty { Attempt::Transient(error("connection_lost")) } else { Attempt::Sent })
    })
    .await;
    let running = world.start_connected().await;
    let ids = world.accept_to(&["+15550000002", "+15550000002", "+15550000009"]).await;
    let other = world.becomes(ids[2], Status::Read).await.whatsapp_id;
    let (first, second) = (world.get(ids[0]).await.whatsapp_id, world.get(ids[1]).await.whatsapp_id);
    assert_eq!(world.get(ids[0]).await.blocked_by, Some(BlockedBy::Retry));
    assert_eq!(world.get(ids[1]).await.blocked_by, Some(BlockedBy::EarlierMessage));
    world.becomes(ids[1], Status::Read).await;
    assert!(world.get(ids[0]).await.attempts == 2 && world.get(ids[0]).await.status == Status::Read);
    let order: Vec<_> = world.seen().into_iter().map(|s| s.whatsapp_id).filter(|id| *id != other).collect();
    assert_eq!(order, vec![first.clone(), first, second.clone(), second]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_doubt_is_sent_again_under_the_same_id() {
    let world = World::new(|message| if message.attempt == 1 { Step::Hang } else { Step::Answer(Attempt::Sent) }).await;
    let running = world.start_connected().await;
    let id = world.accept_to(&["+15550000004"]).await[0];
    let message = world.becomes(id, Status::Read).await;
    assert_eq!(message.attempts, 2);
    assert_eq!(world.times_seen(), HashMap::from([(message.whatsapp_id, 2)]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_cannot_repeat_never_does() {
    let mut world = World::new(|_| Step::Hang).await;
    world.bridge.repeats = false;
    let running = world.start_connected().await;
    let id = world.accept_to(&["+15550000004"]).await[0];
    let message = world.becomes(id, Status::Failed).await;
    assert_eq!(message.error.map(|e| e.code).as_deref(), Some(MessageError::UNKNOWN_OUTCOME));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.seen().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_hits_one_message_only() {
    let world = World::new(|message| {
        if message.recipient.as_str().ends_with("0666") { Step::Panic } else { Step::Answer(Attempt::Sent) }
    })
    .await;
    let running = world.start_connected().await;
    let ids = world.accept_to(&["+15550000666", "+15550000001", "+15550000666"]).await;
    world.becomes(ids[1], Status::Read).await;
    let poisoned = world.becomes(ids[0], Status::Failed).await;
    assert_eq!(poisoned.attempts, 3);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_final_and_a_restriction_is_not() {
    let world = World::new(|message| {
        let to = message.recipient.as_str();
        Step::Answer(if to.ends_with("0001") {
            Attempt::Permanent(MessageError::new("not_on_whatsapp", "nobody", false))
        } else if to.ends_with("0007") {
            Attempt::Restricted(error("restricted"))
        } else {
            Attempt::Sent
        })
    })
    .await;
    let running = world.start_connected().await;
    let ids = world.accept_to(&["+15550000001", "+15550000007", "+15550000099"]).await;
    world.becomes(ids[2], Status::Read).await;
    let refused = world.becomes(ids[0], Status::Failed).await;
    assert_eq!(refused.error.map(|e| e.code).as_deref(), Some("not_on_whatsapp"));
    world.until("restricted", async || world.get(ids[1]).await.blocked_by == Some(BlockedBy::Restricted)).await;
    world
        .until("told", async || {
            let session = world.store.session(world.user, "default").await.expect("an answer").expect("a session");
            session.status == SessionStatus::Connected && session.blocked_reason.as_deref() == Some("restricted")
        })
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_hands_over() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    let first = world.start_connected().await;
    let second = world.start();
    let ids: Vec<_> = world.accept((0..200).map(|n| world.message(&format!("+1555000{n:04}"))).collect()).await;
    first.stop().await;
    for id in ids {
        world.becomes(id, Status::Read).await;
    }
    assert!(world.times_seen().values().all(|times| *times == 1));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_worker_is_buried_and_its_messages_are_finished_under_the_same_id() {
    let calls = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&calls);
    let mut world = World::new(move |_| {
        // The first worker's sends are seen by WhatsApp, but never acknowledged.
        if counted.fetch_add(1, Ordering::SeqCst) < 5 { Step::Hang } else { Step::Answer(Attempt::Sent) }
    })
    .await;
    world.lease = Duration::from_secs(1);
    let first = world.start_connected().await;
    let ids = world.accept((0..5).map(|n| world.message(&format!("+1555000{n:04}"))).collect()).await;
    world.until("all are on their way", async || calls.load(Ordering::SeqCst) >= 5).await;
    first.task.abort();
    let _ = first.task.await;
    let second = world.start();
    for id in &ids {
        assert_eq!(world.becomes(*id, Status::Read).await.attempts, 2);
    }
    assert_eq!(world.times_seen().len(), ids.len(), "no second WhatsApp id");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_row_is_gone_begins_again() {
    let mut world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    world.lease = Duration::from_secs(1);
    let running = world.start_connected().await;
    // What another worker does that declares it dead.
    world.sql("DELETE FROM workers").await;
    world.sql("UPDATE sessions SET owner = NULL, status = 1").await;
    let id = world.accept_to(&["+15550000001"]).await[0];
    world.becomes(id, Status::Read).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pausing_and_resuming_take_effect_at_once() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    let running = world.start_connected().await;
    world.command(SessionCommand::Pause).await;
    let id = world.accept_to(&["+15550000001"]).await[0];
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.get(id).await.blocked_by, Some(BlockedBy::SessionPaused));
    world.command(SessionCommand::Resume).await;
    let begun = tokio::time::Instant::now();
    world.becomes(id, Status::Read).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    world.command(SessionCommand::Disconnect).await;
    world
        .until("disconnected", async || {
            let session = world.store.session(world.user, "default").await.expect("an answer").expect("a session");
            session.status == SessionStatus::Disconnected
        })
        .await;
    world.command(SessionCommand::Connect).await;
    world.connected().await;
    world.command(SessionCommand::Logout).await;
    world
        .until("logged out", async || {
            let session = world.store.session(world.user, "default").await.expect("an answer").expect("a session");
            session.status == SessionStatus::LoggedOut && session.phone_number.is_none()
        })
        .await;
    world.command(SessionCommand::Connect).await;
    world.connected().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_sends_at_its_pace() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    let pace = Pace { per_minute: Some(20), burst: Some(2), ..Pace::default() };
    world.store.set_pace(world.user, "default", &pace, Actor::MACHINE).await.expect("an answer").expect("a session");
    let running = world.start_connected().await;
    let ids = world.accept_to(&["+15550000001", "+15550000002", "+15550000003"]).await;
    world.until("it paces", async || world.get(ids[2]).await.blocked_by == Some(BlockedBy::Pacing)).await;
    world.becomes(ids[2], Status::Read).await;
    let at: Vec<_> = world.seen().iter().map(|s| s.at).collect();
    assert!(at[1] - at[0] < Duration::from_millis(500));
    assert!(at[2] - at[0] > Duration::from_millis(2_800), "{:?}", at[2] - at[0]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_link_is_opened_again() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    let running = world.start_connected().await;
    let events = world.bridge.open.lock().expect("sane")[0].clone();
    events.send(BridgeEvent::Disconnected { reason: "stream error".to_owned() }).await.expect("heard");
    world
        .until("not connected", async || {
            let session = world.store.session(world.user, "default").await.expect("an answer").expect("a session");
            session.status == SessionStatus::Connecting && session.blocked_reason.as_deref() == Some("stream error")
        })
        .await;
    let id = world.accept_to(&["+15550000001"]).await[0];
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.get(id).await.blocked_by, Some(BlockedBy::SessionNotConnected));
    events.send(BridgeEvent::Connected).await.expect("heard");
    world.becomes(id, Status::Read).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_messages_go_out_when_due_and_expired_ones_do_not() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    let running = world.start_connected().await;
    let now = sanasr_shared::time::Time::now();
    let mut scheduled = world.message("+15550000001");
    scheduled.send_at = Some(now.plus(Duration::from_millis(1_500)));
    let scheduled = world.accept(vec![scheduled]).await[0];
    world.command(SessionCommand::Pause).await;
    let mut short = world.message("+15550000002");
    short.expires_at = Some(now.plus(Duration::from_millis(1_200)));
    let short = world.accept(vec![short]).await[0];
    world.becomes(short, Status::Expired).await;
    world.command(SessionCommand::Resume).await;
    world.becomes(scheduled, Status::Read).await;
    assert_eq!(world.seen().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_up_recipient_does_not_slow_the_others() {
    let world = World::new(|message| {
        let held = message.recipient.as_str().ends_with("0009");
        Step::Answer(if held { Attempt::Transient(error("later")) } else { Attempt::Sent })
    })
    .await;
    let running = world.start_connected().await;
    for _ in 0..4 {
        world.accept((0..500).map(|_| world.message("+15550000009")).collect()).await;
    }
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.extend(world.accept((0..500).map(|m| world.message(&format!("+1556{n:03}{m:03}1"))).collect()).await);
    }
    for id in &ids {
        world.becomes(*id, Status::Read).await;
    }
    let begun = tokio::time::Instant::now();
    let id = world.accept_to(&["+15570000001"]).await[0];
    world.becomes(id, Status::Read).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_on_its_way_is_let_go_when_the_worker_stops() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    world.media.media_allow_hosts = vec!["127.0.0.1".to_owned()];
    let running = world.start_connected().await;
    let url = format!("http://{}/a.png", silent.local_addr().expect("an address"));
    let mut message = world.message("+15550000001");
    message.kind = MessageType::Image;
    message.content = Content { media: Some(Media { url: Some(url), ..Media::default() }), ..Content::default() };
    let id = world.accept(vec![message]).await[0];
    let fetching = tokio::time::timeout(Duration::from_secs(10), silent.accept()).await;
    let _silent = fetching.expect("it is fetched in time").expect("a connection"); // closed, it would be an answer
    running.stop().await;
    let message = world.get(id).await;
    assert_eq!((message.status, message.attempts, world.seen().len()), (Status::Accepted, 0, 0), "as if never claimed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_written_holds_no_place() {
    let mut world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    world.places = 1;
    // Whatever is wrong with a row, or with one that is written with it: the statement fails, each time.
    world
        .sql(
            "CREATE TRIGGER bad BEFORE UPDATE ON messages WHEN NEW.status = 3 AND NEW.recipient = '+15550000666'
            BEGIN SELECT RAISE(ABORT, 'a bad row'); END",
        )
        .await;
    world
        .sql(
            "CREATE TRIGGER worse BEFORE UPDATE ON messages
            WHEN NEW.status IN (3, 4, 5, 6) AND NEW.recipient = '+15550000667'
            BEGIN SELECT RAISE(ABORT, 'a worse row'); END",
        )
        .await;
    let running = world.start_connected().await;
    let ids = world.accept_to(&["+15550000666", "+15550000667", "+15550000001"]).await;
    world.becomes(ids[2], Status::Read).await;
    // That it was sent can't be written; that nobody knows can, and its receipts say more.
    world.until("it has ended", async || matches!(world.get(ids[0]).await.status, Status::Failed | Status::Read)).await;
    assert_eq!(world.get(ids[1]).await.status, Status::Sending, "nothing of it can be written");
    assert!(world.times_seen().values().all(|times| *times == 1), "nothing was sent twice for that");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_settled_holds_up_no_other() {
    let mut world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    world.places = 1;
    // Its row can be written, but no event of its end: whatever is settled fails, each time.
    world
        .sql(
            "CREATE TRIGGER bad BEFORE INSERT ON events WHEN NEW.status > 2
                AND (SELECT content FROM messages WHERE id = NEW.message_id) LIKE '%poison%'
            BEGIN SELECT RAISE(ABORT, 'a bad event'); END",
        )
        .await;
    let running = world.start_connected().await;
    let mut bad = world.message("+15550000666");
    bad.content.text = Some("poison".to_owned());
    let behind = world.message("+15550000666");
    let ids = world.accept(vec![bad, behind, world.message("+15550000001")]).await;
    for id in &ids[1..] {
        world.becomes(*id, Status::Read).await;
    }
    let abandoned = world.becomes(ids[0], Status::Failed).await;
    assert_eq!(abandoned.error.map(|error| error.code).as_deref(), Some(MessageError::UNKNOWN_OUTCOME));
    assert!(world.times_seen().values().all(|times| *times == 1), "nothing was sent twice for that");
    assert_eq!(world.number("SELECT used FROM quotas").await, 3, "what may have been sent keeps its unit");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_read_ends_as_a_dead_letter() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    let running = world.start_connected().await;
    world.command(SessionCommand::Pause).await;
    let ids = world.accept_to(&["+15550000001", "+15550000001", "+15550000002"]).await;
    world.sql("UPDATE messages SET crashes = 3000000000 WHERE seq = (SELECT min(seq) FROM messages)").await;
    world.command(SessionCommand::Resume).await;
    for id in &ids[1..] {
        world.becomes(*id, Status::Read).await;
    }
    let ended = world.get(ids[0]).await;
    assert_eq!(ended.error.map(|error| error.code).as_deref(), Some(MessageError::UNKNOWN_OUTCOME));
    assert_eq!(world.seen().len(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_that_cannot_be_written_holds_no_others_up() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    world
        .sql(
            "CREATE TRIGGER bad BEFORE UPDATE ON messages WHEN NEW.status IN (4, 5) AND NEW.recipient = '+15550000666'
            BEGIN SELECT RAISE(ABORT, 'a bad row'); END",
        )
        .await;
    let running = world.start_connected().await;
    let ids = world.accept_to(&["+15550000666", "+15550000001", "+15550000002", "+15550000003"]).await;
    for id in &ids[1..] {
        world.becomes(*id, Status::Read).await;
    }
    assert_eq!(world.get(ids[0]).await.status, Status::Sent);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_cannot_be_written_does_not_stop_its_session() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    let running = world.start_connected().await;
    let events = world.bridge.open.lock().expect("sane")[0].clone();
    world
        .sql(
            "CREATE TRIGGER bad BEFORE UPDATE ON sessions WHEN NEW.blocked_reason = 'a bad one'
            BEGIN SELECT RAISE(ABORT, 'a bad row'); END",
        )
        .await;
    events.send(BridgeEvent::Disconnected { reason: "a bad one".to_owned() }).await.expect("heard");
    // The write is under way when the next word comes; that one is written once the database has refused the first for long enough.
    events.send(BridgeEvent::Disconnected { reason: "a good one".to_owned() }).await.expect("heard");
    let reason = async || {
        let session = world.store.session(world.user, "default").await.expect("an answer").expect("a session");
        session.blocked_reason
    };
    world.until("the next word is written", async || reason().await.as_deref() == Some("a good one")).await;
    events.send(BridgeEvent::Connected).await.expect("heard");
    world.connected().await;
    let id = world.accept_to(&["+15550000001"]).await[0];
    world.becomes(id, Status::Read).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_cannot_be_read_costs_no_other_its_owner() {
    let mut world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    world.lease = Duration::from_secs(1);
    world
        .store
        .create_session(world.user, "broken", BridgeKind::Simulator, u32::MAX, Actor::MACHINE)
        .await
        .expect("a session");
    let running = world.start_connected().await;
    world.store.command(world.user, "broken", SessionCommand::Connect, Actor::MACHINE).await.expect("an answer");
    world.sql("UPDATE sessions SET per_minute = -5 WHERE name = 'broken'").await;
    let opened = world.bridge.open.lock().expect("sane").len();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < world.lease * 2 {
        let id = world.accept_to(&["+15550000001"]).await[0];
        world.becomes(id, Status::Read).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(world.bridge.open.lock().expect("sane").len() <= opened + 1, "the worker lost its lease");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_that_fails_leaves_the_others_their_turn() {
    let world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    world
        .sql(
            "CREATE TRIGGER bad BEFORE UPDATE ON messages WHEN OLD.status = 0 AND NEW.status = 1
            BEGIN SELECT RAISE(ABORT, 'a bad row'); END",
        )
        .await;
    let running = world.start_connected().await;
    let now = sanasr_shared::time::Time::now();
    world.command(SessionCommand::Pause).await;
    let (mut scheduled, mut short) = (world.message("+15550000001"), world.message("+15550000002"));
    scheduled.send_at = Some(now.plus(Duration::from_millis(200)));
    short.expires_at = Some(now.plus(Duration::from_millis(500)));
    let ids = world.accept(vec![scheduled, short]).await;
    world.becomes(ids[1], Status::Expired).await;
    assert_eq!(world.get(ids[0]).await.status, Status::Scheduled);
    assert_eq!(world.watchdog.troubles(), [], "the housekeeper itself moves");
    world.sql("DROP TRIGGER bad").await;
    world.becomes(ids[0], Status::Accepted).await;
    running.stop().await;
}

/// Signals that can't be heard.
struct Broken;

#[async_trait::async_trait]
impl Signals for Broken {
    fn publish(&self, _: Signal) {}

    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<std::sync::Arc<Signal>> {
        panic!("no ears")
    }

    fn is_connected(&self) -> bool {
        true
    }

    async fn close(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_crashes_ends_its_process() {
    let mut world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    world.signals = std::sync::Arc::new(Broken);
    let running = world.start();
    let why = tokio::time::timeout(Duration::from_secs(20), world.watchdog.failed()).await.expect("it is noticed");
    assert_eq!(why, "the worker crashed: no ears");
    running.task.await.expect("the rest of it ends in good order");
    assert_eq!(world.number("SELECT count(*) FROM workers").await, 1, "its lease runs out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_changes_while_the_session_is_opened_counts() {
    let mut world = World::new(|_| Step::Answer(Attempt::Sent)).await;
    world.lease = Duration::from_secs(3);
    world.bridge.openings = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let running = world.start();
    world.command(SessionCommand::Connect).await;
    world.until("it is being opened", async || world.bridge.requests.lock().expect("sane").len() == 1).await;
    let proxy = Some((vec![1, 2, 3], "socks5://proxy:1080".to_owned()));
    world.store.set_proxy(world.user, "default", proxy, Actor::MACHINE).await.expect("an answer").expect("a session");
    // Two renewals later its actor knows.
    for _ in 0..2 {
        let before = world.number("SELECT max(lease_until) FROM workers").await;
        world.until("a renewal", async || world.number("SELECT max(lease_until) FROM workers").await > before).await;
    }
    world.bridge.openings.add_permits(10);
    world.connected().await;
    world.until("it is opened anew", async || world.bridge.requests.lock().expect("sane").len() == 2).await;
    let proxies: Vec<_> = world.bridge.requests.lock().expect("sane").iter().map(|r| r.proxy.clone()).collect();
    assert_eq!(proxies, [None, Some(vec![1, 2, 3])]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bridge_has_no_use_for_is_not_read() {
    let world = World::new(|_| Step::Answer(Attempt::InDoubt(error("later")))).await;
    let running = world.start_connected().await;
    world.accept_to(&["+15550000001"]).await;
    world
        .until("one awaits receipts", async || {
            !world.store.awaiting_receipts(world.session, 10).await.expect("an answer").is_empty()
        })
        .await;
    world.bridge.open.lock().expect("sane").clear();
    world.command(SessionCommand::Disconnect).await;
    world
        .until("disconnected", async || {
            let session = world.store.session(world.user, "default").await.expect("an answer").expect("a session");
            session.status == SessionStatus::Disconnected
        })
        .await;
    world.command(SessionCommand::Connect).await;
    world.connected().await;
    assert!(world.bridge.requests.lock().expect("sane").iter().all(|request| request.awaiting.is_empty()));
    running.stop().await;
}
