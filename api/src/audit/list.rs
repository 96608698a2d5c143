//! `GET /audit`: who logged in, who was refused, and what admins changed, newest first.

use std::sync::Arc;

use axum::extract::State;
use sanasr_shared::ids::UserId;
use sanasr_shared::ports::audit::{Action, AuditFilter, AuditLine as Line};
use sanasr_shared::ports::store::Store;
use sanasr_shared::time::Time;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Listed, Page};
use crate::auth::Staff;
use crate::cursor::{self, List};
use crate::fields::TextRule;
use crate::problem::Problem;
use crate::query::{Query, time};
use crate::reference::params::Paging;
use crate::state::App;

/// Something that was done or refused.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditLine {
    /// Its number.
    id: i64,
    /// When it was done.
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// The id of the user who did it; null if that isn't known, and for the command line, which has no address either.
    #[schema(value_type = Option<i64>)]
    actor: Option<UserId>,
    /// The client's address; of counted requests over IPv6, their network's.
    address: Option<String>,
    /// What was done.
    #[schema(value_type = Action)]
    action: String,
    /// To whom or what: `user/5`, `api_key/7`, `session/<id>`, `message/<id>` or `file/<id>`.
    #[schema(examples("user/5"))]
    target: Option<String>,
    /// More about it, by action: whose the target is, the fields that were changed, why something was refused, how often.
    #[schema(value_type = Object)]
    detail: Map<String, Value>,
}

impl From<Line> for AuditLine {
    fn from(Line { id, at, actor, address, action, target, mut detail, count }: Line) -> Self {
        if action == Action::RequestsRefused.as_str() {
            detail.insert("count".to_owned(), count.into());
        }
        Self { id, at, actor, address, action, target, detail }
    }
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
struct Filter {
    /// Only what this user did.
    #[param(minimum = 1)]
    actor: Option<i64>,
    /// Only this action.
    action: Option<Action>,
    /// Only what was done to this.
    #[param(min_length = 1, max_length = 100)]
    target: Option<String>,
    /// Only at this time or date, or later. `from` means the same.
    #[param(value_type = Option<String>, min_length = 10)]
    since: Option<Time>,
    /// Only before this time or date.
    #[param(value_type = Option<String>, min_length = 10)]
    until: Option<Time>,
}

/// List the audit trail
///
/// Logins, refusals, and what admins change: who, what, whom; newest first. A change has its line at once, a login or a refusal
/// within two seconds. Refusals beyond an address's limit are counted: a line for each address and hour. Lines are kept for a
/// year, and at most 200,000 of each class: changes of users, keys and proxies; logins; what admins do to others' sessions,
/// messages and files; refusals.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "Operations", operation_id = "list_audit",
    security(("bearer" = [])), params(Filter, Paging),
    responses((status = 200, description = "A page of the trail.", body = Page<AuditLine>)),
)]
pub(super) async fn list(
    State(app): State<App>,
    Staff(asker): Staff,
    mut query: Query,
) -> Result<Listed<AuditLine>, Problem> {
    let (since, until) = query.span(time);
    let filter = AuditFilter {
        actor: query.user("actor"),
        action: query.word("action", Action::ALL, Action::as_str),
        target: query.text("target", TextRule::line(100)),
        since,
        until,
    };
    let page = query.page(List::Audit);
    query.finish()?;
    let after = page.after.map(|(at, id)| (Time(at), id));
    let limit = page.limit;
    let read = async move |store: Arc<dyn Store>| store.list_audit(&filter, after, limit).await;
    let (found, room) = app.page(asker.user, limit, read).await?;
    let next = found.next.map(|(at, id)| cursor::encode(List::Audit, (at.0, id)));
    Ok(Listed { items: found.items.into_iter().map(AuditLine::from).collect(), next, limit, room })
}
