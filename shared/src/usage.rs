//! What users have used.

use serde::Serialize;
use utoipa::ToSchema;

use crate::ids::UserId;
use crate::time::{Day, Time};

/// A user's quota today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Quota {
    /// Messages a day; no limit if `None`.
    pub limit: Option<i64>,
    /// Taken today, less what was given back.
    pub used: i64,
    /// Left today; `None` without a limit.
    pub remaining: Option<i64>,
    /// The next midnight in UTC.
    pub resets_at: Time,
}

impl Quota {
    /// A quota as it stands on `day`.
    pub fn new(limit: Option<i64>, used: i64, day: Day) -> Self {
        Self { limit, used, remaining: limit.map(|limit| (limit - used).max(0)), resets_at: day.next().start() }
    }
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
