//! What every queue promises. Each function is one promise; [`queue_suite!`](crate::queue_suite) makes a test of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::service::{QUIET, SOON, Setup, eventually, in_time};
use crate::ids::{MessageId, SessionId};
use crate::ports::queue::{Doorbell, Queue};
use crate::ports::store::AcceptedJob;

/// A module with a test for each promise of the queue. `$setup` gives an `Option<Setup<dyn Queue>>`.
#[macro_export]
macro_rules! queue_suite {
    ($module:ident, $setup:expr) => {
        mod $module {
            use super::*;

            $crate::promises! { queue, $setup;
                a_job_rings,
                a_ring_is_kept_until_it_is_heard,
                a_ring_given_up_is_not_lost,
                many_jobs_are_one_ring,
                sessions_are_apart,
                the_next_job_rings_after_all_are_acknowledged,
                closing_hands_over,
                dropping_hands_over,
                held_jobs_come_again_for_the_next_consumer,
                acknowledged_jobs_do_not_come_again,
                the_prefetch_limits_what_is_held,
                the_depth_follows_the_jobs,
                jobs_outlive_their_publisher,
                expired_jobs_are_gone,
                deployments_are_apart,
                deleting_takes_the_queue_and_its_jobs,
                a_deleted_queue_is_made_again,
                without_a_broker_nothing_blocks,
                what_waits_is_sent_on_closing,
                it_comes_back_after_a_cut,
                it_comes_back_after_a_freeze,
                a_flood_gets_through,
            }
        }
    };
}

type QueueSetup = Setup<dyn Queue>;

fn job(session: SessionId) -> AcceptedJob {
    AcceptedJob {
        message: MessageId::generate(),
        session,
        life: Duration::from_secs(600),
        request_id: "conformance".to_owned(),
    }
}

fn jobs(session: SessionId, count: usize) -> Vec<AcceptedJob> {
    (0..count).map(|_| job(session)).collect()
}

async fn connected(queue: &Arc<dyn Queue>) {
    eventually("the queue is connected", async || queue.is_connected()).await;
}

/// A doorbell that consumes: the ring of its beginning is heard. In process it has none.
async fn consume(setup: &QueueSetup, queue: &Arc<dyn Queue>, session: SessionId, prefetch: u16) -> Box<dyn Doorbell> {
    let mut bell = in_time(Duration::from_secs(1), "consuming begins at once", queue.consume(session, prefetch)).await;
    if setup.is_distributed() {
        in_time(SOON, "the ring of the beginning", bell.ring()).await;
    }
    bell
}

/// Declares a session's queue, as its owner does, and leaves it.
async fn declare(setup: &QueueSetup, queue: &Arc<dyn Queue>, session: SessionId) {
    consume(setup, queue, session, 1).await.close().await;
}

async fn rings(bell: &mut Box<dyn Doorbell>) {
    in_time(SOON, "it rings", bell.ring()).await;
}

async fn stays_quiet(bell: &mut Box<dyn Doorbell>) {
    assert!(tokio::time::timeout(QUIET, bell.ring()).await.is_err(), "it rings for nothing");
}

/// Hears rings until there are none for a while.
async fn hear_out(bell: &mut Box<dyn Doorbell>) {
    let quiet = async { while tokio::time::timeout(QUIET, bell.ring()).await.is_ok() {} };
    in_time(SOON, "it grows quiet", quiet).await;
}

async fn depth_becomes(queue: &Arc<dyn Queue>, session: SessionId, depth: u64) {
    eventually(&format!("the depth is {depth}"), async || queue.depth(session).await == Some(depth)).await;
}

async fn done(queue: Arc<dyn Queue>, sessions: &[SessionId]) {
    for session in sessions {
        queue.delete(*session).await;
    }
    in_time(Duration::from_secs(6), "closing", queue.close()).await;
}

/// A job published in another process rings the owner.
pub async fn a_job_rings(setup: &QueueSetup) {
    let (publisher, owner) = (setup.open(), setup.open());
    let session = SessionId::generate();
    connected(&publisher).await;
    let mut bell = consume(setup, &owner, session, 10).await;
    for _ in 0..3 {
        publisher.publish(&[job(session)]);
        rings(&mut bell).await;
        bell.idle();
        stays_quiet(&mut bell).await;
    }
    bell.close().await;
    done(owner, &[session]).await;
}

/// A ring that comes while nobody waits for it is heard later.
pub async fn a_ring_is_kept_until_it_is_heard(setup: &QueueSetup) {
    let queue = setup.open();
    let session = SessionId::generate();
    let mut bell = consume(setup, &queue, session, 10).await;
    queue.publish(&[job(session)]);
    tokio::time::sleep(QUIET).await;
    rings(&mut bell).await;
    stays_quiet(&mut bell).await;
    bell.close().await;
    done(queue, &[session]).await;
}

/// Whoever stops waiting for a ring hears it the next time.
pub async fn a_ring_given_up_is_not_lost(setup: &QueueSetup) {
    let queue = setup.open();
    let session = SessionId::generate();
    let mut bell = consume(setup, &queue, session, 10).await;
    for wait_us in (0..40).map(|n| n * 50) {
        queue.publish(&[job(session)]);
        let heard = tokio::time::timeout(Duration::from_micros(wait_us), bell.ring()).await.is_ok();
        if !heard {
            rings(&mut bell).await;
        }
        bell.idle();
    }
    stays_quiet(&mut bell).await;
    bell.close().await;
    done(queue, &[session]).await;
}

/// Jobs that come before anybody listens are one ring together.
pub async fn many_jobs_are_one_ring(setup: &QueueSetup) {
    let queue = setup.open();
    let session = SessionId::generate();
    let mut bell = consume(setup, &queue, session, 200).await;
    queue.publish(&jobs(session, 100));
    tokio::time::sleep(Duration::from_secs(1)).await;
    if setup.is_distributed() {
        depth_becomes(&queue, session, 0).await;
    }
    rings(&mut bell).await;
    stays_quiet(&mut bell).await;
    bell.close().await;
    done(queue, &[session]).await;
}

/// A job rings its own session's owner only.
pub async fn sessions_are_apart(setup: &QueueSetup) {
    let queue = setup.open();
    let (one, other) = (SessionId::generate(), SessionId::generate());
    let mut bell = consume(setup, &queue, one, 10).await;
    let mut other_bell = consume(setup, &queue, other, 10).await;
    queue.publish(&jobs(one, 3));
    rings(&mut bell).await;
    stays_quiet(&mut other_bell).await;
    queue.publish(&[job(other)]);
    rings(&mut other_bell).await;
    bell.close().await;
    other_bell.close().await;
    done(queue, &[one, other]).await;
}

/// When a pull has left places free, all that is held is acknowledged, and the next job rings: also with a prefetch of 1.
pub async fn the_next_job_rings_after_all_are_acknowledged(setup: &QueueSetup) {
    let queue = setup.open();
    let session = SessionId::generate();
    for prefetch in [1, 3] {
        let mut bell = consume(setup, &queue, session, prefetch).await;
        for round in 0..20 {
            queue.publish(&[job(session)]);
            in_time(SOON, &format!("job {round} rings"), bell.ring()).await;
            bell.idle();
        }
        bell.close().await;
    }
    done(queue, &[session]).await;
}

/// When `close` answers, another process consumes, and jobs ring there.
pub async fn closing_hands_over(setup: &QueueSetup) {
    let (old, new) = (setup.open(), setup.open());
    let session = SessionId::generate();
    let mut bell = consume(setup, &old, session, 5).await;
    for _ in 0..3 {
        old.publish(&[job(session)]);
        rings(&mut bell).await;
        bell.idle();
        in_time(Duration::from_secs(3), "closing a doorbell", bell.close()).await;
        bell = consume(setup, &new, session, 5).await;
        stays_quiet(&mut bell).await;
        new.publish(&[job(session)]);
        rings(&mut bell).await;
        bell.idle();
    }
    bell.close().await;
    done(new, &[session]).await;
}

/// A doorbell that is dropped lets go of the session, too.
pub async fn dropping_hands_over(setup: &QueueSetup) {
    let queue = setup.open();
    let session = SessionId::generate();
    let mut bell = consume(setup, &queue, session, 5).await;
    queue.publish(&jobs(session, 3));
    rings(&mut bell).await;
    if setup.is_distributed() {
        depth_becomes(&queue, session, 0).await;
    }
    drop(bell);
    if setup.is_distributed() {
        depth_becomes(&queue, session, 3).await;
    }
    let mut bell = consume(setup, &queue, session, 5).await;
    hear_out(&mut bell).await;
    queue.publish(&[job(session)]);
    rings(&mut bell).await;
    bell.close().await;
    done(queue, &[session]).await;
}

/// What one consumer held and didn't acknowledge rings the next one.
pub async fn held_jobs_come_again_for_the_next_consumer(setup: &QueueSetup) {
    if !setup.is_distributed() {
        return;
    }
    let (old, new) = (setup.open(), setup.open());
    let session = SessionId::generate();
    let bell = consume(setup, &old, session, 10).await;
    old.publish(&jobs(session, 5));
    tokio::time::sleep(QUIET).await;
    depth_becomes(&old, session, 0).await;
    bell.close().await;
    depth_becomes(&old, session, 5).await;
    let mut bell = consume(setup, &new, session, 10).await;
    depth_becomes(&new, session, 0).await;
    hear_out(&mut bell).await;
    bell.close().await;
    depth_becomes(&new, session, 5).await;
    done(new, &[session]).await;
}

/// What was acknowledged is gone: all of it by `idle`, the oldest by `finished`.
pub async fn acknowledged_jobs_do_not_come_again(setup: &QueueSetup) {
    if !setup.is_distributed() {
        return;
    }
    let queue = setup.open();
    let session = SessionId::generate();
    let mut bell = consume(setup, &queue, session, 10).await;
    queue.publish(&jobs(session, 8));
    tokio::time::sleep(QUIET).await;
    depth_becomes(&queue, session, 0).await;
    hear_out(&mut bell).await;
    bell.finished();
    bell.finished();
    bell.finished();
    bell.close().await;
    depth_becomes(&queue, session, 5).await;

    let mut bell = consume(setup, &queue, session, 10).await;
    depth_becomes(&queue, session, 0).await;
    hear_out(&mut bell).await;
    bell.idle();
    // More than is held: nothing to acknowledge, nothing to break.
    bell.finished();
    bell.idle();
    bell.close().await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(queue.depth(session).await, Some(0), "nothing came back");
    done(queue, &[session]).await;
}

/// No more jobs are held than asked for; each one finished makes room for the next, and rings.
pub async fn the_prefetch_limits_what_is_held(setup: &QueueSetup) {
    if !setup.is_distributed() {
        return;
    }
    let queue = setup.open();
    let session = SessionId::generate();
    let mut bell = consume(setup, &queue, session, 2).await;
    queue.publish(&jobs(session, 6));
    rings(&mut bell).await;
    depth_becomes(&queue, session, 4).await;
    hear_out(&mut bell).await;
    for waiting in [3, 2, 1, 0] {
        bell.finished();
        rings(&mut bell).await;
        depth_becomes(&queue, session, waiting).await;
        stays_quiet(&mut bell).await;
    }
    bell.close().await;
    done(queue, &[session]).await;
}

/// The depth is what waits; in process nobody counts.
pub async fn the_depth_follows_the_jobs(setup: &QueueSetup) {
    let queue = setup.open();
    let session = SessionId::generate();
    if !setup.is_distributed() {
        queue.publish(&jobs(session, 3));
        assert_eq!(queue.depth(session).await, None);
        return;
    }
    connected(&queue).await;
    assert_eq!(queue.depth(session).await, Some(0), "a queue that was never made");
    declare(setup, &queue, session).await;
    assert_eq!(queue.depth(session).await, Some(0));
    queue.publish(&jobs(session, 250));
    depth_becomes(&queue, session, 250).await;
    let bell = consume(setup, &queue, session, 100).await;
    depth_becomes(&queue, session, 150).await;
    bell.close().await;
    depth_becomes(&queue, session, 250).await;
    done(queue, &[session]).await;
}

/// Jobs wait for an owner when whoever published them is gone.
pub async fn jobs_outlive_their_publisher(setup: &QueueSetup) {
    if !setup.is_distributed() {
        return;
    }
    let (publisher, owner) = (setup.open(), setup.open());
    let session = SessionId::generate();
    declare(setup, &owner, session).await;
    publisher.publish(&jobs(session, 2));
    depth_becomes(&owner, session, 2).await;
    publisher.close().await;
    depth_becomes(&owner, session, 2).await;
    done(owner, &[session]).await;
}

/// A job whose message is worthless rings nobody.
pub async fn expired_jobs_are_gone(setup: &QueueSetup) {
    if !setup.is_distributed() {
        return;
    }
    let queue = setup.open();
    let session = SessionId::generate();
    declare(setup, &queue, session).await;
    queue.publish(&[AcceptedJob { life: Duration::from_millis(300), ..job(session) }]);
    queue.publish(&[AcceptedJob { life: Duration::ZERO, ..job(session) }]);
    queue.publish(&[job(session)]);
    // An expired job leaves when it comes to the head, so the order counts here: the short one was published first.
    tokio::time::sleep(QUIET).await;
    depth_becomes(&queue, session, 1).await;
    done(queue, &[session]).await;
}

/// Two deployments on one broker don't hear each other.
pub async fn deployments_are_apart(setup: &QueueSetup) {
    let Some(elsewhere) = setup.open_elsewhere() else { return };
    let queue = setup.open();
    let session = SessionId::generate();
    let mut bell = consume(setup, &queue, session, 10).await;
    let mut other = consume(setup, &elsewhere, session, 10).await;
    elsewhere.publish(&[job(session)]);
    rings(&mut other).await;
    stays_quiet(&mut bell).await;
    bell.close().await;
    other.close().await;
    done(queue, &[session]).await;
    done(elsewhere, &[session]).await;
}

/// A deleted session's queue is gone with what was in it, and deleting it once more does no harm.
pub async fn deleting_takes_the_queue_and_its_jobs(setup: &QueueSetup) {
    let queue = setup.open();
    let session = SessionId::generate();
    if setup.is_distributed() {
        declare(setup, &queue, session).await;
        queue.publish(&jobs(session, 4));
        depth_becomes(&queue, session, 4).await;
    }
    queue.delete(session).await;
    queue.delete(session).await;
    if setup.is_distributed() {
        assert_eq!(queue.depth(session).await, Some(0));
        declare(setup, &queue, session).await;
        assert_eq!(queue.depth(session).await, Some(0), "its jobs went with it");
    }
    done(queue, &[session]).await;
}

/// A doorbell whose queue is taken away makes it again, and says so by a ring.
pub async fn a_deleted_queue_is_made_again(setup: &QueueSetup) {
    let queue = setup.open();
    let session = SessionId::generate();
    let mut bell = consume(setup, &queue, session, 10).await;
    queue.delete(session).await;
    if setup.is_distributed() {
        rings(&mut bell).await;
    }
    queue.publish(&[job(session)]);
    rings(&mut bell).await;
    bell.close().await;
    done(queue, &[session]).await;
}

/// With no broker at all, nothing hangs and nothing grows: publishing answers at once, questions soon.
pub async fn without_a_broker_nothing_blocks(setup: &QueueSetup) {
    let Some((proxy, url)) = setup.cuttable().await else { return };
    for frozen in [false, true] {
        if frozen {
            proxy.freeze()
        } else {
            proxy.refuse()
        }
        let queue = setup.open_at(&url);
        let session = SessionId::generate();
        let many = jobs(session, 1_000);
        let begun = Instant::now();
        for _ in 0..300 {
            queue.publish(&many);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "publishing took {:?}", begun.elapsed());
        assert!(!queue.is_connected());
        let mut bell = in_time(Duration::from_secs(1), "consuming", queue.consume(session, 10)).await;
        stays_quiet(&mut bell).await;
        bell.finished();
        bell.idle();
        assert_eq!(in_time(Duration::from_secs(5), "asking for the depth", queue.depth(session)).await, None);
        in_time(Duration::from_secs(5), "deleting", queue.delete(session)).await;
        in_time(Duration::from_secs(3), "closing a doorbell", bell.close()).await;
        in_time(Duration::from_secs(6), "closing", queue.close()).await;
        queue.publish(&many);
    }
}

/// Closing sends what waits.
pub async fn what_waits_is_sent_on_closing(setup: &QueueSetup) {
    if !setup.is_distributed() {
        return;
    }
    let (publisher, owner) = (setup.open(), setup.open());
    let session = SessionId::generate();
    declare(setup, &owner, session).await;
    publisher.publish(&[job(session)]);
    depth_becomes(&owner, session, 1).await;
    publisher.publish(&jobs(session, 500));
    in_time(Duration::from_secs(6), "closing", publisher.close()).await;
    assert!(!publisher.is_connected());
    depth_becomes(&owner, session, 501).await;
    done(owner, &[session]).await;
}

/// A lost connection is noticed and made anew; then it rings, and jobs published meanwhile go out.
pub async fn it_comes_back_after_a_cut(setup: &QueueSetup) {
    let Some((proxy, url)) = setup.cuttable().await else { return };
    let (cut, steady) = (setup.open_at(&url), setup.open());
    let session = SessionId::generate();
    let mut bell = consume(setup, &cut, session, 10).await;
    connected(&cut).await;
    for round in 0..3 {
        proxy.refuse();
        eventually("the cut is noticed", async || !cut.is_connected()).await;
        cut.publish(&jobs(session, 2));
        hear_out(&mut bell).await;
        tokio::time::sleep(Duration::from_millis(300) * round).await;
        proxy.pass();
        rings(&mut bell).await;
        connected(&cut).await;
        // The jobs of the cut, published late.
        hear_out(&mut bell).await;
        bell.idle();
        depth_becomes(&steady, session, 0).await;
        steady.publish(&[job(session)]);
        rings(&mut bell).await;
        bell.idle();
        stays_quiet(&mut bell).await;
    }
    bell.close().await;
    cut.close().await;
    done(steady, &[session]).await;
}

/// A broker that stays silent is noticed, too, in spite of its open connections, and doesn't hold anybody up.
pub async fn it_comes_back_after_a_freeze(setup: &QueueSetup) {
    let Some((proxy, url)) = setup.cuttable().await else { return };
    let (frozen, steady) = (setup.open_at(&url), setup.open());
    let session = SessionId::generate();
    let mut bell = consume(setup, &frozen, session, 10).await;
    connected(&frozen).await;
    proxy.freeze();
    frozen.publish(&[job(session)]);
    bell.idle();
    in_time(Duration::from_secs(5), "asking for the depth", frozen.depth(session)).await;
    eventually("the silence is noticed", async || !frozen.is_connected()).await;
    proxy.pass();
    rings(&mut bell).await;
    connected(&frozen).await;
    hear_out(&mut bell).await;
    bell.idle();
    steady.publish(&[job(session)]);
    rings(&mut bell).await;
    frozen.publish(&[job(session)]);
    rings(&mut bell).await;

    proxy.freeze();
    in_time(Duration::from_secs(3), "closing a doorbell", bell.close()).await;
    in_time(Duration::from_secs(6), "closing", frozen.close()).await;
    done(steady, &[session]).await;
}

/// Far more jobs than are in flight at once, for sessions with and without a queue, all reach their queues.
pub async fn a_flood_gets_through(setup: &QueueSetup) {
    let queue = setup.open();
    let (owned, unowned) = (SessionId::generate(), SessionId::generate());
    if !setup.is_distributed() {
        let mut bell = consume(setup, &queue, owned, 200).await;
        queue.publish(&jobs(owned, 20_000));
        rings(&mut bell).await;
        stays_quiet(&mut bell).await;
        return;
    }
    declare(setup, &queue, owned).await;
    for _ in 0..100 {
        let mut mixed = jobs(owned, 100);
        mixed.extend(jobs(unowned, 20));
        queue.publish(&mixed);
    }
    depth_becomes(&queue, owned, 10_000).await;
    let mut bell = consume(setup, &queue, owned, 200).await;
    let drained = async {
        while queue.depth(owned).await != Some(0) {
            bell.idle();
            let _ = tokio::time::timeout(Duration::from_millis(20), bell.ring()).await;
        }
    };
    in_time(SOON * 2, "all jobs are consumed", drained).await;
    bell.close().await;
    done(queue, &[owned]).await;
}
