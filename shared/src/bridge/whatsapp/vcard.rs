//! The name on a contact card: RFC 6350 (vCard 4.0), RFC 2426 (3.0) and version 2.1, as address books export them.

use crate::mime_text::{guessed, in_charset, quoted_printable};

/// Lines of a card that are looked at: a folded photo has the most.
const LINES_MAX: usize = 2_000;

/// The name that a card shows: its formatted name, or else one made of the name's parts, or the organisation's. Empty if it has
/// none.
pub(super) fn display_name(card: &str) -> String {
    let properties: Vec<_> = unfolded(card).iter().take(LINES_MAX).filter_map(|line| Property::read(line)).collect();
    let first = |name: &str, read: fn(&str) -> String| {
        let values = properties.iter().filter(|property| property.name.eq_ignore_ascii_case(name));
        values.map(|property| read(&property.value)).find(|value| !value.is_empty())
    };
    let organisation = |value: &str| plain(parts(value).first().copied().unwrap_or_default());
    first("FN", plain).or_else(|| first("N", of_parts)).or_else(|| first("ORG", organisation)).unwrap_or_default()
}

/// A line of a card.
struct Property {
    name: String,
    /// Decoded, but for backslashes.
    value: String,
}

impl Property {
    /// Reads `item1.FN;CHARSET=UTF-8:Jane`.
    fn read(line: &str) -> Option<Self> {
        let (head, value) = split_outside_quotes(line)?;
        let mut head = head.split(';');
        let name = head.next().unwrap_or_default();
        // Before the name may stand a group's.
        let name = name.rsplit('.').next().unwrap_or_default().trim().to_owned();
        let (mut charset, mut quoted) = (None, false);
        for parameter in head {
            let (key, set) = parameter.split_once('=').unwrap_or(("ENCODING", parameter));
            if key.trim().eq_ignore_ascii_case("CHARSET") {
                charset = Some(set.trim().trim_matches('"'));
            } else if key.trim().eq_ignore_ascii_case("ENCODING") {
                quoted |= set.trim().eq_ignore_ascii_case("QUOTED-PRINTABLE");
            }
        }
        let value = if quoted {
            let bytes = quoted_printable(value.as_bytes());
            charset.and_then(|charset| in_charset(charset, &bytes)).unwrap_or_else(|| guessed(&bytes))
        } else {
            value.to_owned()
        };
        Some(Self { name, value })
    }
}

/// A property's head and its value: the first colon that isn't within quotation marks divides them.
fn split_outside_quotes(line: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let at = line.find(|c: char| {
        quoted ^= c == '"';
        c == ':' && !quoted
    })?;
    Some((&line[..at], &line[at + 1..]))
}

/// The lines of a card, put together where they were folded: by a blank at the next one's beginning, or, in quoted-printable, by
/// an equals sign at their end.
fn unfolded(card: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut continued = false;
    for line in card.split(['\r', '\n']).filter(|line| !line.is_empty()) {
        let folded = line.strip_prefix([' ', '\t']);
        match (lines.last_mut(), folded) {
            (Some(last), _) if continued => last.push_str(line),
            (Some(last), Some(rest)) => last.push_str(rest),
            _ => lines.push(line.to_owned()),
        }
        let last = lines.last_mut();
        continued = last.is_some_and(|last| {
            let head = last.split(':').next().unwrap_or_default().to_ascii_uppercase();
            let soft = head.contains("QUOTED-PRINTABLE") && last.ends_with('=');
            if soft {
                last.pop();
            }
            soft
        });
    }
    lines
}

/// A text without its backslashes, on one line.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            'n' | 'N' if escaped => plain.push(' '),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
        escaped = false;
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The parts of a value, between semicolons without a backslash.
fn parts(value: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut from, mut escaped) = (0, false);
    for (at, c) in value.char_indices() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ';' if !escaped => {
                parts.push(&value[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    parts.push(&value[from..]);
    parts
}

/// `Doe;Jane;Q.;Dr.;Jr.`: family name, given name, more names, what stands before and what stands after.
fn of_parts(value: &str) -> String {
    let parts = parts(value);
    let named = [3, 1, 2, 0, 4].iter().filter_map(|at| parts.get(*at)).map(|part| plain(part));
    named.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_is_found_however_it_is_written() {
        for (lines, expected) in [
            ("FN:Jane Doe", "Jane Doe"),
            ("FN;CHARSET=UTF-8:Jane", "Jane"),
            ("FN;LANGUAGE=de;PREF=1:Jane", "Jane"),
            ("fn:Jane", "Jane"),
            ("item1.FN:Jane", "Jane"),
            ("FN;SORT-AS=\"Doe:Jane\":Jane Doe", "Jane Doe"),
            ("FN:Doe\\; Jane\\, Dr.\\nBerlin", "Doe; Jane, Dr. Berlin"),
            ("FN:Jane\r\n  Doe", "Jane Doe"),
            ("FN:Ja\r\n ne", "Jane"),
            ("FN:Ja\n\tne", "Jane"),
            ("FN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:J=C3=BCrgen", "Jürgen"),
            ("FN;QUOTED-PRINTABLE;CHARSET=ISO-8859-1:J=FCrgen", "Jürgen"),
            ("FN;ENCODING=quoted-printable:J=FCrgen", "Jürgen"),
            ("FN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:J=C3=\r\n=BCrgen Ma=\r\nier", "Jürgen Maier"),
            ("FN:2+2=4\r\nTEL:1", "2+2=4"),
            ("FN:\r\nN:Doe;Jane;;;", "Jane Doe"),
            ("N:Doe;Jane;Q.;Dr.;Jr.", "Dr. Jane Q. Doe Jr."),
            ("N;CHARSET=UTF-8:Doe;Jane", "Jane Doe"),
            ("N:Doe\\;Roe;Jane", "Jane Doe;Roe"),
            ("N:;;;;\r\nORG:Acme\\, Inc.;Sales", "Acme, Inc."),
            ("N:Doe;Jane\r\nFN:Dr. Doe", "Dr. Doe"),
            ("NICKNAME:FN:x", ""),
            ("TEL:+15551234567", ""),
            ("", ""),
        ] {
            for end in ["\r\n", "\n", "\r"] {
                let card = format!("BEGIN:VCARD\r\nVERSION:3.0\r\n{lines}\r\nEND:VCARD").replace("\r\n", end);
                assert_eq!(display_name(&card), expected, "{card:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_a_card_says_its_name_fits_on_a_line(card in "(FN|N|ORG)?[;:A-Z\\\\\\\\=\"é \r\n\t0-9]{0,80}") {
            prop_assert!(!display_name(&card).contains(char::is_control));
        }
    }
}
