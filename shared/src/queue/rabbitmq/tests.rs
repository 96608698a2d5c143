//! What is particular to RabbitMQ, seen through a plain client beside the queue.

use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::json;

use super::*;
use crate::conformance::service::{SOON, eventually, in_time, show_logs};
use crate::ids::MessageId;

/// A queue of a deployment of its own, and a plain client; `None` if there is no broker.
async fn broker(kind: QueueType) -> Option<(Arc<RabbitQueue>, Connection, Channel)> {
    show_logs();
    let Ok(url) = std::env::var("SANASR_TEST_AMQP_URL") else {
        eprintln!("left out: there is no service to try it with");
        return None;
    };
    let deployment = format!("test-{}", SessionId::generate());
    let queue = RabbitQueue::start(&url, &deployment, kind, &crate::lifecycle::Watchdog::default())
        .expect("a URL that can be read");
    let client = Connection::connect(&url, ConnectionProperties::default()).await.expect("a broker");
    let channel = client.create_channel().await.expect("a channel");
    Some((queue, client, channel))
}

async fn done(queue: Arc<RabbitQueue>, session: SessionId) {
    queue.delete(session).await;
    queue.close().await;
}

async fn get(channel: &Channel, name: &ShortString) -> Option<Delivery> {
    let got = channel.basic_get(name.clone(), BasicGetOptions { no_ack: true }).await.expect("the queue is there");
    got.map(|message| message.delivery)
}

#[tokio::test]
async fn a_job_says_what_it_is_and_survives_the_broker() {
    let Some((queue, _client, channel)) = broker(QueueType::Classic).await else { return };
    let session = SessionId::generate();
    let name = queue.names.queue(session);
    let declared = channel.queue_declare(name.clone(), QueueDeclareOptions::durable(), arguments(QueueType::Classic));
    declared.await.expect("a queue");
    let jobs: Vec<_> = (0..300)
        .map(|n| AcceptedJob {
            message: MessageId::generate(),
            session,
            life: Duration::from_secs(60),
            request_id: format!("request {n}"),
        })
        .collect();
    jobs.chunks(7).for_each(|some| queue.publish(some));
    eventually("all are there", async || queue.depth(session).await == Some(300)).await;
    for job in &jobs {
        let delivery = get(&channel, &name).await.expect("a job");
        let body: serde_json::Value = serde_json::from_slice(&delivery.data).expect("JSON");
        let expected =
            json!({"v": 1, "session": session, "message": job.message, "request_id": job.request_id.as_str()});
        assert_eq!(body, expected);
        let properties = delivery.properties;
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert_eq!(properties.message_id().as_ref().map(|id| id.as_str()), Some(job.message.to_string().as_str()));
        let life: u64 = properties.expiration().as_ref().expect("a life").as_str().parse().expect("milliseconds");
        assert!((30_000..=60_000).contains(&life), "{life}");
    }
    done(queue, session).await;
}

#[tokio::test]
async fn whatever_is_in_the_queue_rings() {
    let Some((queue, _client, channel)) = broker(QueueType::Classic).await else { return };
    let session = SessionId::generate();
    let mut bell = queue.consume(session, 10).await;
    in_time(SOON, "the beginning", bell.ring()).await;
    for body in [&b""[..], b"\xff\x00garbage", br#"{"v":2,"something":"new"}"#] {
        let (name, options) = (queue.names.queue(session), BasicPublishOptions::default());
        channel.basic_publish("".into(), name, options, body, BasicProperties::default()).await.expect("published");
        in_time(SOON, "it rings", bell.ring()).await;
        bell.idle();
    }
    bell.close().await;
    assert_eq!(queue.depth(session).await, Some(0));
    done(queue, session).await;
}

#[tokio::test]
async fn a_queue_of_another_kind_is_used_as_it_is() {
    let Some((queue, _client, channel)) = broker(QueueType::Quorum).await else { return };
    let session = SessionId::generate();
    let name = queue.names.queue(session);
    let plain = channel.queue_declare(name, QueueDeclareOptions::durable(), FieldTable::default());
    plain.await.expect("a queue");
    let mut bell = queue.consume(session, 10).await;
    in_time(SOON, "the beginning", bell.ring()).await;
    queue.publish(&[AcceptedJob {
        message: MessageId::generate(),
        session,
        life: Duration::from_secs(60),
        request_id: String::new(),
    }]);
    in_time(SOON, "it rings", bell.ring()).await;
    // Once it is gone, the one of our kind is made.
    queue.delete(session).await;
    in_time(SOON, "it begins again", bell.ring()).await;
    let again = channel
        .queue_declare(queue.names.queue(session), QueueDeclareOptions::durable(), arguments(QueueType::Quorum))
        .await;
    assert!(again.is_ok(), "{again:?}");
    bell.close().await;
    done(queue, session).await;
}

#[tokio::test]
async fn doorbells_spread_over_connections() {
    let Some((queue, _client, _channel)) = broker(QueueType::Classic).await else { return };
    let first: Vec<Place> = (0..DOORBELLS_PER_CONNECTION).map(|_| queue.place()).collect();
    assert_eq!(queue.consuming.lock().expect("a lock").len(), 1);
    let second = queue.place();
    assert_eq!(queue.consuming.lock().expect("a lock").len(), 2);
    eventually("both are connected", async || queue.is_connected()).await;
    // One that has become empty is closed, but for the first.
    drop((first, second));
    let _one = queue.place();
    assert_eq!(queue.consuming.lock().expect("a lock").len(), 1);
    queue.close().await;
}
