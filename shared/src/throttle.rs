//! How long somebody must wait who gives wrong passwords.

use std::time::Duration;

use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

/// Wrong passwords in a row for a name from an address that cost no wait.
pub const FREE_FAILURES: i64 = 5;
/// Different names that may fail from an address without a wait.
pub const FREE_NAMES: i64 = 20;
/// After so long without another one, failures are forgotten.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);
/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(5);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// The wait that follows the last of so many failures, of which the first `free` cost none.
pub fn penalty(failures: i64, free: i64) -> Option<Duration> {
    let doublings = u32::try_from((failures - free - 1).min(16)).ok()?;
    Some(FIRST.saturating_mul(1 << doublings).min(LONGEST))
}

/// Under what a name's failures are counted: its SHA-256 in hex, as people type passwords into the wrong field.
pub fn name_key(name: &str) -> String {
    let name: String = name.nfkc().collect();
    Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_five_seconds_to_fifteen_minutes() {
        assert_eq!(penalty(0, 5), None);
        assert_eq!(penalty(5, 5), None);
        for (failures, seconds) in [(6, 5), (7, 10), (8, 20), (13, 640), (14, 900), (1_000, 900), (i64::MAX, 900)] {
            assert_eq!(penalty(failures, 5), Some(Duration::from_secs(seconds)), "{failures}");
        }
        assert_eq!(penalty(21, FREE_NAMES), Some(FIRST));
    }

    #[test]
    fn a_name_is_counted_in_its_one_form() {
        assert_eq!(name_key("a").len(), 64);
        assert_eq!(name_key("ｒｏｏｔ"), name_key("root"));
        assert_ne!(name_key("root"), name_key("Root"));
    }
}
