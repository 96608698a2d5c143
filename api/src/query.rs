//! Query parameters. An unknown one is refused, so that `?page=2` can't quietly give page 1.

use axum::extract::{FromRequestParts, Query as Pairs};
use axum::http::Uri;
use axum::http::request::Parts;
use sanasr_shared::ids::UserId;
use sanasr_shared::nearest::did_you_mean;
use sanasr_shared::ports::store::Scope;
use sanasr_shared::recipient::{BareNumbers, Recipient};
use sanasr_shared::time::{Day, Time};
use uuid::Uuid;

use crate::cursor;
use crate::fields::{FieldErrors, TIME_FORM, TextRule, one_of};
use crate::problem::Problem;
use crate::state::App;

/// Rows of a page, unless asked for otherwise.
const LIMIT_DEFAULT: u32 = 50;
/// Rows of a page, at most.
const LIMIT_MAX: u32 = 200;
/// Whose things are meant: read with the caller.
pub(crate) const USER_ID: &str = "user_id";

/// The code of a cursor that isn't one of its list.
const INVALID_CURSOR: &str = "invalid_cursor";

/// Marks a request whose [`USER_ID`] has been read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserIdIsTaken;

/// The parameters of a request: each is taken by its name, and what is left in the end is unknown.
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    errors: FieldErrors,
    /// The names that were asked for.
    known: Vec<&'static str>,
}

/// No parameters at all.
pub(crate) struct NoQuery;

/// Which page of a list.
#[derive(Debug, PartialEq)]
pub(crate) struct PageQuery<K = Uuid> {
    /// The last row that was seen.
    pub(crate) after: Option<K>,
    pub(crate) limit: u32,
}

impl Query {
    pub(crate) fn read(uri: &Uri) -> Result<Self, Problem> {
        let pairs = match uri.query() {
            None | Some("") => Vec::new(),
            Some(_) => match Pairs::try_from_uri(uri) {
                Ok(Pairs(pairs)) => pairs,
                Err(_) => return Err(Problem::malformed("The query can't be read.")),
            },
        };
        Ok(Self { pairs, errors: FieldErrors::default(), known: Vec::new() })
    }

    /// A parameter's text.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let at = self.pairs.iter().position(|(n, _)| n == name)?;
        let (_, value) = self.pairs.remove(at);
        if self.pairs.iter().any(|(n, _)| n == name) {
            self.pairs.retain(|(n, _)| n != name);
            self.fail(name, "given_twice", "Give it once.");
            return None;
        }
        Some(value)
    }

    /// A value that could be read, or a note of what is wrong with it.
    fn kept<T>(&mut self, name: &str, read: Result<T, (&'static str, String)>) -> Option<T> {
        read.map_err(|(code, detail)| self.fail(name, code, detail)).ok()
    }

    /// A parameter that `parse` makes something of, or says why not.
    pub(crate) fn parsed<T>(
        &mut self,
        name: &'static str,
        code: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.take(name)?;
        self.kept(name, parse(&text).map_err(|detail| (code, detail)))
    }

    /// A whole number within bounds.
    pub(crate) fn integer(&mut self, name: &'static str, min: u32, max: u32) -> Option<u32> {
        self.parsed(name, "out_of_range", |text| {
            text.parse()
                .ok()
                .filter(|n| (min..=max).contains(n))
                .ok_or_else(|| format!("Must be a whole number from {min} to {max}."))
        })
    }

    /// `user_id` as a filter of an admins' list: whose rows it shows.
    pub(crate) fn user_filter(&mut self) -> Scope {
        self.user(USER_ID).map_or(Scope::All, Scope::User)
    }

    /// A user's id.
    pub(crate) fn user(&mut self, name: &'static str) -> Option<UserId> {
        self.parsed(name, "invalid_id", |text| user_id(text).ok_or_else(|| "Must be a user's id.".to_owned()))
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &'static str, rule: TextRule) -> Option<String> {
        let text = self.take(name)?;
        self.kept(name, rule.check(&text).map(|()| text))
    }

    /// One of the known words.
    pub(crate) fn word<T: Copy>(
        &mut self,
        name: &'static str,
        known: &[T],
        as_str: fn(T) -> &'static str,
    ) -> Option<T> {
        self.parsed(name, "unknown_value", |text| one_of(text, known, as_str))
    }

    /// A recipient; a `+` before it that came unescaped has become a space.
    pub(crate) fn recipient(&mut self, name: &'static str, bare_numbers: BareNumbers) -> Option<Recipient> {
        self.parsed(name, "invalid_phone_number", |text| match text.strip_prefix(' ') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => {
                Recipient::read(&format!("+{rest}"), bare_numbers)
            }
            _ => Recipient::read(text, bare_numbers),
        })
    }

    /// `since` (or `from`, its older name) and `until`: a span that begins with the one and ends before the other.
    pub(crate) fn span<T>(&mut self, parse: fn(&str) -> Result<T, String>) -> (Option<T>, Option<T>) {
        let both = ["since", "from"].iter().all(|name| self.pairs.iter().any(|(given, _)| given == name));
        let from = self.parsed("from", "invalid_time", parse);
        if both {
            self.fail("from", "given_twice", "Means the same as since: give one of the two.");
        }
        (self.parsed("since", "invalid_time", parse).or(from), self.parsed("until", "invalid_time", parse))
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.parsed(name, "invalid_type", |text| text.parse().map_err(|_| "Must be true or false.".to_owned()))
    }

    /// `cursor` and `limit` of a list.
    pub(crate) fn page<K: cursor::Key>(&mut self, list: cursor::List) -> PageQuery<K> {
        let after = self.parsed("cursor", INVALID_CURSOR, |text| {
            cursor::decode(list, text).ok_or_else(|| "Not a cursor of this list.".to_owned())
        });
        PageQuery { after, limit: self.integer("limit", 1, LIMIT_MAX).unwrap_or(LIMIT_DEFAULT) }
    }

    pub(crate) fn fail(&mut self, name: &str, code: &'static str, detail: impl Into<String>) {
        self.errors.add(name, code, detail);
    }

    /// Refuses what is wrong or unknown.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            let shown: String = name.chars().take(64).collect();
            let meant = did_you_mean(&name, self.known.iter().copied());
            self.fail(&shown, "unknown_field", format!("Not a query parameter here.{meant}"));
        }
        if self.errors.is_empty() {
            return Ok(());
        }
        // A cursor can't be mended by hand.
        if self.errors.any(INVALID_CURSOR) {
            return Err(Problem::malformed_fields(self.errors));
        }
        Err(Problem::validation(self.errors))
    }
}

/// A user's id, as a text.
pub(crate) fn user_id(text: &str) -> Option<UserId> {
    text.parse().ok().filter(|id| *id > 0).map(UserId)
}

/// A time, or a date, with whose UTC day it begins; a `+` before its zone that came unescaped has become a space.
pub(crate) fn time(text: &str) -> Result<Time, String> {
    let mended = match text.len().checked_sub(6) {
        Some(at) if at > 10 && text.as_bytes()[at] == b' ' => format!("{}+{}", &text[..at], &text[at + 1..]),
        _ => text.to_owned(),
    };
    let of_day = || Day::parse(text).map(Day::start);
    Time::parse(&mended)
        .or_else(of_day)
        .ok_or_else(|| format!("{TIME_FORM} A date alone means its first moment in UTC."))
}

impl FromRequestParts<App> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let mut query = Self::read(&parts.uri)?;
        if parts.extensions.get::<UserIdIsTaken>().is_some() {
            query.take(USER_ID);
        }
        Ok(query)
    }
}

impl FromRequestParts<App> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if parts.uri.query().is_some() {
            Query::from_request_parts(parts, app).await?.finish()?;
        }
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::read(&text.parse().expect("a URI")).expect("a query")
    }

    #[test]
    fn parameters_are_read() {
        let mut query = query("/x?a=1%202&limit=200");
        assert_eq!(query.take("a").as_deref(), Some("1 2"));
        assert_eq!(query.page::<Uuid>(cursor::List::Messages), PageQuery { after: None, limit: 200 });
        assert!(query.finish().is_ok());
    }

    #[test]
    fn wrong_and_unknown_parameters_are_named() {
        for (text, named) in [
            ("/x?page=2", "page"),
            ("/x?limit=0", "limit"),
            ("/x?limit=201", "limit"),
            ("/x?limit=two", "limit"),
            ("/x?limit=1&limit=2", "limit"),
            ("/x?cursor=", "cursor"),
            ("/x?cursor=nowhere", "cursor"),
        ] {
            let mut query = query(text);
            query.page::<Uuid>(cursor::List::Messages);
            let problem = query.finish().expect_err(text);
            let document = serde_json::to_value(problem.document("r")).expect("a document");
            assert_eq!(document["status"], if named == "cursor" { 400 } else { 422 });
            assert_eq!(document["errors"][0]["field"], named);
        }
    }

    #[test]
    fn an_unknown_parameter_is_told_with_the_one_that_was_meant() {
        let mut query = query("/x?limt=5");
        query.page::<Uuid>(cursor::List::Messages);
        let problem = query.finish().expect_err("unknown");
        let errors = problem.into_errors();
        assert_eq!((errors[0].field.as_str(), errors[0].code), ("limt", "unknown_field"));
        assert!(errors[0].detail.contains("Did you mean limit?"), "{}", errors[0].detail);
    }

    #[test]
    fn a_span_has_two_names_for_its_begin() {
        let day = Time(1_700_006_400_000);
        for text in ["/x?since=2023-11-15", "/x?from=2023-11-15T00:00:00Z"] {
            let mut query = query(text);
            assert_eq!(query.span(time), (Some(day), None), "{text}");
            assert!(query.finish().is_ok());
        }
        let mut query = query("/x?since=2023-11-15&from=2023-11-15&until=x");
        query.span(time);
        let errors = query.finish().expect_err("twice").into_errors();
        let told: Vec<_> = errors.iter().map(|error| (error.field.as_str(), error.code)).collect();
        assert_eq!(told, [("from", "given_twice"), ("until", "invalid_time")]);
    }

    #[test]
    fn a_number_in_a_query_may_have_lost_its_plus() {
        for text in ["/x?to=+15551234567", "/x?to=%2B15551234567"] {
            let to = query(text).recipient("to", BareNumbers::Refused);
            assert_eq!(to.expect(text).as_str(), "+15551234567");
        }
        assert_eq!(query("/x?to=15551234567").recipient("to", BareNumbers::Refused), None);
    }

    #[test]
    fn times_in_a_query_may_have_lost_their_plus() {
        let expected = Ok(Time(1_700_000_000_123));
        assert_eq!(time("2023-11-14T23:13:20.123+01:00"), expected);
        assert_eq!(time("2023-11-14T23:13:20.123 01:00"), expected);
        assert_eq!(time("2023-11-14T22:13:20.123Z"), expected);
        for wrong in ["", "2023-11-14T22:13:20", "2023-11-31", "ää ääää", "2023-11-14 22:13"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
