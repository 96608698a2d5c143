//! `media.base64`: a file within JSON, in the ways in which programs write one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sanasr_shared::mime_text::LENIENT_BASE64;

/// A file that came in base64.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    /// The media type that a `data:` address names.
    pub(super) mime_type: Option<String>,
}

/// Reads base64 with or without padding and line breaks, in either alphabet, or as a `data:` address (RFC 2397).
///
/// # Errors
/// In a sentence, if it is none.
pub(super) fn decode(text: &str) -> Result<Encoded, String> {
    let text = text.trim_ascii();
    let (mime_type, data) = match text.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        Some(_) => address(&text[5..])?,
        None => (None, text),
    };
    if data.is_empty() {
        return Err("Must not be empty.".to_owned());
    }
    // As it should be, it needs no copy.
    let bytes = STANDARD.decode(data).or_else(|_| LENIENT_BASE64.decode(plain(data)));
    let bytes = bytes.map_err(|_| "Must be base64, or a data: address with ;base64.".to_owned())?;
    if bytes.is_empty() {
        return Err("Must not be empty.".to_owned());
    }
    Ok(Encoded { bytes, mime_type })
}

/// What stands after `data:`: the media type, and the data.
fn address(text: &str) -> Result<(Option<String>, &str), String> {
    let wrong = || "A data: address must be base64: data:image/png;base64,…".to_owned();
    let (head, data) = text.split_once(',').ok_or_else(wrong)?;
    let (mime_type, coding) = head.rsplit_once(';').ok_or_else(wrong)?;
    if !coding.trim_ascii().eq_ignore_ascii_case("base64") {
        return Err(wrong());
    }
    // Without a type it is text; parameters alone may stand before the coding, too.
    let mime_type = mime_type.trim_ascii();
    Ok(((!mime_type.is_empty() && !mime_type.starts_with(';')).then(|| mime_type.to_owned()), data))
}

/// In the standard alphabet, without line breaks and the blanks beside them. Other blanks stay, and are refused: they may have
/// been plus signs.
fn plain(data: &str) -> Vec<u8> {
    let mut plain = Vec::with_capacity(data.len());
    for line in data.split(['\r', '\n']) {
        plain.extend(line.trim_ascii().bytes().map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        }));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_programs_write_it() {
        let bytes: &[u8] = b"\xfb\xff\xfehello?>";
        for (text, mime_type) in [
            ("+//+aGVsbG8/Pg==", None),
            ("+//+aGVsbG8/Pg", None),
            ("-__-aGVsbG8_Pg", None),
            ("-__-aGVsbG8_Pg==", None),
            ("+//+\r\naGVs\r\nbG8/\r\nPg==\r\n", None),
            (" +//+\n  aGVsbG8/\n\tPg== ", None),
            ("data:image/png;base64,+//+aGVsbG8/Pg==", Some("image/png")),
            ("DATA:image/png;BASE64,-__-aGVsbG8_Pg", Some("image/png")),
            ("data:audio/ogg; codecs=opus;base64,+//+aGVsbG8/Pg==", Some("audio/ogg; codecs=opus")),
            ("data:text/plain;charset=utf-8;base64, +//+aGVsbG8/Pg==", Some("text/plain;charset=utf-8")),
            ("data:;base64,+//+aGVsbG8/Pg==", None),
            ("data:;charset=utf-8;base64,+//+aGVsbG8/Pg==", None),
        ] {
            let read = decode(text).unwrap_or_else(|said| panic!("{text}: {said}"));
            assert_eq!((read.bytes.as_slice(), read.mime_type.as_deref()), (bytes, mime_type), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            " ",
            "=",
            "a",
            "no base64!",
            "+//+ aGVs bG8/Pg==",
            "aGk=aGk=",
            "ähm",
            "data:",
            "data:image/png",
            "data:image/png,hello",
            "data:image/png;base64",
            "data:image/png;base64,",
            "data:image/png;base64,!",
        ] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
