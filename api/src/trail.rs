//! What becomes known of a request while it is answered: who sent it, from where, and how much they may still ask.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, OnceLock};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use ipnet::IpNet;
use sanasr_shared::ports::audit::Actor;

use crate::auth::Asker;
use crate::limits::Rate;
use crate::problem::Problem;
use crate::room::Place;
use crate::state::App;

/// The connection that a request came over, as the server tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// One request's trail: made at the edge, filled in on the way, read at the edge again.
#[derive(Debug)]
pub(crate) struct Trail {
    /// The client's address.
    pub(crate) address: IpAddr,
    /// The request says that a proxy brings it, but that proxy isn't trusted: `address` is the proxy's, not the client's.
    pub(crate) by_a_strange_proxy: bool,
    /// The client's connection is encrypted, as the proxy before us says.
    pub(crate) encrypted: bool,
    asker: OnceLock<Asker>,
    rate: OnceLock<Rate>,
    past_limit: AtomicBool,
    /// Room for the body, until the request is answered.
    room: OnceLock<Place>,
}

impl Trail {
    /// The trail of a request that begins.
    pub(crate) fn new(extensions: &Extensions, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let peer =
            extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip().to_canonical());
        let behind = trusts(trusted, peer);
        let by_a_strange_proxy = !behind && FORWARDING.iter().any(|name| headers.contains_key(*name));
        if by_a_strange_proxy {
            warn_of(peer);
        }
        Self {
            by_a_strange_proxy,
            address: if behind { forwarded_for(headers, peer, trusted) } else { peer },
            encrypted: behind && headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https"),
            asker: OnceLock::new(),
            rate: OnceLock::new(),
            past_limit: AtomicBool::new(false),
            room: OnceLock::new(),
        }
    }

    /// Who sent it, once that is known.
    pub(crate) fn asker(&self) -> Option<Asker> {
        self.asker.get().copied()
    }

    pub(crate) fn set_asker(&self, asker: Asker) {
        let _ = self.asker.set(asker);
    }

    /// Who asks, as the audit trail has it.
    pub(crate) fn actor(&self) -> Actor {
        Actor { user: self.asker().map(|asker| asker.user), address: Some(self.address) }
    }

    /// What its sender may still ask.
    pub(crate) fn rate(&self) -> Option<Rate> {
        self.rate.get().copied()
    }

    pub(crate) fn set_rate(&self, rate: Rate) {
        let _ = self.rate.set(rate);
    }

    /// It had no valid credentials and was refused as one too many from its address: it leaves no line in the API log.
    pub(crate) fn is_past_limit(&self) -> bool {
        self.past_limit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_past_limit(&self) {
        self.past_limit.store(true, Ordering::Relaxed);
    }

    /// Keeps a body's room until the request is answered.
    pub(crate) fn hold(&self, room: Place) {
        let _ = self.room.set(room);
    }
}

/// Headers by which proxies say whom they bring.
const FORWARDING: [&str; 3] = ["x-forwarded-for", "x-forwarded-proto", "forwarded"];

/// Says once that a proxy isn't believed: limits by address hit all of its clients together then.
fn warn_of(peer: IpAddr) {
    static WARN: Once = Once::new();
    WARN.call_once(|| {
        tracing::warn!(
            %peer,
            "a request with X-Forwarded-For, X-Forwarded-Proto or Forwarded came from an address that is no trusted proxy's: \
             the headers are ignored, and limits count the address itself; if it is your proxy, name it in \
             SANASR_TRUSTED_PROXIES"
        );
    });
}

/// The trail, for handlers.
#[derive(Debug, Clone)]
pub(crate) struct OnTrail(pub(crate) Arc<Trail>);

impl FromRequestParts<App> for OnTrail {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        of(&parts.extensions).map(Self)
    }
}

/// The trail of a request that has passed the edge.
pub(crate) fn of(extensions: &Extensions) -> Result<Arc<Trail>, Problem> {
    extensions.get::<Arc<Trail>>().cloned().ok_or_else(|| Problem::internal("a request came around the edge"))
}

fn trusts(trusted: &[IpNet], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// The last address in `X-Forwarded-For` that is no trusted proxy's: what stands before it was written by the client.
fn forwarded_for(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    for value in headers.get_all("x-forwarded-for").iter().rev() {
        for text in value.to_str().unwrap_or_default().rsplit(',') {
            let Some(address) = address(text.trim()) else { return client };
            client = address;
            if !trusts(trusted, address) {
                return client;
            }
        }
    }
    client
}

/// An address, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    bare.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(peer: &str, forwarded: &[&'static str]) -> String {
        let mut extensions = Extensions::new();
        extensions.insert(Peer(SocketAddr::new(peer.parse().expect("an address"), 1)));
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network"));
        Trail::new(&extensions, &headers, &trusted).address.to_string()
    }

    #[test]
    fn a_strange_proxy_is_noticed() {
        let strange = |peer: &str, name: &'static str| {
            let mut extensions = Extensions::new();
            extensions.insert(Peer(SocketAddr::new(peer.parse().expect("an address"), 1)));
            let headers =
                HeaderMap::from_iter([(name.parse().expect("a name"), HeaderValue::from_static("192.0.2.9"))]);
            Trail::new(&extensions, &headers, &["10.0.0.0/8".parse().expect("a network")]).by_a_strange_proxy
        };
        assert!(strange("127.0.0.1", "x-forwarded-for") && strange("127.0.0.1", "forwarded"));
        assert!(!strange("10.0.0.1", "x-forwarded-for") && !strange("127.0.0.1", "accept"));
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(client("192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("::ffff:10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        // What the client wrote itself stands before what our proxy has seen.
        assert_eq!(client("10.0.0.1", &["198.51.100.7, 203.0.113.9, 10.0.0.2"]), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &["198.51.100.7", "203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(client("fd00::1", &["[2001:db8::5]:443"]), "2001:db8::5");
        assert_eq!(client("10.0.0.1", &["nonsense, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["nonsense"]), "10.0.0.1");
    }
}
