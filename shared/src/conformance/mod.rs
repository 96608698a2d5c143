//! conformance

pub mod bridge;
pub mod queue;
pub mod service;
pub mod signals;

/// A test for each promise of a port, against the implementation that the set-up opens. A set-up of `None` says that
/// there is no service to try it with: its tests say so, and are left out.
#[macro_export]
macro_rules! promises {
    ($suite:ident, $setup:expr; $($promise:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                match $setup {
                    Some(setup) => $crate::conformance::$suite::$promise(&setup).await,
                    None => eprintln!("left out: there is no service to try it with"),
                }
            }
        )+
    };
}
