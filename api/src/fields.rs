//! A reader over a JSON object that collects *every* bad field at once, each by its path, such as `media.url` or
//! `messages[3].to`. What nobody has read in the end is an unknown field.

use std::cell::RefCell;

use sanasr_shared::nearest::did_you_mean;
use sanasr_shared::time::Time;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

/// Bad fields that one answer names, at most.
const ERRORS_MAX: usize = 100;
/// Characters of an unknown field's name that are repeated, at most.
const NAME_MAX: usize = 64;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// Its path.
    #[schema(examples("media.url"))]
    pub(crate) field: String,
    /// A stable word for programs; `/errors` lists them.
    #[schema(examples("required"))]
    pub(crate) code: &'static str,
    /// A sentence for people.
    pub(crate) detail: String,
}

/// All that is wrong with a request.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    pub(crate) fn add(&mut self, field: impl Into<String>, code: &'static str, detail: impl Into<String>) {
        if self.0.len() < ERRORS_MAX {
            self.0.push(FieldError { field: field.into(), code, detail: detail.into() });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one has this code.
    pub(crate) fn any(&self, code: &str) -> bool {
        self.0.iter().any(|error| error.code == code)
    }

    pub(crate) fn into_vec(self) -> Vec<FieldError> {
        self.0
    }
}

/// What a text may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextRule {
    /// Characters, at most; one at least.
    pub(crate) chars_max: usize,
    /// Line breaks and tabs are fine.
    pub(crate) lines: bool,
}

impl TextRule {
    pub(crate) const fn line(chars_max: usize) -> Self {
        Self { chars_max, lines: false }
    }

    pub(crate) const fn lines(chars_max: usize) -> Self {
        Self { chars_max, lines: true }
    }

    /// What is wrong with a text: a code and a sentence.
    pub(crate) fn check(self, text: &str) -> Result<(), (&'static str, String)> {
        if text.is_empty() {
            return Err(("empty", "Must not be empty.".to_owned()));
        }
        // Bytes first: counting characters is needed only where they could be too many.
        if text.len() > self.chars_max && text.chars().count() > self.chars_max {
            return Err(("too_long", format!("Has at most {} characters.", self.chars_max)));
        }
        if text.chars().any(|c| c.is_control() && !(self.lines && matches!(c, '\n' | '\r' | '\t'))) {
            let fine = if self.lines { "other than line breaks and tabs" } else { "at all" };
            return Err(("control_characters", format!("Must not contain control characters {fine}.")));
        }
        Ok(())
    }
}

/// A field of a partial change.
#[derive(Debug, PartialEq)]
pub(crate) enum Given<T> {
    /// Not given (or wrong, which is noted): leave it.
    Absent,
    /// Given as null: reset it.
    Null,
    /// Given.
    Value(T),
}

/// Reads the fields of one object. A field that is `null` counts as absent, but for [`Fields::given`].
pub(crate) struct Fields<'e> {
    map: Map<String, Value>,
    /// What stands before a field's name: empty, or the object's own path and a dot.
    prefix: String,
    errors: &'e mut FieldErrors,
    /// The names that were asked for.
    known: RefCell<Vec<&'static str>>,
}

impl<'e> Fields<'e> {
    pub(crate) fn new(map: Map<String, Value>, prefix: impl Into<String>, errors: &'e mut FieldErrors) -> Self {
        Self { map, prefix: prefix.into(), errors, known: RefCell::default() }
    }

    /// Notes what is wrong with a field.
    pub(crate) fn fail(&mut self, name: &str, code: &'static str, detail: impl Into<String>) {
        self.errors.add(format!("{}{name}", self.prefix), code, detail);
    }

    /// Whether a field is given.
    pub(crate) fn has(&self, name: &'static str) -> bool {
        self.known(name);
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// Notes a field that is missing.
    pub(crate) fn require(&mut self, name: &'static str) {
        if !self.has(name) {
            self.fail(name, "required", "This field is needed.");
        }
    }

    /// Which of two names for the same field is used: the first, unless only the second is given.
    pub(crate) fn synonym(&mut self, name: &'static str, other: &'static str) -> &'static str {
        match (self.has(name), self.has(other)) {
            (true, true) => {
                self.map.remove(other);
                self.fail(other, "given_twice", format!("Means the same as {name}: give one of the two."));
                name
            }
            (false, true) => other,
            (_, false) => name,
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known(name);
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn wrong_type(&mut self, name: &str, wanted: &str, value: &Value) {
        self.fail(name, "invalid_type", format!("Must be {wanted}, not {}.", kind_of(value)));
    }

    fn string(&mut self, name: &'static str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            other => {
                self.wrong_type(name, "a string", &other);
                None
            }
        }
    }

    /// A value that could be read, or a note of what is wrong with it.
    fn kept<T>(&mut self, name: &str, read: Result<T, (&'static str, String)>) -> Option<T> {
        read.map_err(|(code, detail)| self.fail(name, code, detail)).ok()
    }

    pub(crate) fn text(&mut self, name: &'static str, rule: TextRule) -> Option<String> {
        let text = self.string(name)?;
        self.kept(name, rule.check(&text).map(|()| text))
    }

    /// A text that `parse` makes something of, or says why not.
    pub(crate) fn parsed<T>(
        &mut self,
        name: &'static str,
        code: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.string(name)?;
        self.kept(name, parse(&text).map_err(|detail| (code, detail)))
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

    pub(crate) fn time(&mut self, name: &'static str) -> Option<Time> {
        self.parsed(name, "invalid_time", |text| Time::parse(text).ok_or_else(|| TIME_FORM.to_owned()))
    }

    pub(crate) fn id(&mut self, name: &'static str) -> Option<Uuid> {
        self.parsed(name, "invalid_id", |text| Uuid::try_parse(text).map_err(|_| "Must be a UUID.".to_owned()))
    }

    pub(crate) fn flag(&mut self, name: &'static str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(flag) => Some(flag),
            other => {
                self.wrong_type(name, "true or false", &other);
                None
            }
        }
    }

    pub(crate) fn number(&mut self, name: &'static str, min: f64, max: f64) -> Option<f64> {
        let value = self.take(name)?;
        let Some(number) = value.as_f64() else {
            self.wrong_type(name, "a number", &value);
            return None;
        };
        if !(min..=max).contains(&number) {
            self.fail(name, "out_of_range", format!("Must be from {min} to {max}."));
            return None;
        }
        Some(number)
    }

    /// A whole number of a partial change.
    pub(crate) fn given_integer(&mut self, name: &'static str, min: u32, max: u32) -> Given<u32> {
        let value = match self.given(name) {
            Given::Value(value) => value,
            Given::Null => return Given::Null,
            Given::Absent => return Given::Absent,
        };
        if !value.is_i64() && !value.is_u64() {
            self.wrong_type(name, "a whole number", &value);
            return Given::Absent;
        }
        match value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (min..=max).contains(n)) {
            Some(number) => Given::Value(number),
            None => {
                self.fail(name, "out_of_range", format!("Must be from {min} to {max}."));
                Given::Absent
            }
        }
    }

    /// A flag of a partial change.
    pub(crate) fn given_flag(&mut self, name: &'static str) -> Given<bool> {
        match self.given(name) {
            Given::Value(Value::Bool(flag)) => Given::Value(flag),
            Given::Value(other) => {
                self.wrong_type(name, "true or false", &other);
                Given::Absent
            }
            Given::Null => Given::Null,
            Given::Absent => Given::Absent,
        }
    }

    /// A field of a partial change, as it is.
    pub(crate) fn given(&mut self, name: &'static str) -> Given<Value> {
        self.known(name);
        match self.map.remove(name) {
            None => Given::Absent,
            Some(Value::Null) => Given::Null,
            Some(value) => Given::Value(value),
        }
    }

    pub(crate) fn array(&mut self, name: &'static str) -> Option<Vec<Value>> {
        match self.take(name)? {
            Value::Array(items) => Some(items),
            other => {
                self.wrong_type(name, "an array", &other);
                None
            }
        }
    }

    /// Reads an object within this one: `read` gets its fields.
    pub(crate) fn object<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Fields<'_>) -> T) -> Option<T> {
        match self.take(name)? {
            Value::Object(map) => {
                let mut fields = Fields::new(map, format!("{}{name}.", self.prefix), self.errors);
                let value = read(&mut fields);
                fields.finish();
                Some(value)
            }
            other => {
                self.wrong_type(name, "an object", &other);
                None
            }
        }
    }

    /// Notes every field that nobody has read.
    pub(crate) fn finish(mut self) {
        for name in std::mem::take(&mut self.map).keys() {
            let shown: String = name.chars().take(NAME_MAX).collect();
            let meant = did_you_mean(name, self.known.borrow().iter().copied());
            self.fail(&shown, "unknown_field", format!("This field isn't known here.{meant}"));
        }
    }
}

impl Fields<'_> {
    /// Remembers a field that is asked for: what somebody may have meant, and, in the tests, what the reference must show.
    fn known(&self, name: &'static str) {
        self.known.borrow_mut().push(name);
        #[cfg(test)]
        KNOWN.with_borrow_mut(|known| known.insert(format!("{}{name}", self.prefix)));
    }
}

#[cfg(test)]
thread_local! {
    /// The paths of all fields that were asked for on this thread.
    pub(crate) static KNOWN: std::cell::RefCell<std::collections::BTreeSet<String>> = const {
        std::cell::RefCell::new(std::collections::BTreeSet::new())
    };
}

/// How a time must be written.
pub(crate) const TIME_FORM: &str = "Must be an RFC 3339 time with a zone, such as 2030-01-31T12:00:00Z.";

/// The value that a word means, or a sentence that lists the known ones.
pub(crate) fn one_of<T: Copy>(text: &str, known: &[T], as_str: fn(T) -> &'static str) -> Result<T, String> {
    known.iter().copied().find(|value| as_str(*value) == text).ok_or_else(|| {
        let words: Vec<_> = known.iter().map(|value| as_str(*value)).collect();
        format!("Must be one of: {}.", words.join(", "))
    })
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let body = object(json!({
            "long": "aaaa", "empty": "", "nul": "a\u{0}b", "tab": "a\tb", "wrong": 5, "word": "d", "when": "2030-01-01T00:00:00",
            "id": "x", "flag": "yes", "far": 91, "inner": {"url": 1, "more": 2}, "list": {}, "nobody": null, "asks": 1,
        }));
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(body, "messages[3].", &mut errors);
        fields.require("missing");
        assert_eq!(fields.text("long", TextRule::line(3)), None);
        assert_eq!(fields.text("empty", TextRule::line(3)), None);
        assert_eq!(fields.text("nul", TextRule::lines(3)), None);
        assert_eq!(fields.text("tab", TextRule::line(3)), None);
        assert_eq!(fields.text("wrong", TextRule::line(3)), None);
        assert_eq!(fields.word("word", &["a", "b"], |w| w), None);
        assert_eq!(fields.time("when"), None);
        assert_eq!(fields.id("id"), None);
        assert_eq!(fields.flag("flag"), None);
        assert_eq!(fields.number("far", -90.0, 90.0), None);
        fields.object("inner", |inner| assert_eq!(inner.text("url", TextRule::line(3)), None));
        assert_eq!(fields.array("list"), None);
        fields.finish();
        let said: Vec<_> = errors.into_vec().into_iter().map(|e| (e.field, e.code)).collect();
        let expected = [
            ("missing", "required"),
            ("long", "too_long"),
            ("empty", "empty"),
            ("nul", "control_characters"),
            ("tab", "control_characters"),
            ("wrong", "invalid_type"),
            ("word", "unknown_value"),
            ("when", "invalid_time"),
            ("id", "invalid_id"),
            ("flag", "invalid_type"),
            ("far", "out_of_range"),
            ("inner.url", "invalid_type"),
            ("inner.more", "unknown_field"),
            ("list", "invalid_type"),
            ("asks", "unknown_field"),
            ("nobody", "unknown_field"),
        ]
        .map(|(field, code)| (format!("messages[3].{field}"), code));
        assert_eq!(said, expected);
    }

    #[test]
    fn good_fields_are_read_and_null_is_absent() {
        let body = object(json!({
            "text": "tab\tand\nline", "none": null, "word": "b", "when": "2030-01-01T00:00:00+01:00", "lat": 90, "flag": false,
        }));
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(body, "", &mut errors);
        assert_eq!(fields.text("text", TextRule::lines(12)).as_deref(), Some("tab\tand\nline"));
        assert_eq!(fields.text("none", TextRule::line(1)), None);
        assert_eq!(fields.word("word", &["a", "b"], |w| w), Some("b"));
        assert!(fields.time("when").is_some());
        assert_eq!(fields.number("lat", -90.0, 90.0), Some(90.0));
        assert_eq!(fields.flag("flag"), Some(false));
        fields.finish();
        assert!(errors.is_empty());
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        assert!(TextRule::line(3).check("äöü").is_ok());
        assert!(TextRule::line(3).check("äöüß").is_err());
        assert!(TextRule::lines(9).check("a\u{85}").is_err());
    }

    #[test]
    fn a_partial_change_tells_null_from_absent() {
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(object(json!({"a": null, "b": 5, "c": 0, "d": 1.5, "e": -1})), "", &mut errors);
        assert_eq!(fields.given_integer("a", 1, 9), Given::Null);
        assert_eq!(fields.given_integer("b", 1, 9), Given::Value(5));
        assert_eq!(fields.given_integer("c", 1, 9), Given::Absent);
        assert_eq!(fields.given_integer("d", 1, 9), Given::Absent);
        assert_eq!(fields.given_integer("e", 1, 9), Given::Absent);
        assert_eq!(fields.given_integer("f", 1, 9), Given::Absent);
        fields.finish();
        assert_eq!(errors.into_vec().len(), 3);
    }

    #[test]
    fn synonyms_are_one_field() {
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(object(json!({"recipient": "x", "text": "a", "content": "b"})), "", &mut errors);
        assert_eq!(fields.synonym("to", "recipient"), "recipient");
        assert_eq!(fields.synonym("text", "content"), "text");
        assert_eq!(errors.into_vec().len(), 1);
    }

    #[test]
    fn the_number_of_errors_is_bounded() {
        let body: Map<_, _> = (0..5_000).map(|n| (format!("f{n}"), Value::Null)).collect();
        let mut errors = FieldErrors::default();
        Fields::new(body, "", &mut errors).finish();
        assert_eq!(errors.into_vec().len(), ERRORS_MAX);
    }
}
