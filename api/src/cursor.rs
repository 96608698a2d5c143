//! Cursors of lists: opaque to clients, and stable under inserts, as they name the last row that was seen.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

/// Which list a cursor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum List {
    Messages = 1,
    Sessions = 2,
    Workers = 3,
    Queues = 4,
    DeadLetters = 5,
    Users = 6,
    ApiKeys = 7,
    UsageStats = 16,
    ApiLogs = 17,
    Audit = 18,
}

/// What names a row of a list.
pub(crate) trait Key: Sized {
    fn to_bytes(&self) -> [u8; 16];

    fn from_bytes(bytes: [u8; 16]) -> Self;
}

impl Key for Uuid {
    fn to_bytes(&self) -> [u8; 16] {
        *self.as_bytes()
    }

    fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::from_bytes(bytes)
    }
}

/// A time or a day, and a number that tells the rows of it apart.
impl Key for (i64, i64) {
    fn to_bytes(&self) -> [u8; 16] {
        ((i128::from(self.0) << 64) | i128::from(self.1.cast_unsigned())).to_be_bytes()
    }

    fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        let half = |bits: u128| (bits as u64).cast_signed();
        (half(both >> 64), half(both))
    }
}

/// A tag for the list, the key, and a check byte against what only looks like a cursor.
const LENGTH: usize = 18;

/// The cursor of the page after the row `key`.
pub(crate) fn encode(list: List, key: impl Key) -> String {
    let mut bytes = [0; LENGTH];
    bytes[0] = list as u8;
    bytes[1..17].copy_from_slice(&key.to_bytes());
    bytes[17] = check(&bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The row that a cursor of this list names; `None` for anything else.
pub(crate) fn decode<K: Key>(list: List, text: &str) -> Option<K> {
    if text.len() > 2 * LENGTH {
        return None;
    }
    let bytes: [u8; LENGTH] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    if bytes[0] != list as u8 || bytes[17] != check(&bytes) {
        return None;
    }
    bytes[1..17].try_into().ok().map(K::from_bytes)
}

/// The cursor of the page after the row of this number.
pub(crate) fn encode_number(list: List, id: i64) -> String {
    encode(list, Uuid::from_u64_pair(0, id.cast_unsigned()))
}

/// The number that stands in a cursor made by [`encode_number`].
pub(crate) fn number(id: Uuid) -> i64 {
    id.as_u64_pair().1.cast_signed()
}

fn check(bytes: &[u8; LENGTH]) -> u8 {
    bytes[..17].iter().fold(0x5a, |sum: u8, byte| sum.rotate_left(3) ^ byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_by_its_own_list_only() {
        for _ in 0..100 {
            let id = Uuid::now_v7();
            let cursor = encode(List::Messages, id);
            assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            assert_eq!(decode(List::Messages, &cursor), Some(id));
            assert_eq!(decode::<Uuid>(List::Sessions, &cursor), None);
        }
    }

    #[test]
    fn two_numbers_are_read_back_as_they_were() {
        for key in [(0, 0), (1_764_000_000_000, 42), (-1, -1), (-1, 1), (i64::MIN, i64::MAX), (i64::MAX, i64::MIN)] {
            assert_eq!(decode(List::ApiLogs, &encode(List::ApiLogs, key)), Some(key));
        }
    }

    #[test]
    fn numbers_are_read_back() {
        for id in [0, 1, i64::MAX] {
            let cursor = encode_number(List::Users, id);
            assert_eq!(decode(List::Users, &cursor).map(number), Some(id));
            assert_eq!(decode::<Uuid>(List::ApiKeys, &cursor), None);
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let cursor = encode(List::Messages, Uuid::now_v7());
        for wrong in
            ["", "0", "nowhere", &cursor[1..], &format!("{cursor}A"), &"A".repeat(24), &"A".repeat(10_000), "ä"]
        {
            assert_eq!(decode::<Uuid>(List::Messages, wrong), None, "{wrong}");
        }
    }
}
