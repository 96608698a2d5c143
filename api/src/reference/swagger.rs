//! Swagger UI, from the files in the binary: for trying the API out in a browser.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use utoipa_swagger_ui::Config;

use super::MAX_AGE;
use crate::problem::Problem;

/// Swagger UI sets styles from its script, and its icons are in its style sheet.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Its own page, as the paths in Swagger UI's depend on a slash at the end of the address.
const INDEX: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sanasr API</title>
<link rel="stylesheet" href="/api/docs/swagger-ui.css">
<link rel="stylesheet" href="/api/docs/index.css">
<link rel="icon" type="image/png" href="/api/docs/favicon-32x32.png" sizes="32x32">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/api/docs/swagger-ui-bundle.js"></script>
<script src="/api/docs/swagger-ui-standalone-preset.js"></script>
<script src="/api/docs/swagger-initializer.js"></script>
</body>
</html>
"#;

static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::from("/api/openapi.json").deep_linking(true).persist_authorization(true).validator_url("none");
    Arc::new(config.default_models_expand_depth(0).display_request_duration(true).use_base_layout())
});

pub(super) async fn index() -> Response {
    ([(CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, MAX_AGE)], [(CONTENT_TYPE, "text/html; charset=utf-8")], INDEX)
        .into_response()
}

pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let found = utoipa_swagger_ui::serve(&name, Arc::clone(&CONFIG)).map_err(|e| Problem::internal(e.to_string()))?;
    let file = found.filter(|_| name != "index.html").ok_or_else(|| Problem::not_found("There is no such file."))?;
    let caching = [(CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, MAX_AGE)];
    let mut response = (caching, [(CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response();
    if file.gzpipped {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}
