//! Access and refresh tokens.

use sanasr_shared::ports::store::StoreError;

use super::Asker;
use crate::state::App;

/// Whose access token this is; `None` if it opens nothing, for whatever reason.
pub(crate) async fn asker(_: &App, _: &str) -> Result<Option<Asker>, StoreError> {
    Ok(None)
}
