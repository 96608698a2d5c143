//! Starting whole systems and looking at them from outside.
//!
//! Tests wait for conditions, never for time: see [`wait::eventually`]. Whatever a test starts ends with it; what its
//! processes wrote is shown if it fails.

pub(crate) mod client;
pub(crate) mod files;
pub(crate) mod folder;
pub(crate) mod ledger;
pub(crate) mod moto;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod services;
pub(crate) mod stream;
pub(crate) mod system;
pub(crate) mod wait;
pub(crate) mod way;
pub(crate) mod whatsapp;

mod selftest;

pub(crate) use client::{Client, Message, Reply};
pub(crate) use system::{Mode, System};
pub(crate) use wait::eventually;

/// Runs tests, functions of a [`Mode`], over both modes.
macro_rules! both_modes {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::harness::Mode;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                super::$name(Mode::Embedded).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn distributed() {
                super::$name(Mode::Distributed).await;
            }
        }
    )+};
}
pub(crate) use both_modes;

/// A name that nothing else has.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}
