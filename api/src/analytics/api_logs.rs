//! `GET /analytics/api-logs`: the requests to this API, newest first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::UserId;
use sanasr_shared::ports::journal::{ApiLog, ApiLogFilter};
use sanasr_shared::ports::store::Store;
use sanasr_shared::time::Time;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Listed, Page};
use crate::auth::Staff;
use crate::cursor::{self, List};
use crate::fields::TextRule;
use crate::problem::Problem;
use crate::query::{Query, time};
use crate::reference::params::{ByUser, Paging, Span};
use crate::state::App;

/// A request to this API. It is logged within a second or two after its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiLogLine {
    /// Who asked; null if the request had no valid credentials.
    #[schema(value_type = Option<i64>)]
    user_id: Option<UserId>,
    /// The endpoint, such as `/api/v1/messages/{id}`; of a path that is none, its first 200 characters.
    #[schema(max_length = 200)]
    endpoint: String,
    /// The method, such as `POST`; `OTHER` for one that no endpoint knows.
    method: String,
    /// The answer's status.
    #[schema(minimum = 100, maximum = 999)]
    status_code: u16,
    /// How long the answer took, in milliseconds; of a stream of events, how long its beginning did.
    #[schema(minimum = 0)]
    duration_ms: f64,
    /// The client's address.
    ip_address: String,
    /// When the request came.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Time,
    /// The request's id, as in `X-Request-Id`.
    #[schema(max_length = 128)]
    request_id: String,
}

impl From<ApiLog> for ApiLogLine {
    fn from(log: ApiLog) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a request are far below 2^53")]
        let duration_ms = log.duration_us as f64 / 1_000.0;
        Self {
            user_id: log.user,
            endpoint: log.endpoint,
            method: log.method,
            status_code: log.status,
            duration_ms,
            ip_address: log.address.to_string(),
            timestamp: log.at,
            request_id: log.request_id.to_string(),
        }
    }
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
struct Filter {
    /// Only with this method.
    #[param(pattern = "^[A-Za-z]{1,20}$")]
    method: Option<String>,
    /// Only with this answer.
    #[param(minimum = 100, maximum = 599)]
    status_code: Option<u16>,
    /// Only to this endpoint, as the lines name it.
    #[param(min_length = 1, max_length = 200)]
    endpoint: Option<String>,
}

/// List requests
///
/// The requests to this API with their answers and timing, newest first; each appears a second or two after its answer, and is
/// kept for 30 days unless set otherwise.
#[utoipa::path(
    get, path = "/api/v1/analytics/api-logs", tag = "Analytics", operation_id = "list_api_logs",
    security(("bearer" = [])), params(ByUser, Filter, Span, Paging),
    responses((status = 200, description = "A page of requests.", body = Page<ApiLogLine>)),
)]
pub(super) async fn api_logs(
    State(app): State<App>,
    Staff(asker): Staff,
    mut query: Query,
) -> Result<Listed<ApiLogLine>, Problem> {
    let (from, until) = query.span(time);
    let filter = ApiLogFilter {
        user: query.user_filter().user(),
        method: query.parsed("method", "unknown_value", method),
        status: query.integer("status_code", 100, 599).and_then(|status| u16::try_from(status).ok()),
        endpoint: query.text("endpoint", TextRule::line(200)),
        from,
        until,
    };
    let page = query.page(List::ApiLogs);
    query.finish()?;
    let after = page.after.map(|(at, n)| (Time(at), n));
    let limit = page.limit;
    let read = async move |store: Arc<dyn Store>| store.list_api_logs(&filter, after, limit).await;
    let (found, room) = app.page(asker.user, limit, read).await?;
    let next = found.next.map(|(at, n)| cursor::encode(List::ApiLogs, (at.0, n)));
    Ok(Listed { items: found.items.into_iter().map(ApiLogLine::from).collect(), next, limit: page.limit, room })
}

fn method(text: &str) -> Result<String, String> {
    let sane = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic());
    if sane { Ok(text.to_ascii_uppercase()) } else { Err("Must be a method, such as GET.".to_owned()) }
}
