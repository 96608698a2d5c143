//! The document against what it tells of: the routes, the readers of bodies, the codes in use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sanasr_shared::message::BlockedBy;
use serde_json::{Map, Value, json};

use super::errors::{Place, all, example};
use super::*;
use crate::fields::{FieldError, KNOWN};
use crate::problem::{Code, Problem};

fn json_document() -> Value {
    serde_json::from_str(&document().to_json().expect("JSON")).expect("JSON")
}

/// Every documented operation: path, method, and what is said of it.
fn documented(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path's operations") {
            all.push((path.clone(), method.clone(), operation.clone()));
        }
    }
    all
}

// ---- routes ----

/// Pages for people, which a client of the API has no use for.
const PAGES: [&str; 7] =
    ["/api/openapi.json", "/api/docs", "/api/docs/{file}", "/api/redoc", "/api/redoc.css", "/errors", "/errors/{code}"];

/// The text of every source file below a folder of the workspace.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "tests" && name != "conformance") {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                // What tests say is no promise.
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                found.push((path.display().to_string(), text));
            }
        }
    }
    found
}

/// The routes that the sources declare: path and method.
fn declared() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (file, text) in sources("api/src") {
        for (at, _) in text.match_indices(".route(") {
            let call = arguments(&text[at + ".route".len()..]);
            let Some((path, handlers)) = call.trim_start().strip_prefix('"').and_then(|call| call.split_once('"'))
            else {
                continue;
            };
            let mut any = false;
            for method in ["get", "post", "put", "patch", "delete"] {
                let opening = format!("{method}(");
                let called = handlers.match_indices(&opening).any(|(at, _)| {
                    !handlers[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
                });
                if called {
                    any = true;
                    found.insert((path.to_owned(), method.to_owned()));
                }
            }
            assert!(any, "{file}: no method is seen in {call}");
        }
    }
    found
}

/// What stands between the parentheses with which a text begins.
fn arguments(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[1..at];
        }
    }
    panic!("a call that doesn't end: {}", &text[..80.min(text.len())]);
}

#[test]
fn every_route_is_documented_and_nothing_else() {
    let documented: BTreeSet<_> =
        documented(&json_document()).into_iter().map(|(path, method, _)| (path, method)).collect();
    let declared: BTreeSet<_> = declared().into_iter().filter(|(path, _)| !PAGES.contains(&path.as_str())).collect();
    assert!(declared.len() > 20, "the routes are found: {declared:?}");
    let missing: Vec<_> = declared.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&declared).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not documented: {missing:?}; not routed: {invented:?}");
}

#[test]
fn the_groups_of_paths_are_those_of_the_routes() {
    let declared = declared();
    let groups = declared.iter().filter_map(|(path, _)| path.strip_prefix("/api/v1/")?.split('/').next());
    assert_eq!(groups.collect::<BTreeSet<_>>(), BTreeSet::from(crate::edge::GROUPS));
}

#[test]
fn only_what_is_needed_has_an_example_to_try_out() {
    for (path, method, operation) in documented(&json_document()) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let example = [
                &parameter["example"],
                &parameter["examples"],
                &parameter["schema"]["example"],
                &parameter["schema"]["examples"],
            ]
            .into_iter()
            .any(|example| !example.is_null());
            assert_eq!(example, parameter["in"] == "path", "{method} {path}: {}", parameter["name"]);
        }
    }
}

#[test]
fn every_operation_says_what_a_client_needs() {
    let document = json_document();
    assert_eq!(document["openapi"], "3.1.0");
    let tags: Vec<_> = document["tags"].as_array().expect("tags").iter().map(|tag| tag["name"].clone()).collect();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in documented(&document) {
        let at = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        assert!(!id.is_empty() && id.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{at}: {id}");
        assert!(ids.insert(id), "{at}: its id is taken");
        assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{at}: no summary");
        assert!(
            operation["tags"].as_array().is_some_and(|own| own.len() == 1 && tags.contains(&own[0])),
            "{at}: its tag"
        );
        let responses = operation["responses"].as_object().expect("responses");
        assert!(responses.keys().any(|status| status.starts_with('2')), "{at}: no success");
        if path.starts_with("/api/v1/") {
            let own = if operation["security"] == json!([{}]) { "400" } else { "401" };
            assert!(responses.contains_key(own), "{at}: no {own}");
        }
        for placeholder in path.split('{').skip(1) {
            let name = placeholder.split('}').next().unwrap_or_default();
            let named = operation["parameters"]
                .as_array()
                .is_some_and(|all| all.iter().any(|p| p["in"] == "path" && p["name"] == name));
            assert!(named, "{at}: the parameter {name}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, document: &Value, named: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    let at = to.strip_prefix('#').expect("a reference within the document");
                    assert!(document.pointer(at).is_some(), "{to} leads nowhere");
                    named.insert(to.clone());
                }
                map.values().for_each(|value| walk(value, document, named));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, document, named)),
            _ => {}
        }
    }
    let document = json_document();
    let mut named = BTreeSet::new();
    walk(&document, &document, &mut named);
    for kind in ["schemas", "responses", "headers", "examples"] {
        for name in document["components"][kind].as_object().expect("components").keys() {
            let unused_is_fine = kind == "examples";
            assert!(
                unused_is_fine || named.contains(&format!("#/components/{kind}/{name}")),
                "nobody needs {kind} {name}"
            );
        }
    }
}

// ---- bodies ----

type Read = fn(Map<String, Value>) -> Vec<FieldError>;

/// The readers of the bodies, by their schemas' names.
fn readers() -> BTreeMap<&'static str, Read> {
    use crate::messages::batch;
    use crate::messages::cancel_all;
    use crate::messages::draft::{Draft, Form, Rules};
    use crate::sessions::{change, create, pair_code};
    use crate::users::body::{NewUserRequest, UserChangeRequest};
    use crate::{api_keys, logins};
    use sanasr_shared::password::Password;
    use sanasr_shared::recipient::BareNumbers;
    use sanasr_shared::time::Time;

    fn rules() -> Rules {
        Rules { now: Time::now(), bare_numbers: BareNumbers::Refused }
    }

    fn draft(map: Map<String, Value>, form: Form) -> Vec<FieldError> {
        Draft::read(Value::Object(map), form, 0, "", rules()).errors.into_vec()
    }
    fn errors<T>(read: Result<T, Problem>) -> Vec<FieldError> {
        read.err().map(Problem::into_errors).unwrap_or_default()
    }
    fn read_batch(map: Map<String, Value>) -> Vec<FieldError> {
        match batch::items(map) {
            Err(problem) => problem.into_errors(),
            Ok(items) => (0..)
                .zip(items)
                .flat_map(|(n, item)| {
                    Draft::read(item, Form::Full, n, &format!("messages[{n}]"), rules()).errors.into_vec()
                })
                .collect(),
        }
    }
    fn user_change(map: Map<String, Value>) -> Vec<FieldError> {
        let own = map.contains_key("current_password");
        let (change, found) = UserChangeRequest::read(map);
        errors(change.of(own, "somebody", found))
    }
    fn password(map: Map<String, Value>) -> Vec<FieldError> {
        let new = map.get("new_password").and_then(Value::as_str).map(str::to_owned);
        let mut errors = errors(logins::password::PasswordChange::read(map));
        if let Some(Err(weakness)) = new.map(|new| Password::new(&new, "somebody")) {
            errors.push(FieldError {
                field: "new_password".to_owned(),
                code: weakness.code(),
                detail: weakness.to_string(),
            });
        }
        errors
    }
    BTreeMap::from([
        ("LoginRequest", (|map| errors(logins::login::LoginRequest::read(map))) as Read),
        ("RefreshRequest", |map| errors(logins::RefreshRequest::read(map))),
        ("PasswordChange", password),
        ("NewUserRequest", |map| errors(NewUserRequest::read(map))),
        ("UserChangeRequest", user_change),
        ("NewKeyRequest", |map| errors(api_keys::create::NewKeyRequest::read(map))),
        ("PairCodeRequest", |map| errors(pair_code::PairCodeRequest::read(map, BareNumbers::Refused))),
        ("CancelAll", |map| errors(cancel_all::read(map, BareNumbers::Refused))),
        ("SendMessage", |map| draft(map, Form::Full)),
        ("SendText", |map| draft(map, Form::Text)),
        ("SendMedia", |map| draft(map, Form::Media)),
        ("SendBatch", read_batch),
        ("NewSession", |map| errors(create::NewSession::read(map))),
        ("SessionChange", |map| errors(change::Change::read(map))),
    ])
}

/// A schema behind its reference, or what it is if it isn't null.
fn resolved<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let at = reference.strip_prefix('#').expect("a reference within the document");
        return resolved(document.pointer(at).expect("its place"), document);
    }
    match schema["oneOf"].as_array() {
        Some(items) => resolved(items.iter().find(|item| item["type"] != "null").expect("more than null"), document),
        None => schema,
    }
}

fn is(schema: &Value, kind: &str) -> bool {
    schema["type"] == kind || schema["type"].as_array().is_some_and(|kinds| kinds.contains(&kind.into()))
}

/// A field of a body: its path, what is said of it, and whether it is needed.
struct Field {
    path: String,
    schema: Value,
    /// As it stands in its object.
    outer: Value,
    needed: bool,
}

fn fields(schema: &Value, prefix: &str, document: &Value, found: &mut Vec<Field>) {
    let schema = resolved(schema, document);
    assert_eq!(schema["additionalProperties"], false, "a body's object is closed: {prefix}");
    for (name, outer) in schema["properties"].as_object().into_iter().flatten() {
        let inner = resolved(outer, document);
        let path = format!("{prefix}{name}");
        let needed = schema["required"].as_array().is_some_and(|names| names.contains(&name.as_str().into()));
        found.push(Field { path: path.clone(), schema: inner.clone(), outer: outer.clone(), needed });
        if inner["properties"].is_object() {
            fields(inner, &format!("{path}."), document, found);
        } else if is(inner, "array") && resolved(&inner["items"], document)["properties"].is_object() {
            fields(&inner["items"], &format!("{path}[0]."), document, found);
        }
    }
}

/// A value that a schema allows, with every field.
fn sample(schema: &Value, document: &Value) -> Value {
    let schema = resolved(schema, document);
    if let Some(example) = schema["examples"].get(0) {
        return example.clone();
    }
    if let Some(word) = schema["enum"].as_array().and_then(|words| words.iter().find(|word| !word.is_null())) {
        return word.clone();
    }
    if let Some(properties) = schema["properties"].as_object() {
        return properties.iter().map(|(name, schema)| (name.clone(), sample(schema, document))).collect();
    }
    if is(schema, "array") {
        return json!([sample(&schema["items"], document)]);
    }
    if is(schema, "boolean") {
        return true.into();
    }
    if is(schema, "integer") || is(schema, "number") {
        return schema.get("minimum").cloned().unwrap_or_else(|| 1.into());
    }
    "x".repeat(schema["minLength"].as_u64().unwrap_or(1).try_into().expect("short")).into()
}

/// The body with another value at a path such as `messages[0].media.url`.
fn with(body: &Value, path: &str, value: Option<Value>) -> Map<String, Value> {
    let mut body = body.clone();
    let pointer = format!("/{}", path.replace("[0]", ".0").replace('.', "/"));
    let (parent, name) = pointer.rsplit_once('/').expect("a slash");
    let parent = body.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
    match body {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

#[test]
fn bodies_are_as_their_readers_have_them() {
    let document = json_document();
    let readers = readers();
    let mut seen = BTreeSet::new();
    for (path, method, operation) in documented(&document) {
        for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            if kind != "application/json" {
                assert_eq!(kind, "multipart/form-data");
                continue;
            }
            let at = format!("{method} {path}");
            let name = content["schema"]["$ref"].as_str().and_then(|to| to.rsplit('/').next()).expect("a named schema");
            let read = *readers.get(name).unwrap_or_else(|| panic!("{at}: no reader for {name} is listed here"));
            let examples = content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
            let examples: Vec<_> = content.get("example").into_iter().chain(examples).collect();
            assert!(!examples.is_empty(), "{at}: its body has no example");
            for example in &examples {
                let errors = read(example.as_object().expect("an object").clone());
                assert!(errors.is_empty(), "{at}: its example {example} doesn't work: {errors:?}");
            }
            if seen.insert(name.to_owned()) {
                check_body(name, &content["schema"], &examples, read, &document);
            }
        }
    }
    let listed: BTreeSet<_> = readers.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(seen, listed, "every listed reader is of a documented body");
}

/// Whether a field is absent: of a list's items, from any.
fn does_without(example: &Value, path: &str) -> bool {
    let lacks = |value: &Value, path: &str| value.pointer(&format!("/{}", path.replace('.', "/"))).is_none();
    match path.split_once("[0].") {
        Some((list, rest)) => example[list].as_array().is_some_and(|items| items.iter().any(|item| lacks(item, rest))),
        None => lacks(example, path),
    }
}

fn check_body(name: &str, schema: &Value, examples: &[&Value], read: Read, document: &Value) {
    let mut all = Vec::new();
    fields(schema, "", document, &mut all);
    // Where nothing is needed, nothing is an example that works.
    let (mut examples, nothing) = (examples.to_vec(), json!({}));
    if read(Map::new()).is_empty() {
        examples.push(&nothing);
    }
    let body = sample(schema, document);

    KNOWN.take();
    let errors = read(body.as_object().expect("an object").clone());
    let unknown: Vec<_> = errors.iter().filter(|e| e.code == "unknown_field").map(|e| &e.field).collect();
    assert!(unknown.is_empty(), "{name}: the reader doesn't know {unknown:?}");
    let documented: BTreeSet<_> = all.iter().map(|field| field.path.clone()).collect();
    for path in KNOWN.take() {
        let (object, last) = path.rsplit_once('.').map_or(("", path.as_str()), |(object, last)| (object, last));
        let synonym = all.iter().any(|field| {
            field.path.rsplit_once('.').map_or("", |(object, _)| object) == object
                && field.schema["description"]
                    .as_str()
                    .is_some_and(|said| said.replace('\n', " ").contains(&format!("`{last}` means the same")))
        });
        assert!(synonym || documented.contains(&path), "{name}: the reader knows {path}, the document doesn't");
    }

    for field in &all {
        let at = |value: Option<Value>| -> Vec<&'static str> {
            let errors = read(with(&body, &field.path, value));
            errors.iter().filter(|e| e.field == field.path).map(|e| e.code).collect()
        };
        let (path, schema) = (&field.path, &field.schema);
        let nullable = is(schema, "null") || field.outer["oneOf"].is_array();
        // A field may be needed by what stands in another; one that isn't needed is absent from an example that works.
        if field.needed {
            assert!(at(None).contains(&"required"), "{name}: {path} absent");
        } else {
            let without = examples.iter().any(|example| does_without(example, path));
            assert!(without, "{name}: no example does without {path}");
        }
        let null = at(Some(Value::Null));
        if nullable {
            assert!(!null.contains(&"invalid_type"), "{name}: {path} null: {null:?}");
        } else {
            assert!(!null.is_empty(), "{name}: {path} null");
        }
        let other = if is(schema, "string") { json!(5) } else { json!("five") };
        assert!(!at(Some(other)).is_empty(), "{name}: {path} of another type");
        if let Some(most) = schema["maxLength"].as_u64() {
            let text = |length: u64| Some("1".repeat(length.try_into().expect("short")).into());
            assert!(!at(text(most)).contains(&"too_long"), "{name}: {path} with {most} characters");
            assert!(!at(text(most + 1)).is_empty(), "{name}: {path} with more than {most} characters");
        }
        if let Some(least) = schema["minLength"].as_u64().filter(|least| *least > 0) {
            assert!(
                !at(Some("1".repeat((least - 1).try_into().expect("short")).into())).is_empty(),
                "{name}: {path} too short"
            );
        }
        for word in schema["enum"].as_array().into_iter().flatten().filter(|word| !word.is_null()) {
            assert!(!at(Some(word.clone())).contains(&"unknown_value"), "{name}: {path} as {word}");
            assert!(!at(Some("smoke".into())).is_empty(), "{name}: {path} as another word");
        }
        for (bound, step) in [("minimum", -1.0), ("maximum", 1.0)] {
            let Some(number) = schema[bound].as_f64() else { continue };
            let value = |number: f64| if is(schema, "integer") { json!(number as i64) } else { json!(number) };
            assert!(at(Some(value(number))).is_empty(), "{name}: {path} at its {bound}");
            assert!(!at(Some(value(number + step))).is_empty(), "{name}: {path} past its {bound}");
        }
        if let Some(most) = schema["maxItems"].as_u64() {
            let items = |count: u64| Some(Value::Array(vec![json!({}); count.try_into().expect("few")]));
            assert!(at(items(most)).is_empty(), "{name}: {path} with {most} items");
            assert!(!at(items(most + 1)).is_empty(), "{name}: {path} with more than {most} items");
        }
    }
}

#[test]
fn an_upload_has_the_fields_of_its_json_and_a_file() {
    let document = json_document();
    let properties = |name: &str| {
        let schema = &document["components"]["schemas"][name];
        assert_eq!(schema["additionalProperties"], false);
        schema["properties"].as_object().expect("fields").keys().cloned().collect::<BTreeSet<_>>()
    };
    let mut upload = properties("SendMediaUpload");
    assert!(upload.remove("file"));
    assert_eq!(upload, properties("SendMedia"));
    assert_eq!(properties("MediaUpload"), BTreeSet::from(["file".to_owned()]));
}

// ---- codes ----

/// The second argument of every such call in the sources, if it is a code.
fn codes_in(folder: &str, calls: &[&str], argument: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in sources(folder) {
        for call in calls {
            for (at, _) in text.match_indices(call) {
                let given = arguments(&text[at + call.len() - 1..]);
                let literal = given.split(',').nth(argument).map(str::trim);
                let word = literal.and_then(|text| text.strip_prefix('"')).and_then(|text| text.strip_suffix('"'));
                found.extend(word.filter(|word| is_code(word)).map(str::to_owned));
            }
        }
    }
    found
}

fn is_code(word: &str) -> bool {
    word.len() > 2 && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn explained(place: Place) -> BTreeSet<String> {
    all().filter(|explained| explained.place == place).map(|explained| explained.code.to_owned()).collect()
}

#[test]
fn every_code_in_use_is_explained() {
    let mut fields = codes_in("api/src", &[".fail(", ".add(", ".parsed(", "Problem::field("], 1);
    fields.extend(codes_in("api/src", &["Err((", "Error(("], 0));
    assert!(fields.len() > 15, "the codes are found: {fields:?}");
    let missing: Vec<_> = fields.difference(&explained(Place::Field)).cloned().collect();
    assert!(missing.is_empty(), "fields' codes without an explanation: {missing:?}");

    let mut messages = codes_in("shared/src", &["MessageError::new("], 0);
    messages.extend(codes_in("worker/src", &["MessageError::new(", "Missing::forever(", "Missing::now("], 0));
    assert!(messages.len() > 3, "the codes are found: {messages:?}");
    let missing: Vec<_> = messages.difference(&explained(Place::Message)).cloned().collect();
    assert!(missing.is_empty(), "messages' codes without an explanation: {missing:?}");
}

#[test]
fn every_problem_has_its_word_in_the_schema_and_its_page() {
    let document = json_document();
    let words = document["components"]["schemas"]["Code"]["enum"].as_array().expect("the codes").clone();
    let known: Vec<_> = Code::ALL.iter().map(|code| Value::from(code.as_str())).collect();
    assert_eq!(words.len(), known.len());
    assert!(words.iter().all(|word| known.contains(word)), "{words:?}");
    let mut seen = BTreeSet::new();
    for explained in all() {
        assert!(is_code(explained.code), "{}", explained.code);
        let texts = [explained.meaning, explained.when, explained.remedy];
        assert!(texts.iter().all(|text| text.ends_with('.') || text.ends_with(")")), "{}", explained.code);
        assert!(example(&explained).is_object());
        let kind = std::mem::discriminant(&explained.place);
        assert!(seen.insert((format!("{kind:?}"), explained.code)), "{} twice", explained.code);
    }
}

#[test]
fn a_code_means_one_thing() {
    let mut meanings = BTreeMap::new();
    for explained in all() {
        let meaning = *meanings.entry(explained.code).or_insert(explained.meaning);
        assert_eq!(meaning, explained.meaning, "{} stands in two tables with two meanings", explained.code);
    }
    for blocked_by in BlockedBy::ALL {
        assert_eq!(json!(blocked_by), blocked_by.as_str());
    }
}

// ---- pages ----

#[test]
fn the_page_tells_of_every_operation() {
    let page = page::render(&mut document());
    for (path, _, operation) in documented(&json_document()) {
        let id = operation["operationId"].as_str().expect("an id");
        assert!(page.contains(&format!("<article id=\"{id}\">")), "{path} {id}");
        assert!(page.contains(&format!("href=\"#{id}\"")), "{path} {id}");
    }
    assert!(!page.contains("<script") && !page.contains("style=\""), "nothing that the policy forbids");
}

/// Writes the document and the page to a folder, to be looked at: `SANASR_REFERENCE_TO=DIR`.
#[test]
fn the_page_can_be_looked_at() {
    if let Some(folder) = std::env::var_os("SANASR_REFERENCE_TO").map(std::path::PathBuf::from) {
        std::fs::write(folder.join("openapi.json"), document().to_pretty_json().expect("JSON")).expect("a file");
        std::fs::write(folder.join("redoc.html"), page::render(&mut document())).expect("a file");
    }
}
