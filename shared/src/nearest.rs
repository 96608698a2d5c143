//! The known word that somebody most likely meant.

/// The known word that is nearest to this one, if any is near: another way of writing it (`sendAt`, `send-at`), or at most two
/// wrong, missing or swapped letters, and no more than one for every three.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const LENGTH_MAX: usize = 64;
    if word.is_empty() || word.len() > LENGTH_MAX {
        return None;
    }
    let meant = plain(word);
    let distances = known.into_iter().map(|known| (strsim::damerau_levenshtein(&meant, &plain(known)), known));
    let (distance, known) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2 && distance * 3 <= meant.chars().count()).then_some(known)
}

/// A word without what people write in several ways.
fn plain(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// `Did you mean …?` with a blank before it, or nothing.
pub fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map(|known| format!(" Did you mean {known}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_found() {
        let known = ["to", "type", "text", "send_at", "expires_at", "reference"];
        for (word, meant) in [
            ("sendAt", Some("send_at")),
            ("send-at", Some("send_at")),
            ("SEND_AT", Some("send_at")),
            ("refrence", Some("reference")),
            ("expire_at", Some("expires_at")),
            ("txet", Some("text")),
            ("page", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(10_000), known), None);
        assert_eq!(did_you_mean("refrence", known), " Did you mean reference?");
        assert_eq!(did_you_mean("smoke", known), "");
    }
}
