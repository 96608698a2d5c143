//! Parameters that many endpoints share, as the reference shows them.

use sanasr_shared::time::Time;
use utoipa::IntoParams;

/// Whose things are meant.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct OfUser {
    /// For admins: a user's id, or `all` where a list or an id is meant. Without it, one's own.
    #[param(pattern = "^(all|[1-9][0-9]{0,18})$")]
    user_id: Option<String>,
}

/// Which page of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct Paging {
    /// Where to go on: `pagination.next` of the page before.
    #[param(min_length = 1, max_length = 36)]
    cursor: Option<String>,
    /// Rows of a page, at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
}

/// A span of time.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct Span {
    /// From this time or date on. `from` means the same.
    #[param(value_type = Option<String>, min_length = 10)]
    since: Option<Time>,
    /// Before this time or date.
    #[param(value_type = Option<String>, min_length = 10)]
    until: Option<Time>,
}

/// Makes repeating safe.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct Idempotency {
    /// Makes repeating safe: for 24 hours, the same key with the same body sends nothing again, and answers 202 with the
    /// message as it is now. The same key with another body is refused.
    #[param(min_length = 1, max_length = 255, pattern = "^[ -~]+$")]
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
}

/// A message, by the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct MessageId {
    /// The message's id.
    #[param(format = "uuid", example = "019ac3f2-6b1e-7c39-a6b0-3f5d1c2e4a77")]
    id: String,
}

/// A file, by the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct MediaId {
    /// The file's id.
    #[param(format = "uuid", example = "019ac3f2-6b1e-7c39-a6b0-3f5d1c2e4a77")]
    id: String,
}

/// A user, by the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct UserId {
    /// The user's id.
    #[param(minimum = 1, example = 7)]
    id: i64,
}

/// An API key, by the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct KeyId {
    /// The key's id: not a part of its text.
    #[param(minimum = 1, example = 3)]
    id: i64,
}

/// One user's rows of a list of all users'.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct ByUser {
    /// Only this user's.
    #[param(minimum = 1)]
    user_id: Option<i64>,
}

/// A session, by the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "the reference's form of what the extractors read")]
pub(crate) struct SessionName {
    /// The session's name; for admins, also its id.
    #[param(pattern = "^[a-z0-9_-]{1,64}$", example = "default")]
    name: String,
}
