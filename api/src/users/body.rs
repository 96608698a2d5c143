//! What a user may be given.

use sanasr_shared::password::Password;
use sanasr_shared::user::{UserChange, parse_username};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::fields::{FieldErrors, Fields, Given, TextRule};
use crate::logins::tried_if_given;
use crate::problem::Problem;

/// Messages a day, at most.
const LIMIT_MAX: u32 = 1_000_000_000;
const EMAIL_MAX: usize = 254;
const NAME_MAX: usize = 150;

/// A user to be made.
#[derive(ToSchema)]
pub(crate) struct NewUserRequest {
    /// The name to log in with: no spaces, no control characters, unique. Upper and lower case differ.
    #[schema(min_length = 1, max_length = 150)]
    pub(crate) username: String,
    /// The password: not one of the common ones, and not the username. Any characters.
    #[schema(value_type = String, min_length = 8, max_length = 256, write_only)]
    pub(crate) password: Password,
    /// Mail address, or empty.
    #[schema(max_length = 254)]
    pub(crate) email: Option<String>,
    /// First name, or empty.
    #[schema(max_length = 150)]
    pub(crate) first_name: Option<String>,
    /// Last name, or empty.
    #[schema(max_length = 150)]
    pub(crate) last_name: Option<String>,
    /// May use the admin endpoints; false unless given.
    pub(crate) is_staff: Option<bool>,
    /// May do anything at all; true unless given.
    pub(crate) is_active: Option<bool>,
    /// Messages accepted per UTC day. Null means no limit; 10,000 (`SANASR_DEFAULT_MAX_MESSAGES_PER_DAY`) if not given.
    #[schema(value_type = Option<u32>, maximum = 1_000_000_000)]
    pub(crate) max_messages_per_day: Given<u32>,
}

/// What changes of a user: only what is given.
#[derive(ToSchema)]
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
    #[schema(value_type = Option<u32>, maximum = 1_000_000_000)]
    max_messages_per_day: Given<u32>,
    /// Your password as it is: needed with a new password of your own, and for nothing else.
    #[schema(max_length = 1000, write_only)]
    current_password: Option<String>,
}

impl NewUserRequest {
    pub(crate) fn read(map: Map<String, Value>) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let given = UserChangeRequest::fields(map, Form::New, &mut errors);
        let username = given.username.unwrap_or_default();
        let password = given.password.and_then(|text| good_password(&text, &username, &mut errors));
        match password {
            Some(password) if errors.is_empty() => Ok(Self {
                username,
                password,
                email: given.email,
                first_name: given.first_name,
                last_name: given.last_name,
                is_staff: given.is_staff,
                is_active: given.is_active,
                max_messages_per_day: given.max_messages_per_day,
            }),
            _ => Err(Problem::validation(errors)),
        }
    }
}

impl UserChangeRequest {
    /// Reads a change, and what is wrong with it so far: whether the password is good enough only its user's name tells.
    pub(crate) fn read(map: Map<String, Value>) -> (Self, FieldErrors) {
        let mut errors = FieldErrors::default();
        (Self::fields(map, Form::Change, &mut errors), errors)
    }

    fn fields(map: Map<String, Value>, form: Form, errors: &mut FieldErrors) -> Self {
        let mut fields = Fields::new(map, "", errors);
        let current_password = match form {
            Form::New => {
                fields.require("username");
                fields.require("password");
                None
            }
            Form::Change => tried_if_given(&mut fields, "current_password"),
        };
        let given = Self {
            username: fields.parsed("username", "invalid_username", |text| parse_username(text).map_err(Into::into)),
            password: fields.parsed("password", "invalid", |text| Ok(text.to_owned())),
            email: words(&mut fields, "email", EMAIL_MAX),
            first_name: words(&mut fields, "first_name", NAME_MAX),
            last_name: words(&mut fields, "last_name", NAME_MAX),
            is_staff: fields.flag("is_staff"),
            is_active: fields.flag("is_active"),
            max_messages_per_day: fields.given_integer("max_messages_per_day", 0, LIMIT_MAX),
            current_password,
        };
        if given.email.as_deref().is_some_and(|email| !email.is_empty() && !may_be_email(email)) {
            fields.fail("email", "invalid_email", "Must be a mail address, such as name@example.org.");
        }
        fields.finish();
        given
    }

    /// The change of the user that had this name, and its new password, if all is well. `own`: it is the user who asks.
    pub(crate) fn of(
        self,
        own: bool,
        old_username: &str,
        mut errors: FieldErrors,
    ) -> Result<(UserChange, Option<NewPassword>), Problem> {
        let username = self.username.as_deref().unwrap_or(old_username);
        match (&self.current_password, own && self.password.is_some()) {
            (None, true) => {
                errors.add("current_password", "required", "Your own password is changed with the one that it has.");
            }
            (Some(_), false) => {
                errors.add(
                    "current_password",
                    "not_allowed",
                    "Goes with a new password of your own, and nothing else.",
                );
            }
            _ => {}
        }
        let password = self.password.and_then(|text| good_password(&text, username, &mut errors));
        let password = password.map(|password| NewPassword { password, current: self.current_password });
        if !errors.is_empty() {
            return Err(Problem::validation(errors));
        }
        let change = UserChange {
            username: self.username,
            password_hash: None,
            email: self.email,
            first_name: self.first_name,
            last_name: self.last_name,
            is_staff: self.is_staff,
            is_active: self.is_active,
            max_messages_per_day: limit(self.max_messages_per_day),
        };
        Ok((change, password))
    }
}

/// What is read: a user to be made, or a change.
#[derive(Clone, Copy)]
enum Form {
    New,
    Change,
}

/// A password to be set.
pub(crate) struct NewPassword {
    pub(crate) password: Password,
    /// What the user who asks says that it is, if it is their own.
    pub(crate) current: Option<String>,
}

/// A limit as the store takes it: `Some(None)` for no limit, `None` if nothing is given.
pub(crate) fn limit(given: Given<u32>) -> Option<Option<i64>> {
    match given {
        Given::Absent => None,
        Given::Null => Some(None),
        Given::Value(limit) => Some(Some(i64::from(limit))),
    }
}

/// A line that may be empty; null makes it so.
fn words(fields: &mut Fields<'_>, name: &'static str, chars_max: usize) -> Option<String> {
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
fn good_password(text: &str, username: &str, errors: &mut FieldErrors) -> Option<Password> {
    match Password::new(text, username) {
        Ok(password) => Some(password),
        Err(weakness) => {
            errors.add("password", weakness.code(), weakness.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(body: Value) -> Map<String, Value> {
        match body {
            Value::Object(map) => map,
            other => panic!("{other} is no object"),
        }
    }

    fn change(body: Value) -> UserChange {
        let (request, errors) = UserChangeRequest::read(object(body));
        request.of(false, "marianne", errors).expect("good").0
    }

    fn fields(problem: &Problem) -> Vec<String> {
        let document = serde_json::to_value(problem.document("r")).expect("a document");
        let errors = document["errors"].as_array().expect("errors").iter();
        errors.map(|e| e["field"].as_str().expect("a field").to_owned()).collect()
    }

    #[test]
    fn only_what_is_given_changes() {
        assert_eq!(change(json!({})), UserChange::default());
        let empty = Some(String::new());
        let expected = UserChange {
            email: empty.clone(),
            first_name: empty,
            max_messages_per_day: Some(None),
            ..UserChange::default()
        };
        assert_eq!(change(json!({"email": null, "first_name": "", "max_messages_per_day": null})), expected);
        assert_eq!(change(json!({"max_messages_per_day": 0})).max_messages_per_day, Some(Some(0)));
    }

    #[test]
    fn ones_own_password_needs_the_current_one() {
        let of = |own: bool, body: Value| {
            let (request, errors) = UserChangeRequest::read(object(body));
            let read = request.of(own, "marianne", errors).map(|(_, password)| password.and_then(|new| new.current));
            read.map_err(|problem| fields(&problem))
        };
        let new = "a longer and better one";
        let current = Err(vec!["current_password".to_owned()]);
        assert_eq!(of(true, json!({"password": new, "current_password": "old"})), Ok(Some("old".to_owned())));
        assert_eq!(of(true, json!({"password": new})), current);
        assert_eq!(of(false, json!({"password": new})), Ok(None));
        assert_eq!(of(false, json!({"password": new, "current_password": "old"})), current);
        assert_eq!(of(true, json!({"email": "a@b", "current_password": "old"})), current);
        assert_eq!(of(true, json!({"email": "a@b"})), Ok(None));
    }

    #[test]
    fn every_bad_field_is_named() {
        let wrong = json!({"username": "a b", "email": "nobody", "first_name": "a\u{0}", "last_name": 5,
            "is_staff": "yes", "is_active": 1, "max_messages_per_day": -1, "password": "short", "id": 5});
        let expected = [
            "username",
            "first_name",
            "last_name",
            "is_staff",
            "is_active",
            "max_messages_per_day",
            "email",
            "id",
            "password",
        ];
        let (request, errors) = UserChangeRequest::read(object(wrong.clone()));
        assert_eq!(fields(&request.of(false, "marianne", errors).err().expect("bad")), expected);
        assert_eq!(fields(&NewUserRequest::read(object(wrong)).err().expect("bad")), expected);
        assert_eq!(fields(&NewUserRequest::read(object(json!({}))).err().expect("bad")), ["username", "password"]);
    }

    #[test]
    fn a_mail_address_is_checked_lightly() {
        for wrong in ["@", "a@", "@b", "a b@c", "x"] {
            assert!(!may_be_email(wrong), "{wrong}");
        }
        assert!(may_be_email("a@b") && may_be_email("\"a@b\"@c.example"));
    }
}
