//! Schemas as people read them: tables of fields, and samples of answers.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;
use utoipa::openapi::schema::{ArrayItems, Object, SchemaType, Type};
use utoipa::openapi::{OpenApi, Ref, RefOr, Response, Schema};

use super::html::{escape, inline};

/// How deep a table or a sample goes.
const DEPTH_MAX: usize = 6;

/// What is referred to by name.
pub(super) struct Book {
    schemas: BTreeMap<String, RefOr<Schema>>,
    responses: BTreeMap<String, RefOr<Response>>,
}

impl Book {
    pub(super) fn of(document: &OpenApi) -> Self {
        let components = document.components.clone().unwrap_or_default();
        Self { schemas: components.schemas, responses: components.responses }
    }

    pub(super) fn response<'a>(&'a self, response: &'a RefOr<Response>) -> Option<&'a Response> {
        match response {
            RefOr::T(response) => Some(response),
            RefOr::Ref(reference) => match self.responses.get(name(reference))? {
                RefOr::T(response) => Some(response),
                RefOr::Ref(_) => None,
            },
        }
    }

    /// What a schema is, where it isn't only a name or nothing.
    fn schema<'a>(&'a self, schema: &'a RefOr<Schema>) -> Option<&'a Schema> {
        let schema = match schema {
            RefOr::T(schema) => schema,
            RefOr::Ref(reference) => match self.schemas.get(name(reference))? {
                RefOr::T(schema) => schema,
                RefOr::Ref(_) => return None,
            },
        };
        match schema {
            Schema::OneOf(one) => one.items.iter().filter(|item| !is_null(item)).find_map(|item| self.schema(item)),
            other => Some(other),
        }
    }

    /// A schema's type and bounds, in a few words of HTML, and whether it may be null.
    pub(super) fn kind(&self, schema: &RefOr<Schema>) -> String {
        let mut words = self.kind_but_null(schema);
        if may_be_null(schema) {
            words.push_str(" or null");
        }
        words
    }

    fn kind_but_null(&self, schema: &RefOr<Schema>) -> String {
        match self.schema(schema) {
            Some(Schema::Object(object)) => object_kind(object),
            Some(Schema::Array(array)) => {
                let mut said = match &array.items {
                    ArrayItems::RefOrSchema(items) => format!("array of {}", self.kind(items)),
                    ArrayItems::False => "array".to_owned(),
                };
                if let Some(most) = array.max_items {
                    let _ = write!(said, ", {}–{most} items", array.min_items.unwrap_or(0));
                }
                said
            }
            _ => "any".to_owned(),
        }
    }
}

fn name(reference: &Ref) -> &str {
    reference.ref_location.rsplit('/').next().unwrap_or_default()
}

fn is_null(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null))
}

fn may_be_null(schema: &RefOr<Schema>) -> bool {
    let null = |kind: &SchemaType| matches!(kind, SchemaType::Array(types) if types.contains(&Type::Null));
    match schema {
        RefOr::T(Schema::OneOf(one)) => one.items.iter().any(is_null),
        RefOr::T(Schema::Object(object)) => null(&object.schema_type),
        RefOr::T(Schema::Array(array)) => null(&array.schema_type),
        RefOr::T(_) | RefOr::Ref(_) => false,
    }
}

fn main_type(object: &Object) -> Type {
    match &object.schema_type {
        SchemaType::Type(own) => own.clone(),
        SchemaType::Array(types) => types.iter().find(|kind| **kind != Type::Null).cloned().unwrap_or(Type::Null),
        SchemaType::AnyValue => Type::Object,
    }
}

fn object_kind(object: &Object) -> String {
    if let Some(values) = &object.enum_values {
        let words: Vec<_> = values
            .iter()
            .filter(|value| !value.is_null())
            .map(|value| format!("<code>{}</code>", escape(value.as_str().unwrap_or(&value.to_string()))))
            .collect();
        return words.join(" ");
    }
    let mut said = match main_type(object) {
        Type::String => "string",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Boolean => "boolean",
        Type::Array => "array",
        Type::Object => "object",
        Type::Null => "null",
    }
    .to_owned();
    if let Some(format) = &object.format {
        let format = serde_json::to_value(format).unwrap_or_default();
        if let Some(format) =
            format.as_str().filter(|format| !format.starts_with("int") && !matches!(*format, "double"))
        {
            said = format.to_owned();
        }
    }
    match (object.min_length, object.max_length) {
        (Some(least), Some(most)) => {
            let _ = write!(said, ", {least}–{most} characters");
        }
        (None, Some(most)) => {
            let _ = write!(said, ", up to {most} characters");
        }
        (Some(least), None) => {
            let _ = write!(said, ", at least {least} character{}", if least == 1 { "" } else { "s" });
        }
        (None, None) => {}
    }
    let number =
        |number: &utoipa::Number| serde_json::to_value(number).map(|value| trimmed(&value)).unwrap_or_default();
    match (&object.minimum, &object.maximum) {
        (Some(least), Some(most)) => {
            let _ = write!(said, ", {} to {}", number(least), number(most));
        }
        (Some(least), None) => {
            let _ = write!(said, ", from {}", number(least));
        }
        (None, Some(most)) => {
            let _ = write!(said, ", up to {}", number(most));
        }
        (None, None) => {}
    }
    if let Some(pattern) = &object.pattern {
        let _ = write!(said, ", <code>{}</code>", escape(pattern));
    }
    said
}

/// A number without `.0`.
fn trimmed(value: &Value) -> String {
    let text = value.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A table of a schema's fields, those of inner objects by their paths.
pub(super) fn table(schema: &RefOr<Schema>, book: &Book) -> String {
    let mut rows = String::new();
    fields(&mut rows, schema, "", book, 0);
    if rows.is_empty() {
        return format!("<p><span class=\"kind\">{}</span></p>\n", book.kind(schema));
    }
    format!("<div class=\"scroll\"><table class=\"fields\">\n{rows}</table></div>\n")
}

fn fields(rows: &mut String, schema: &RefOr<Schema>, prefix: &str, book: &Book, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match book.schema(schema) {
        Some(Schema::Object(object)) => {
            for (field, inner) in &object.properties {
                // Only requests' objects are closed, and there null means absent; of answers' fields all are there.
                let request = object.additional_properties.is_some();
                let mark = if request && object.required.contains(field) {
                    " <span class=\"needed\">needed</span>"
                } else {
                    ""
                };
                let kind = if request { book.kind_but_null(inner) } else { book.kind(inner) };
                let about = description(inner, book).map(|text| inline(&text)).unwrap_or_default();
                let _ = writeln!(
                    rows,
                    "<tr><td><code><span class=\"quiet\">{}</span>{}</code>{mark}</td><td><span class=\"kind\">{kind}</span> {about}</td></tr>",
                    escape(prefix).replace('.', ".<wbr>"),
                    escape(field),
                );
                fields(rows, inner, &format!("{prefix}{field}."), book, depth + 1);
            }
        }
        Some(Schema::Array(array)) => {
            if let ArrayItems::RefOrSchema(items) = &array.items {
                let prefix = prefix.strip_suffix('.').unwrap_or(prefix);
                fields(rows, items, &format!("{prefix}[]."), book, depth + 1);
            }
        }
        _ => {}
    }
}

/// What a field's own schema says of it, before what its type's says.
fn description(schema: &RefOr<Schema>, book: &Book) -> Option<String> {
    let own = match schema {
        RefOr::Ref(reference) if !reference.description.is_empty() => Some(reference.description.clone()),
        RefOr::T(Schema::OneOf(one)) => one.description.clone().or_else(|| {
            one.items.iter().find_map(|item| match item {
                RefOr::Ref(reference) if !reference.description.is_empty() => Some(reference.description.clone()),
                _ => None,
            })
        }),
        _ => None,
    };
    own.or_else(|| match book.schema(schema)? {
        Schema::Object(object) => object.description.clone(),
        Schema::Array(array) => array.description.clone(),
        _ => None,
    })
}

/// An answer with this schema, in JSON, its fields in their order.
pub(super) fn sample(schema: &RefOr<Schema>, book: &Book) -> Option<String> {
    let mut text = String::new();
    write_sample(&mut text, schema, book, 0);
    (!text.is_empty()).then_some(text)
}

fn write_sample(text: &mut String, schema: &RefOr<Schema>, book: &Book, depth: usize) {
    if depth > DEPTH_MAX {
        text.push_str("null");
        return;
    }
    match book.schema(schema) {
        Some(Schema::Object(object)) if !object.properties.is_empty() => {
            if may_be_null(schema) {
                text.push_str("null");
                return;
            }
            text.push('{');
            let mut first = true;
            for (field, inner) in object.properties.iter().filter(|(field, _)| object.required.contains(field)) {
                let _ = write!(text, "{}\n{}\"{field}\": ", if first { "" } else { "," }, "  ".repeat(depth + 1));
                first = false;
                write_sample(text, inner, book, depth + 1);
            }
            let _ = write!(text, "\n{}}}", "  ".repeat(depth));
        }
        Some(Schema::Array(array)) => match &array.items {
            ArrayItems::RefOrSchema(items) => {
                text.push('[');
                write_sample(text, items, book, depth);
                text.push(']');
            }
            ArrayItems::False => text.push_str("[]"),
        },
        Some(Schema::Object(object)) => text.push_str(&scalar(object, may_be_null(schema)).to_string()),
        _ => text.push_str("null"),
    }
}

fn scalar(object: &Object, nullable: bool) -> Value {
    if nullable {
        return Value::Null;
    }
    if let Some(example) = object.examples.first().or(object.example.as_ref()) {
        return example.clone();
    }
    if let Some(value) = object.enum_values.iter().flatten().next() {
        return value.clone();
    }
    match main_type(object) {
        Type::String => "…".into(),
        Type::Integer | Type::Number => 0.into(),
        Type::Boolean => false.into(),
        Type::Array | Type::Object => serde_json::json!({}),
        Type::Null => Value::Null,
    }
}
