//! Whose credentials are still good: for answers that go on long after they were asked for.

use std::collections::HashSet;

use sanasr_shared::ids::ApiKeyId;
use sanasr_shared::ports::store::{Store, StoreError};

use super::{Asker, Credential};

/// Those of these askers who would be let in as what they are now, too. One look for all of them, however many they are.
pub(crate) async fn standing(store: &dyn Store, askers: &HashSet<Asker>) -> Result<HashSet<Asker>, StoreError> {
    let keys: HashSet<ApiKeyId> = askers.iter().filter_map(|asker| asker.credential.key()).collect();
    let keys = if keys.is_empty() {
        HashSet::new()
    } else {
        let keys: Vec<ApiKeyId> = keys.into_iter().collect();
        store.keys_in_standing(&keys).await?.into_iter().collect()
    };
    let stands = |asker: &&Asker| match asker.credential {
        Credential::Key(key) => keys.contains(&key),
        Credential::Token(_) => false,
    };
    Ok(askers.iter().filter(stands).copied().collect())
}
