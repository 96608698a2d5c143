//! What users have used.

use serde::Serialize;
use utoipa::ToSchema;

use crate::ids::UserId;
use crate::time::{Day, Time};

/// How many times the day's limit is accepted at most, whatever was given back: so a message that is scheduled and cancelled again
/// and again isn't kept without end.
pub const ACCEPTED_PER_UNIT: i64 = 10;

/// A user's quota today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Quota {
    /// Messages a day; no limit if `None`.
    pub limit: Option<i64>,
    /// Taken today, less what was given back.
    pub used: i64,
    /// Accepted today, whatever was given back.
    #[serde(skip)]
    pub accepted: i64,
    /// What may still be accepted today; `None` without a limit. It is less than the limit leaves once nearly ten times the limit
    /// was accepted.
    pub remaining: Option<i64>,
    /// The next midnight in UTC.
    pub resets_at: Time,
}

impl Quota {
    /// A quota as it stands on `day`.
    pub fn new(limit: Option<i64>, used: i64, accepted: i64, day: Day) -> Self {
        let remaining = limit.map(|limit| (limit - used).min(accepted_max(limit) - accepted).max(0));
        Self { limit, used, accepted, remaining, resets_at: day.next().start() }
    }

    /// How many messages are accepted a day at most, if there is a limit.
    pub fn accepted_max(&self) -> Option<i64> {
        self.limit.map(accepted_max)
    }
}

fn accepted_max(limit: i64) -> i64 {
    limit.saturating_mul(ACCEPTED_PER_UNIT)
}

/// What a user did on a day: everything by the day of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::FromRow, ToSchema)]
pub struct UsageStats {
    /// Whose.
    pub user_id: UserId,
    /// The UTC day.
    #[serde(rename = "date")]
    pub day: Day,
    /// Accepted; never falls.
    pub messages_accepted: i64,
    /// Known to have been sent.
    pub messages_sent: i64,
    /// Failed, `unknown_outcome` included, less those that a receipt disproved.
    pub messages_failed: i64,
    /// Sent with a file.
    pub media_sent: i64,
    /// Requests to the API.
    pub api_requests: i64,
}
