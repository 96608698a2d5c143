//! A page for each code, which a problem's `type` leads to, and a list of them.

use std::fmt::Write;

use axum::extract::Path;
use axum::response::{IntoResponse, Response};

use super::errors::{Explained, Place, all, example};
use super::html::{escape, inline, page};
use super::html_answer;
use crate::problem::Problem;

/// `GET /errors`
pub(super) async fn list() -> Response {
    let mut body =
        String::from("<main><h1>Error codes</h1>\n<p>Every code that an answer, a field or a message can have.</p>\n");
    for (heading, about, belongs) in [
        (
            "Answers",
            "In <code>code</code> of a problem document.",
            (|place| matches!(place, Place::Problem(_))) as fn(Place) -> bool,
        ),
        ("Fields", "In <code>errors[].code</code> of a problem document.", |place| place == Place::Field),
        ("Messages", "In <code>error.code</code> of a message.", |place| place == Place::Message),
        ("Messages that wait", "In <code>blocked_by</code> of a message.", |place| place == Place::Waiting),
        ("Sessions", "In <code>blocked_reason</code> of a session.", |place| place == Place::Session),
    ] {
        let _ = write!(body, "<h2>{heading}</h2>\n<p>{about}</p>\n<div class=\"scroll\"><table>\n");
        for explained in all().filter(|explained| belongs(explained.place)) {
            let status = match explained.place {
                Place::Problem(code) => format!("<td>{}</td>", code.status().as_u16()),
                Place::Field | Place::Message | Place::Waiting | Place::Session => String::new(),
            };
            let _ = writeln!(
                body,
                "<tr>{status}<td><a href=\"/errors/{code}\"><code>{code}</code></a></td><td>{meaning}</td></tr>",
                code = explained.code,
                meaning = inline(explained.meaning),
            );
        }
        body.push_str("</table></div>\n");
    }
    body.push_str("<p><a href=\"/api/redoc\">API reference</a></p></main>\n");
    html_answer(page("Error codes · sanasr", "plain", &body))
}

/// `GET /errors/{code}`
pub(super) async fn one(Path(code): Path<String>) -> Response {
    let found: Vec<_> = all().filter(|explained| explained.code == code).collect();
    if found.is_empty() {
        return Problem::not_found("There is no such error code; /errors lists them.").into_response();
    }
    let mut body =
        format!("<main><p><a href=\"/errors\">Error codes</a></p>\n<h1><code>{}</code></h1>\n", escape(&code));
    for explained in &found {
        body.push_str(&section(explained));
    }
    body.push_str("<p><a href=\"/api/redoc\">API reference</a></p></main>\n");
    html_answer(page(&format!("{} · sanasr", escape(&code)), "plain", &body))
}

fn section(explained: &Explained) -> String {
    let place = match explained.place {
        Place::Problem(code) => {
            format!("HTTP {}, in <code>code</code> of a problem document.", code.status())
        }
        Place::Field => "In <code>errors[].code</code> of a problem document.".to_owned(),
        Place::Message => "In <code>error.code</code> of a message.".to_owned(),
        Place::Waiting => "In <code>blocked_by</code> of a message.".to_owned(),
        Place::Session => "In <code>blocked_reason</code> of a session.".to_owned(),
    };
    let example = serde_json::to_string_pretty(&example(explained)).unwrap_or_default();
    format!(
        "<section>\n<p class=\"lead\">{}</p>\n<p class=\"quiet\">{place}</p>\n<h2>When it occurs</h2>\n<p>{}</p>\n\
         <h2>What to do</h2>\n<p>{}</p>\n<h2>Example</h2>\n<pre><code>{}</code></pre>\n</section>\n",
        inline(explained.meaning),
        inline(explained.when),
        inline(explained.remedy),
        escape(&example),
    )
}
