//! Fetching a file from an address that a client has given us: whatever it names, we go nowhere that isn't public.
//!
//! The check stands where a name becomes addresses, in the resolver that the HTTP client itself asks: what it answers is what
//! is connected to, so that nothing can change between the check and its use. Addresses given as such never come to a
//! resolver; they are checked before each request. Redirects are followed by hand, each as if it were the first.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use sanasr_shared::ids::UserId;
use sanasr_shared::media::{FileStore, HEAD_BYTES, LocalFile, check, identify, name};
use sanasr_shared::message::MessageType;
use sanasr_shared::settings::MediaSettings;
use sanasr_shared::tls;

use super::address::is_public;
use super::places::Places;
use super::{Missing, missing};

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Files fetched at once, in one process; and of these, for one user.
const AT_ONCE: usize = 64;
const AT_ONCE_PER_USER: usize = 16;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Characters of a file's media type that are believed.
const MIME_TYPE_CHARS_MAX: usize = 127;

/// What makes addresses of names.
pub(super) trait Lookup: Send + Sync {
    fn lookup(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

struct System;

impl Lookup for System {
    fn lookup(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect()) }.boxed()
    }
}

/// Hosts that may have any address, by their names or addresses.
#[derive(Clone)]
struct Allowed(Arc<[String]>);

impl Allowed {
    fn new(hosts: &[String]) -> Self {
        Self(hosts.iter().map(|host| plain(host)).collect())
    }

    fn has(&self, host: &str) -> bool {
        self.0.contains(&plain(host))
    }
}

/// A host's name without what doesn't tell it from others.
fn plain(host: &str) -> String {
    host.trim().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

/// The resolver that the HTTP client asks.
struct Guarded {
    lookup: Arc<dyn Lookup>,
    allowed: Allowed,
}

/// A name has an address that isn't public.
#[derive(Debug, thiserror::Error)]
#[error("not a public address")]
struct Forbidden;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let any = self.allowed.has(&host);
        let found = self.lookup.lookup(host);
        Box::pin(async move {
            let found = found.await?;
            // One that isn't public among others is enough: it is a trap, or somebody's own network.
            if !any && !found.iter().all(|address| is_public(*address)) {
                return Err(Forbidden.into());
            }
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// A file that has been fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) file: LocalFile,
    pub(super) mime_type: String,
    /// What the answer calls it, or else its address.
    pub(super) filename: Option<String>,
}

/// Fetches files.
pub(super) struct Fetcher {
    lookup: Arc<dyn Lookup>,
    allowed: Allowed,
    /// Made when it is first needed: it reads the system's certificates.
    client: OnceLock<Option<Client>>,
    limit: u64,
    timeout: Duration,
    places: Places,
}

impl Fetcher {
    pub(super) fn new(settings: &MediaSettings) -> Self {
        Self::asking(Arc::new(System), settings)
    }

    fn asking(lookup: Arc<dyn Lookup>, settings: &MediaSettings) -> Self {
        Self {
            lookup,
            allowed: Allowed::new(&settings.media_allow_hosts),
            client: OnceLock::new(),
            limit: settings.media_limit,
            timeout: settings.media_fetch_timeout,
            places: Places::new(AT_ONCE, AT_ONCE_PER_USER),
        }
    }

    fn client(&self) -> Option<&Client> {
        let client = self.client.get_or_init(|| {
            tls::install();
            let guarded = Guarded { lookup: Arc::clone(&self.lookup), allowed: self.allowed.clone() };
            let built = Client::builder()
                .user_agent(concat!("sanasr/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(Arc::new(guarded))
                .redirect(Policy::none())
                .referer(false)
                .no_proxy()
                // A connection that is kept would be used without asking the resolver.
                .pool_max_idle_per_host(0)
                .connect_timeout(CONNECT)
                .build();
            built.inspect_err(|error| tracing::error!(?error, "files can't be fetched: no HTTP client")).ok()
        });
        client.as_ref()
    }

    /// Fetches a file for a user's message of this type. The wait for a place counts into the time that it may take.
    pub(super) async fn fetch(
        &self,
        user: UserId,
        url: &str,
        kind: MessageType,
        files: &FileStore,
    ) -> Result<Fetched, Missing> {
        let client = self.client().ok_or_else(|| unreachable("No HTTP client could be made."))?;
        let begun = AtomicBool::new(false);
        let fetched = tokio::time::timeout(self.timeout, async {
            let _place = self.places.take(user).await;
            begun.store(true, Ordering::Relaxed);
            let response = self.response(client, url).await?;
            let filename = filename(url, &response);
            let (file, mime_type) = self.take(response, kind, files).await?;
            Ok(Fetched { file, mime_type, filename })
        });
        fetched.await.unwrap_or_else(|_| {
            let seconds = self.timeout.as_secs_f64();
            Err(unreachable(match begun.load(Ordering::Relaxed) {
                true => format!("The file didn't arrive within {seconds} s."),
                false => format!("Too many files are being fetched: its turn didn't come within {seconds} s."),
            }))
        })
    }

    /// The answer at the end of all redirects.
    async fn response(&self, client: &Client, url: &str) -> Result<Response, Missing> {
        let mut url = Url::parse(url).map_err(|_| rejected("The file's address can't be read."))?;
        for _ in 0..=REDIRECTS_MAX {
            self.check(&url)?;
            let request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            let response = request.send().await.map_err(|error| failed(&error))?;
            let Some(next) = redirected(&response) else { return Ok(response) };
            url = url.join(next).map_err(|_| rejected("A redirect leads to an address that can't be read."))?;
        }
        Err(rejected(format!("The address redirects more than {REDIRECTS_MAX} times.")))
    }

    /// Whether we go to this address at all. Names are checked when they are resolved.
    fn check(&self, url: &Url) -> Result<(), Missing> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(forbidden("Files are fetched by http and https only."));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(forbidden("A file's address must not hold a user name or a password."));
        }
        let host = url.host_str().unwrap_or_default();
        // Whatever way of writing an address there is, parsing has made the usual one of it.
        match plain(host).parse::<IpAddr>() {
            Ok(address) if !is_public(address) && !self.allowed.has(host) => Err(not_public()),
            _ => Ok(()),
        }
    }

    async fn take(
        &self,
        response: Response,
        kind: MessageType,
        files: &FileStore,
    ) -> Result<(LocalFile, String), Missing> {
        judge(response.status())?;
        if response.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(rejected("The server compresses the file though it was asked not to."));
        }
        if response.content_length().is_some_and(|length| length > self.limit) {
            return Err(self.too_large());
        }
        let declared = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let declared = declared.filter(|text| text.len() <= MIME_TYPE_CHARS_MAX && text.contains('/'));
        let declared = declared.map(str::to_ascii_lowercase);
        let mut file = files.temporary().await.map_err(missing)?;
        let mut head = Vec::new();
        let mut bytes = response.bytes_stream();
        while let Some(some) = bytes.next().await {
            let some = some.map_err(|error| failed(&error))?;
            if file.size() + some.len() as u64 > self.limit {
                return Err(self.too_large());
            }
            head.extend_from_slice(&some[..some.len().min(HEAD_BYTES - head.len())]);
            file.write(&some).await.map_err(missing)?;
        }
        if file.size() == 0 {
            return Err(rejected("The file is empty."));
        }
        // A server's word on what its files are is often wrong: it counts only where content can't tell.
        let declared = declared.filter(|_| kind == MessageType::Document);
        let mime_type = identified(&head, kind, declared.as_deref())?;
        Ok((file.into_local().await.map_err(missing)?, mime_type))
    }

    fn too_large(&self) -> Missing {
        Missing::forever("media_too_large", format!("The file has more than {} bytes.", self.limit))
    }
}

fn identified(head: &[u8], kind: MessageType, declared: Option<&str>) -> Result<String, Missing> {
    let found = match kind {
        MessageType::Document => Ok(identify(head, declared)),
        _ => check(head, kind, None),
    };
    found.map_err(|detail| Missing::forever("media_type_mismatch", detail))
}

/// What a fetched file is called: as its server says, or else by the last part of its address. After a redirect there are two
/// addresses; the one that the client gave counts, unless only the other one says what kind of file it is.
fn filename(given: &str, response: &Response) -> Option<String> {
    let said = response.headers().get(CONTENT_DISPOSITION).and_then(|header| name::of_answer(header.as_bytes()));
    said.or_else(|| {
        let given = Url::parse(given).ok().and_then(|url| name::of_path(url.path()));
        let last = name::of_path(response.url().path());
        match given {
            Some(given) if name::has_extension(&given) || !last.as_deref().is_some_and(name::has_extension) => {
                Some(given)
            }
            _ => last,
        }
    })
}

/// Where an answer leads on to.
fn redirected(response: &Response) -> Option<&str> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    response.headers().get(LOCATION).filter(|_| redirects)?.to_str().ok()
}

fn judge(status: StatusCode) -> Result<(), Missing> {
    let said = || format!("The file's address answers {status}.");
    match status.as_u16() {
        200 => Ok(()),
        404 | 410 => Err(Missing::forever("media_gone", said())),
        408 | 425 | 429 | 500.. => Err(unreachable(said())),
        _ => Err(rejected(said())),
    }
}

fn failed(error: &reqwest::Error) -> Missing {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<Forbidden>() {
            return not_public();
        }
        cause = error.source();
    }
    tracing::debug!(?error, "a file couldn't be fetched");
    if error.is_builder() {
        return rejected("The file's address can't be used.");
    }
    unreachable(match (error.is_timeout(), error.is_connect()) {
        (true, _) => "The file's address didn't answer in time.",
        (_, true) => "The file's address can't be connected to.",
        _ => "The connection to the file's address broke off.",
    })
}

fn forbidden(detail: &str) -> Missing {
    Missing::forever("media_forbidden_address", detail)
}

fn not_public() -> Missing {
    forbidden("The file's address leads to a network that isn't public. SANASR_MEDIA_ALLOW_HOSTS can allow its host.")
}

fn rejected(detail: impl Into<String>) -> Missing {
    Missing::forever("media_fetch_failed", detail)
}

fn unreachable(detail: impl Into<String>) -> Missing {
    Missing::now("media_unreachable", detail)
}

#[cfg(test)]
mod tests;
