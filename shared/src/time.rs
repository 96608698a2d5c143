//! Time as the database keeps it and the API writes it.
//!
//! The databases' clocks decide what is due, expired or leased; a process's own clock is for looking at what came in.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// Milliseconds in a day.
pub const DAY_MS: i64 = 86_400_000;

/// A moment: milliseconds since 1970 in UTC. Written as RFC 3339 with milliseconds and `Z`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type, ToSchema)]
#[sqlx(transparent)]
#[schema(value_type = String, format = DateTime, examples("2030-01-31T12:00:00.000Z"))]
pub struct Time(pub i64);

/// A day in UTC: days since 1970-01-01. Written as `YYYY-MM-DD`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type, ToSchema)]
#[sqlx(transparent)]
#[schema(value_type = String, format = Date, examples("2030-01-31"))]
pub struct Day(pub i64);

impl Time {
    /// This process's clock.
    pub fn now() -> Self {
        Self(Utc::now().timestamp_millis())
    }

    /// Reads an RFC 3339 time. `None` for anything else, a time without a zone among them.
    pub fn parse(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|t| Self(t.timestamp_millis()))
    }

    /// The UTC day it falls on.
    pub fn day(self) -> Day {
        Day(self.0.div_euclid(DAY_MS))
    }

    /// Later by `by`.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// How long it is from `earlier` to this, zero if it isn't later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Day {
    /// Reads `YYYY-MM-DD`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        let day = Self(date.signed_duration_since(NaiveDate::default()).num_days());
        // chrono also takes signs and blanks, and months of one digit.
        (day.to_string() == text).then_some(day)
    }

    /// Midnight at its start.
    pub fn start(self) -> Time {
        Time(self.0.saturating_mul(DAY_MS))
    }

    /// The next day.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A duration in whole milliseconds, as the database counts.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = DateTime::from_timestamp_millis(self.0).unwrap_or(DateTime::UNIX_EPOCH);
        f.write_str(&at.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = DateTime::from_timestamp_millis(self.start().0).unwrap_or(DateTime::UNIX_EPOCH);
        write!(f, "{}", at.format("%Y-%m-%d"))
    }
}

impl fmt::Debug for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time with a zone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_milliseconds() {
        assert_eq!(Time(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Time(1_700_000_000_000).day().to_string(), "2023-11-14");
    }

    #[test]
    fn a_day_is_read_as_it_is_written() {
        for day in [Day(0), Day(-1), Day(20_782)] {
            assert_eq!(Day::parse(&day.to_string()), Some(day));
        }
        for wrong in ["", "2026-11-31", "2026-1-1", "+026-11-25", "2026- 1- 1", "2026-11-25 ", "2026-11-25T00:00:00Z"] {
            assert_eq!(Day::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_refused() {
        assert_eq!(Time::parse("2023-11-14T22:13:20"), None);
        assert_eq!(Time::parse("2023-11-14T23:13:20.123+01:00"), Some(Time(1_700_000_000_123)));
    }
}
