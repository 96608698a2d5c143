//! The implementations of signals: in process, and Redis.

pub mod memory;
pub mod redis;

/// Signals that a listener may be behind before it loses the oldest.
const LISTENER_CAPACITY: usize = 4_096;

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use std::sync::Arc;

    use super::memory::MemorySignals;
    use super::redis::RedisSignals;
    use crate::conformance::service::Setup;
    use crate::ports::signals::Signals;

    fn in_process() -> Option<Setup<dyn Signals>> {
        let signals: Arc<dyn Signals> = Arc::new(MemorySignals::new());
        Some(Setup::in_process(signals))
    }

    fn redis() -> Option<Setup<dyn Signals>> {
        Setup::distributed("SANASR_TEST_REDIS_URL", 6379, |url, deployment| {
            RedisSignals::start(url, deployment, &crate::lifecycle::Watchdog::default())
                .expect("a URL that can be read")
        })
    }

    crate::signals_suite!(in_process_conforms, in_process());
    crate::signals_suite!(redis_conforms, redis());
}
