//! What a user may be given.

use sanasr_shared::password::Password;
use sanasr_shared::user::{UserChange, parse_username};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::fields::{FieldErrors, Fields, Given, TextRule};
use crate::problem::Problem;

/// Messages a day, at most.
const LIMIT_MAX: u32 = 1_000_000_000;
const EMAIL_MAX: usize = 254;
const NAME_MAX: usize = 150;

/// A user to be made.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's words for the fields that `read` reads")]
pub(crate) struct NewUserRequest {
    /// The name to log in with: no spaces, no control characters, unique. Upper and lower case differ.
    #[schema(min_length = 1, max_length = 150)]
    username: String,
    /// The password: not one of the common ones, and not the username. Any characters.
    #[schema(min_length = 8, max_length = 256, write_only)]
    password: String,
    /// Mail address, or empty.
    #[schema(max_length = 254)]
    email: Option<String>,
    /// First name, or empty.
    #[schema(max_length = 150)]
    first_name: Option<String>,
    /// Last name, or empty.
    #[schema(max_length = 150)]
    last_name: Option<String>,
    /// May use the admin endpoints; false unless given.
    is_staff: Option<bool>,
    /// May do anything at all; true unless given.
    is_active: Option<bool>,
    /// Messages accepted per UTC day. Null means no limit; 10,000 (`SANASR_DEFAULT_MAX_MESSAGES_PER_DAY`) if not given.
    #[schema(maximum = 1_000_000_000)]
    max_messages_per_day: Option<u32>,
}

/// What changes of a user: only what is given.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's words for the fields that `read` reads")]
pub(crate) struct UserChangeRequest {
    /// The name to log in with: no spaces, no control characters, unique. Upper and lower case differ.
    #[schema(min_length = 1, max_length = 150)]
    username: Option<String>,
    /// A new password. It ends all of the user's logins (but the one that asks).
    #[schema(min_length = 8, max_length = 256, write_only)]
    password: Option<String>,
    /// Mail address, or empty. Null makes it empty.
    #[schema(max_length = 254)]
    email: Option<String>,
    /// First name, or empty. Null makes it empty.
    #[schema(max_length = 150)]
    first_name: Option<String>,
    /// Last name, or empty. Null makes it empty.
    #[schema(max_length = 150)]
    last_name: Option<String>,
    /// May use the admin endpoints. The last active admin can't resign.
    is_staff: Option<bool>,
    /// May do anything at all. While a user isn't active, nothing of theirs is sent, but it is kept.
    is_active: Option<bool>,
    /// Messages accepted per UTC day; null means no limit. It holds at once.
    #[schema(maximum = 1_000_000_000)]
    max_messages_per_day: Option<u32>,
}

/// A body that was read: the password isn't hashed yet, and only its user's name tells whether it is good enough.
pub(crate) struct UserBody {
    pub(crate) change: UserChange,
    pub(crate) password: Option<String>,
}

impl UserBody {
    /// Reads a body in which `required` must be given.
    pub(crate) fn read(map: Map<String, Value>, required: &[&str], errors: &mut FieldErrors) -> Self {
        let mut fields = Fields::new(map, "", errors);
        for name in required {
            fields.require(name);
        }
        let change = UserChange {
            username: fields.parsed("username", "invalid_username", |text| parse_username(text).map_err(Into::into)),
            password_hash: None,
            email: words(&mut fields, "email", EMAIL_MAX),
            first_name: words(&mut fields, "first_name", NAME_MAX),
            last_name: words(&mut fields, "last_name", NAME_MAX),
            is_staff: fields.flag("is_staff"),
            is_active: fields.flag("is_active"),
            max_messages_per_day: match fields.given_integer("max_messages_per_day", 0, LIMIT_MAX) {
                Given::Absent => None,
                Given::Null => Some(None),
                Given::Value(limit) => Some(Some(i64::from(limit))),
            },
        };
        if change.email.as_deref().is_some_and(|email| !email.is_empty() && !may_be_email(email)) {
            fields.fail("email", "invalid_email", "Must be a mail address, such as name@example.org.");
        }
        let password = fields.parsed("password", "invalid", |text| Ok(text.to_owned()));
        fields.finish();
        Self { change, password }
    }
}

/// A line that may be empty; null makes it so.
fn words(fields: &mut Fields<'_>, name: &str, chars_max: usize) -> Option<String> {
    match fields.given(name) {
        Given::Absent => None,
        Given::Null => Some(String::new()),
        Given::Value(Value::String(text)) => match TextRule::line(chars_max).check(&text) {
            Err((code, detail)) if !text.is_empty() => {
                fields.fail(name, code, detail);
                None
            }
            _ => Some(text),
        },
        Given::Value(_) => {
            fields.fail(name, "invalid_type", "Must be a string.");
            None
        }
    }
}

/// Only mail can tell whether an address exists: something before and after its last `@`, and no spaces.
fn may_be_email(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
        && !text.chars().any(char::is_whitespace)
}

/// A password that is good enough for this user; what isn't is noted.
pub(crate) fn good_password(text: &str, username: &str, errors: &mut FieldErrors) -> Option<Password> {
    match Password::new(text, username) {
        Ok(password) => Some(password),
        Err(weakness) => {
            errors.add("password", weakness.code(), weakness.to_string());
            None
        }
    }
}

/// Refuses what was found wrong.
pub(crate) fn check(errors: FieldErrors) -> Result<(), Problem> {
    if errors.is_empty() { Ok(()) } else { Err(Problem::validation(errors)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> (UserBody, Vec<(String, &'static str)>) {
        let Value::Object(map) = body else { panic!("no object") };
        let mut errors = FieldErrors::default();
        let body = UserBody::read(map, &["username"], &mut errors);
        (body, errors.into_vec().into_iter().map(|e| (e.field, e.code)).collect())
    }

    #[test]
    fn only_what_is_given_changes() {
        let (body, errors) = read(json!({"username": "a"}));
        assert_eq!(
            (body.change, errors),
            (UserChange { username: Some("a".to_owned()), ..Default::default() }, vec![])
        );
        let (body, errors) =
            read(json!({"username": "a", "email": null, "first_name": "", "max_messages_per_day": null}));
        let empty = Some(String::new());
        let expected = UserChange {
            username: Some("a".to_owned()),
            email: empty.clone(),
            first_name: empty,
            max_messages_per_day: Some(None),
            ..Default::default()
        };
        assert_eq!((body.change, errors), (expected, vec![]));
        assert_eq!(
            read(json!({"username": "a", "max_messages_per_day": 0})).0.change.max_messages_per_day,
            Some(Some(0))
        );
    }

    #[test]
    fn every_bad_field_is_named() {
        let (_, errors) = read(json!({"username": "a b", "email": "nobody", "first_name": "a\u{0}", "last_name": 5,
            "is_staff": "yes", "is_active": 1, "max_messages_per_day": -1, "password": 1, "id": 5}));
        let fields: Vec<_> = errors.iter().map(|(field, _)| field.as_str()).collect();
        let expected = [
            "username",
            "first_name",
            "last_name",
            "is_staff",
            "is_active",
            "max_messages_per_day",
            "email",
            "password",
            "id",
        ];
        assert_eq!(fields, expected);
        assert_eq!(read(json!({})).1, [("username".to_owned(), "required")]);
        for wrong in ["@", "a@", "@b", "a b@c", "x"] {
            assert!(!may_be_email(wrong), "{wrong}");
        }
        assert!(may_be_email("a@b") && may_be_email("\"a@b\"@c.example"));
    }
}
