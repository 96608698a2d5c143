//! What a file is by its first bytes, whatever its name and its sender say.

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

/// What a file with these first bytes is. Where content can't tell, as with text, it is what its sender declares.
pub fn identify(head: &[u8], declared: Option<&str>) -> String {
    let declared = declared.filter(|declared| !is_confirmable(&canonical(declared)));
    match by_content(head) {
        Some(found) if !is_general(found) => found.to_owned(),
        found => declared.or(found).unwrap_or(UNKNOWN).to_owned(),
    }
}

fn by_content(head: &[u8]) -> Option<&'static str> {
    // Brands that the crate doesn't know; https://www.ftyps.com
    if head.get(4..8) == Some(b"ftyp") && matches!(head.get(8..10), Some(b"3g")) {
        return Some("video/3gpp");
    }
    Some(match infer::get(head)?.mime_type() {
        "audio/m4a" => "audio/mp4",
        "audio/x-wav" => "audio/wav",
        "audio/opus" => "audio/ogg; codecs=opus",
        "video/x-m4v" => "video/mp4",
        other => other,
    })
}

/// Types that other types are made of: a sender who says more knows more.
fn is_general(mime_type: &str) -> bool {
    mime_type.starts_with("text/")
        || matches!(mime_type, "application/zip" | "application/gzip" | "application/x-ole-storage" | UNKNOWN)
}

/// Whether content tells this type for certain.
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
        "audio/mp3" | "audio/mpeg3" => "audio/mpeg".to_owned(),
        "audio/m4a" | "audio/x-m4a" => "audio/mp4".to_owned(),
        "audio/opus" => "audio/ogg".to_owned(),
        "audio/x-wav" | "audio/wave" => "audio/wav".to_owned(),
        "audio/x-aac" | "audio/aacp" => "audio/aac".to_owned(),
        "video/x-m4v" => "video/mp4".to_owned(),
        _ => essence,
    }
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
}
