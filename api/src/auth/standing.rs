//! Whose credentials are still good: for answers that go on long after they were asked for.

use std::collections::{HashMap, HashSet};

use sanasr_shared::ids::{ApiKeyId, FamilyId};
use sanasr_shared::ports::store::{Store, StoreError};

use super::{Asker, Credential};

/// Those of these askers who would be let in as what they are now, too. One look for all their keys and one for all their
/// logins, however many they are.
pub(crate) async fn standing(store: &dyn Store, askers: &HashSet<Asker>) -> Result<HashSet<Asker>, StoreError> {
    let keys: HashSet<ApiKeyId> = askers.iter().filter_map(|asker| asker.credential.key()).collect();
    let families: HashSet<FamilyId> = askers.iter().filter_map(|asker| asker.credential.family()).collect();
    let (keys, families): (Vec<_>, Vec<_>) = (keys.into_iter().collect(), families.into_iter().collect());
    let keys: HashSet<ApiKeyId> = store.keys_in_standing(&keys).await?.into_iter().collect();
    let logins: HashMap<FamilyId, bool> = store.logins_in_standing(&families).await?.into_iter().collect();
    let stands = |asker: &&Asker| match asker.credential {
        Credential::Key(key) => keys.contains(&key),
        // An admin who is none any more may not see on what they were let see.
        Credential::Token(family) => logins.get(&family).is_some_and(|staff| *staff || !asker.staff),
    };
    Ok(askers.iter().filter(stands).copied().collect())
}
