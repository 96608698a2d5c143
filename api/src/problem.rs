//! Errors as clients see them: problem documents (RFC 9457). The one place that knows which HTTP status an error has.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sanasr_shared::media::FileError;
use sanasr_shared::ports::store::{Bounded, StoreError};
use sanasr_shared::time::Time;
use sanasr_shared::usage::{ACCEPTED_PER_UNIT, Quota};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::fields::{FieldError, FieldErrors};
use crate::room::Full;

/// Seconds after which a request that found no room, or no database, may be tried again.
const RETRY_AFTER_S: u64 = 2;
/// Seconds after which somebody should look again whether a file has gone: they go after hours.
const FILES_RETRY_S: u64 = 60;
/// Seconds after which somebody who has as many of a thing open as may be should look again: nobody knows when one goes.
const AT_LIMIT_RETRY_S: u64 = 10;

/// How to authenticate.
const CHALLENGE: &str = "Bearer realm=\"sanasr\", ApiKey realm=\"sanasr\"";

/// The stable words of the contract. [`crate::reference::errors`] explains each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum Code {
    MalformedRequest,
    Unauthenticated,
    InvalidApiKey,
    TokenExpired,
    UserInactive,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    RequestTimeout,
    UnsupportedMediaType,
    Conflict,
    PayloadTooLarge,
    ValidationFailed,
    IdempotencyKeyReused,
    QuotaExceeded,
    RateLimited,
    HeadTooLarge,
    Overloaded,
    Unavailable,
    CommitUnknown,
    Internal,
}

impl Code {
    /// Every code, by status.
    pub(crate) const ALL: [Self; 22] = [
        Self::MalformedRequest,
        Self::Unauthenticated,
        Self::InvalidApiKey,
        Self::TokenExpired,
        Self::UserInactive,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::Conflict,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::ValidationFailed,
        Self::IdempotencyKeyReused,
        Self::QuotaExceeded,
        Self::RateLimited,
        Self::HeadTooLarge,
        Self::Internal,
        Self::Overloaded,
        Self::Unavailable,
        Self::CommitUnknown,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        self.row().1
    }

    pub(crate) const fn status(self) -> StatusCode {
        self.row().0
    }

    pub(crate) const fn title(self) -> &'static str {
        self.row().2
    }

    /// Status, word and title.
    const fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedRequest => (StatusCode::BAD_REQUEST, "malformed_request", "Malformed request"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "Not authenticated"),
            Self::InvalidApiKey => (StatusCode::UNAUTHORIZED, "invalid_api_key", "Invalid API key"),
            Self::TokenExpired => (StatusCode::UNAUTHORIZED, "token_expired", "Token expired"),
            Self::UserInactive => (StatusCode::UNAUTHORIZED, "user_inactive", "User deactivated"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not_acceptable", "Not acceptable"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout", "Request too slow"),
            Self::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "Request head too large")
            }
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Unsupported media type")
            }
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "Conflict"),
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "Body too large"),
            Self::ValidationFailed => (StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", "Validation failed"),
            Self::IdempotencyKeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Idempotency key reused")
            }
            Self::QuotaExceeded => (StatusCode::TOO_MANY_REQUESTS, "quota_exceeded", "Quota exceeded"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable"),
            Self::CommitUnknown => (StatusCode::SERVICE_UNAVAILABLE, "commit_unknown", "Outcome unknown"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }
}

/// A size for people: in MiB or KiB, where it is no odd number of bytes.
fn size(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        MIB.. if bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        KIB.. if bytes.is_multiple_of(KIB) => format!("{} KiB", bytes / KIB),
        _ => format!("{bytes} bytes"),
    }
}

#[derive(Debug, Clone, Copy)]
struct UsedUp {
    limit: i64,
    used: i64,
    resets_at: Time,
}

/// An error on its way to a client.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    /// The quota that is used up.
    quota: Option<UsedUp>,
    retry_after_s: Option<u64>,
    /// What each item of a batch is refused for.
    data: Option<Value>,
    /// What happened, for the log only.
    cause: Option<String>,
}

impl Problem {
    fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after_s = (code.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_S);
        let detail = detail.into();
        Self(Box::new(Inner { code, detail, errors: Vec::new(), quota: None, retry_after_s, data: None, cause: None }))
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    fn caused_by(mut self, cause: impl Into<String>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    pub(crate) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::MalformedRequest, detail)
    }

    /// Query parameters that are unknown or wrong, or fields that can't be read.
    pub(crate) fn malformed_fields(errors: FieldErrors) -> Self {
        let errors = errors.into_vec();
        let said: Vec<_> = errors.iter().map(|e| format!("{}: {}", e.field, e.detail)).collect();
        let mut problem = Self::malformed(said.join(" "));
        problem.0.errors = errors;
        problem
    }

    /// No credentials, or none that are known.
    pub(crate) fn unauthenticated() -> Self {
        Self::new(
            Code::Unauthenticated,
            "Valid credentials are needed: `Authorization: Bearer <access token>`, `Authorization: ApiKey <key>` or \
             `X-Api-Key: <key>`.",
        )
    }

    /// An API key where an access token belongs.
    pub(crate) fn key_as_bearer() -> Self {
        Self::new(
            Code::Unauthenticated,
            "This is an API key, not an access token. Send it as `X-Api-Key: <key>`, not as `Authorization: Bearer`.",
        )
    }

    /// A key of the right form that opens nothing. Its public part is shown, as somebody may have several.
    pub(crate) fn invalid_api_key(lookup: &str) -> Self {
        Self::new(
            Code::InvalidApiKey,
            format!(
                "The API key sanasr_{lookup}_… isn't known, or it was revoked or has expired. Ask an admin for a new one."
            ),
        )
    }

    /// A genuine access token whose time is over.
    pub(crate) fn token_expired() -> Self {
        Self::new(
            Code::TokenExpired,
            "This access token has expired. Get the next one with the refresh token: POST /api/v1/auth/refresh.",
        )
    }

    /// A genuine access token of a login that has ended before its time.
    pub(crate) fn access_ended() -> Self {
        Self::new(
            Code::Unauthenticated,
            "The login of this access token has ended: by logging out, or by a new password. Log in again.",
        )
    }

    /// Genuine credentials of a user who was deactivated.
    pub(crate) fn user_inactive() -> Self {
        Self::new(Code::UserInactive, "The user of these credentials is deactivated. Ask an admin to activate it.")
    }

    /// Credentials that were good when the request came.
    pub(crate) fn credentials_ended() -> Self {
        Self::new(
            Code::Unauthenticated,
            "The credentials have ended, or open less than before, since this request came. Ask again.",
        )
    }

    /// A login that isn't one: the same for every reason.
    pub(crate) fn wrong_login() -> Self {
        Self::new(Code::Unauthenticated, "The username or the password is wrong.")
    }

    /// A refresh token that isn't one, or not any more: the same for every reason.
    pub(crate) fn login_ended() -> Self {
        Self::new(Code::Unauthenticated, "This refresh token isn't good, or not any more. Log in again.")
    }

    /// A refresh token of a login that has reached its greatest age.
    pub(crate) fn login_too_old() -> Self {
        Self::new(Code::Unauthenticated, "This login has reached its greatest age. Log in again, with the password.")
    }

    pub(crate) fn forbidden(detail: &'static str) -> Self {
        Self::new(Code::Forbidden, detail)
    }

    pub(crate) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(Code::MethodNotAllowed, "This endpoint doesn't know the method.")
    }

    /// The same, with the methods that it knows, as the header `Allow` has them.
    #[must_use]
    pub(crate) fn with_methods(mut self, allow: &str) -> Self {
        let methods: Vec<_> = allow.split(',').map(str::trim).collect();
        self.0.detail = format!("This endpoint doesn't know the method. It knows {}.", methods.join(", ")).into();
        self
    }

    pub(crate) fn not_acceptable(detail: &'static str) -> Self {
        Self::new(Code::NotAcceptable, detail)
    }

    pub(crate) fn unsupported_media_type(detail: &'static str) -> Self {
        Self::new(Code::UnsupportedMediaType, detail)
    }

    pub(crate) fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Conflict, detail)
    }

    /// `setting` is what the operator can change, if there is something.
    pub(crate) fn payload_too_large(limit: u64, setting: Option<&'static str>) -> Self {
        let advice = setting.map(|setting| format!(" The operator can change that by {setting}.")).unwrap_or_default();
        Self::new(Code::PayloadTooLarge, format!("The body is larger than {}.{advice}", size(limit)))
    }

    /// The body came more slowly than a body may.
    pub(crate) fn body_too_slow() -> Self {
        Self::new(Code::RequestTimeout, "The body came too slowly. Send it again, over a better connection.")
    }

    pub(crate) fn head_too_large(limit: usize) -> Self {
        Self::new(
            Code::HeadTooLarge,
            format!("The request line and headers have more than {limit} bytes, or there are more than 100 headers."),
        )
    }

    pub(crate) fn validation(errors: FieldErrors) -> Self {
        let errors = errors.into_vec();
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.field, one.detail),
            many => format!("{} fields are wrong; errors names each.", many.len()),
        };
        let mut problem = Self::new(Code::ValidationFailed, detail);
        problem.0.errors = errors;
        problem
    }

    /// One field alone is wrong.
    pub(crate) fn field(field: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        let mut errors = FieldErrors::default();
        errors.add(field, code, detail);
        Self::validation(errors)
    }

    /// No item of a batch was accepted: what each is refused for.
    pub(crate) fn none_accepted(count: u32, items: Value) -> Self {
        let detail = format!("None of the {count} messages was accepted: data says why, for each in its order.");
        let mut problem = Self::new(Code::ValidationFailed, detail);
        problem.0.data = Some(items);
        problem
    }

    /// The id in a path is none.
    pub(crate) fn no_uuid() -> Self {
        Self::field("id", "invalid_id", "Must be a UUID, such as 019ac3f2-6b1e-7c39-a6b0-3f5d1c2e4a77.")
    }

    pub(crate) fn idempotency_key_reused() -> Self {
        Self::new(
            Code::IdempotencyKeyReused,
            "This Idempotency-Key came with another request in the last 24 hours. Take a new key for a new request.",
        )
    }

    pub(crate) fn quota_exceeded(quota: &Quota, now: Time) -> Self {
        let limit = quota.limit.unwrap_or(quota.used);
        let resets_at = quota.resets_at;
        let detail = match quota.accepted_max().filter(|max| quota.accepted >= *max && quota.used < limit) {
            Some(max) => format!(
                "{} messages were accepted today. No more than {max}, {ACCEPTED_PER_UNIT} times the day's limit, are, whatever was \
                cancelled since. It resets at {resets_at}.",
                quota.accepted
            ),
            None => format!("The day's limit is {limit} messages, {} are used. It resets at {resets_at}.", quota.used),
        };
        let mut problem = Self::new(Code::QuotaExceeded, detail);
        problem.0.retry_after_s = Some(quota.resets_at.since(now).as_secs() + 1);
        problem.0.quota = Some(UsedUp { limit, used: quota.used, resets_at: quota.resets_at });
        problem
    }

    /// A user's files take as much as they may together.
    fn files_full(limit: u64) -> Self {
        Self::new(
            Code::QuotaExceeded,
            format!(
                "The user's files may have {} together (SANASR_MEDIA_USER_LIMIT), and with this one they would have more. Remove one with \
                DELETE /media/{{id}}, or wait until one has gone.",
                size(limit)
            ),
        )
        .retry_after(FILES_RETRY_S)
    }

    /// Too much was asked; it may be asked again after `wait`.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        Self::new(Code::RateLimited, format!("Too many requests. Try again in {seconds} s.")).retry_after(seconds)
    }

    /// Too many wrong passwords; another may be tried after `wait`.
    pub(crate) fn too_many_attempts(wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let detail = format!(
            "Too many wrong passwords for this name, or from this address. Try again in {seconds} s. An admin can set a new \
             password; on the server, `sanasr user reset-password` does."
        );
        Self::new(Code::RateLimited, detail).retry_after(seconds)
    }

    /// As many are open as may be: it may be asked again when one has gone.
    pub(crate) fn at_limit(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::RateLimited, detail).retry_after(AT_LIMIT_RETRY_S)
    }

    pub(crate) fn overloaded(detail: &'static str) -> Self {
        Self::new(Code::Overloaded, detail)
    }

    pub(crate) fn unavailable(detail: &'static str) -> Self {
        Self::new(Code::Unavailable, detail)
    }

    pub(crate) fn internal(cause: impl Into<String>) -> Self {
        Self::new(Code::Internal, "Something went wrong here. The request_id finds it in the logs.").caused_by(cause)
    }

    pub(crate) fn code(&self) -> Code {
        self.0.code
    }

    /// What is wrong with each field.
    #[cfg(test)]
    pub(crate) fn into_errors(self) -> Vec<FieldError> {
        self.0.errors
    }

    /// What happened, for the log only.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The document, for an answer of its own or within a batch's.
    pub(crate) fn document<'a>(&'a self, request_id: &'a str) -> Document<'a> {
        let (status, code, title) = self.0.code.row();
        Document {
            success: false,
            r#type: format!("/errors/{code}"),
            title,
            status: status.as_u16(),
            code,
            detail: &self.0.detail,
            request_id,
            errors: &self.0.errors,
            limit: self.0.quota.map(|quota| quota.limit),
            used: self.0.quota.map(|quota| quota.used),
            resets_at: self.0.quota.map(|quota| quota.resets_at),
            data: self.0.data.as_ref(),
        }
    }

    /// The answer, once the request's id is known.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = serde_json::to_vec(&self.document(request_id)).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.0.code.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        response
    }
}

/// An error, as RFC 9457 has it.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// Always false.
    #[schema(examples(false))]
    success: bool,
    /// The page that explains the code, relative to the server.
    #[schema(format = "uri-reference", examples("/errors/validation_failed"))]
    r#type: String,
    /// The code in words.
    #[schema(examples("Validation failed"))]
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599, examples(422))]
    status: u16,
    /// A stable word for programs.
    #[schema(value_type = Code)]
    code: &'static str,
    /// What is wrong, for people.
    #[schema(examples("to: This field is needed."))]
    detail: &'a str,
    /// The answer's `X-Request-Id`: it finds the request in the logs.
    request_id: &'a str,
    /// Each bad field or query parameter.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Option<Vec<FieldError>>, nullable = false)]
    errors: &'a [FieldError],
    /// With `quota_exceeded`: messages a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    limit: Option<i64>,
    /// With `quota_exceeded`: how many of them are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    used: Option<i64>,
    /// With `quota_exceeded`: when the next day begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    resets_at: Option<Time>,
    /// Of a batch of which nothing was accepted: an `error` for each message, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>, nullable = false)]
    data: Option<&'a Value>,
}

impl IntoResponse for Problem {
    /// The edge renders it, as only it knows the request's id.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.code.status();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(_) => Self::new(
                Code::Unavailable,
                "The database can't be reached, or can't write just now. Nothing was changed; try again soon.",
            )
            .caused_by(error.to_string()),
            StoreError::OutcomeUnknown(_) => Self::new(
                Code::CommitUnknown,
                "The database was lost while it wrote, so nobody can say whether the request was carried out. \
                 Repeat it: with the same Idempotency-Key nothing is accepted twice.",
            )
            .caused_by(error.to_string()),
            StoreError::Overloaded => Self::overloaded("Too many requests wait for the database. Try again soon."),
            StoreError::Taken(what) => {
                let mut problem = Self::conflict(format!("{what}: The {what} is taken."));
                let detail = format!("The {what} is taken: choose another.");
                problem.0.errors = vec![FieldError { field: (*what).to_owned(), code: "taken", detail }];
                problem
            }
            StoreError::Full { what: Bounded::Sessions, limit } => {
                Self::conflict(format!("The user has {limit} sessions, which is the limit. Delete one first."))
            }
            StoreError::Full { what: Bounded::FileBytes, limit } => Self::files_full(*limit),
            StoreError::Invalid(detail) => Self::field("body", "invalid", detail.clone()),
            StoreError::Fenced | StoreError::Corrupt(_) | StoreError::Internal(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<Full> for Problem {
    fn from(_: Full) -> Self {
        Self::overloaded("Too much of what you send and read is under way. Try again when some of it is done.")
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        let problem = match &error {
            FileError::Full => Self::overloaded("The disk is nearly full: no files are taken. Try again later."),
            FileError::Gone | FileError::Unavailable(_) => {
                Self::new(Code::Unavailable, "Files can't be kept just now. Nothing was accepted; try again soon.")
            }
        };
        problem.caused_by(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use sanasr_shared::time::Day;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_has_the_contracts_form() {
        let mut errors = FieldErrors::default();
        errors.add("to", "required", "This field is needed.");
        let problem = Problem::validation(errors);
        assert_eq!(
            serde_json::to_value(problem.document("r-1")).expect("a document"),
            json!({
                "success": false, "type": "/errors/validation_failed", "title": "Validation failed", "status": 422,
                "code": "validation_failed", "detail": "to: This field is needed.", "request_id": "r-1",
                "errors": [{"field": "to", "code": "required", "detail": "This field is needed."}],
            })
        );
        let answer = problem.render("r-1");
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn a_quota_answer_says_how_much_and_until_when() {
        let quota = Quota::new(Some(10), 10, 10, Day(20_000));
        let problem = Problem::quota_exceeded(&quota, Time(quota.resets_at.0 - 5_000));
        let document = serde_json::to_value(problem.document("r")).expect("a document");
        assert_eq!(document["limit"], 10);
        assert_eq!(document["used"], 10);
        assert_eq!(document["resets_at"], quota.resets_at.to_string());
        assert_eq!(problem.render("r").headers()[RETRY_AFTER], "6");
        // Units are left, but too much was accepted and taken back.
        let quota = Quota::new(Some(10), 3, 100, Day(20_000));
        assert_eq!(quota.remaining, Some(0));
        let document =
            serde_json::to_value(Problem::quota_exceeded(&quota, Time(0)).document("r")).expect("a document");
        let detail = document["detail"].as_str().expect("a text");
        assert!(
            detail.starts_with("100 messages were accepted today. No more than 100, 10 times the day's limit"),
            "{detail}"
        );
        assert_eq!((&document["limit"], &document["used"]), (&json!(10), &json!(3)));
    }

    #[test]
    fn sizes_are_written_for_people() {
        let written = [16 << 20, 16 << 10, 1_500, 1 << 10, 5 << 30].map(size);
        assert_eq!(written, ["16 MiB", "16 KiB", "1500 bytes", "1 KiB", "5120 MiB"]);
    }

    #[test]
    fn what_is_full_is_told_with_its_limit() {
        let full = |what| Problem::from(StoreError::Full { what, limit: 1_234 });
        let (sessions, files) = (full(Bounded::Sessions), full(Bounded::FileBytes));
        assert_eq!((sessions.code(), files.code()), (Code::Conflict, Code::QuotaExceeded));
        for problem in [&sessions, &files] {
            let document = serde_json::to_value(problem.document("r")).expect("a document");
            assert!(document["detail"].as_str().is_some_and(|detail| detail.contains("1234")), "{document}");
        }
        assert!(files.render("r").headers().contains_key(RETRY_AFTER));
        assert_eq!(Problem::from(FileError::Full).code(), Code::Overloaded);
    }

    #[test]
    fn a_503_says_when_to_come_again_and_keeps_its_cause_to_itself() {
        for error in [
            StoreError::Unavailable("secret host".to_owned()),
            StoreError::OutcomeUnknown("secret host".to_owned()),
            StoreError::Overloaded,
        ] {
            let problem = Problem::from(error);
            let answer = problem.render("r");
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.headers().contains_key(RETRY_AFTER));
            assert!(!serde_json::to_string(&problem.document("r")).expect("a document").contains("secret"));
        }
    }
}
