//! Passwords: which are good enough, and how they are kept.
//!
//! The rules are those of NIST SP 800-63B (section 3.1.1.2): length, no rules of composition, and a list of what attackers
//! try first. `common_passwords.txt` holds the entries of eight characters or more of the list that Django 5.2 ships
//! (`django/contrib/auth/common-passwords.txt.gz`, made by Royce Williams from leaked passwords), normalised, in lower
//! case and sorted by bytes.

use unicode_normalization::UnicodeNormalization;

/// The shortest password, in characters.
pub const PASSWORD_MIN: usize = 8;
/// The longest password, in characters: longer ones are refused before they are hashed.
pub const PASSWORD_MAX: usize = 256;

/// What a password is checked against where there is no user: no password has this hash, and finding that out takes as long
/// as with any other.
pub const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5bm9ibw$bm9ib2R5J3MgcGFzc3dvcmQgaGFzIHRoaXMgaGFzaC4";

static COMMON: &str = include_str!("common_passwords.txt");

/// Bytes of a text that may still be a password: no character has more in UTF-8, nor loses more to normalisation.
const BYTES_MAX: usize = PASSWORD_MAX * 16;
/// What must be left of a password without the names that anybody would guess.
const REST_MIN: usize = 5;

/// A new password that is good enough, in its one form.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// Why a password isn't good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// Fewer than [`PASSWORD_MIN`] characters.
    #[error("A password has at least {PASSWORD_MIN} characters.")]
    Short,
    /// More than [`PASSWORD_MAX`] characters.
    #[error("A password has at most {PASSWORD_MAX} characters.")]
    Long,
    /// On the list of what attackers try first.
    #[error("This password is among the most common ones, which are tried first.")]
    Common,
    /// Little more than the username or the service's name.
    #[error("This password is little more than the username or this service's name.")]
    Predictable,
}

impl Weakness {
    /// A stable word for programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Short => "too_short",
            Self::Long => "too_long",
            Self::Common => "too_common",
            Self::Predictable => "too_predictable",
        }
    }
}

impl Password {
    /// Takes a password that somebody chose for a user.
    ///
    /// # Errors
    /// Why it isn't good enough.
    pub fn new(text: &str, username: &str) -> Result<Self, Weakness> {
        if text.len() > BYTES_MAX {
            return Err(Weakness::Long);
        }
        let password = normalised(text);
        match password.chars().count() {
            ..PASSWORD_MIN => return Err(Weakness::Short),
            n if n > PASSWORD_MAX => return Err(Weakness::Long),
            _ => {}
        }
        let lower = password.to_lowercase();
        if is_common(&lower) {
            return Err(Weakness::Common);
        }
        if is_predictable(&lower, &username.to_lowercase()) {
            return Err(Weakness::Predictable);
        }
        Ok(Self(password))
    }

    /// Its hash: Argon2id with 19 MiB, two passes and one lane, as OWASP's Password Storage Cheat Sheet has it. It takes
    /// tens of milliseconds: call it off the async threads.
    ///
    /// # Errors
    /// Only if the operating system has no randomness.
    pub fn hash(&self) -> Result<String, String> {
        use argon2::password_hash::PasswordHasher;
        argon2::Argon2::default()
            .hash_password(self.0.as_bytes())
            .map(|hash| hash.to_string())
            .map_err(|e| e.to_string())
    }
}

/// Whether `text` is the password that has this hash. It takes as long as [`Password::hash`].
pub fn verify(text: &str, hash: &str) -> bool {
    use argon2::password_hash::PasswordVerifier;
    // What is too long is nobody's password, but finding that out must not be faster.
    let text = if text.len() > BYTES_MAX { "" } else { text };
    argon2::Argon2::default().verify_password(normalised(text).as_bytes(), hash).is_ok()
}

/// The same password typed on another keyboard may come as other code points.
fn normalised(text: &str) -> String {
    text.nfkc().collect()
}

/// Whether a lower-case password is on the list: a binary search over its lines.
fn is_common(password: &str) -> bool {
    let (mut low, mut high) = (0, COMMON.len());
    while low < high {
        // The line around the middle; both ends stand at the start of a line.
        let bytes = COMMON.as_bytes();
        let middle = low + (high - low) / 2;
        let start = bytes[low..middle].iter().rposition(|b| *b == b'\n').map_or(low, |at| low + at + 1);
        let end = bytes[middle..high].iter().position(|b| *b == b'\n').map_or(high, |at| middle + at);
        match bytes[start..end].cmp(password.as_bytes()) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
        }
    }
    false
}

/// Whether little is left of a lower-case password without the names that anybody would guess.
fn is_predictable(password: &str, username: &str) -> bool {
    let rest = |name: &str| password.replace(name, "").chars().count();
    password == username
        || (password.contains("sanasr") && rest("sanasr") < REST_MIN)
        || (username.chars().count() >= 3 && password.contains(username) && rest(username) < REST_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weakness(text: &str) -> Option<Weakness> {
        Password::new(text, "quillfeather").err()
    }

    #[test]
    fn length_counts_and_composition_does_not() {
        assert_eq!(weakness("ab cd ef"), None);
        assert_eq!(weakness("äöüßäöü"), Some(Weakness::Short));
        assert_eq!(weakness(&"x y".repeat(85)), None);
        assert_eq!(weakness(&"ab".repeat(129)), Some(Weakness::Long));
        assert_eq!(weakness(&"x".repeat(1 << 20)), Some(Weakness::Long));
        assert_eq!(weakness("\u{1F600}\u{0}\n\t 5y7"), None);
    }

    #[test]
    fn common_and_predictable_passwords_are_refused() {
        let lines: Vec<_> = COMMON.lines().collect();
        assert!(lines.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()), "the list must be sorted by bytes");
        for line in &lines {
            assert!(is_common(line), "{line}");
            assert!(!is_common(&format!("{line}\u{2603}")), "{line}");
        }
        assert!(lines.len() > 8_000 && !is_common("") && !is_common("\n"));
        for text in ["password", "PassWord1", "1234567890", "ｐａｓｓｗｏｒｄ"] {
            assert_eq!(weakness(text), Some(Weakness::Common), "{text}");
        }
        for text in ["quillfeather", "Quillfeather1", "quillfeatherquillfeather", "sanasr2024", "sanasr-sanasr"] {
            assert_eq!(weakness(text), Some(Weakness::Predictable), "{text}");
        }
        assert_eq!(weakness("quillfeather and her nine cats"), None);
    }

    #[test]
    fn a_password_is_known_again_in_whatever_form_it_is_typed() {
        let hash = Password::new("Am\u{e9}lie und 7", "x").expect("good").hash().expect("a hash");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(verify("Ame\u{301}lie und 7", &hash));
        assert!(!verify("Amelie und 7", &hash) && !verify("", &hash) && !verify("x", "$argon2id$none"));
    }

    #[test]
    fn nobodys_hash_is_a_hash_like_any_other() {
        use argon2::password_hash::phc::PasswordHash;
        let theirs = Password::new("correct horse", "x").expect("good").hash().expect("a hash");
        let parse = |text: &str| {
            let hash = PasswordHash::new(text).expect("a hash");
            let sizes = (hash.salt.map(|salt| salt.len()), hash.hash.map(|output| output.len()));
            (hash.algorithm.to_string(), hash.version, hash.params.to_string(), sizes)
        };
        assert_eq!(parse(NOBODYS), parse(&theirs));
        assert!(!verify("", NOBODYS) && !verify("nobody", NOBODYS));
    }
}
