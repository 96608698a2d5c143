//! A file's name, wherever it comes from: the header of an upload's part, the answer of a server, an address.
//!
//! What must hold: a name is decoded first and cut then, so that no encoding hides a slash; of a path only the last part is
//! kept.

use std::collections::BTreeMap;

use percent_encoding::{percent_decode, percent_decode_str};

use crate::mime_text::{encoded_words, guessed, in_charset};

/// Characters of a name that are kept, its extension among them.
const CHARS_MAX: usize = 255;
/// Characters of an extension, with its dot: what is longer after a dot is a part of the name.
const EXTENSION_CHARS_MAX: usize = 17;

/// What is kept of a name: the last part of a path, without what can't be shown, its extension in any case. `None` if nothing
/// is left that could name a file.
pub fn kept(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let shown: String = last.chars().filter(|c| !c.is_control() && !turns(*c)).collect();
    let shown = shown.trim();
    if matches!(shown, "" | "." | "..") {
        return None;
    }
    let chars = shown.chars().count();
    if chars <= CHARS_MAX {
        return Some(shown.to_owned());
    }
    let extension = shown.rfind('.').map_or("", |dot| &shown[dot..]);
    let length = extension.chars().count();
    let (extension, length) = if length > EXTENSION_CHARS_MAX { ("", 0) } else { (extension, length) };
    let stem: String = shown.chars().take(CHARS_MAX - length).collect();
    Some(stem + extension)
}

/// Marks that turn the direction of writing, so that `fdp.exe` reads as `exe.pdf`.
const fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The name in the `Content-Disposition` of an upload's part (RFC 7578), in all the ways in which clients write it.
pub fn of_part(disposition: &[u8]) -> Option<String> {
    of(disposition, |name| {
        // What browsers write for what can't stand within quotation marks.
        name.replace("%22", "\"").replace("%0D", "").replace("%0A", "")
    })
}

/// The name in the `Content-Disposition` of a server's answer (RFC 6266).
pub fn of_answer(disposition: &[u8]) -> Option<String> {
    of(disposition, |name| decoded(&name))
}

/// The last part of an address's path.
pub fn of_path(path: &str) -> Option<String> {
    kept(&decoded(path.rsplit('/').next().unwrap_or_default()))
}

/// Whether a name says what kind of file it is.
pub fn has_extension(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, extension)| {
        !stem.is_empty()
            && (1..EXTENSION_CHARS_MAX).contains(&extension.len())
            && extension.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

/// Without `%C3%A9`, if that is UTF-8.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Into::into)
}

fn of(disposition: &[u8], plain: impl FnOnce(String) -> String) -> Option<String> {
    let (mut extended, mut simple) = (None, None);
    let mut pieces = Pieces::default();
    for (name, value) in parameters(disposition) {
        // The first of two is meant.
        if name.eq_ignore_ascii_case(b"filename*") {
            extended = extended.or_else(|| extended_value(&guessed(&value)));
        } else if name.eq_ignore_ascii_case(b"filename") {
            simple = simple.or(Some(value));
        } else {
            pieces.take(name, &value);
        }
    }
    extended.or_else(|| pieces.joined()).and_then(|name| kept(&name)).or_else(|| {
        let name = guessed(&simple?);
        let words = encoded_words(&name);
        kept(&if words == name { plain(name) } else { words })
    })
}

/// `utf-8''test%C3%A9.pdf`, as RFC 5987 (now 8187) has it.
fn extended_value(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(charset), Some(_), Some(text)) => {
            let bytes: Vec<u8> = percent_decode_str(text).collect();
            in_charset(charset, &bytes).or_else(|| Some(guessed(&bytes)))
        }
        // Without a character set it isn't one, and clients send it.
        _ => Some(guessed(&percent_decode_str(value).collect::<Vec<u8>>())),
    }
}

/// A long name in pieces, as mail libraries fold it: `filename*0*=utf-8''te; filename*1*=st%C3%A9; filename*2=".pdf"` (RFC
/// 2231, section 3).
#[derive(Default)]
struct Pieces(BTreeMap<u16, Piece>);

struct Piece {
    is_encoded: bool,
    value: Vec<u8>,
}

impl Pieces {
    /// Takes a parameter if it is a piece.
    fn take(&mut self, name: &[u8], value: &[u8]) {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let Some(number) = name.strip_prefix("filename*") else { return };
        let (number, is_encoded) = number.strip_suffix('*').map_or((number, false), |number| (number, true));
        if let Ok(number) = number.parse() {
            self.0.entry(number).or_insert_with(|| Piece { is_encoded, value: value.to_vec() });
        }
    }

    /// The pieces from the first up to a missing one, as one name.
    fn joined(self) -> Option<String> {
        let (mut charset, mut bytes) = (None, Vec::new());
        for (expected, (number, piece)) in (0..).zip(self.0) {
            if number != expected {
                break;
            }
            let Piece { is_encoded, mut value } = piece;
            if is_encoded && number == 0 {
                // `charset'language'` stands before the first one.
                let mut parts = value.splitn(3, |byte| *byte == b'\'');
                if let (Some(set), Some(_), Some(text)) = (parts.next(), parts.next(), parts.next()) {
                    charset = Some(guessed(set));
                    value = text.to_vec();
                }
            }
            if is_encoded { bytes.extend(percent_decode(&value)) } else { bytes.extend(value) }
        }
        let name = charset.and_then(|charset| in_charset(&charset, &bytes)).unwrap_or_else(|| guessed(&bytes));
        (!name.is_empty()).then_some(name)
    }
}

/// The parameters of a header such as `form-data; name="file"; filename="a.pdf"`: names and values, without quotation marks.
fn parameters(header: &[u8]) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
    let mut rest = header.iter().position(|byte| *byte == b';').map_or(&[][..], |at| &header[at..]);
    std::iter::from_fn(move || {
        while let [b';' | b' ' | b'\t', after @ ..] = rest {
            rest = after;
        }
        let end = rest.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
        let name = rest[..end].trim_ascii();
        let value = match &rest[end..] {
            [b'=', value @ ..] => value.trim_ascii_start(),
            after if after.is_empty() && name.is_empty() => return None,
            after => {
                rest = after;
                return Some((name, Vec::new()));
            }
        };
        let (value, after) = match value {
            [b'"', quoted @ ..] => quoted_value(quoted),
            // Blanks and further equals signs are clients' mistakes that say what is meant.
            token => {
                let end = token.iter().position(|byte| *byte == b';').unwrap_or(token.len());
                (token[..end].trim_ascii().to_vec(), &token[end..])
            }
        };
        rest = after.iter().position(|byte| *byte == b';').map_or(&[][..], |at| &after[at..]);
        Some((name, value))
    })
}

/// Up to the closing quotation mark, and what follows it. A backslash stands for itself unless a quotation mark or another one
/// follows: Windows paths come unescaped.
fn quoted_value(quoted: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    loop {
        match rest {
            [] => return (value, rest),
            [b'"', after @ ..] => return (value, after),
            [b'\\', escaped @ (b'"' | b'\\'), after @ ..] => {
                value.push(*escaped);
                rest = after;
            }
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_come_in_many_ways() {
        for (header, expected) in [
            (&b"form-data; name=\"file\"; filename=\"a b.pdf\""[..], Some("a b.pdf")),
            (b"form-data; name=file; filename=a.pdf", Some("a.pdf")),
            (b"form-data;name=file;filename=a b.pdf ; x=y", Some("a b.pdf")),
            (b"Form-Data; Name=\"file\"; FileName=\"a.pdf\"", Some("a.pdf")),
            (b"form-data; filename=\"a.pdf\"; name=\"file\"", Some("a.pdf")),
            (b"form-data; name=\"file\"", None),
            (b"form-data; name=\"file\"; filename=\"\"", None),
            (b"form-data; name=\"filename=b\"; filename=\"a;b=c.pdf\"", Some("a;b=c.pdf")),
            // RFC 5987: old requests and urllib3, .NET.
            (b"form-data; name=\"file\"; filename*=utf-8''test%C3%A9.pdf", Some("testé.pdf")),
            (b"form-data; name=\"file\"; filename*=UTF-8'en'test%C3%A9.pdf", Some("testé.pdf")),
            (b"form-data; name=\"file\"; filename=\"teste.pdf\"; filename*=utf-8''test%C3%A9.pdf", Some("testé.pdf")),
            (b"form-data; name=\"file\"; filename*=utf-8''test%C3%A9.pdf; filename=\"teste.pdf\"", Some("testé.pdf")),
            (b"form-data; name=\"file\"; filename*=\"utf-8''a%20b.pdf\"", Some("a b.pdf")),
            (b"form-data; name=\"file\"; filename*=iso-8859-1''test%E9.pdf", Some("testé.pdf")),
            (b"form-data; name=\"file\"; filename*=test%C3%A9.pdf", Some("testé.pdf")),
            (b"form-data; name=\"file\"; filename*=utf-8''%2Fetc%2Fpasswd", Some("passwd")),
            (b"form-data; name=\"file\"; filename*=utf-8''..; filename=\"a.pdf\"", Some("a.pdf")),
            (b"form-data; name=file; filename*0*=utf-8'en'te; filename*1*=st%C3; filename*2*=%A9; filename*3=\"%1.pdf\"", Some("testé%1.pdf")),
            (b"form-data; name=file; FileName*1=\"b.pdf\"; FILENAME*0=\"a\"; filename=\"x.pdf\"", Some("ab.pdf")),
            (b"form-data; name=file; filename*0*=iso-8859-1''t%E9; filename*2=c; filename=\"x.pdf\"", Some("té")),
            (b"form-data; name=file; filename*0*=utf-8''a%2F; filename*1*=b.pdf", Some("b.pdf")),
            (b"form-data; name=file; filename*1=b.pdf; filename*70000=c; filename*x=d; filename=x.pdf", Some("x.pdf")),
            // RFC 2047: .NET, older Python.
            (b"form-data; name=\"file\"; filename=\"=?utf-8?B?dGVzdMOpLnBkZg==?=\"", Some("testé.pdf")),
            (b"form-data; name=file; filename==?utf-8?B?dGVzdMOpLnBkZg==?=", Some("testé.pdf")),
            (
                b"form-data; name=file; filename==?utf-8?B?dGVzdMOpLnBkZg==?=; filename*=utf-8''test%C3%A9.pdf",
                Some("testé.pdf"),
            ),
            (b"form-data; name=\"file\"; filename=\"=?utf-8?Q?r=C3=A9sum=C3=A9.pdf?=\"", Some("résumé.pdf")),
            // Its base64 has a slash: "pfad/??é.pdf".
            (b"form-data; name=\"file\"; filename=\"=?utf-8?B?cGZhZC8/P8OpLnBkZg==?=\"", Some("??é.pdf")),
            (b"form-data; name=\"file\"; filename=\"=?utf-8?B?Pz8/Pz8/w78/P8O/w78ucGRm?=\"", Some("??????ÿ??ÿÿ.pdf")),
            // Raw: UTF-8, and what old programs have.
            ("form-data; name=\"file\"; filename=\"testé.pdf\"".as_bytes(), Some("testé.pdf")),
            (b"form-data; name=\"file\"; filename=\"test\xe9.pdf\"", Some("testé.pdf")),
            // Quotation marks: curl, browsers.
            (b"form-data; name=\"file\"; filename=\"7\\\" pipe.pdf\"", Some("7\" pipe.pdf")),
            (b"form-data; name=\"file\"; filename=\"7%22 pipe.pdf\"", Some("7\" pipe.pdf")),
            (b"form-data; name=\"file\"; filename=\"100%25.pdf\"", Some("100%25.pdf")),
            (b"form-data; name=\"file\"; filename=\"C:\\dir\\a.pdf\"", Some("a.pdf")),
            (b"form-data; name=\"file\"; filename=\"C:\\\\dir\\\\a.pdf\"", Some("a.pdf")),
            (b"form-data; name=\"file\"; filename=\"../../etc/a.pdf\"", Some("a.pdf")),
            (b"form-data; name=\"file\"; filename=\"unended", Some("unended")),
            (b"form-data; filename", None),
            (b"filename=a.pdf", None),
            (b"", None),
        ] {
            assert_eq!(of_part(header).as_deref(), expected, "{}", String::from_utf8_lossy(header));
        }
        for (header, expected) in [
            (&b"attachment; filename=\"r%C3%A9sum%C3%A9.pdf\""[..], Some("résumé.pdf")),
            (b"inline; filename=a.pdf", Some("a.pdf")),
            (b"attachment; filename=\"a%2Fb.pdf\"", Some("b.pdf")),
            (b"attachment; filename=\"100%.pdf\"", Some("100%.pdf")),
            (b"attachment", None),
        ] {
            assert_eq!(of_answer(header).as_deref(), expected, "{}", String::from_utf8_lossy(header));
        }
    }

    #[test]
    fn what_is_kept_names_a_file() {
        let long = |chars: usize, extension: &str| "ä".repeat(chars) + extension;
        for (name, expected) in [
            ("a.pdf", Some("a.pdf".to_owned())),
            (" a.pdf ", Some("a.pdf".to_owned())),
            ("a\u{0}\r\n.pdf", Some("a.pdf".to_owned())),
            ("fdp\u{202e}exe.pdf", Some("fdpexe.pdf".to_owned())),
            (".htaccess", Some(".htaccess".to_owned())),
            ("", None),
            ("a/", None),
            ("a/..", None),
            ("\u{1}", None),
            (&long(296, ".pdf"), Some(long(251, ".pdf"))),
            (&long(300, ".tar.gz"), Some(long(252, ".gz"))),
            (&long(255, ""), Some(long(255, ""))),
            (&long(300, ""), Some(long(255, ""))),
            (&format!("a.{}", long(300, "")), Some(format!("a.{}", long(253, "")))),
        ] {
            assert_eq!(kept(name), expected, "{name:?}");
        }
    }

    #[test]
    fn an_address_names_a_file_by_its_last_part() {
        for (path, expected) in [
            ("/a/receipt.pdf", Some("receipt.pdf")),
            ("/a/r%C3%A9sum%C3%A9%202.pdf", Some("résumé 2.pdf")),
            ("/a%2Fb.pdf", Some("b.pdf")),
            ("/test%E9.pdf", Some("test%E9.pdf")),
            ("/download", Some("download")),
            ("/a/", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(of_path(path).as_deref(), expected, "{path}");
        }
        for (name, says) in [("a.pdf", true), ("a.tar.gz", true), ("a", false), (".htaccess", false), ("v1.", false)] {
            assert_eq!(has_extension(name), says, "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_header_is_the_name_is_one(header in prop::collection::vec(any::<u8>(), 0..80)) {
            for header in [header.clone(), [b"form-data; filename=\"".as_slice(), &header].concat(), [b"x; filename*=".as_slice(), &header].concat()] {
                for name in [of_part(&header), of_answer(&header)].into_iter().flatten() {
                    prop_assert!(!name.contains(['/', '\\']) && !name.chars().any(char::is_control) && !name.is_empty(), "{:?}", name);
                    prop_assert!(name.chars().count() <= CHARS_MAX);
                    prop_assert_eq!(kept(&name), Some(name.clone()));
                }
            }
        }
    }
}
