//! Pages of our own: HTML without a script, one style sheet, and the little Markdown that descriptions use.

use std::fmt::Write;

use axum::http::HeaderValue;

/// Nothing but our own style sheet.
pub(super) const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A whole page; `title` and `body` are HTML.
pub(super) fn page(title: &str, class: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <link rel=\"stylesheet\" href=\"/api/redoc.css\">\n</head>\n<body class=\"{class}\">\n{body}</body>\n</html>\n"
    )
}

/// A text as it is.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

/// Paragraphs, with code in backticks, bold words between two asterisks, and links.
pub(super) fn markdown(text: &str) -> String {
    let mut html = String::new();
    for paragraph in text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        let _ = writeln!(html, "<p>{}</p>", inline(paragraph));
    }
    html
}

/// What stands within a paragraph.
pub(super) fn inline(text: &str) -> String {
    let mut html = String::new();
    // Every second part stands between backticks.
    for (n, part) in text.split('`').enumerate() {
        if n % 2 == 1 {
            let _ = write!(html, "<code>{}</code>", escape(part));
        } else {
            html.push_str(&links(&bold(&escape(part))));
        }
    }
    html
}

fn bold(text: &str) -> String {
    let mut html = String::new();
    for (n, part) in text.split("**").enumerate() {
        html.push_str(match n {
            0 => "",
            n if n % 2 == 1 => "<strong>",
            _ => "</strong>",
        });
        html.push_str(part);
    }
    html
}

fn links(text: &str) -> String {
    let mut html = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        html.push_str(before);
        match after.split_once("](").and_then(|(words, more)| more.split_once(')').map(|(to, more)| (words, to, more)))
        {
            Some((words, to, more)) => {
                let _ = write!(html, "<a href=\"{to}\">{words}</a>");
                rest = more;
            }
            None => {
                html.push('[');
                rest = after;
            }
        }
    }
    html.push_str(rest);
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_become_html() {
        assert_eq!(
            inline("**Bold** `<a> [x](y)` & [RFC](https://a/b?c=1)"),
            "<strong>Bold</strong> <code>&lt;a&gt; [x](y)</code> &amp; <a href=\"https://a/b?c=1\">RFC</a>"
        );
        assert_eq!(markdown("a\nb\n\nc [d"), "<p>a\nb</p>\n<p>c [d</p>\n");
        assert_eq!(inline("errors[].code"), "errors[].code");
    }
}
