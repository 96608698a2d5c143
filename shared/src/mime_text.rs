//! Text in the encodings of mail, which file names and contact cards have kept: character sets by name, quoted-printable, and
//! the encoded words of RFC 2047.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// Base64 as it comes: with or without padding.
pub const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The text that bytes are in a character set; `None` if the set isn't known or the bytes aren't of it.
pub(crate) fn in_charset(name: &str, bytes: &[u8]) -> Option<String> {
    let encoding = Encoding::for_label(name.trim().as_bytes())?;
    encoding.decode_without_bom_handling_and_without_replacement(bytes).map(Into::into)
}

/// The text that bytes of an unknown character set are: UTF-8, or what old programs wrote.
pub(crate) fn guessed(bytes: &[u8]) -> String {
    match UTF_8.decode_without_bom_handling_and_without_replacement(bytes) {
        Some(text) => text.into_owned(),
        None => WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

/// Decodes `=C3=BC`. What isn't written so stays as it is.
pub(crate) fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'=', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high << 4 | low).unwrap_or_default());
                at += 3;
            }
            _ => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    bytes
}

/// Decodes the words of a text that are written as `=?utf-8?B?…?=` or `=?utf-8?Q?…?=`. What isn't one stays as it is.
pub(crate) fn encoded_words(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    // The last word: its character set and its bytes. A character may be spread over two words.
    let mut open: Option<(&str, Vec<u8>)> = None;
    let mut rest = text;
    while let Some(at) = rest.find("=?") {
        let Some((charset, bytes, after)) = word(&rest[at..]) else {
            close(&mut decoded, open.take());
            decoded.push_str(&rest[..at + 2]);
            rest = &rest[at + 2..];
            continue;
        };
        // Blanks between two words don't count.
        let between = &rest[..at];
        let joined = between.trim_ascii().is_empty();
        match &mut open {
            Some((same, all)) if joined && same.eq_ignore_ascii_case(charset) => all.extend_from_slice(&bytes),
            _ => {
                let after_word = open.is_some();
                close(&mut decoded, open.take());
                if !(after_word && joined) {
                    decoded.push_str(between);
                }
                open = Some((charset, bytes));
            }
        }
        rest = after;
    }
    close(&mut decoded, open);
    decoded.push_str(rest);
    decoded
}

fn close(decoded: &mut String, word: Option<(&str, Vec<u8>)>) {
    if let Some((charset, bytes)) = word {
        decoded.push_str(&in_charset(charset, &bytes).unwrap_or_else(|| guessed(&bytes)));
    }
}

/// An encoded word at the beginning of a text: its character set, its bytes, and what follows it.
fn word(text: &str) -> Option<(&str, Vec<u8>, &str)> {
    let (charset, rest) = text.strip_prefix("=?")?.split_once('?')?;
    // After the set there may be a language: RFC 2231.
    let charset = charset.split('*').next().unwrap_or_default();
    let (encoding, rest) = rest.split_once('?')?;
    let (encoded, after) = rest.split_once("?=")?;
    let bytes = match encoding {
        "B" | "b" => LENIENT_BASE64.decode(encoded.trim_ascii()).ok()?,
        "Q" | "q" => quoted_printable(encoded.replace('_', " ").as_bytes()),
        _ => return None,
    };
    Some((charset, bytes, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_decoded_where_they_are_words() {
        for (text, expected) in [
            ("=?utf-8?B?dGVzdMOpLnBkZg==?=", "testé.pdf"),
            ("=?utf-8?b?dGVzdMOpLnBkZg?=", "testé.pdf"),
            ("=?UTF-8?Q?r=C3=A9sum=C3=A9_2.pdf?=", "résumé 2.pdf"),
            ("=?iso-8859-1?q?r=E9sum=E9.pdf?=", "résumé.pdf"),
            ("=?utf-8*en?Q?a?=", "a"),
            ("=?shift_jis?B?k/qWey50eHQ=?=", "日本.txt"),
            ("a =?utf-8?Q?b?= c", "a b c"),
            ("=?utf-8?Q?a?= =?utf-8?Q?b?=", "ab"),
            ("=?utf-8?Q?a?=\r\n =?iso-8859-1?Q?=E9?=", "aé"),
            // A character in two words.
            ("=?utf-8?Q?=C3?= =?utf-8?Q?=A9?=", "é"),
            ("=?nonsense?Q?=C3=A9?=", "é"),
            ("=?utf-8?B?/w==?=", "ÿ"),
            ("plain.pdf", "plain.pdf"),
            ("=?", "=?"),
            ("a=?b.pdf", "a=?b.pdf"),
            ("=?utf-8?X?a?=", "=?utf-8?X?a?="),
            ("=?utf-8?B?!?=", "=?utf-8?B?!?="),
            ("=?utf-8?Q?a", "=?utf-8?Q?a"),
        ] {
            assert_eq!(encoded_words(text), expected, "{text}");
        }
        assert_eq!(quoted_printable(b"J=C3=BCrgen =zz="), "Jürgen =zz=".as_bytes());
    }
}
