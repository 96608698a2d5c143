//! The reference as one page, made from the document on the server: no script, one style sheet.

use std::fmt::Write;

use serde_json::Value;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::{Content, OpenApi, RefOr, Required, Response};

use super::finish::{Access, access, operations};
use super::html::{escape, inline, markdown, page};
use super::schema::{Book, sample, table};

/// The page.
pub(super) fn render(document: &mut OpenApi) -> String {
    let book = Book::of(document);
    let tags = document.tags.clone().unwrap_or_default();
    let mut by_tag: Vec<(String, String, Vec<Entry>)> =
        tags.into_iter().map(|tag| (tag.name, tag.description.unwrap_or_default(), Vec::new())).collect();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let tag = operation.tags.iter().flatten().next().cloned().unwrap_or_default();
            if let Some((_, _, entries)) = by_tag.iter_mut().find(|(name, _, _)| *name == tag) {
                entries.push(Entry { path: path.clone(), method, operation: operation.clone() });
            }
        }
    }
    by_tag.retain(|(_, _, entries)| !entries.is_empty());

    let mut body = nav(&by_tag);
    let _ = write!(
        body,
        "<main>\n<header>\n<h1>API reference</h1>\n<p class=\"quiet\">sanasr {} · <a href=\"/api/openapi.json\">OpenAPI \
         document</a> · <a href=\"/api/docs\">try it out</a> · <a href=\"/errors\">error codes</a></p>\n{}</header>\n",
        escape(&document.info.version),
        markdown(document.info.description.as_deref().unwrap_or_default()),
    );
    body.push_str(
        "<p>The examples need two or three variables: <code>export SANASR=http://127.0.0.1:8080 KEY=…</code>, and \
         <code>TOKEN</code>, an access token, where an admin is needed.</p>\n",
    );
    for (tag, about, entries) in &by_tag {
        let _ = write!(body, "<section>\n<h2 id=\"{}\">{}</h2>\n{}", anchor(tag), escape(tag), markdown(about));
        for entry in entries {
            article(&mut body, entry, &book);
        }
        body.push_str("</section>\n");
    }
    body.push_str("</main>\n");
    page("API reference · sanasr", "reference", &body)
}

struct Entry {
    path: String,
    method: &'static str,
    operation: Operation,
}

impl Entry {
    fn id(&self) -> &str {
        self.operation.operation_id.as_deref().unwrap_or_default()
    }

    fn summary(&self) -> &str {
        self.operation.summary.as_deref().unwrap_or_default()
    }
}

fn anchor(tag: &str) -> String {
    format!("tag-{}", tag.to_lowercase().replace(' ', "-"))
}

fn nav(by_tag: &[(String, String, Vec<Entry>)]) -> String {
    let mut html = String::from("<nav>\n<p class=\"brand\"><a href=\"#\">sanasr</a></p>\n");
    for (tag, _, entries) in by_tag {
        let _ = write!(html, "<details>\n<summary>{}</summary>\n<ul>\n", escape(tag));
        for entry in entries {
            let _ = writeln!(
                html,
                "<li><a href=\"#{}\"><span class=\"method {method}\">{method}</span> {}</a></li>",
                escape(entry.id()),
                escape(&entry.summary().replace('`', "")),
                method = entry.method,
            );
        }
        html.push_str("</ul>\n</details>\n");
    }
    html.push_str("</nav>\n");
    html
}

fn article(html: &mut String, entry: &Entry, book: &Book) {
    let operation = &entry.operation;
    let who = match access(operation) {
        Access::Open => "<span class=\"who\">no login</span>",
        Access::Known => "",
        Access::Staff => "<span class=\"who staff\">admins</span>",
    };
    let _ = write!(
        html,
        "<article id=\"{id}\">\n<h3><a href=\"#{id}\">{}</a></h3>\n<p class=\"route\"><span class=\"method {method}\">{method}\
         </span> <code>{}</code> {who}</p>\n<div class=\"columns\">\n<div class=\"words\">\n{}",
        inline(entry.summary()),
        path(&entry.path),
        markdown(operation.description.as_deref().unwrap_or_default()),
        id = escape(entry.id()),
        method = entry.method,
    );
    parameters(html, operation, book);
    if let Some(RefOr::T(request)) = &operation.request_body {
        for (kind, content) in &request.content {
            if let RefOr::T(content) = content
                && let Some(schema) = &content.schema
            {
                let _ = write!(html, "<h4>Body <code>{}</code></h4>\n{}", escape(kind), table(schema, book));
            }
        }
    }
    responses(html, operation, book);
    html.push_str("</div>\n<div class=\"examples\">\n");
    examples(html, entry, book);
    html.push_str("</div>\n</div>\n</article>\n");
}

/// A path, which may be broken after its slashes.
fn path(path: &str) -> String {
    escape(path).replace('/', "/<wbr>")
}

fn parameters(html: &mut String, operation: &Operation, book: &Book) {
    for (place, heading) in
        [(ParameterIn::Path, "Path"), (ParameterIn::Query, "Query parameters"), (ParameterIn::Header, "Headers")]
    {
        let mut rows = String::new();
        for parameter in operation.parameters.iter().flatten() {
            if let RefOr::T(parameter) = parameter
                && parameter.parameter_in == place
            {
                rows.push_str(&row(parameter, book));
            }
        }
        if !rows.is_empty() {
            let _ = write!(
                html,
                "<h4>{heading}</h4>\n<div class=\"scroll\"><table class=\"fields\">\n{rows}</table></div>\n"
            );
        }
    }
}

fn row(parameter: &Parameter, book: &Book) -> String {
    let needed = if parameter.required == Required::True { " <span class=\"needed\">needed</span>" } else { "" };
    let kind = parameter.schema.as_ref().map(|schema| book.kind(schema)).unwrap_or_default();
    format!(
        "<tr><td><code>{}</code>{needed}</td><td><span class=\"kind\">{kind}</span> {}</td></tr>\n",
        escape(&parameter.name),
        inline(parameter.description.as_deref().unwrap_or_default()),
    )
}

fn responses(html: &mut String, operation: &Operation, book: &Book) {
    html.push_str("<h4>Answers</h4>\n");
    let mut errors = String::new();
    for (status, response) in &operation.responses.responses {
        let Some(response) = book.response(response) else { continue };
        if status.as_str() >= "400" && response.content.contains_key(super::finish::PROBLEM) {
            let _ = writeln!(errors, "<tr><td class=\"status\">{status}</td><td>{}</td></tr>", error(response));
            continue;
        }
        let _ = writeln!(html, "<p><span class=\"status good\">{status}</span> {}</p>", inline(&response.description));
        for (kind, content) in &response.content {
            let RefOr::T(content) = content else { continue };
            if let Some(schema) = &content.schema {
                let _ = write!(
                    html,
                    "<details>\n<summary><code>{}</code></summary>\n{}</details>\n",
                    escape(kind),
                    table(schema, book)
                );
            }
        }
    }
    if !errors.is_empty() {
        let _ = write!(
            html,
            "<details>\n<summary>Errors</summary>\n<div class=\"scroll\"><table>\n{errors}</table></div>\n</details>\n"
        );
    }
}

/// An error's description, its codes leading to their pages.
fn error(response: &Response) -> String {
    let mut html = String::new();
    for paragraph in response.description.split("\n\n") {
        let linked = match paragraph.strip_prefix('`').and_then(|rest| rest.split_once("`: ")) {
            Some((code, meaning)) => {
                format!("<a href=\"/errors/{code}\"><code>{code}</code></a> {}", inline(meaning))
            }
            None => inline(paragraph),
        };
        let _ = write!(html, "<p>{linked}</p>");
    }
    html
}

fn examples(html: &mut String, entry: &Entry, book: &Book) {
    let bodies = bodies(entry);
    if bodies.is_empty() {
        let _ = writeln!(html, "<pre><code>{}</code></pre>", escape(&curl(entry, None)));
    }
    for (n, (name, body)) in bodies.iter().enumerate() {
        let (open, name) = (if n == 0 { " open" } else { "" }, if name.is_empty() { "Request" } else { name });
        let _ = write!(
            html,
            "<details{open}>\n<summary>{}</summary>\n<pre><code>{}</code></pre>\n</details>\n",
            escape(name),
            escape(&curl(entry, Some(body))),
        );
    }
    for (status, response) in &entry.operation.responses.responses {
        let Some(response) = book.response(response).filter(|_| status.starts_with('2')) else { continue };
        for (kind, content) in &response.content {
            let RefOr::T(content) = content else { continue };
            if let Some(text) = answer(kind, content, book) {
                let _ = write!(
                    html,
                    "<details>\n<summary>Answer {status}</summary>\n<pre><code>{}</code></pre>\n</details>\n",
                    escape(&text)
                );
            }
        }
    }
}

fn answer(kind: &str, content: &Content, book: &Book) -> Option<String> {
    if let Some(Value::String(text)) = &content.example {
        return Some(text.clone());
    }
    let schema = content.schema.as_ref().filter(|_| kind == "application/json")?;
    sample(schema, book)
}

/// The examples of a body: their names, and the body on lines of its own.
fn bodies(entry: &Entry) -> Vec<(String, Body)> {
    let mut bodies = Vec::new();
    if let Some(RefOr::T(request)) = &entry.operation.request_body {
        for (kind, content) in &request.content {
            let RefOr::T(content) = content else { continue };
            let examples = content.examples.values().filter_map(|example| match example {
                RefOr::T(example) => example.value.clone().map(|value| (example.summary.clone(), value)),
                RefOr::Ref(_) => None,
            });
            let single = content.example.clone().map(|value| (String::new(), value));
            for (name, value) in single.into_iter().chain(examples) {
                bodies.push((name, Body { kind: kind.clone(), value }));
            }
        }
    }
    bodies
}

struct Body {
    kind: String,
    value: Value,
}

fn curl(entry: &Entry, body: Option<&Body>) -> String {
    let mut path = entry.path.clone();
    for parameter in entry.operation.parameters.iter().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.parameter_in == ParameterIn::Path
        {
            let value = if parameter.name == "name" { "default" } else { "$ID" };
            path = path.replace(&format!("{{{}}}", parameter.name), value);
        }
    }
    let mut line = String::from("curl");
    if entry.method != "get" && !(entry.method == "post" && body.is_some()) {
        let _ = write!(line, " -X {}", entry.method.to_uppercase());
    }
    let _ = write!(line, " \"$SANASR{path}\"");
    match access(&entry.operation) {
        Access::Open => {}
        Access::Known => line.push_str(" \\\n  -H \"X-Api-Key: $KEY\""),
        Access::Staff => line.push_str(" \\\n  -H \"Authorization: Bearer $TOKEN\""),
    }
    match body {
        Some(body) if body.kind == "multipart/form-data" => {
            for (name, value) in body.value.as_object().into_iter().flatten() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let _ = write!(line, " \\\n  -F '{name}={value}'");
            }
        }
        Some(body) => {
            line.push_str(" \\\n  -H 'Content-Type: application/json'");
            let text = serde_json::to_string_pretty(&body.value).unwrap_or_default().replace('\'', "'\\''");
            let _ = write!(line, " \\\n  -d '{text}'");
        }
        None => {}
    }
    line
}
