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
}

/// A tag for the list, the id, and a check byte against what only looks like a cursor.
const LENGTH: usize = 18;

/// The cursor of the page after the row `id`.
pub(crate) fn encode(list: List, id: Uuid) -> String {
    let mut bytes = [0; LENGTH];
    bytes[0] = list as u8;
    bytes[1..17].copy_from_slice(id.as_bytes());
    bytes[17] = check(&bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The row that a cursor of this list names; `None` for anything else.
pub(crate) fn decode(list: List, text: &str) -> Option<Uuid> {
    if text.len() > 2 * LENGTH {
        return None;
    }
    let bytes: [u8; LENGTH] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    if bytes[0] != list as u8 || bytes[17] != check(&bytes) {
        return None;
    }
    Uuid::from_slice(&bytes[1..17]).ok()
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
            assert_eq!(decode(List::Sessions, &cursor), None);
        }
    }

    #[test]
    fn numbers_are_read_back() {
        for id in [0, 1, i64::MAX] {
            let cursor = encode_number(List::Users, id);
            assert_eq!(decode(List::Users, &cursor).map(number), Some(id));
            assert_eq!(decode(List::ApiKeys, &cursor), None);
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let cursor = encode(List::Messages, Uuid::now_v7());
        for wrong in
            ["", "0", "nowhere", &cursor[1..], &format!("{cursor}A"), &"A".repeat(24), &"A".repeat(10_000), "ä"]
        {
            assert_eq!(decode(List::Messages, wrong), None, "{wrong}");
        }
    }
}
