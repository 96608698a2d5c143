//! What every process of `sanasr` shares: the domain's types, the table of a message's moves, the four ports, and the
//! implementations of each. Nothing here knows HTTP.

#[cfg(feature = "conformance")]
pub mod conformance;

pub mod bridge;
pub mod group_commit;
pub mod ids;
pub mod lifecycle;
pub mod link_code;
pub mod media;
pub mod message;
pub mod mime_text;
pub mod nearest;
pub mod password;
pub mod ports;
pub mod priority;
pub mod proxy;
pub mod queue;
pub mod recipient;
pub mod secret;
pub mod session;
pub mod settings;
pub mod signals;
pub mod store;
pub mod telemetry;
pub mod throttle;
pub mod time;
pub mod tls;
pub mod usage;
pub mod user;
pub mod vault;
