//! The header `Idempotency-Key`.

use axum::http::HeaderMap;
use sanasr_shared::ports::store::IdempotencyKey;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::problem::Problem;

const HEADER: &str = "idempotency-key";
/// Characters of a key, at most.
const KEY_MAX: usize = 255;

/// Reads a request's key, if it has one. `operation` is the method and path that it is made for; the body is taken in
/// canonical form: its objects' names are sorted, as `serde_json::Map` keeps them.
///
/// # Errors
/// A key of another form, or more than one.
pub(crate) fn key(
    headers: &HeaderMap,
    operation: &str,
    body: &Map<String, Value>,
    batch: bool,
) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let sane = !key.is_empty() && key.len() <= KEY_MAX && key.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    if !sane || values.next().is_some() {
        return Err(Problem::malformed(format!(
            "Idempotency-Key: must be given once, with 1 to {KEY_MAX} printable ASCII characters."
        )));
    }
    let mut hash = Sha256::new();
    hash.update(operation);
    hash.update([0]);
    let body = serde_json::to_vec(body).map_err(|e| Problem::internal(format!("a body can't be hashed: {e}")))?;
    hash.update(body);
    Ok(Some(IdempotencyKey { key: key.to_owned(), hash: hash.finalize().into(), batch }))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::json;

    fn read(value: &[u8], operation: &str, body: &str) -> Result<Option<IdempotencyKey>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).expect("a header"));
        let Ok(Value::Object(body)) = json::parse(body.as_bytes()) else { panic!("no object") };
        key(&headers, operation, &body, false)
    }

    #[test]
    fn the_hash_is_of_the_meaning_not_of_the_text() {
        let hash = |operation, body| read(b"k", operation, body).expect("a key").expect("a key").hash;
        let one = hash("POST /a", r#"{"a": {"x": 1, "y": 2}, "b": 2}"#);
        assert_eq!(one, hash("POST /a", r#"{ "b":2, "a":{"y":2,"x":1} }"#));
        assert_ne!(one, hash("POST /b", r#"{"a": {"x": 1, "y": 2}, "b": 2}"#));
        assert_ne!(one, hash("POST /a", r#"{"a": {"x": 1, "y": 3}, "b": 2}"#));
    }

    #[test]
    fn keys_of_another_form_are_refused() {
        assert!(read(&[b'k'; 255], "", "{}").is_ok());
        assert!(read(b"order 1042", "", "{}").is_ok());
        for wrong in [&b""[..], &[b'k'; 256], b"a\xc3\xa4", b"a\tb"] {
            assert!(read(wrong, "", "{}").is_err(), "{wrong:?}");
        }
        assert_eq!(key(&HeaderMap::new(), "", &Map::new(), false).expect("no key"), None);
    }
}
