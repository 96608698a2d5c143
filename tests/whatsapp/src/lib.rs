//! A WhatsApp server for the tests. It speaks the real protocol on loopback: the Noise handshake, pairing by QR and by code,
//! Signal sessions with contacts that decrypt what they get, groups, media, receipts, and everything that goes wrong.
//!
//! ```no_run
//! # async fn example(qr_shown_by_the_client: &str) -> Result<(), String> {
//! use whatsapp_test_server::{Behaviour, Server};
//!
//! let server = Server::start().await;
//! let contact = server.contact("15551230001");
//! let account = server.scan(qr_shown_by_the_client, "15550000001").await?;
//! account.wait_connected().await;
//! server.on_send("15551230001", Behaviour::DropBeforeAck);
//! // … the client sends, loses its connection, comes back and sends again …
//! assert_eq!(contact.messages().len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! [`Server`] is the way in; [`Account`] is a client under test, [`Contact`] somebody it writes to. A stanza comes in through
//! `connection`, goes through `session` to the part it is for (`message`, `prekeys`, `usync`, …), and answers leave through the
//! connection's outbox. Handling a stanza never waits: a client's stanzas are answered in their order.

mod account;
mod app_state;
mod behaviour;
mod code;
mod connection;
mod contact;
mod device;
mod group;
mod http;
mod lock;
mod media;
mod message;
mod noise;
mod pairing;
mod person;
mod prekeys;
mod server;
mod session;
mod signal;
mod stanza;
mod state;
mod usync;

pub use account::{Account, WireMessage};
pub use behaviour::{Behaviour, Garbage, PairingRefusal};
pub use contact::{Contact, Received};
pub use group::Group;
pub use server::Server;
pub use waproto::whatsapp as wa;
