//! What all endpoints have in common, added to the document in one place: the headers of answers, the errors that an endpoint
//! of its kind can answer, and the exact form of the schemas.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, Object, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Components, ContentBuilder, Header, OpenApi, Ref, RefOr, Required, Response, Schema};

use super::errors::{example, problem};
use crate::problem::Code;

pub(super) const PROBLEM: &str = "application/problem+json";

/// Who may use an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody, without credentials.
    Open,
    /// Whoever has credentials.
    Known,
    /// Admins who are logged in.
    Staff,
}

/// Adds it.
pub(super) fn finish(document: &mut OpenApi) {
    let mut components = document.components.take().unwrap_or_default();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            complete(path, method, operation, &mut components);
        }
    }
    components.headers.extend(headers().into_iter().map(|(name, header)| (name.to_owned(), header.into())));
    for code in Code::ALL {
        let value = example(&problem(code));
        let example = ExampleBuilder::new().summary(code.title()).value(Some(value)).build();
        components.examples.insert(code.as_str().to_owned(), example.into());
    }
    document.components = Some(components);
    exact_schemas(document);
}

/// The operations of a path, by method.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("get", &mut item.get),
        ("post", &mut item.post),
        ("put", &mut item.put),
        ("patch", &mut item.patch),
        ("delete", &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

pub(super) fn access(operation: &Operation) -> Access {
    match operation.security.as_deref() {
        None => Access::Known,
        Some([only]) if *only == SecurityRequirement::new("bearer", [""; 0]) => Access::Staff,
        Some(_) => Access::Open,
    }
}

fn has_parameter(operation: &Operation, place: &ParameterIn, name: Option<&str>) -> bool {
    operation.parameters.iter().flatten().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == *place && name.is_none_or(|name| parameter.name == name),
        RefOr::Ref(_) => false,
    })
}

/// The errors that an endpoint of this kind can answer.
fn codes(path: &str, method: &str, operation: &Operation) -> Vec<Code> {
    let mut codes = Vec::new();
    if !path.starts_with("/api/v1/") {
        return codes;
    }
    let access = access(operation);
    let sends = has_parameter(operation, &ParameterIn::Header, Some("Idempotency-Key"));
    let of_user = has_parameter(operation, &ParameterIn::Query, Some("user_id"));
    let writes = method != "get";
    // Any may be given a query parameter that it doesn't know.
    codes.extend([
        Code::MalformedRequest,
        Code::ValidationFailed,
        Code::RateLimited,
        Code::Unavailable,
        Code::Overloaded,
    ]);
    if access != Access::Open {
        codes.extend([Code::Unauthenticated, Code::InvalidApiKey, Code::TokenExpired, Code::UserInactive]);
    }
    if access == Access::Staff || of_user {
        codes.push(Code::Forbidden);
    }
    if of_user || has_parameter(operation, &ParameterIn::Path, None) {
        codes.push(Code::NotFound);
    }
    if writes {
        // Also where no body is needed: one that comes is read.
        codes.extend([Code::RequestTimeout, Code::PayloadTooLarge, Code::UnsupportedMediaType]);
        codes.push(Code::CommitUnknown);
    }
    if sends {
        codes.extend([Code::Conflict, Code::IdempotencyKeyReused, Code::QuotaExceeded]);
    }
    codes
}

/// Adds the errors and the headers to an operation's answers.
fn complete(path: &str, method: &str, operation: &mut Operation, components: &mut Components) {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes(path, method, operation) {
        by_status.entry(code.status().as_u16()).or_default().push(code);
    }
    let known = access(operation) != Access::Open;
    let sends = has_parameter(operation, &ParameterIn::Header, Some("Idempotency-Key"));

    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let status: u16 = status.parse().unwrap_or_default();
        if status >= 400 && response.content.is_empty() {
            // What the handler says is about its own reason; what all can answer goes with it.
            let mut codes = by_status.remove(&status).unwrap_or_default();
            if codes.is_empty() {
                codes.extend(Code::ALL.into_iter().find(|code| code.status().as_u16() == status));
            }
            let own = std::mem::take(&mut response.description);
            let mut whole = error_response(status, &codes, known);
            whole.description = if codes.len() > 1 { format!("{own}\n\n{}", whole.description) } else { own };
            *response = whole;
            continue;
        }
        for name in ["X-Request-Id", "RateLimit", "RateLimit-Policy"] {
            if known || name == "X-Request-Id" {
                response.headers.insert(name.to_owned(), header_ref(name));
            }
        }
        if sends && status == 202 {
            response.headers.insert("Idempotent-Replayed".to_owned(), header_ref("Idempotent-Replayed"));
        }
    }
    for (status, codes) in by_status {
        let response = error_response(status, &codes, known);
        let name: String = codes.iter().map(|code| camel(code.as_str())).collect::<Vec<_>>().join("Or");
        let name = if known { name } else { format!("Open{name}") };
        components.responses.entry(name.clone()).or_insert_with(|| response.into());
        let reference = Ref::new(format!("#/components/responses/{name}"));
        operation.responses.responses.insert(status.to_string(), RefOr::Ref(reference));
    }
}

fn camel(word: &str) -> String {
    let capital = |part: &str| {
        let (first, rest) = part.split_at(1);
        first.to_uppercase() + rest
    };
    word.split('_').map(capital).collect()
}

fn error_response(status: u16, codes: &[Code], known: bool) -> Response {
    let said: Vec<_> = codes.iter().map(|code| format!("`{}`: {}", code.as_str(), problem(*code).meaning)).collect();
    let mut content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
    for code in codes {
        let name = code.as_str();
        content = content.examples_from_iter([(
            name,
            RefOr::<utoipa::openapi::example::Example>::Ref(Ref::new(format!("#/components/examples/{name}"))),
        )]);
    }
    let mut response = Response::new(said.join("\n\n"));
    response.content.insert(PROBLEM.to_owned(), RefOr::T(content.build()));
    let mut names = vec!["X-Request-Id"];
    if known && status != StatusCode::UNAUTHORIZED.as_u16() {
        names.extend(["RateLimit", "RateLimit-Policy"]);
    }
    match status {
        401 => names.push("WWW-Authenticate"),
        429 | 503 => names.push("Retry-After"),
        _ => {}
    }
    response.headers.extend(names.into_iter().map(|name| (name.to_owned(), header_ref(name))));
    response
}

fn header_ref(name: &str) -> RefOr<Header> {
    RefOr::Ref(Ref::new(format!("#/components/headers/{name}")))
}

fn headers() -> [(&'static str, Header); 6] {
    let text = |about: &str, example: &str| {
        let mut header =
            HeaderBuilder::new().schema(Some(Object::with_type(Type::String))).description(Some(about)).build();
        header.example = Some(example.into());
        header
    };
    let mut seconds = HeaderBuilder::new()
        .schema(Some(Object::with_type(Type::Integer)))
        .description(Some("Seconds after which to come again."));
    seconds = seconds.example(Some(2.into()));
    [
        (
            "X-Request-Id",
            text(
                "The request's id in the logs: the caller's own if it sent a sane one.",
                "019ac3f26b1e7c39a6b03f5d1c2e4a77",
            ),
        ),
        (
            "RateLimit",
            text(
                "How many requests are left (`r`), and the seconds until all are there again (`t`), as \
                 draft-ietf-httpapi-ratelimit-headers-10 has it.",
                "\"default\";r=9998;t=1",
            ),
        ),
        (
            "RateLimit-Policy",
            text("How many requests (`q`) may be made in how many seconds (`w`).", "\"default\";q=10000;w=2"),
        ),
        ("Retry-After", seconds.build()),
        (
            "Idempotent-Replayed",
            text("`true` if the message was accepted before, under the same Idempotency-Key.", "true"),
        ),
        ("WWW-Authenticate", text("How to authenticate.", "Bearer realm=\"sanasr\", ApiKey realm=\"sanasr\"")),
    ]
}

// ---- schemas ----

/// Request bodies take nothing but their fields; answers always have all of theirs; types that are plain texts or numbers stand
/// where they are used.
fn exact_schemas(document: &mut OpenApi) {
    merge_flattened(document);
    name_again(document);
    optional_bodies(document);
    let requests = reachable(document, true);
    let answers = reachable(document, false);
    let components = document.components.get_or_insert_default();
    let plain: BTreeMap<String, Object> = components
        .schemas
        .iter()
        .filter_map(|(name, schema)| match schema {
            RefOr::T(Schema::Object(object)) if is_plain(object) => Some((name.clone(), object.clone())),
            _ => None,
        })
        .collect();
    for (name, schema) in &mut components.schemas {
        if let RefOr::T(Schema::Object(object)) = schema {
            if requests.contains(name) {
                object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
            } else if answers.contains(name) {
                require_nullable(object);
                // A later version may say more: clients must not mind.
                object.additional_properties = None;
            }
        }
    }
    components.schemas.retain(|name, _| !plain.contains_key(name));
    every_schema(document, &mut |schema| put_in_place(schema, &plain));
}

/// A type that has the fields of another one, and more, has them all itself.
fn merge_flattened(document: &mut OpenApi) {
    let known = document.components.get_or_insert_default().schemas.clone();
    every_schema(document, &mut |schema| {
        let RefOr::T(Schema::AllOf(all)) = schema else { return };
        let mut whole = Object::with_type(Type::Object);
        whole.description = all.description.clone();
        for item in &all.items {
            let item = match item {
                RefOr::Ref(reference) => name_of(reference).and_then(|name| known.get(name)).unwrap_or(item),
                RefOr::T(_) => item,
            };
            if let RefOr::T(Schema::Object(object)) = item {
                whole.properties.extend(object.properties.clone());
                whole.required.extend(object.required.clone());
                whole.description = whole.description.or_else(|| object.description.clone());
            }
        }
        *schema = RefOr::T(Schema::Object(whole));
    });
}

/// Generic types repeat what stands in them: what has a name is referred to by it.
fn name_again(document: &mut OpenApi) {
    let named: Vec<(String, RefOr<Schema>)> = document
        .components
        .get_or_insert_default()
        .schemas
        .iter()
        .filter(|(_, schema)| matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Object)))
        .map(|(name, schema)| (name.clone(), schema.clone()))
        .collect();
    let refer = |schema: &mut RefOr<Schema>| {
        if let Some((name, _)) = named.iter().find(|(_, known)| known == schema) {
            *schema = Ref::from_schema_name(name).into();
        }
    };
    every_schema(document, &mut |schema| match schema {
        RefOr::T(Schema::Object(object)) => object.properties.values_mut().for_each(refer),
        RefOr::T(Schema::Array(array)) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                refer(items);
            }
        }
        _ => {}
    });
}

/// An absent body is an empty one, which is fine where no field is needed.
fn optional_bodies(document: &mut OpenApi) {
    let schemas = document.components.get_or_insert_default().schemas.clone();
    let needs_none = |schema: &RefOr<Schema>| {
        let RefOr::Ref(reference) = schema else { return false };
        let named = name_of(reference).and_then(|name| schemas.get(name));
        matches!(named, Some(RefOr::T(Schema::Object(object))) if object.required.is_empty())
    };
    for item in document.paths.paths.values_mut() {
        for (_, operation) in operations(item) {
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                let mut schemas = body.content.values().filter_map(|content| match content {
                    RefOr::T(content) => content.schema.as_ref(),
                    RefOr::Ref(_) => None,
                });
                let needed = if schemas.all(needs_none) { Required::False } else { Required::True };
                body.required = Some(needed);
            }
        }
    }
}

/// A parameter is given or not, but never null.
fn never_null(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => {
            if let SchemaType::Array(types) = &object.schema_type
                && let Some(own) = types.iter().find(|kind| **kind != Type::Null)
            {
                object.schema_type = SchemaType::Type(own.clone());
            }
        }
        RefOr::T(Schema::OneOf(one)) if one.items.len() == 2 => {
            if let Some(own) = one.items.iter().find(|item| !is_null(item)) {
                *schema = own.clone();
            }
        }
        RefOr::T(_) | RefOr::Ref(_) => {}
    }
}

fn is_plain(object: &Object) -> bool {
    object.enum_values.is_none()
        && matches!(object.schema_type, SchemaType::Type(Type::String | Type::Integer | Type::Number | Type::Boolean))
}

/// What can be null is there all the same; what is left out when there is nothing to say can't be null.
fn require_nullable(object: &mut Object) {
    for (name, schema) in &object.properties {
        let nullable = match schema {
            RefOr::T(Schema::Object(object)) => has_null(&object.schema_type),
            RefOr::T(Schema::Array(array)) => has_null(&array.schema_type),
            RefOr::T(Schema::OneOf(one)) => one.items.iter().any(is_null),
            RefOr::T(_) | RefOr::Ref(_) => false,
        };
        if nullable && !object.required.contains(name) {
            object.required.push(name.clone());
        }
    }
}

fn has_null(schema_type: &SchemaType) -> bool {
    matches!(schema_type, SchemaType::Array(types) if types.contains(&Type::Null))
}

fn is_null(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null))
}

/// Puts a plain type where it is referred to.
fn put_in_place(schema: &mut RefOr<Schema>, plain: &BTreeMap<String, Object>) {
    match schema {
        RefOr::Ref(reference) => {
            let Some(object) = name_of(reference).and_then(|name| plain.get(name)) else { return };
            let mut object = object.clone();
            if !reference.description.is_empty() {
                object.description = Some(std::mem::take(&mut reference.description));
            }
            *schema = RefOr::T(Schema::Object(object));
        }
        RefOr::T(Schema::OneOf(one)) => {
            // `null` or a plain type: a plain type that may be null.
            if !one.items.iter().any(is_null) {
                return;
            }
            let other = one.items.iter().find(|item| !is_null(item));
            let Some(RefOr::T(Schema::Object(object))) = other else { return };
            if !is_plain(object) {
                return;
            }
            let SchemaType::Type(own) = object.schema_type.clone() else { return };
            let mut object = object.clone();
            object.schema_type = SchemaType::Array(vec![own, Type::Null]);
            if one.description.is_some() {
                object.description = one.description.take();
            }
            *schema = RefOr::T(Schema::Object(object));
        }
        RefOr::T(_) => {}
    }
}

fn name_of(reference: &Ref) -> Option<&str> {
    reference.ref_location.strip_prefix("#/components/schemas/")
}

/// The names of the schemas that requests' bodies, or answers, are made of.
fn reachable(document: &mut OpenApi, of_requests: bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = Vec::new();
    let mut note = |schema: &mut RefOr<Schema>| {
        if let RefOr::Ref(reference) = schema {
            open.extend(name_of(reference).map(str::to_owned));
        }
    };
    for item in document.paths.paths.values_mut() {
        for (_, operation) in operations(item) {
            if of_requests {
                body_schemas(operation, &mut note);
            } else {
                answer_schemas(operation, &mut note);
            }
        }
    }
    let components = document.components.get_or_insert_default();
    while let Some(name) = open.pop() {
        if let Some(schema) = components.schemas.get_mut(&name)
            && found.insert(name)
        {
            within(schema, &mut |schema| {
                if let RefOr::Ref(reference) = schema {
                    open.extend(name_of(reference).map(str::to_owned));
                }
            });
        }
    }
    found
}

type Visit<'a> = dyn FnMut(&mut RefOr<Schema>) + 'a;

fn body_schemas(operation: &mut Operation, visit: &mut Visit<'_>) {
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        for content in body.content.values_mut() {
            if let RefOr::T(content) = content
                && let Some(schema) = &mut content.schema
            {
                within(schema, visit);
            }
        }
    }
}

fn answer_schemas(operation: &mut Operation, visit: &mut Visit<'_>) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            for content in response.content.values_mut() {
                if let RefOr::T(content) = content
                    && let Some(schema) = &mut content.schema
                {
                    within(schema, visit);
                }
            }
        }
    }
}

fn every_schema(document: &mut OpenApi, visit: &mut Visit<'_>) {
    for schema in document.components.get_or_insert_default().schemas.values_mut() {
        within(schema, visit);
    }
    for item in document.paths.paths.values_mut() {
        for (_, operation) in operations(item) {
            body_schemas(operation, visit);
            answer_schemas(operation, visit);
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter
                    && let Some(schema) = &mut parameter.schema
                {
                    within(schema, visit);
                    never_null(schema);
                }
            }
        }
    }
}

/// Visits a schema and all that stands in it, the inner ones first; what it refers to isn't followed.
fn within(schema: &mut RefOr<Schema>, visit: &mut Visit<'_>) {
    if let RefOr::T(inner) = schema {
        match inner {
            Schema::Object(object) => {
                for property in object.properties.values_mut() {
                    within(property, visit);
                }
                if let Some(AdditionalProperties::RefOr(more)) = object.additional_properties.as_deref_mut() {
                    within(more, visit);
                }
            }
            Schema::Array(array) => {
                if let ArrayItems::RefOrSchema(items) = &mut array.items {
                    within(items, visit);
                }
            }
            Schema::OneOf(one) => one.items.iter_mut().for_each(|item| within(item, visit)),
            Schema::AllOf(all) => all.items.iter_mut().for_each(|item| within(item, visit)),
            Schema::AnyOf(any) => any.items.iter_mut().for_each(|item| within(item, visit)),
            _ => {}
        }
    }
    visit(schema);
}
