//! What a file is by its first bytes, whatever its name and its sender say.
//!
//! What its sender declares stands unless the content is certainly another: a long signature, or a structure that holds.
//! Text that begins like a signature, such as `BMW,model` or `GIFT CARD`, is text.

use super::signature::{self, Look};
use crate::message::MessageType;

/// First bytes of a file that are looked at.
pub const HEAD_BYTES: usize = 8 << 10;

/// The type of what nobody can name.
const UNKNOWN: &str = "application/octet-stream";

const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/webp", "image/gif"];
const VIDEOS: [&str; 5] = ["video/mp4", "video/3gpp", "video/quicktime", "video/webm", "video/x-matroska"];
const AUDIOS: [&str; 8] =
    ["audio/ogg", "audio/mpeg", "audio/mp4", "audio/aac", "audio/amr", "audio/wav", "audio/3gpp", "audio/webm"];
const STICKERS: [&str; 1] = ["image/webp"];

/// What a message's type takes, and its words.
const fn taken(kind: MessageType) -> (&'static [&'static str], &'static str) {
    match kind {
        MessageType::Image => (&IMAGES, "an image (JPEG, PNG, WebP or GIF)"),
        MessageType::Video => (&VIDEOS, "a video (MP4, 3GP, QuickTime, WebM or Matroska)"),
        MessageType::Audio => (&AUDIOS, "an audio file (Ogg, MP3, MP4, AAC, AMR, WAV, 3GP or WebM)"),
        MessageType::Sticker => (&STICKERS, "a sticker (WebP)"),
        MessageType::Document | MessageType::Text | MessageType::Location | MessageType::Contact => {
            (&[], "a document (any file)")
        }
    }
}

/// The type that a message of this type is sent under, for a file of `mime_type`. A container doesn't say whether there is
/// a picture beside the sound, so that MP4, 3GP and WebM files are audio, too, where audio is asked for.
///
/// # Errors
/// In words, if a message of this type can't carry such a file.
pub fn fit(kind: MessageType, mime_type: &str) -> Result<String, String> {
    let (types, wanted) = taken(kind);
    if types.is_empty() || types.contains(&essence(mime_type)) {
        return Ok(mime_type.to_owned());
    }
    if kind == MessageType::Audio
        && let Some(container) = mime_type.strip_prefix("video/")
        && AUDIOS.contains(&format!("audio/{container}").as_str())
    {
        return Ok(format!("audio/{container}"));
    }
    Err(match mime_type {
        UNKNOWN => format!("The file isn't {wanted}: nothing in its first bytes says so."),
        other => format!("The file is {}, not {wanted}.", described(other)),
    })
}

/// Checks a file with these first bytes against a message's type, and against the media type that its sender declares, if
/// that is one that content can confirm. Answers what it is.
///
/// # Errors
/// In words, if it isn't what it is said to be.
pub fn check(head: &[u8], kind: MessageType, declared: Option<&str>) -> Result<String, String> {
    let found = identify(head, declared);
    let fitting = fit(kind, &found)?;
    match declared.map(canonical).filter(|declared| is_confirmable(declared)) {
        Some(declared) if essence(&found) != declared && essence(&fitting) != declared => {
            Err(format!("The file is {}, not {declared}.", described(&found)))
        }
        _ => Ok(fitting),
    }
}

/// Whether a file of this type can be a voice note: WhatsApp plays nothing else as one.
///
/// # Errors
/// In words, with what to do.
pub fn check_voice(mime_type: &str) -> Result<(), String> {
    if mime_type == signature::OGG_OPUS {
        return Ok(());
    }
    let what = if essence(mime_type) == "audio/ogg" { "Ogg with another codec" } else { essence(mime_type) };
    Err(format!(
        "A voice note must be Ogg Opus (audio/ogg; codecs=opus), and the file is {what}. Convert it (ffmpeg -i FILE -c:a \
         libopus -ac 1 voice.ogg), or leave voice out."
    ))
}

/// What a file with these first bytes is. What its sender declares stands unless the content is certainly another; a type that
/// content can confirm isn't believed without.
pub fn identify(head: &[u8], declared: Option<&str>) -> String {
    let declared = declared.filter(|declared| says_something(declared));
    let believed = declared.filter(|declared| !is_confirmable(&canonical(declared)));
    match signature::look(head) {
        Look::Certain(found) => match declared.map(canonical) {
            Some(declared) if found != declared && signature::may_be(head, found, &declared) => declared,
            _ => found.to_owned(),
        },
        Look::Binary(found) => believed.filter(|declared| !declared.starts_with("text/")).unwrap_or(found).to_owned(),
        Look::Perhaps(found) => believed.unwrap_or(found).to_owned(),
        Look::Unknown => believed.unwrap_or(UNKNOWN).to_owned(),
    }
}

/// Whether a declared type says more than "some bytes", which is what programs send that don't know.
fn says_something(declared: &str) -> bool {
    let essence = essence(declared).to_ascii_lowercase();
    let nothing = ["octet-stream", "binary", "x-binary", "unknown", "x-unknown", "force-download", "x-download", "*"];
    essence.split_once('/').is_some_and(|(_, sub)| !nothing.contains(&sub))
}

/// Whether content tells this type.
fn is_confirmable(mime_type: &str) -> bool {
    mime_type == "application/pdf" || [&IMAGES[..], &VIDEOS, &AUDIOS].iter().any(|types| types.contains(&mime_type))
}

fn essence(mime_type: &str) -> &str {
    mime_type.split(';').next().unwrap_or_default().trim_end()
}

/// A type's one name.
fn canonical(mime_type: &str) -> String {
    let essence = essence(mime_type).to_ascii_lowercase();
    match essence.as_str() {
        "image/jpg" | "image/pjpeg" => "image/jpeg".to_owned(),
        "image/x-png" => "image/png".to_owned(),
        "audio/mp3" | "audio/mpeg3" | "audio/x-mp3" | "audio/x-mpeg" => "audio/mpeg".to_owned(),
        "audio/m4a" | "audio/x-m4a" | "audio/x-m4b" | "audio/mp4a-latm" => "audio/mp4".to_owned(),
        "audio/opus" | "audio/x-opus+ogg" => "audio/ogg".to_owned(),
        "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "audio/wav".to_owned(),
        "audio/x-aac" | "audio/aacp" => "audio/aac".to_owned(),
        "video/x-m4v" => "video/mp4".to_owned(),
        "video/3gpp2" => "video/3gpp".to_owned(),
        "audio/3gpp2" => "audio/3gpp".to_owned(),
        "application/x-pdf" => "application/pdf".to_owned(),
        _ => essence,
    }
}

/// Whether two names are of the same type, or one of them says nothing.
pub fn is_same_type(one: &str, other: &str) -> bool {
    !says_something(one) || !says_something(other) || canonical(one) == canonical(other)
}

fn described(mime_type: &str) -> String {
    match mime_type {
        "application/zip" => "a ZIP archive (application/zip)".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MessageType::{Audio, Document, Image, Sticker, Video};

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF\0";
    const WEBP: &[u8] = b"RIFF\x24\0\0\0WEBPVP8 ";
    const GIF: &[u8] = b"GIF89a\x01\0\x01\0";
    const ZIP: &[u8] = b"PK\x03\x04\x14\0\0\0\x08\0";
    const PDF: &[u8] = b"%PDF-1.7\n";
    const MP4: &[u8] = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2";
    const M4A: &[u8] = b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42";
    const THREE_GP: &[u8] = b"\0\0\0\x18ftyp3gp4\0\0\0\0isom";
    const OPUS: &[u8] = b"OggS\0\x02\0\0\0\0\0\0\0\0\xe1\xad\x9f\x6a\0\0\0\0\xd2\x35\x6c\x8a\x01\x13OpusHead\x01\x01";
    const MP3: &[u8] = b"ID3\x04\0\0\0\0\0\0";
    const VORBIS: &[u8] = b"OggS\0\x02\0\0\0\0\0\0\0\0\xe1\xad\x9f\x6a\0\0\0\0\xd2\x35\x6c\x8a\x01\x1e\x01vorbis\0\0";
    const OLE: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0\0\0";
    const AMR: &[u8] = b"#!AMR\n\x3c\x55\x0a\x7c\xf7\x6c";
    const WAV: &[u8] = b"RIFF\x24\0\0\0WAVEfmt ";

    #[test]
    fn each_type_takes_what_it_says() {
        for (kind, head, expected) in [
            (Image, PNG, "image/png"),
            (Image, JPEG, "image/jpeg"),
            (Image, WEBP, "image/webp"),
            (Image, GIF, "image/gif"),
            (Sticker, WEBP, "image/webp"),
            (Video, MP4, "video/mp4"),
            (Video, THREE_GP, "video/3gpp"),
            (Audio, MP4, "audio/mp4"),
            (Audio, THREE_GP, "audio/3gpp"),
            (Audio, M4A, "audio/mp4"),
            (Audio, OPUS, "audio/ogg; codecs=opus"),
            (Audio, MP3, "audio/mpeg"),
            (Audio, AMR, "audio/amr"),
            (Audio, WAV, "audio/wav"),
            (Document, PDF, "application/pdf"),
            (Document, ZIP, "application/zip"),
            (Document, b"hello", "application/octet-stream"),
        ] {
            assert_eq!(check(head, kind, None).as_deref(), Ok(expected), "{kind:?}");
        }
    }

    #[test]
    fn what_a_file_is_not_is_said_in_words() {
        for (kind, head, declared, words) in [
            (Image, ZIP, Some("image/png"), "a ZIP archive"),
            (Image, ZIP, None, "a ZIP archive"),
            (Image, MP4, None, "video/mp4, not an image"),
            (Image, JPEG, Some("image/png"), "image/jpeg, not image/png"),
            (Image, b"hello", Some("image/png"), "nothing in its first bytes"),
            (Image, b"", None, "nothing in its first bytes"),
            (Sticker, PNG, None, "image/png, not a sticker"),
            (Video, M4A, None, "audio/mp4, not a video"),
            (Audio, PDF, None, "application/pdf, not an audio file"),
            (Document, ZIP, Some("application/pdf"), "a ZIP archive (application/zip), not application/pdf"),
            (Document, b"hello", Some("image/jpeg"), "not image/jpeg"),
        ] {
            let said = check(head, kind, declared).expect_err("it isn't");
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_sender_is_believed_where_content_cannot_tell() {
        let named = |head, declared| identify(head, Some(declared));
        assert_eq!(named(b"a,b", "text/csv"), "text/csv");
        assert_eq!(named(ZIP, "application/vnd.android.package-archive"), "application/vnd.android.package-archive");
        assert_eq!(named(PNG, "text/plain"), "image/png");
        assert_eq!(named(b"hello", "image/png"), "application/octet-stream");
        assert_eq!(check(JPEG, Image, Some("image/JPG")).as_deref(), Ok("image/jpeg"));
        assert_eq!(check(OPUS, Audio, Some("audio/ogg; codecs=opus")).as_deref(), Ok("audio/ogg; codecs=opus"));
        assert_eq!(check(MP4, Audio, Some("audio/x-m4a")).as_deref(), Ok("audio/mp4"));
    }

    #[test]
    fn text_is_what_its_sender_says_however_it_begins() {
        let utf16 =
            [&b"\xff\xfe"[..], &"BMW,model".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()].concat();
        for (head, declared, expected) in [
            (&b"BMW,model,year\n"[..], Some("text/csv"), "text/csv"),
            (b"BMW,model,year\n", Some("text/csv; charset=utf-8"), "text/csv; charset=utf-8"),
            (b"BMW,model,year\n", Some("application/csv"), "application/csv"),
            (b"BMW,model,year\n", None, "application/octet-stream"),
            (b"BMW;Gr\xf6\xdfe;Preis\r\n320d;4,6;45000\r\n", Some("text/csv"), "text/csv"),
            (b"GIF89a is an image format", Some("text/plain"), "text/plain"),
            (b"GIFT CARD;1", Some("text/plain"), "text/plain"),
            (b"MZ;Mainz;Rhineland", Some("text/csv"), "text/csv"),
            (b"MZ;M\xfcnchen", Some("text/csv"), "text/csv"),
            (b"ID3 tags explained", Some("text/plain"), "text/plain"),
            (b"BC,Vancouver", Some("text/csv"), "text/csv"),
            (b"BZh is how bzip2 begins", Some("text/plain"), "text/plain"),
            (b"Rar! and other words", Some("text/plain"), "text/plain"),
            (b"PK,name", Some("text/csv"), "text/csv"),
            (b"RIFF1234WAVE", Some("text/plain"), "text/plain"),
            (b"OggS and others", Some("text/plain"), "text/plain"),
            (b"OTTO,Hamburg", Some("text/csv"), "text/csv"),
            (b"MAC address;host", Some("text/csv"), "text/csv"),
            (b"SQLite tips", Some("text/markdown"), "text/markdown"),
            (b"#!AMR\nhello", Some("text/plain"), "text/plain"),
            (b"%PDF-1.7 is a header", Some("text/plain"), "text/plain"),
            (b"how a %PDF-1.7 begins", None, "application/octet-stream"),
            (b"<P>hello</P>", Some("text/plain"), "text/plain"),
            (&utf16, Some("text/csv"), "text/csv"),
            (b"\xef\xbb\xbfBMW,model", Some("text/csv"), "text/csv"),
        ] {
            let shown = String::from_utf8_lossy(head);
            assert_eq!(identify(head, declared), expected, "{shown}");
            if let Some(declared) = declared {
                assert_eq!(check(head, Document, Some(declared)).as_deref(), Ok(expected), "{shown}");
            }
            for kind in [Image, Video, Audio, Sticker] {
                assert!(check(head, kind, declared).is_err(), "{kind:?} {shown}");
                assert!(check(head, kind, None).is_err(), "{kind:?} {shown}");
            }
        }
        for (kind, declared) in [(Image, "image/gif"), (Audio, "audio/wav"), (Document, "image/gif")] {
            for head in [&b"GIFT CARD;1"[..], b"RIFF1234WAVE"] {
                assert!(check(head, kind, Some(declared)).is_err(), "{declared}");
            }
        }
    }

    #[test]
    fn only_certain_content_overrules_its_sender() {
        for (head, declared, expected) in [
            // What is made of another kind of file.
            (
                ZIP,
                "application/vnd.ms-word.document.macroenabled.12",
                "application/vnd.ms-word.document.macroenabled.12",
            ),
            (OLE, "application/vnd.ms-excel", "application/vnd.ms-excel"),
            (OLE, "application/vnd.ms-outlook", "application/vnd.ms-outlook"),
            (b"\x30\x82\x05\x00\x06\x09", "application/pkcs7-mime", "application/pkcs7-mime"),
            (b"II*\0\x08\0\0\0\x10\0\0\x01", "image/x-adobe-dng", "image/x-adobe-dng"),
            (b"MZ\x90\0\x03\0\0\0", "application/x-firmware", "application/x-firmware"),
            (b"\0\0\x01\0binary\0\x01\x02", "application/x-firmware", "application/x-firmware"),
            // What isn't.
            (PNG, "application/vnd.ms-excel", "image/png"),
            (ZIP, "text/csv", "application/zip"),
            (OLE, "text/plain", "application/x-ole-storage"),
            // Programs that don't know.
            (ZIP, "application/octet-stream", "application/zip"),
            (OLE, "binary/octet-stream", "application/x-ole-storage"),
            (PDF, "application/octet-stream", "application/pdf"),
            (PDF, "application/x-pdf", "application/pdf"),
            (b"\x1b%-12345X@PJL\n%PDF-1.4\n\0", "application/pdf", "application/pdf"),
            // A container is what its sender says of its content.
            (MP4, "audio/mp4", "audio/mp4"),
            (MP4, "audio/x-m4a", "audio/mp4"),
            (THREE_GP, "video/mp4", "video/mp4"),
            (THREE_GP, "video/3gpp2", "video/3gpp"),
        ] {
            assert_eq!(identify(head, Some(declared)), expected, "{declared}");
            if is_same_type(declared, expected) {
                assert_eq!(check(head, Document, Some(declared)).as_deref(), Ok(expected), "{declared}");
            }
        }
    }

    #[test]
    fn a_voice_note_is_ogg_opus() {
        assert_eq!(check_voice(&check(OPUS, Audio, Some("audio/ogg")).expect("audio")), Ok(()));
        for (head, words) in [(VORBIS, "another codec"), (WAV, "audio/wav"), (MP3, "audio/mpeg"), (MP4, "audio/mp4")] {
            let said = check_voice(&check(head, Audio, None).expect("audio")).expect_err("no voice note");
            assert!(said.contains(words) && said.contains("Ogg Opus"), "{said}");
        }
    }
}
