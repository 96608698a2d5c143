//! What every request passes: its path made one, its id, its log line, its metrics, the security headers.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::future::RouteFuture;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Map};
use hyper::body::Body as _;
use ipnet::IpNet;
use sanasr_shared::nearest::nearest;
use sanasr_shared::ports::journal::ApiLog;
use sanasr_shared::time::Time;
use tower::Service;
use tracing::Instrument;
use uuid::Uuid;

use crate::api_logs::ApiLogs;
use crate::auth::Asker;
use crate::auth::watch::Watch;
use crate::problem::{Code, Problem};
use crate::serve::{Hangup, Reserved};
use crate::state::App;
use crate::trail::Trail;
use crate::work::Work;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a caller's own request id, at most.
const REQUEST_ID_MAX: usize = 128;

/// How long the process waits for what is carried out without a client, when it stops.
const CARRIED_OUT: Duration = Duration::from_millis(500);

/// What the server tells its router, in a request's extensions, where nothing from outside comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    /// No more requests come; nobody should wait any longer.
    Stopping,
    /// All requests have been answered.
    Drained,
}

/// The way in: makes a request's path one before it is routed.
#[derive(Clone)]
pub(crate) struct Entry {
    routes: Router,
    app: Option<App>,
}

impl Entry {
    pub(crate) fn new(routes: Router, app: Option<App>) -> Self {
        Self { routes, app }
    }
}

impl Service<Request> for Entry {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Map<RouteFuture<Infallible>, Told>, BoxFuture<'static, Result<Response, Infallible>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(news) = request.extensions().get::<Lifecycle>().copied() {
            return Either::Right(Box::pin(live_on(self.app.clone(), news)));
        }
        if let Some(uri) = without_trailing_slash(request.uri()) {
            *request.uri_mut() = uri;
        }
        Either::Left(self.routes.call(request).map(tell_methods as Told))
    }
}

type Answered = Result<Response, Infallible>;
type Told = fn(Answered) -> Answered;

/// Names the methods that an endpoint knows, which only its route adds to a refusal.
fn tell_methods(answered: Answered) -> Answered {
    let Ok(mut response) = answered;
    let Some((problem, id)) = response.extensions_mut().remove::<(Problem, RequestId)>() else { return Ok(response) };
    let Some(allow) = response.headers().get(ALLOW).and_then(|allow| allow.to_str().ok()) else { return Ok(response) };
    let told = problem.with_methods(allow).render(id.as_str());
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, told.into_body()))
}

async fn live_on(app: Option<App>, news: Lifecycle) -> Result<Response, Infallible> {
    if let Some(app) = app {
        match news {
            Lifecycle::Stopping => app.stopping.cancel(),
            Lifecycle::Drained => {
                // What the clients no longer wait for, too.
                let _ = tokio::time::timeout(CARRIED_OUT, app.work.done()).await;
                app.requests.flush().await;
                app.keys_used.flush().await;
                app.audit.flush().await;
                if let Some(logs) = &app.api_logs {
                    logs.flush().await;
                }
            }
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The URI without the slashes at its path's end; `None` if it has none.
fn without_trailing_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let bare = path.trim_end_matches('/');
    if bare.len() == path.len() || path.len() <= 1 {
        return None;
    }
    let mut text = String::with_capacity(path.len() + uri.query().map_or(0, str::len) + 1);
    text.push_str(if bare.is_empty() { "/" } else { bare });
    if let Some(query) = uri.query() {
        text.push('?');
        text.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}

/// A request's id: the caller's own, or a new one.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let own = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_sane(id));
        Self(own.map_or_else(|| Uuid::now_v7().simple().encode_lower(&mut Uuid::encode_buffer()).into(), Into::into))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_sane(id: &str) -> bool {
    !id.is_empty() && id.len() <= REQUEST_ID_MAX && id.bytes().all(|b| b.is_ascii_graphic())
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self::of(&parts.headers)))
    }
}

/// What the edge works with.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) proxies: Arc<[IpNet]>,
    pub(crate) api_logs: Option<Arc<ApiLogs>>,
    /// `None` where nobody has credentials.
    pub(crate) watch: Option<Arc<Watch>>,
    pub(crate) work: Work,
}

/// Whether a request of this method changes nothing, so that it may end wherever it is when its client leaves.
fn only_reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Wraps every route.
pub(crate) async fn edge(
    State(Edge { proxies, api_logs, watch, work }): State<Edge>,
    mut request: Request,
    next: Next,
) -> Response {
    let (started, came_at) = (Instant::now(), Time::now());
    let id = RequestId::of(request.headers());
    let trail = Arc::new(Trail::new(request.extensions(), request.headers(), &proxies));
    if request.extensions().get::<Reserved>().is_some() && !is_health(request.uri().path()) {
        let problem = Problem::overloaded("Too many connections are open. Use those that you have, or try again soon.");
        let mut response = problem.render(id.as_str());
        finish_headers(response.headers_mut(), &id, &trail);
        count(request.method(), None, response.status());
        return response;
    }
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(Arc::clone(&trail));
    let method = request.method().clone();
    let uri = request.uri().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let hangup = request.extensions().get::<Hangup>().cloned().unwrap_or_default();
    let span = tracing::debug_span!("request", request_id = id.as_str(), %method, path = uri.path());

    let handled = next.run(request).instrument(span.clone());
    let answered = if only_reads(&method) {
        AssertUnwindSafe(handled).catch_unwind().await.ok()
    } else if let Some(leave) = work.leave() {
        leave.carry_out(handled).await
    } else {
        Some(Problem::overloaded("Too many requests are under way. Try again soon.").into_response())
    };
    let mut response = answered.unwrap_or_else(|| Problem::internal("a handler panicked").into_response());

    let problem = response.extensions_mut().remove::<Problem>();
    if let Some(problem) = &problem {
        response = problem.render(id.as_str());
        if problem.code() == Code::MethodNotAllowed {
            response.extensions_mut().insert((problem.clone(), id.clone()));
        }
    }
    if let (Some(watch), Some(asker)) = (watch, trail.asker())
        && response.body().size_hint().exact().is_none()
    {
        response = response.map(|body| watch.body(asker, hangup, body));
    }
    let status = response.status();
    finish_headers(response.headers_mut(), &id, &trail);
    count(&method, route.as_ref(), status);
    if let Some(logs) = api_logs.filter(|_| is_api(uri.path()) && !trail.is_past_limit()) {
        logs.add(ApiLog {
            at: came_at,
            user: trail.asker().map(|asker| asker.user),
            endpoint: endpoint(route.as_ref(), uri.path()),
            method: known_method(&method).unwrap_or("OTHER").to_owned(),
            status: status.as_u16(),
            duration_us: i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX),
            address: trail.address,
            request_id: Arc::clone(&id.0),
        });
    }
    let _entered = span.enter();
    tracing::debug!(status = status.as_u16(), elapsed = ?started.elapsed(), "answered");
    if let Some(problem) = problem.filter(|_| status.is_server_error()) {
        log_failure(&problem, &id, &method, &uri);
    }
    response
}

/// What is answered even when connections have run short.
fn is_health(path: &str) -> bool {
    path.starts_with("/health/")
}

fn finish_headers(headers: &mut HeaderMap, id: &RequestId, trail: &Trail) {
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(X_REQUEST_ID, value);
    }
    if let Some(rate) = trail.rate() {
        rate.tell(headers);
    }
    if trail.encrypted {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Pages, such as the console's, set their own.
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static("default-src 'none'"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

fn known_method(method: &Method) -> Option<&'static str> {
    Some(match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::PUT => "PUT",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => return None,
    })
}

/// Answers a request that no endpoint takes. Below the API's path it counts like any other: in its account's limit, or without
/// valid credentials in its address's.
pub(crate) async fn refuse(app: Option<App>, request: Request, problem: Problem) -> Problem {
    let Some(app) = app.filter(|_| is_api(request.uri().path())) else { return problem };
    let (mut parts, _) = request.into_parts();
    match Asker::from_request_parts(&mut parts, &app).await {
        Err(refused) if refused.code() == Code::RateLimited => refused,
        _ => problem,
    }
}

/// What follows `/api/v1/` in a path; a test compares it with the routes.
pub(crate) const GROUPS: [&str; 13] = [
    "analytics",
    "api-keys",
    "audit",
    "auth",
    "dead-letters",
    "events",
    "media",
    "messages",
    "queues",
    "sessions",
    "usage",
    "users",
    "workers",
];

/// What to say of a path that is no endpoint, with the one that was meant perhaps.
pub(crate) fn no_endpoint(path: &str) -> String {
    let below = ["/api/v1/", "/api/", "/v1/", "/"].into_iter().find_map(|prefix| path.strip_prefix(prefix));
    let (group, rest) = below.map_or(("", ""), |below| below.split_at(below.find('/').unwrap_or(below.len())));
    let meant = nearest(group, GROUPS).map(|group| format!("/api/v1/{group}{rest}"));
    let meant = meant.filter(|meant| meant != path && meant.len() <= PATH_MAX);
    let said = "There is no such endpoint.";
    meant.map_or_else(|| said.to_owned(), |meant| format!("{said} Did you mean {meant}?"))
}

/// Whether a path is the API's: what the API log is about.
fn is_api(path: &str) -> bool {
    path.strip_prefix("/api/v1").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Characters of a path that is no endpoint, at most.
const PATH_MAX: usize = 200;

/// What the API log calls a request's endpoint.
fn endpoint(route: Option<&MatchedPath>, path: &str) -> String {
    match route {
        Some(route) => route.as_str().to_owned(),
        None => path.chars().filter(|c| !c.is_control()).take(PATH_MAX).collect(),
    }
}

fn count(method: &Method, route: Option<&MatchedPath>, status: StatusCode) {
    // Only known methods, routes and statuses become labels, so that their number is bounded.
    let method = known_method(method).unwrap_or("other");
    let route = route.map_or_else(|| "unmatched".to_owned(), |route| route.as_str().to_owned());
    let code = status.as_str().to_owned();
    metrics::counter!("sanasr_http_requests_total", "method" => method, "route" => route, "status" => code)
        .increment(1);
}

/// One line for each failure, but no flood of them while the database is away.
fn log_failure(problem: &Problem, id: &RequestId, method: &Method, uri: &Uri) {
    let (request_id, path, cause) = (id.as_str(), uri.path(), problem.cause().unwrap_or_default());
    if problem.code() == Code::Internal {
        tracing::error!(request_id, %method, path, cause, "a request failed");
    } else if may_log() {
        tracing::warn!(request_id, %method, path, code = problem.code().as_str(), cause, "a request was refused");
    }
}

/// Lines a second about refused requests, at most.
const LINES_MAX: u64 = 10;

fn may_log() -> bool {
    /// The second since the start in the upper bits, the lines in it in the lower 16.
    static LINES: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let second = START.elapsed().as_secs();
    let step = |old: u64| {
        let lines = if old >> 16 == second { old & 0xffff } else { 0 };
        (lines < LINES_MAX).then_some((second << 16) | (lines + 1))
    };
    LINES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_never_matters() {
        for (uri, bare) in [
            ("/api/v1/messages/", Some("/api/v1/messages")),
            ("/api/v1/messages//?a=/&b=%2F", Some("/api/v1/messages?a=/&b=%2F")),
            ("//", Some("/")),
            ("/", None),
            ("/api/v1/messages", None),
            ("/api/v1/messages?a=/", None),
        ] {
            let made = without_trailing_slash(&uri.parse().expect("a URI")).map(|uri| uri.to_string());
            assert_eq!(made.as_deref(), bare, "{uri}");
        }
    }

    #[test]
    fn a_callers_own_id_is_kept_if_it_is_sane() {
        let id = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).expect("a header"));
            RequestId::of(&headers)
        };
        assert_eq!(id(b"order-17/a").as_str(), "order-17/a");
        assert_eq!(id(&[b'a'; 128]).as_str().len(), 128);
        for odd in [&b""[..], b"a b", b"a\tb", b"\xc3\xa4", &[b'a'; 129]] {
            let made = id(odd);
            assert_eq!(made.as_str().len(), 32, "{odd:?}");
            assert!(made.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn a_flood_of_failures_is_a_trickle_of_lines() {
        let lines = (0..1_000).filter(|_| may_log()).count();
        assert!(lines <= 2 * usize::try_from(LINES_MAX).expect("small"), "{lines}");
    }
}
