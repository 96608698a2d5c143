//! Query parameters. An unknown one is refused, so that `?page=2` can't quietly give page 1.

use axum::extract::{FromRequestParts, Query as Pairs};
use axum::http::Uri;
use axum::http::request::Parts;
use sanasr_shared::ids::UserId;
use sanasr_shared::ports::store::Scope;
use sanasr_shared::time::Time;
use uuid::Uuid;

use crate::cursor;
use crate::fields::{FieldErrors, TIME_FORM};
use crate::problem::Problem;
use crate::state::App;

/// Rows of a page, unless asked for otherwise.
const LIMIT_DEFAULT: u32 = 50;
/// Rows of a page, at most.
const LIMIT_MAX: u32 = 200;
/// Whose things are meant: read with the caller.
pub(crate) const USER_ID: &str = "user_id";

/// Marks a request whose [`USER_ID`] has been read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserIdIsTaken;

/// The parameters of a request: each is taken by its name, and what is left in the end is unknown.
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    errors: FieldErrors,
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
        Ok(Self { pairs, errors: FieldErrors::default() })
    }

    /// A parameter's text.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(n, _)| n == name)?;
        let (_, value) = self.pairs.remove(at);
        if self.pairs.iter().any(|(n, _)| n == name) {
            self.pairs.retain(|(n, _)| n != name);
            self.fail(name, "Given twice.");
            return None;
        }
        Some(value)
    }

    /// A parameter that `parse` makes something of, or says why not.
    pub(crate) fn parsed<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.take(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.fail(name, detail);
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(crate) fn integer(&mut self, name: &str, min: u32, max: u32) -> Option<u32> {
        self.parsed(name, |text| {
            text.parse()
                .ok()
                .filter(|n| (min..=max).contains(n))
                .ok_or_else(|| format!("Must be a whole number from {min} to {max}."))
        })
    }

    /// `user_id` as a filter of an admins' list: whose rows it shows.
    pub(crate) fn user_filter(&mut self) -> Scope {
        let user = self.parsed(USER_ID, |text| {
            text.parse().ok().filter(|id| *id > 0).ok_or_else(|| "Must be a user's id.".to_owned())
        });
        user.map_or(Scope::All, |id| Scope::User(UserId(id)))
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        self.parsed(name, |text| text.parse().map_err(|_| "Must be true or false.".to_owned()))
    }

    /// `cursor` and `limit` of a list.
    pub(crate) fn page<K: cursor::Key>(&mut self, list: cursor::List) -> PageQuery<K> {
        let after = self
            .parsed("cursor", |text| cursor::decode(list, text).ok_or_else(|| "Not a cursor of this list.".to_owned()));
        PageQuery { after, limit: self.integer("limit", 1, LIMIT_MAX).unwrap_or(LIMIT_DEFAULT) }
    }

    pub(crate) fn fail(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.add(name, "bad_parameter", detail);
    }

    /// Refuses what is wrong or unknown.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            let shown: String = name.chars().take(64).collect();
            self.fail(&shown, "Not a query parameter here.");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::malformed_fields(self.errors)) }
    }
}

/// A time; a `+` before its zone that came unescaped has become a space.
pub(crate) fn time(text: &str) -> Result<Time, String> {
    let mended = match text.len().checked_sub(6) {
        Some(at) if at > 10 && text.as_bytes()[at] == b' ' => format!("{}+{}", &text[..at], &text[at + 1..]),
        _ => text.to_owned(),
    };
    Time::parse(&mended).ok_or_else(|| TIME_FORM.to_owned())
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
            assert_eq!(document["status"], 400);
            assert_eq!(document["errors"][0]["field"], named);
        }
    }
    #[test]
    fn times_in_a_query_may_have_lost_their_plus() {
        let expected = Ok(Time(1_700_000_000_123));
        assert_eq!(time("2023-11-14T23:13:20.123+01:00"), expected);
        assert_eq!(time("2023-11-14T23:13:20.123 01:00"), expected);
        assert_eq!(time("2023-11-14T22:13:20.123Z"), expected);
        for wrong in ["", "2023-11-14T22:13:20", "2023-11-14", "ää ääää", "2023-11-14 22:13"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
