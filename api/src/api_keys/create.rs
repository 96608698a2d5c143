//! `POST /api-keys`: makes a key, which is shown only now.

use axum::extract::State;
use axum::http::StatusCode;
use sanasr_shared::ids::UserId;
use sanasr_shared::time::Time;
use sanasr_shared::user::{ApiKey, RawApiKey};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::answer::{Data, Success};
use crate::auth::Staff;
use crate::body::JsonBody;
use crate::fields::{FieldErrors, Fields, Given, TextRule};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::state::App;
use crate::trail::OnTrail;

const NAME_MAX: usize = 100;

/// A key to be made.
#[derive(ToSchema)]
pub(crate) struct NewKeyRequest {
    /// Whose key it will be.
    #[schema(value_type = i64, minimum = 1)]
    user_id: UserId,
    /// What to call it.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// When it ends; never if absent. It must lie ahead.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Time>,
}

/// A key that was made.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewKey {
    #[serde(flatten)]
    shown: ApiKey,
    /// The key itself, `sanasr_<id>_<secret>`. It is shown only now: what is kept of it is a hash.
    key: String,
}

/// Make an API key
///
/// The answer is the only one that has the key itself: what is kept is a hash.
#[utoipa::path(
    post, path = "/api/v1/api-keys", tag = "API keys", operation_id = "create_api_key",
    security(("bearer" = [])),
    request_body(content = NewKeyRequest, example = json!({"user_id": 1, "name": "shop, production"})),
    responses((status = 201, description = "Made.", body = Success<NewKey>)),
)]
pub(crate) async fn create(
    State(app): State<App>,
    _: Staff,
    OnTrail(trail): OnTrail,
    _: NoQuery,
    JsonBody(body): JsonBody,
) -> Result<Data<NewKey>, Problem> {
    let NewKeyRequest { user_id, name, expires_at } = NewKeyRequest::read(body)?;
    if app.store.user(user_id).await?.is_none() {
        return Err(Problem::field("user_id", "unknown_user", "There is no such user."));
    }
    let raw = RawApiKey::generate();
    let (lookup, hash) = raw.stored();
    let id = app.store.create_api_key(user_id, &name, &lookup, &hash, expires_at, trail.actor()).await?;
    let shown = app.store.api_key(id).await?.ok_or_else(|| Problem::internal("a key isn't there that was made"))?;
    Ok(Data(StatusCode::CREATED, NewKey { shown, key: raw.as_str().to_owned() }))
}

impl NewKeyRequest {
    pub(crate) fn read(map: Map<String, Value>) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let mut fields = Fields::new(map, "", &mut errors);
        fields.require("user_id");
        fields.require("name");
        let user_id = match fields.given("user_id") {
            Given::Value(value) => {
                let id = value.as_i64().filter(|id| *id > 0);
                if id.is_none() {
                    fields.fail("user_id", "invalid_id", "Must be a user's id.");
                }
                id.map(UserId)
            }
            Given::Null | Given::Absent => None,
        };
        let name = fields.text("name", TextRule::line(NAME_MAX));
        let expires_at = fields.time("expires_at");
        if expires_at.is_some_and(|at| at <= Time::now()) {
            fields.fail("expires_at", "in_the_past", "Must lie ahead.");
        }
        fields.finish();
        match (user_id, name) {
            (Some(user_id), Some(name)) if errors.is_empty() => Ok(Self { user_id, name, expires_at }),
            _ => Err(Problem::validation(errors)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_bad_field_is_named() {
        let fields = |body: Value| {
            let Value::Object(map) = body else { panic!("no object") };
            let problem = NewKeyRequest::read(map).err().expect("a problem");
            let document = serde_json::to_value(problem.document("r")).expect("a document");
            let errors = document["errors"].as_array().expect("errors").iter();
            errors.map(|e| format!("{} {}", e["field"], e["code"]).replace('"', "")).collect::<Vec<_>>()
        };
        assert_eq!(fields(json!({})), ["user_id required", "name required"]);
        let wrong = json!({"user_id": "1", "name": "", "expires_at": "2020-01-01T00:00:00Z", "key": "x"});
        let expected = ["user_id invalid_id", "name empty", "expires_at in_the_past", "key unknown_field"];
        assert_eq!(fields(wrong), expected);
        assert_eq!(fields(json!({"user_id": 0, "name": "a"})), ["user_id invalid_id"]);
        assert_eq!(fields(json!({"user_id": 1.5, "name": "a"})), ["user_id invalid_id"]);
    }
}
