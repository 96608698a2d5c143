//! Reads JSON within bounds: a body of a few megabytes can hold millions of tiny values, each of which takes many times
//! its text's room in memory. What is wrong is told with its place, such as `messages[3].text`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use crate::fields::FieldErrors;
use crate::problem::Problem;

/// Values that one body may hold: a full batch with every field takes about 30,000.
const VALUES_MAX: usize = 100_000;
/// Bytes of the path to a fault that are told, at most.
const PATH_BYTES_MAX: usize = 256;
/// Characters of a name in such a path, at most.
const NAME_CHARS_MAX: usize = 64;
/// What some editors and libraries write before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a body, or a part of it, can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where, such as `messages[3].text`; empty at the top.
    path: String,
    kind: FaultKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum FaultKind {
    /// A name stands twice in one object.
    Twice,
    /// It is JSON, but a value in it can't be held.
    Unreadable(&'static Unreadable),
    /// It isn't JSON, or too much of it, in words.
    Syntax(String),
    /// It is JSON, but no object.
    NoObject,
}

/// A value that is JSON, but can't be held.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable {
    /// How the crate's error begins. Tests hold these words to the crate's.
    crate_says: &'static str,
    code: &'static str,
    message: &'static str,
}

const HALF_A_PAIR: &str = "The text has half of a surrogate pair, such as \\ud83d alone: a character was cut in two.";
const UNREADABLE: [Unreadable; 4] = [
    Unreadable { crate_says: "lone leading surrogate in hex escape", code: "invalid_text", message: HALF_A_PAIR },
    Unreadable { crate_says: "unexpected end of hex escape", code: "invalid_text", message: HALF_A_PAIR },
    Unreadable {
        crate_says: "number out of range",
        code: "out_of_range",
        message: "The number is too large. The largest is about 1.8e308.",
    },
    Unreadable {
        crate_says: "recursion limit exceeded",
        code: "too_deep",
        message: "Objects and arrays may be nested 127 deep at most.",
    },
];

/// An object that holds a list of items, each of which may be refused for itself.
pub(crate) struct Listed {
    pub(crate) map: Map<String, Value>,
    /// The items that can't be read, by their positions. In the list their text stands instead.
    pub(crate) faults: BTreeMap<u32, Fault>,
}

impl Fault {
    /// The same fault, seen from further outside.
    fn within(self, outer: &str) -> Self {
        Self { path: joined(outer, &self.path), ..self }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let mut errors = FieldErrors::default();
        let place = if fault.path.is_empty() { "body".to_owned() } else { fault.path.clone() };
        match fault.kind {
            FaultKind::Twice => errors.add(place, "given_twice", "This name stands twice in one object."),
            FaultKind::Unreadable(value) => errors.add(place, value.code, value.message),
            FaultKind::NoObject => return Self::field("body", "invalid_type", "The body must be a JSON object."),
            FaultKind::Syntax(said) => {
                let within = if fault.path.is_empty() { "" } else { ", in " };
                return Self::malformed(format!("The body is no JSON: {said}{within}{}.", fault.path));
            }
        }
        Self::malformed_fields(errors)
    }
}

/// Reads one JSON value and nothing after it.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    read(bytes, &Cell::new(VALUES_MAX))
}

/// Reads one object.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    match parse(bytes)? {
        Value::Object(map) => Ok(map),
        _ => Err(Fault { path: String::new(), kind: FaultKind::NoObject }),
    }
}

/// Reads an object whose field `list` holds items. An item that can't be read doesn't keep the others.
///
/// # Errors
/// What is wrong with the rest.
pub(crate) fn parse_listed(bytes: &[u8], list: &'static str) -> Result<Listed, Fault> {
    // Nearly always there is nothing wrong, and one pass will do.
    let fault = match parse_object(bytes) {
        Ok(map) => return Ok(Listed { map, faults: BTreeMap::new() }),
        Err(fault) => fault,
    };
    // Of what is wrong in the text itself nothing else can be told.
    if matches!(fault.kind, FaultKind::Syntax(_) | FaultKind::NoObject) {
        return Err(fault);
    }
    let listing = Listing { name: list, items: RefCell::default(), faults: RefCell::default() };
    let (left, noted) = (Cell::new(VALUES_MAX), RefCell::new(None));
    let reader = Reader { left: &left, noted: &noted, listing: Some(&listing) };
    match finish(without_mark(bytes), reader) {
        Ok(Value::Object(mut map)) if map.contains_key(list) => {
            map.insert(list.to_owned(), Value::Array(listing.items.take()));
            Ok(Listed { map, faults: listing.faults.take() })
        }
        // Something is wrong outside the items, too.
        _ => Err(fault),
    }
}

fn read(bytes: &[u8], left: &Cell<usize>) -> Result<Value, Fault> {
    finish(without_mark(bytes), Reader { left, noted: &RefCell::new(None), listing: None })
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

fn finish(bytes: &[u8], reader: Reader<'_>) -> Result<Value, Fault> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = reader.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    read.map_err(|error| {
        let noted = reader.noted.take();
        let (path, twice) = noted.map_or((String::new(), false), |noted| (noted.path, noted.twice));
        let said = error.to_string();
        let unreadable = UNREADABLE.iter().find(|value| said.starts_with(value.crate_says));
        let kind = match unreadable {
            _ if twice => FaultKind::Twice,
            Some(value) => FaultKind::Unreadable(value),
            None if is_utf16(bytes) => FaultKind::Syntax("it is in UTF-16, and must be in UTF-8".to_owned()),
            None => FaultKind::Syntax(said),
        };
        Fault { path, kind }
    })
}

fn is_utf16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{', 0, ..] | [0, b'{', ..])
}

fn joined(outer: &str, inner: &str) -> String {
    let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
    let mut path = format!("{outer}{dot}{inner}");
    if path.len() > PATH_BYTES_MAX {
        path.truncate(path.floor_char_boundary(PATH_BYTES_MAX));
        path.push('…');
    }
    path
}

/// Where an error came up: made where it did, and led outwards from there.
#[derive(Debug)]
struct Noted {
    path: String,
    twice: bool,
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    /// Values that may still come.
    left: &'a Cell<usize>,
    noted: &'a RefCell<Option<Noted>>,
    /// The field of the outermost object whose items are read each for itself.
    listing: Option<&'a Listing>,
}

/// A list whose items are read each for itself.
struct Listing {
    name: &'static str,
    items: RefCell<Vec<Value>>,
    faults: RefCell<BTreeMap<u32, Fault>>,
}

impl Reader<'_> {
    /// Notes that an error came up within this.
    fn note(self, outer: &str) {
        let mut noted = self.noted.borrow_mut();
        let noted = noted.get_or_insert(Noted { path: String::new(), twice: false });
        noted.path = joined(outer, &noted.path);
    }
}

fn shown(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self).inspect_err(|_| self.note(&format!("[{}]", items.len())))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let inner = Self { listing: None, ..self };
        while let Some(name) = entries.next_key::<String>()? {
            let value = match self.listing.filter(|listing| listing.name == name) {
                Some(listing) => {
                    entries.next_value_seed(Items { listing, left: self.left })?;
                    Value::Null
                }
                None => entries.next_value_seed(inner).inspect_err(|_| self.note(&shown(&name)))?,
            };
            if map.contains_key(&name) {
                self.noted.replace(Some(Noted { path: shown(&name), twice: true }));
                return Err(A::Error::custom("a name stands twice in one object"));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// Reads the items of a list each for itself.
struct Items<'a> {
    listing: &'a Listing,
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut position = 0;
        while let Some(item) = seq.next_element::<&RawValue>()? {
            let value = match read(item.get().as_bytes(), self.left) {
                Ok(value) => value,
                Err(Fault { kind: FaultKind::Syntax(said), .. }) => return Err(A::Error::custom(said)),
                Err(fault) => {
                    let fault = fault.within(&format!("{}[{position}]", self.listing.name));
                    self.listing.faults.borrow_mut().insert(position, fault);
                    Value::String(item.get().to_owned())
                }
            };
            self.listing.items.borrow_mut().push(value);
            position += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fault(text: &str) -> (String, FaultKind) {
        let fault = parse(text.as_bytes()).expect_err(text);
        (fault.path, fault.kind)
    }

    fn unreadable(text: &str) -> (String, &'static str) {
        match fault(text) {
            (path, FaultKind::Unreadable(value)) => (path, value.code),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn values_are_read_as_they_are() {
        let text = r#"{"a": [1, -2, 2.5, "x\ny", true, null], "b": {"c": ""}, "a2": 18446744073709551615}"#;
        let value = parse(text.as_bytes()).expect("JSON");
        assert_eq!(value, serde_json::from_str::<Value>(text).expect("JSON"));
        assert_eq!(parse(format!("\u{feff}{text}").as_bytes()), Ok(value), "a byte order mark says nothing");
        assert_eq!(parse(r#""\ud83d\ude00""#.as_bytes()), Ok(json!("😀")));
    }

    #[test]
    fn a_name_given_twice_is_named() {
        for (text, path) in [
            (r#"{"to": 1, "to": 1}"#, "to"),
            (r#"{"to": 1, "\u0074o": 2}"#, "to"),
            (r#"{"to": 1, "media": {"url": 1, "url": null}}"#, "media.url"),
            (r#"{"messages": [{}, {"a": 1}, {"media": {"url": [], "b": 1, "url": {}}}]}"#, "messages[2].media.url"),
            (r#"[[{"a": 1, "a": 1}]]"#, "[0][0].a"),
        ] {
            assert_eq!(fault(text), (path.to_owned(), FaultKind::Twice), "{text}");
        }
        let problem = Problem::from(parse(br#"{"to": 1, "to": 2}"#).expect_err("twice"));
        let document = serde_json::to_value(problem.document("r")).expect("a document");
        assert_eq!((&document["status"], &document["code"]), (&json!(400), &json!("malformed_request")));
        assert_eq!(
            (&document["errors"][0]["field"], &document["errors"][0]["code"]),
            (&json!("to"), &json!("given_twice"))
        );
        let long = format!(r#"{{"{0}": 1, "{0}": 2}}"#, "ä".repeat(500_000));
        assert!(fault(&long).0.len() <= PATH_BYTES_MAX + 3, "what is repeated is short");
    }

    #[test]
    fn half_a_surrogate_pair_is_named() {
        for half in [r"\ud83d", r"\ude00", r"\ud83d\n", r"\ud83dx", r"\ud83d\ud83d", r"\ud83d\u0041", r"\uD83D \uDE00"]
        {
            for (text, path) in [
                (format!(r#"{{"text": "{half}"}}"#), "text"),
                (format!(r#"{{"text": "cut {half}", "more": 1}}"#), "text"),
                (format!(r#"{{"messages": [{{}}, {{"contact": {{"name": "{half}"}}}}]}}"#), "messages[1].contact.name"),
            ] {
                assert_eq!(unreadable(&text), (path.to_owned(), "invalid_text"), "{text}");
            }
        }
        let problem = Problem::from(parse(br#"{"text": "\ud83d"}"#).expect_err("half a pair"));
        let document = serde_json::to_value(problem.document("r")).expect("a document");
        assert_eq!((&document["status"], &document["errors"][0]["field"]), (&json!(400), &json!("text")));
    }

    #[test]
    fn a_value_that_cannot_be_held_is_named() {
        for number in ["1e999", "-1e999", "1e400", &"9".repeat(400)] {
            let text = format!(r#"{{"messages": [{{"location": {{"latitude": {number}}}}}]}}"#);
            assert_eq!(unreadable(&text), ("messages[0].location.latitude".to_owned(), "out_of_range"), "{number}");
        }
        let deep = format!(r#"{{"a": {}{}}}"#, "[".repeat(127), "]".repeat(127));
        let (path, code) = unreadable(&deep);
        assert!(path.starts_with("a[0][0]") && code == "too_deep", "{path} {code}");
        let deep = format!(r#"{{"a": {}{}}}"#, "[".repeat(126), "]".repeat(126));
        assert!(parse(deep.as_bytes()).is_ok());
    }

    #[test]
    fn an_item_that_cannot_be_read_does_not_keep_the_others() {
        let text = r#"{"before": {"a": 1}, "messages": [{"text": "a"}, {"text": "\ud83d"}, {"to": 1, "to": 2}, 5, "\ud83d", {"to": 1e999}, DEEP], "after": 1}"#;
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        let text = text.replace("DEEP", &deep);
        for text in [text.clone(), format!("\u{feff}{text}")] {
            let Listed { map, faults } = parse_listed(text.as_bytes(), "messages").expect("readable");
            assert_eq!((&map["before"], &map["after"]), (&json!({"a": 1}), &json!(1)));
            let items = map["messages"].as_array().expect("items");
            assert_eq!((items.len(), &items[0], &items[3]), (7, &json!({"text": "a"}), &json!(5)));
            let said: Vec<_> =
                faults.iter().map(|(at, fault)| (*at, &fault.path[..15.min(fault.path.len())])).collect();
            let places = [
                (1, "messages[1].tex"),
                (2, "messages[2].to"),
                (4, "messages[4]"),
                (5, "messages[5].to"),
                (6, "messages[6][0]["),
            ];
            assert_eq!(said, places);
            assert_ne!(items[1], items[2], "what was sent counts for the idempotency key");
        }
        let good = parse_listed(br#"{"messages": [1, 2]}"#, "messages").expect("readable");
        assert_eq!((good.map["messages"].clone(), good.faults.len()), (json!([1, 2]), 0));
        for whole in [
            r#"{"messages": [{"text": "\ud83d"}]"#,
            r#"{"messages": [{"text": "\ud83d"}, nope]}"#,
            r#"{"messages": [{"text": "\ud83d"}], "other": "\ud83d"}"#,
            r#"{"messages": [{"text": "\ud83d"}], "messages": []}"#,
            r#"{"messages": [{"text": "\ud83d"}], "a": 1, "a": 2}"#,
            r#"{"messages": {"text": "\ud83d"}}"#,
            r#"{"\ud83d": 1, "messages": []}"#,
            r#"["\ud83d"]"#,
            "[]",
        ] {
            assert!(parse_listed(whole.as_bytes(), "messages").is_err(), "{whole}");
        }
        // The bound is over all items.
        let many = vec![r#"{"a": "\ud83d"}"#; 1_000].join(",") + &",0".repeat(VALUES_MAX);
        assert!(parse_listed(format!(r#"{{"messages": [{many}]}}"#).as_bytes(), "messages").is_err());
    }

    #[test]
    fn what_is_no_json_or_too_much_of_it_is_refused() {
        for wrong in ["", "\u{feff}", "{", "{} {}", "nope", "[1,]", "{\"a\": NaN}", "\u{feff}\u{feff}{}"] {
            assert!(matches!(fault(wrong).1, FaultKind::Syntax(_)), "{wrong}");
        }
        assert_eq!(fault("{\"a\": {\"b\": \"line\nbreak\"}}").0, "a.b");
        for utf16 in [&b"\xff\xfe{\0}\0"[..], b"\xfe\xff\0{\0}", b"{\0}\0", b"\0{\0}"] {
            let said = parse(utf16).expect_err("UTF-16");
            assert!(matches!(&said.kind, FaultKind::Syntax(said) if said.contains("UTF-16")), "{said:?}");
        }
        assert!(parse(b"\"\xff\"").is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        let many = format!("[{}0]", "0,".repeat(VALUES_MAX));
        assert!(matches!(fault(&many).1, FaultKind::Syntax(said) if said.contains("too many values")));
    }
}
