//! `PATCH /sessions/{name}`: changes only what is given; null resets.

use axum::extract::State;
use sanasr_shared::ports::signals::Signal;
use sanasr_shared::ports::store::SessionCommand;
use sanasr_shared::proxy::Proxy;
use sanasr_shared::session::{BridgeKind, Pace, Session};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{SessionPath, absent};
use crate::answer::{Data, Success};
use crate::body::JsonBody;
use crate::fields::{FieldErrors, Fields, Given};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{OfUser, SessionName};
use crate::state::App;

const PER_MINUTE_MAX: u32 = 1_000_000;
const BURST_MAX: u32 = 100_000;
/// A minute: what is slower than that is set by `per_minute`.
const JITTER_MAX_MS: u32 = 60_000;

/// What of a session is to change.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand, where null isn't absent")]
pub(crate) struct SessionChange {
    /// How fast it may send; null sets all of it to the defaults.
    pace: Option<SessionPace>,
    /// What it reaches WhatsApp by: `socks5://user:password@host:port` or `http://…`; null: nothing between. Only admins set it,
    /// and credentials are never shown again.
    #[schema(max_length = 500)]
    proxy: Option<String>,
    /// Sends nothing while true; null means false.
    paused: Option<bool>,
}

/// How fast a session may send: what isn't given stays, null means no limit; null for all of it means the bridge's default.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand, where null isn't absent")]
pub(crate) struct SessionPace {
    /// Messages a minute; null: no limit.
    #[schema(minimum = 1, maximum = 1_000_000)]
    per_minute: Option<u32>,
    /// Messages at once after a rest; null: no limit.
    #[schema(minimum = 1, maximum = 100_000)]
    burst: Option<u32>,
    /// A random extra wait before each message, up to this many milliseconds.
    #[schema(minimum = 0, maximum = 60_000)]
    jitter_ms: Option<u32>,
    /// First messages to new recipients a minute; null: no limit.
    #[schema(minimum = 1, maximum = 1_000_000)]
    first_contacts_per_minute: Option<u32>,
    /// Show "typing" before a message.
    typing: Option<bool>,
    /// Begin with a quarter of that after the phone was linked, and reach all of it within two weeks.
    warm_up: Option<bool>,
}

/// Change a session
///
/// Changes only what is given.
#[utoipa::path(
    patch, path = "/api/v1/sessions/{name}", tag = "Sessions", operation_id = "change_session",
    params(SessionName, OfUser),
    request_body(content = SessionChange, example = json!({"pace": {"per_minute": 30, "burst": 5}})),
    responses((status = 200, description = "The session as it is now.", body = Success<Session>)),
)]
pub(crate) async fn change(
    State(app): State<App>,
    SessionPath { user, name, asker, by }: SessionPath,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<Session>, Problem> {
    let change = Change::read(body)?;
    let mut session = app.store.session(user, &name).await?.ok_or_else(absent)?;
    // It has the worker connect wherever it says. Refused before anything else is changed.
    if !asker.staff && !matches!(change.proxy, Given::Absent) {
        return Err(Problem::forbidden("Only an admin sets a session's proxy."));
    }
    let pace = change.pace.map(|pace| pace.applied_to(session.pace, session.bridge));
    if let Some(pace) = pace.filter(|pace| *pace != session.pace) {
        session = app.store.set_pace(user, &name, &pace, by).await?.ok_or_else(absent)?;
        app.signals.publish(Signal::Session(session.id));
    }
    let proxy = match change.proxy {
        Given::Absent => None,
        Given::Null => Some(None),
        Given::Value(proxy) => Some(Some((proxy.seal(&app.vault, session.id), proxy.to_string()))),
    };
    if let Some(proxy) = proxy {
        session = app.store.set_proxy(user, &name, proxy, by).await?.ok_or_else(absent)?;
        app.signals.publish(Signal::Session(session.id));
    }
    if let Some(command) = change.command {
        session = app.store.command(user, &name, command, by).await?.ok_or_else(absent)?;
        app.signals.publish(Signal::Session(session.id));
    }
    Ok(Data::ok(session.opened(&app.vault)))
}

pub(crate) struct Change {
    pace: Option<PaceChange>,
    proxy: Given<Proxy>,
    command: Option<SessionCommand>,
}

enum PaceChange {
    Reset,
    Some {
        per_minute: Given<u32>,
        burst: Given<u32>,
        jitter_ms: Given<u32>,
        first_contacts_per_minute: Given<u32>,
        typing: Given<bool>,
        warm_up: Given<bool>,
    },
}

impl Change {
    pub(crate) fn read(body: Map<String, Value>) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(body, "", &mut errors);
        let pace = if fields.has("pace") {
            fields.object("pace", |fields| PaceChange::Some {
                per_minute: fields.given_integer("per_minute", 1, PER_MINUTE_MAX),
                burst: fields.given_integer("burst", 1, BURST_MAX),
                jitter_ms: fields.given_integer("jitter_ms", 0, JITTER_MAX_MS),
                first_contacts_per_minute: fields.given_integer("first_contacts_per_minute", 1, PER_MINUTE_MAX),
                typing: fields.given_flag("typing"),
                warm_up: fields.given_flag("warm_up"),
            })
        } else {
            matches!(fields.given("pace"), Given::Null).then_some(PaceChange::Reset)
        };
        let proxy = match fields.has("proxy") {
            true => fields.parsed("proxy", "invalid_proxy", Proxy::parse).map_or(Given::Absent, Given::Value),
            false => match fields.given("proxy") {
                Given::Null => Given::Null,
                Given::Absent | Given::Value(_) => Given::Absent,
            },
        };
        let command = match fields.given_flag("paused") {
            Given::Value(true) => Some(SessionCommand::Pause),
            Given::Value(false) | Given::Null => Some(SessionCommand::Resume),
            Given::Absent => None,
        };
        fields.finish();
        if errors.is_empty() { Ok(Self { pace, proxy, command }) } else { Err(Problem::validation(errors)) }
    }
}

impl PaceChange {
    fn applied_to(self, old: Pace, bridge: BridgeKind) -> Pace {
        match self {
            Self::Reset => Pace::of(bridge),
            Self::Some { per_minute, burst, jitter_ms, first_contacts_per_minute, typing, warm_up } => Pace {
                per_minute: limit(per_minute, old.per_minute),
                burst: limit(burst, old.burst),
                jitter_ms: set(jitter_ms, old.jitter_ms),
                first_contacts_per_minute: limit(first_contacts_per_minute, old.first_contacts_per_minute),
                typing: set(typing, old.typing),
                warm_up: set(warm_up, old.warm_up),
            },
        }
    }
}

fn limit(given: Given<u32>, old: Option<u32>) -> Option<u32> {
    match given {
        Given::Absent => old,
        Given::Null => None,
        Given::Value(value) => Some(value),
    }
}

fn set<T: Default>(given: Given<T>, old: T) -> T {
    match given {
        Given::Absent => old,
        Given::Null => T::default(),
        Given::Value(value) => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<Change, Problem> {
        let Value::Object(map) = body else { panic!("no object") };
        Change::read(map)
    }

    #[test]
    fn only_what_is_given_changes() {
        let old = Pace {
            per_minute: Some(10),
            burst: Some(5),
            jitter_ms: 7,
            first_contacts_per_minute: None,
            typing: true,
            warm_up: false,
        };
        let bridge = BridgeKind::Simulator;
        let pace = |body| read(body).map(|change| change.pace.map(|pace| pace.applied_to(old, bridge))).expect("good");
        assert_eq!(pace(json!({})), None);
        assert_eq!(pace(json!({"pace": null})), Some(Pace::default()));
        assert_eq!(pace(json!({"pace": {}})), Some(old));
        let changed = Pace { per_minute: None, burst: Some(9), jitter_ms: 0, ..old };
        assert_eq!(pace(json!({"pace": {"per_minute": null, "burst": 9, "jitter_ms": 0}})), Some(changed));
        assert_eq!(read(json!({"paused": true})).expect("good").command, Some(SessionCommand::Pause));
        assert_eq!(read(json!({"paused": false})).expect("good").command, Some(SessionCommand::Resume));
    }

    #[test]
    fn every_bad_field_is_named() {
        let body = json!({"pace": {"per_minute": 0, "burst": 100_001, "jitter_ms": "x", "typing": 1, "more": 1}, "proxy": "ftp://x",
            "paused": 1, "name": "x"});
        let Err(problem) = read(body) else { panic!("good") };
        let document = serde_json::to_value(problem.document("r")).expect("a document");
        let fields: Vec<_> =
            document["errors"].as_array().expect("errors").iter().map(|e| e["field"].clone()).collect();
        let expected =
            ["pace.per_minute", "pace.burst", "pace.jitter_ms", "pace.typing", "pace.more", "proxy", "paused", "name"];
        assert_eq!(fields, expected);
    }
}
