//! WhatsApp itself, in process: each session is one of a phone's linked devices.
//!
//! The protocol is the crate `whatsapp-rust`'s. Ours is what it leaves to its user: where the device's state lives
//! ([`state`], sealed by the [`Vault`]), when it may be used ([`net`]), what its life looks like from outside ([`driver`]), what
//! counts as sent ([`link`]), what is heard of other people ([`inbox`]), and how one behaves towards them ([`contacts`]).

mod backend;
mod contacts;
mod content;
mod driver;
mod inbox;
mod link;
mod net;
mod receipts;
mod refusal;
mod runtime;
mod state;
mod vcard;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use self::driver::{Driver, End};
use self::link::{Shared, WhatsappLink};
use self::net::Net;
use self::state::State;
use super::lock;
use crate::ids::SessionId;
use crate::lifecycle::caught;
use crate::ports::bridge::{Bridge, BridgeEvent, Link, LinkRequest};
use crate::ports::store::Store;
use crate::proxy::Proxy;
use crate::secret::SecretKey;
use crate::session::BridgeKind;
use crate::vault::Vault;

/// Files uploaded at once by a process: each is in memory twice meanwhile.
const UPLOADS: usize = 8;

/// The bridge to WhatsApp.
pub struct Whatsapp {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    net: Arc<Net>,
    uploads: Arc<Semaphore>,
    /// One client a device at a time: the next waits for the last one's end.
    devices: Mutex<HashMap<SessionId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Whatsapp {
    /// A bridge whose devices' state is in `store`, sealed with `secret`. `url` is that of a server of the tests.
    ///
    /// # Errors
    /// What is wrong with the URL, in words.
    pub fn new(store: Arc<dyn Store>, secret: &SecretKey, url: Option<&str>) -> Result<Self, String> {
        Ok(Self {
            store,
            vault: Arc::new(Vault::new(secret)),
            net: Arc::new(Net::new(url)?),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            devices: Mutex::default(),
        })
    }

    /// The device's own lock. Those of devices that nobody uses are forgotten.
    fn device(&self, session: SessionId) -> Arc<tokio::sync::Mutex<()>> {
        let mut devices = lock(&self.devices);
        devices.retain(|_, device| Arc::strong_count(device) > 1);
        Arc::clone(devices.entry(session).or_default())
    }
}

#[async_trait]
impl Bridge for Whatsapp {
    fn kind(&self) -> BridgeKind {
        BridgeKind::Whatsapp
    }

    fn repeats_under_same_id(&self) -> bool {
        true
    }

    async fn open(&self, request: LinkRequest, events: mpsc::Sender<BridgeEvent>) -> Arc<dyn Link> {
        let (session, owner) = (request.session, request.owner.clone());
        let state = State::new(Arc::clone(&self.store), Arc::clone(&self.vault), session, owner.clone());
        let closing = CancellationToken::new();
        let uploads = Arc::clone(&self.uploads);
        let shared = Shared::new(session, Arc::new(state), owner, closing.clone(), uploads, request.pace);
        let shared = Arc::new(shared);
        let device = self.device(session);
        let proxy = request.proxy.as_ref().and_then(|sealed| Proxy::open(&self.vault, session, sealed).ok());
        let driver =
            Driver { net: Arc::clone(&self.net), request, proxy, shared: Arc::clone(&shared), events: events.clone() };
        let link = Arc::new(WhatsappLink(Arc::clone(&shared)));
        tokio::spawn(async move {
            let _closed = shared.closed.clone().drop_guard();
            let _device = device.lock_owned().await;
            // The receipts' delivery ends with the driver, and with it the last of the events' senders. It is asked to: it may
            // have receipts in hand that nobody has taken.
            let ended = closing.child_token();
            let drive = async {
                let _ended = ended.clone().drop_guard();
                // After a panic the receipts are kept all the same. The worker opens the session again.
                caught(driver.run()).await.unwrap_or_else(|panic| {
                    tracing::error!(%session, "the session's driver crashed: {panic}");
                    metrics::counter!("sanasr_crashes_total", "part" => "WhatsApp session").increment(1);
                    End::Closed
                })
            };
            let (end, ()) = tokio::join!(drive, shared.postbox.deliver(events, ended.clone()));
            // Whoever logged out has nothing left to keep, and whose state can't be written has lost it to another worker.
            if !driver.is_unlinked(&end)
                && let Err(error) = shared.postbox.save(&shared.state).await
            {
                tracing::debug!(%session, %error, "receipts that nobody took couldn't be kept");
            }
            driver.tell(end).await;
        });
        link
    }
}
