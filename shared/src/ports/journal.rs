//! The journal: what happened, to be read in order (events), looked up (the API log) and summed up (usage).

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::ids::{ApiKeyId, FamilyId, MessageId, SessionId, UserId};
use crate::message::Status;
use crate::ports::store::{Page, Result, Scope};
use crate::session::{Session, SessionStatus};
use crate::time::{Day, Time};
use crate::usage::UsageStats;

/// A change of a message's status after its acceptance, or of a session's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Its number. Numbers are given in the order of the writing, not of the commits: see [`Journal::events_after`].
    pub n: i64,
    /// When it was written, by the database's clock.
    pub at: Time,
    /// Whose it is.
    pub user: UserId,
    /// What changed.
    pub change: Change,
}

/// What changed, and to which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A message.
    Message(MessageId, Status),
    /// A session.
    Session(SessionId, SessionStatus),
    /// Something that this version doesn't know: a later one wrote it. A reader skips it.
    Unknown,
}

/// Where somebody begins who wants to hear what happens from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Newest {
    /// The highest number that is committed: read on after it.
    pub last: i64,
    /// Numbers below it that aren't there: under way, or rolled back.
    pub missing: Vec<i64>,
}

/// A line of the API log: one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiLog {
    /// When it came, by the clock of the process that answered it.
    pub at: Time,
    /// Who asked, if that is known.
    pub user: Option<UserId>,
    /// The route.
    pub endpoint: String,
    /// Its method, in capitals.
    pub method: String,
    /// The answer's status.
    pub status: u16,
    /// How long the answer took, in microseconds.
    pub duration_us: i64,
    /// From where.
    pub address: IpAddr,
    /// Its id.
    pub request_id: Arc<str>,
}

/// Which lines of the API log to list. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the query parameters of the contract")]
pub struct ApiLogFilter {
    pub user: Option<UserId>,
    pub method: Option<String>,
    pub status: Option<u16>,
    pub endpoint: Option<String>,
    /// At this time or later.
    pub from: Option<Time>,
    /// Before this time.
    pub until: Option<Time>,
}

/// Which days of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the query parameters of the contract")]
pub struct UsageFilter {
    pub user: Option<UserId>,
    pub from: Day,
    /// Exclusive.
    pub until: Day,
}

/// The place of a line in the API log: its time, and its number among those of one time.
pub type LogPlace = (Time, i64);

/// The place of a day's usage in the list of all: newest day first, then the highest user id.
pub type UsagePlace = (Day, UserId);

/// What happened.
#[async_trait]
pub trait Journal: Send + Sync {
    /// The newest events' numbers, to read on from.
    async fn newest_events(&self) -> Result<Newest>;

    /// Events with a higher number, in the order of the numbers. On PostgreSQL a transaction that is under way may commit
    /// lower numbers than some that are there already: whoever wants all of them looks for the missing ones again, for
    /// as long as a transaction may last.
    async fn events_after(&self, scope: Scope, n: i64, limit: u32) -> Result<Vec<Event>>;

    /// The events of these numbers that are there.
    async fn events_numbered(&self, numbers: &[i64]) -> Result<Vec<Event>>;

    /// From where to read so that nothing is missed by somebody who has seen the event `n` and those that were committed
    /// before it was: the number itself, or on PostgreSQL that of an event which is [`UNDER_WAY_MAX`] older.
    ///
    /// [`UNDER_WAY_MAX`]: crate::ports::journal::UNDER_WAY_MAX
    async fn events_back(&self, scope: Scope, n: i64) -> Result<i64>;

    /// Sessions by their ids, in no particular order; those that don't exist or are marked for deletion are left out.
    async fn sessions_by_id(&self, ids: &[SessionId]) -> Result<Vec<Session>>;

    /// Those of these keys that open something: neither revoked nor past their end, of active users.
    async fn keys_in_standing(&self, keys: &[ApiKeyId]) -> Result<Vec<ApiKeyId>>;

    /// Those of these logins that live, of active users, and whether these are admins.
    async fn logins_in_standing(&self, families: &[FamilyId]) -> Result<Vec<(FamilyId, bool)>>;

    /// Adds lines to the API log, in one statement.
    async fn write_api_logs(&self, lines: &[ApiLog]) -> Result<()>;

    /// A page of the API log, newest first. It looks at [`LIST_SCAN_MAX`] lines at most.
    ///
    /// [`LIST_SCAN_MAX`]: crate::ports::store::LIST_SCAN_MAX
    async fn list_api_logs(
        &self,
        filter: &ApiLogFilter,
        after: Option<LogPlace>,
        limit: u32,
    ) -> Result<Page<ApiLog, LogPlace>>;

    /// A page of usage by user and day, newest day first.
    async fn list_usage(
        &self,
        filter: &UsageFilter,
        after: Option<UsagePlace>,
        limit: u32,
    ) -> Result<Page<UsageStats, UsagePlace>>;
}

/// How long an event may be under way, from its number to its commit: more than any transaction of ours may last.
pub const UNDER_WAY_MAX: std::time::Duration = std::time::Duration::from_secs(15);
