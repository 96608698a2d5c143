//! The promises that every implementation of a port must keep: one function per promise, over the port's trait. Callers
//! run them against each implementation with that port's `…_suite!` macro, which knows their names.

pub mod bridge;
pub mod queue;
pub mod service;
pub mod signals;
pub mod store;

/// A test for each promise of a port, against the implementation that the set-up opens. A set-up of `None` says that
/// there is no service to try it with: its tests say so, and are left out.
#[macro_export]
macro_rules! promises {
    ($suite:ident, $setup:expr; $($promise:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::conformance::service::show_logs();
                match $setup {
                    Some(setup) => $crate::conformance::$suite::$promise(&setup).await,
                    None => eprintln!("left out: there is no service to try it with"),
                }
            }
        )+
    };
}
