//! API keys.

use std::sync::Arc;

use sanasr_shared::ports::store::StoreError;
use sanasr_shared::time::Time;
use sanasr_shared::user::{KeyOwner, RawApiKey};

use super::{Asker, Credential};
use crate::remembered::Remembered;
use crate::state::App;

/// Keys that are remembered, unknown ones among them.
const REMEMBERED_MAX: usize = 50_000;

/// What is known of keys, by their public part.
pub(crate) struct Keys(Arc<Remembered<String, Option<Arc<KeyOwner>>>>);

impl Keys {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Remembered::new(REMEMBERED_MAX)))
    }

    pub(crate) fn forget_all(&self) {
        self.0.forget_all();
    }
}

/// Whose key this is; `None` if it opens nothing, for whatever reason.
pub(crate) async fn asker(app: &App, key: &str) -> Result<Option<Asker>, StoreError> {
    let Some((lookup, hash)) = RawApiKey::parse(key) else { return Ok(None) };
    let read = {
        let store = Arc::clone(&app.store);
        let lookup = lookup.to_owned();
        async move { Ok(store.key_owner(&lookup).await?.map(Arc::new)) }
    };
    let owner: Option<Arc<KeyOwner>> = app.keys.0.get(lookup.to_owned(), |_| true, read).await?;
    let owner = owner.filter(|owner| opens(owner, &hash, Time::now()));
    Ok(owner.map(|owner| Asker { user: owner.user_id, staff: false, credential: Credential::Key(owner.key_id) }))
}

fn opens(owner: &KeyOwner, hash: &[u8; 32], now: Time) -> bool {
    same(&owner.hash, hash)
        && owner.key_is_active
        && owner.user_is_active
        && owner.expires_at.is_none_or(|expires_at| now < expires_at)
}

/// Compares in a time that doesn't depend on where the two differ.
fn same(a: &[u8], b: &[u8; 32]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use sanasr_shared::ids::{ApiKeyId, UserId};

    use super::*;

    #[test]
    fn only_a_living_key_of_an_active_user_opens() {
        let good = KeyOwner {
            key_id: ApiKeyId(1),
            hash: vec![7; 32],
            key_is_active: true,
            expires_at: Some(Time(1000)),
            user_id: UserId(1),
            user_is_active: true,
        };
        assert!(opens(&good, &[7; 32], Time(999)));
        assert!(!opens(&good, &[7; 32], Time(1000)));
        assert!(!opens(&good, &[8; 32], Time(0)));
        assert!(!opens(&KeyOwner { key_is_active: false, ..good.clone() }, &[7; 32], Time(0)));
        assert!(!opens(&KeyOwner { user_is_active: false, ..good.clone() }, &[7; 32], Time(0)));
        assert!(!opens(&KeyOwner { hash: Vec::new(), ..good }, &[7; 32], Time(0)));
    }
}
