//! The implementations of the queue: in process, and RabbitMQ.

pub mod memory;
pub mod rabbitmq;

/// Counts jobs that reached a session's queue.
fn count_published(jobs: usize) {
    metrics::counter!("sanasr_jobs_published_total").increment(jobs as u64);
}

/// Counts jobs that nobody will be rung by, and why.
fn count_dropped(jobs: usize, reason: &'static str) {
    if jobs > 0 {
        metrics::counter!("sanasr_jobs_dropped_total", "reason" => reason).increment(jobs as u64);
    }
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use std::sync::Arc;

    use super::memory::MemoryQueue;
    use super::rabbitmq::RabbitQueue;
    use crate::conformance::service::Setup;
    use crate::ports::queue::Queue;
    use crate::settings::QueueType;

    fn in_process() -> Option<Setup<dyn Queue>> {
        let queue: Arc<dyn Queue> = Arc::new(MemoryQueue::new());
        Some(Setup::in_process(queue))
    }

    fn rabbitmq(kind: QueueType) -> Option<Setup<dyn Queue>> {
        Setup::distributed("SANASR_TEST_AMQP_URL", 5672, move |url, deployment| {
            RabbitQueue::start(url, deployment, kind, &crate::lifecycle::Watchdog::default())
                .expect("a URL that can be read")
        })
    }

    crate::queue_suite!(in_process_conforms, in_process());
    crate::queue_suite!(rabbitmq_classic_conforms, rabbitmq(QueueType::Classic));
    crate::queue_suite!(rabbitmq_quorum_conforms, rabbitmq(QueueType::Quorum));
}
