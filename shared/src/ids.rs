//! Identifiers, one type each, so that they can't be mixed up.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::time::Time;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        #[schema(value_type = String, format = "uuid", examples("019ac3f2-6b1e-7c39-a6b0-3f5d1c2e4a77"))]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id; ids made later sort later (UUIDv7).
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! integer_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        #[schema(value_type = i64, minimum = 1, examples(1))]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// A message: the key that clients, jobs and cursors carry.
    MessageId
);
uuid_id!(
    /// A WhatsApp session.
    SessionId
);
uuid_id!(
    /// One run of a worker process: a new id at each start.
    WorkerId
);
uuid_id!(
    /// A login, with all the tokens that follow from it.
    FamilyId
);
uuid_id!(
    /// An uploaded file.
    MediaId
);
integer_id!(
    /// A user.
    UserId
);
integer_id!(
    /// An API key's row (not the public part of the key's text).
    ApiKeyId
);

/// The id a message has at WhatsApp. It is made with the message and never changes, so that a resend is the same message
/// to WhatsApp. Form: `3EB0` and 18 hex digits, as WhatsApp's own web client makes them.
///
/// Of the 72 random bits the first 24 stay the same for a quarter of a second, so that the ids of messages that are accepted
/// together stand together in the database's index: ids all over it would cost each message a page of its own.
pub fn new_whatsapp_id() -> String {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    const TICK_MS: i64 = 256;
    let tick = KEY.hash_one(Time::now().0 / TICK_MS) & ((1 << 24) - 1);
    let random = rand::random::<u64>() & ((1 << 48) - 1);
    format!("3EB0{tick:06X}{random:012X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatsapp_ids_have_the_web_clients_form() {
        for _ in 0..100 {
            let id = new_whatsapp_id();
            assert_eq!(id.len(), 22);
            assert!(id.starts_with("3EB0"));
            assert!(id.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)));
        }
    }

    #[test]
    fn ids_sort_by_time() {
        let ids: Vec<_> = (0..1000).map(|_| MessageId::generate()).collect();
        assert!(ids.is_sorted());
    }
}
