//! What the first bytes of a file say: signatures and structures.
//!
//! What a message can carry as an image, a video or audio is told by its structure here; other kinds of files by the crate
//! `infer`, as far as its signatures can't be chance.

/// Ogg whose first stream is Opus.
pub(super) const OGG_OPUS: &str = "audio/ogg; codecs=opus";
const PDF: &str = "application/pdf";

/// How sure the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It is this.
    Certain(&'static str),
    /// Binary data of this kind, of which others may be made.
    Binary(&'static str),
    /// It may be this.
    Perhaps(&'static str),
    /// They say nothing.
    Unknown,
}

/// Types that `infer` tells by two or three bytes, which may be chance.
const WEAK: [&str; 13] = [
    "application/java",
    "application/octet-stream",
    "application/postscript",
    "application/vnd.microsoft.portable-executable",
    "application/x-bzip2",
    "application/x-compress",
    "application/x-cpio",
    "application/x-executable",
    "application/x-llvm",
    "application/x-shockwave-flash",
    "application/x-x509-ca-cert",
    "image/jxl",
    "image/vnd.ms-photo",
];
/// Types of texts that `infer` tells.
const TEXTS: [&str; 5] = ["application/postscript", "application/rtf", "text/html", "text/x-shellscript", "text/xml"];

pub(super) fn look(head: &[u8]) -> Look {
    if let Some(found) = media(head) {
        return Look::Certain(found);
    }
    let text = is_text(head);
    if is_pdf(head) {
        return if text { Look::Perhaps(PDF) } else { Look::Certain(PDF) };
    }
    // Readers of PDF look for its header in the first kilobyte.
    if !text && head[..head.len().min(1_024)].windows(5).any(|window| window == b"%PDF-") {
        return Look::Perhaps(PDF);
    }
    if mpeg_frame(head).is_some() {
        return Look::Perhaps("audio/mpeg");
    }
    if adts_frame(head).is_some() {
        return Look::Perhaps("audio/aac");
    }
    let found = infer::get(head).map(|found| found.mime_type());
    if text {
        return found.filter(|found| TEXTS.contains(found)).map_or(Look::Unknown, Look::Perhaps);
    }
    match found {
        Some("application/vnd.microsoft.portable-executable") if is_pe(head) => {
            Look::Binary("application/vnd.microsoft.portable-executable")
        }
        Some("application/x-executable") if head.starts_with(b"\x7fELF") => Look::Binary("application/x-executable"),
        // It can't tell them apart.
        Some("application/msword" | "application/x-ole-storage") => Look::Binary("application/x-ole-storage"),
        Some(found) if is_told_here(found) || WEAK.contains(&found) || TEXTS.contains(&found) => Look::Unknown,
        Some(found) => Look::Binary(found),
        None => Look::Unknown,
    }
}

/// Whether a file that is certainly `found` may as well be `declared`: a container doesn't say whether there is a picture beside
/// the sound, and may claim to be several.
pub(super) fn may_be(head: &[u8], found: &str, declared: &str) -> bool {
    let container = |mime_type: &str| mime_type.split_once('/').map(|(_, sub)| sub.to_owned());
    if found.starts_with("video/") && declared.starts_with("audio/") && container(found) == container(declared) {
        return true;
    }
    let claimed = declared.replacen("audio/", "video/", 1);
    found.starts_with("video/") && brands(head).any(|brand| brand_type(brand) == Some(claimed.as_str()))
}

/// Types that [`media`] tells for certain, if at all.
fn is_told_here(mime_type: &str) -> bool {
    matches!(
        mime_type,
        "image/jpeg"
            | "image/png"
            | "image/gif"
            | "image/webp"
            | "image/bmp"
            | "image/heif"
            | "image/avif"
            | "image/vnd.microsoft.icon"
            | "video/mp4"
            | "video/x-m4v"
            | "video/x-matroska"
            | "video/webm"
            | "video/quicktime"
            | "video/x-msvideo"
            | "video/mpeg"
            | "audio/mpeg"
            | "audio/m4a"
            | "audio/opus"
            | "audio/ogg"
            | "audio/x-wav"
            | "audio/amr"
            | "audio/aac"
            | "application/pdf"
    )
}

/// An image, a video or audio, for certain.
fn media(head: &[u8]) -> Option<&'static str> {
    if let Some(found) = still(head).or_else(|| matroska(head)).or_else(|| sound(head)) {
        return Some(found);
    }
    // The others begin with letters.
    let lettered = || gif(head).or_else(|| riff(head)).or_else(|| iso(head)).or_else(|| ogg(head));
    if is_text(head) { None } else { lettered() }
}

/// Whether there is nothing in it but text: bytes that no text has are those of
/// <https://mimesniff.spec.whatwg.org/#binary-data-byte>.
fn is_text(head: &[u8]) -> bool {
    let marked = [&b"\xef\xbb\xbf"[..], b"\xfe\xff", b"\xff\xfe"].iter().any(|mark| head.starts_with(mark));
    let binary = |byte: &u8| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    marked || (!head.is_empty() && !head.iter().any(binary))
}

/// Whether it is UTF-8, but for a character that is cut at its end.
fn is_utf8(head: &[u8]) -> bool {
    std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true)
}

fn is_pdf(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    head.starts_with(b"%PDF-")
}

/// A program for Windows: its first header says where its second one is.
fn is_pe(head: &[u8]) -> bool {
    let at = head.get(0x3c..0x40).and_then(|at| at.try_into().ok()).map(u32::from_le_bytes);
    at.and_then(|at| head.get(usize::try_from(at).ok()?..)).is_some_and(|rest| rest.starts_with(b"PE\0\0"))
}

fn still(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, 0xc0..=0xfe, ..] => Some("image/jpeg"),
        _ if is_bmp(head) => Some("image/bmp"),
        _ => None,
    }
}

fn gif(head: &[u8]) -> Option<&'static str> {
    (head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a")).then_some("image/gif")
}

/// `BM`, four bytes that are nothing, and a second header of one of the known lengths.
fn is_bmp(head: &[u8]) -> bool {
    let number = |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    head.starts_with(b"BM")
        && number(6) == Some(0)
        && number(10).is_some_and(|pixels| (26..=0xffff).contains(&pixels))
        && number(14).is_some_and(|length| [12, 16, 40, 52, 56, 64, 108, 124].contains(&length))
}

fn riff(head: &[u8]) -> Option<&'static str> {
    if !["RIFF", "RIFX", "RF64"].iter().any(|begin| head.starts_with(begin.as_bytes())) {
        return None;
    }
    match (head.get(8..12)?, head.get(12..15)) {
        (b"WEBP", Some(b"VP8")) => Some("image/webp"),
        (b"WAVE", _) => Some("audio/wav"),
        (b"AVI ", _) => Some("video/x-msvideo"),
        _ => None,
    }
}

// ---- ISO base media: MP4, QuickTime, 3GP, HEIF ----

/// Boxes before the one that says what the file is, at most.
const BOXES_MAX: usize = 8;

/// A box at a place: its name, and its content as far as it is here, and where the next one begins.
fn box_at(head: &[u8], at: usize) -> Option<(&[u8], &[u8], usize)> {
    let size = u32::from_be_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?);
    let name = head.get(at + 4..at + 8)?;
    let (begin, size) = match size {
        // To the end of the file.
        0 => (8, head.len() - at),
        1 => {
            let size = u64::from_be_bytes(head.get(at + 8..at + 16)?.try_into().ok()?);
            (16, usize::try_from(size).ok()?)
        }
        size => (8, usize::try_from(size).ok()?),
    };
    let end = at.checked_add(size).filter(|_| size >= begin)?;
    Some((name, head.get(at + begin..end.min(head.len()))?, end))
}

/// The first box that says something: its name and its content.
fn telling_box(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    for _ in 0..BOXES_MAX {
        let (name, content, next) = box_at(head, at)?;
        if !matches!(name, b"free" | b"skip" | b"wide" | b"uuid" | b"pdin") {
            return Some((name, content));
        }
        at = next;
    }
    None
}

/// The brands that a file claims: the major one first.
fn brands(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let content = telling_box(head).filter(|(name, _)| *name == b"ftyp").map_or(&[][..], |(_, content)| content);
    // After the major brand comes its version.
    content.chunks_exact(4).enumerate().filter(|(at, _)| *at != 1).map(|(_, brand)| brand)
}

fn iso(head: &[u8]) -> Option<&'static str> {
    let (name, content) = telling_box(head)?;
    match name {
        b"ftyp" => {
            let types = brands(head).map(brand_type);
            let (major, mut others) = (brand_type(brands(head).next()?), types.skip(1).flatten());
            match major {
                // Any image: a compatible brand says which.
                Some("image/heif") => {
                    others.find(|other| other.starts_with("image/") && *other != "image/heif").or(major)
                }
                Some(_) => major,
                None => others.next(),
            }
        }
        // QuickTime before there were brands.
        b"moov" => matches!(content.get(4..8), Some(b"mvhd" | b"cmov" | b"rmra")).then_some("video/quicktime"),
        b"mdat" | b"pnot" => Some("video/quicktime"),
        _ => None,
    }
}

/// What a brand stands for. <https://mp4ra.org/registered-types/brands>, <https://www.ftyps.com>
fn brand_type(brand: &[u8]) -> Option<&'static str> {
    Some(match brand {
        b"avif" | b"avis" => "image/avif",
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => "image/heic",
        b"mif1" | b"mif2" | b"msf1" => "image/heif",
        b"crx " => "image/x-canon-cr3",
        b"M4A " | b"M4B " | b"M4P " | b"F4A " | b"F4B " => "audio/mp4",
        b"qt  " => "video/quicktime",
        [b'3', b'g', _, _] => "video/3gpp",
        [b'i', b's', b'o', _]
        | [b'm', b'p', b'4', b'1' | b'2' | b'v']
        | [b'M', b'4', b'V', _]
        | [b'N', b'D', b'S' | b'X', _]
        | [b'c', b'm', b'f', _] => "video/mp4",
        b"mp71" | b"avc1" | b"hvc1" | b"hev1" | b"av01" | b"dash" | b"msdh" | b"msix" | b"mmp4" | b"MSNV" | b"XAVC"
        | b"NSDC" | b"NDAS" | b"F4V " | b"F4P " | b"dby1" => "video/mp4",
        _ => return None,
    })
}

// ---- Matroska and Ogg ----

/// How far the name of its kind may be from the beginning of a Matroska file.
const DOCTYPE_WITHIN: usize = 256;

fn matroska(head: &[u8]) -> Option<&'static str> {
    if !head.starts_with(b"\x1a\x45\xdf\xa3") {
        return None;
    }
    let near = &head[..head.len().min(DOCTYPE_WITHIN)];
    let at = near.windows(2).position(|window| window == b"\x42\x82")?;
    // One byte tells the name's length.
    let name = near.get(at + 3..)?;
    if name.starts_with(b"webm") {
        Some("video/webm")
    } else {
        name.starts_with(b"matroska").then_some("video/x-matroska")
    }
}

fn ogg(head: &[u8]) -> Option<&'static str> {
    // The version, and flags of which there are three.
    if !head.starts_with(b"OggS\0") || head.get(5).is_some_and(|flags| *flags > 7) {
        return None;
    }
    let first = head.get(26).and_then(|segments| head.get(27 + usize::from(*segments)..)).unwrap_or_default();
    Some(match first {
        first if first.starts_with(b"OpusHead") => OGG_OPUS,
        first if first.starts_with(b"\x80theora") => "video/ogg",
        _ => "audio/ogg",
    })
}

// ---- audio without a container ----

fn sound(head: &[u8]) -> Option<&'static str> {
    if let Some(found) = id3(head) {
        return Some(found);
    }
    // Two headers that agree are no chance.
    if let Some((length, kind)) = mpeg_frame(head) {
        return head.get(length..).and_then(mpeg_frame).filter(|(_, next)| *next == kind).map(|_| "audio/mpeg");
    }
    if let Some((length, kind)) = adts_frame(head) {
        return head.get(length..).and_then(adts_frame).filter(|(_, next)| *next == kind).map(|_| "audio/aac");
    }
    is_amr(head).then_some("audio/amr")
}

/// A tag of the form ID3v2, and what follows it. <https://id3.org/id3v2.4.0-structure>
fn id3(head: &[u8]) -> Option<&'static str> {
    let [b'I', b'D', b'3', 2..=4, revision, flags, size @ ..] = head else { return None };
    let size = size.first_chunk::<4>()?;
    if *revision == 0xff || flags & 0x0f != 0 || size.iter().any(|byte| *byte > 0x7f) {
        return None;
    }
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    let after = 10 + footer + size.iter().fold(0, |size, byte| size << 7 | usize::from(*byte));
    let next = head.get(after..).unwrap_or_default();
    if next.starts_with(b"fLaC") {
        return Some("audio/x-flac");
    }
    Some(if adts_frame(next).is_some() { "audio/aac" } else { "audio/mpeg" })
}

/// A frame of MPEG audio, layers II and III: its length in bytes, and what all frames of a file have in common.
/// <http://www.mp3-tech.org/programmer/frame_header.html>
fn mpeg_frame(bytes: &[u8]) -> Option<(usize, [u8; 2])> {
    const LAYER_3: [usize; 14] = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    const LAYER_2: [usize; 14] = [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384];
    const VERSION_2: [usize; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    let [0xff, b, c, d, ..] = *bytes else { return None };
    let (version, layer) = ((b >> 3) & 3, (b >> 1) & 3);
    let (bitrate, rate) = (usize::from(c >> 4), usize::from((c >> 2) & 3));
    // Reserved: version 1, rate 3, emphasis 2. A bit rate of 0 is free, and tells no length.
    if b & 0xe0 != 0xe0 || version == 1 || !matches!(layer, 1 | 2) || rate == 3 || d & 3 == 2 {
        return None;
    }
    let rates = match (version, layer) {
        (3, 1) => LAYER_3,
        (3, _) => LAYER_2,
        _ => VERSION_2,
    };
    let kilobits = *rates.get(bitrate.checked_sub(1)?)?;
    let hertz = [44_100, 48_000, 32_000][rate]
        >> match version {
            3 => 0,
            2 => 1,
            _ => 2,
        };
    let samples = if layer == 1 && version != 3 { 72_000 } else { 144_000 };
    Some((samples * kilobits / hertz + usize::from((c >> 1) & 1), [b & 0xfe, c & 0x0c]))
}

/// A frame of AAC in ADTS: its length in bytes, and what all frames of a file have in common.
/// <https://wiki.multimedia.cx/index.php/ADTS>
fn adts_frame(bytes: &[u8]) -> Option<(usize, [u8; 2])> {
    let [0xff, b, c, d, e, f, ..] = *bytes else { return None };
    let length = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
    let sane = b & 0xf6 == 0xf0 && (c >> 2) & 15 < 13 && length >= 7;
    sane.then_some((length, [b, c & 0xfc]))
}

/// AMR, narrow band: its first frame is of one of the kinds that there are. RFC 4867, 5.3.
fn is_amr(head: &[u8]) -> bool {
    let first = head.strip_prefix(b"#!AMR\n").map(|frames| frames.first());
    let sane = first.flatten().is_some_and(|frame| frame & 0x83 == 0 && matches!(frame >> 3, 0..=8 | 15));
    sane && !is_utf8(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Frames of a size with what stands in their headers.
    fn frames(header: &[u8], length: usize, count: usize) -> Vec<u8> {
        let mut frame = header.to_vec();
        frame.resize(length, 0x55);
        frame.repeat(count)
    }

    fn boxes(boxes: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in boxes {
            bytes.extend_from_slice(&u32::try_from(content.len() + 8).expect("small").to_be_bytes());
            bytes.extend_from_slice(*name);
            bytes.extend_from_slice(content);
        }
        bytes
    }

    #[test]
    fn brands_decide_what_a_container_holds() {
        for (brands, expected) in [
            (&b"isom\0\0\x02\0isomiso2avc1mp41"[..], Some("video/mp4")),
            (b"iso8\0\0\0\0iso8mp41dash", Some("video/mp4")),
            (b"hvc1\0\0\0\0isom", Some("video/mp4")),
            (b"XYZ1\0\0\0\0isomavc1", Some("video/mp4")),
            (b"mp42\0\0\0\0M4A mp42isom", Some("video/mp4")),
            (b"M4A \0\0\0\0M4A mp42isom", Some("audio/mp4")),
            (b"M4V \0\0\0\x01M4V mp42isom", Some("video/mp4")),
            (b"qt  \0\0\x02\0qt  ", Some("video/quicktime")),
            (b"3gp5\0\0\x01\0isom3gp5", Some("video/3gpp")),
            (b"heic\0\0\0\0mif1heic", Some("image/heic")),
            (b"mif1\0\0\0\0mif1heicmiaf", Some("image/heic")),
            (b"mif1\0\0\0\0mif1avifmiaf", Some("image/avif")),
            (b"avif\0\0\0\0mif1miafMA1B", Some("image/avif")),
            (b"mif1\0\0\0\0mif1", Some("image/heif")),
            (b"crx \0\0\0\x01crx isom", Some("image/x-canon-cr3")),
            (b"XYZ1\0\0\0\0XYZ2", None),
        ] {
            for before in [&[][..], &[(b"free", &b"\0\0\0"[..])], &[(b"skip", &[0; 40]), (b"free", b"")]] {
                let file = boxes(&[before, &[(b"ftyp", brands), (b"mdat", b"\0")]].concat());
                assert_eq!(media(&file), expected, "{}", String::from_utf8_lossy(brands));
            }
        }
        for (file, expected) in [
            (boxes(&[(b"moov", &boxes(&[(b"mvhd", b"\0\0")]))]), Some("video/quicktime")),
            (boxes(&[(b"wide", b""), (b"mdat", b"\0\x01")]), Some("video/quicktime")),
            (boxes(&[(b"moov", b"something")]), None),
            (boxes(&[(b"free", &b"\0"[..]); 20]), None),
            (b"\0\0\0\x02ftypisom\0\0\0\0isom".to_vec(), None),
            (b"\xff\xff\xff\xfffree\0".to_vec(), None),
            (b"\0\0\0\x01free\xff\xff\xff\xff\xff\xff\xff\xffftyp".to_vec(), None),
        ] {
            assert_eq!(media(&file), expected, "{}", String::from_utf8_lossy(&file));
        }
    }

    #[test]
    fn audio_is_told_by_two_frames_that_agree() {
        let id3 = |size: u8, rest: &[u8]| [&b"ID3\x03\0\0\0\0\0"[..], &[size], &vec![0; size.into()], rest].concat();
        for (bytes, expected) in [
            // 128 kbit/s at 44.1 kHz; MPEG 2 and 2.5; layer II; with a checksum.
            (frames(b"\xff\xfb\x90\x64", 417, 3), Look::Certain("audio/mpeg")),
            (frames(b"\xff\xfa\x90\x64", 417, 3), Look::Certain("audio/mpeg")),
            (frames(b"\xff\xf3\x40\xc4", 104, 3), Look::Certain("audio/mpeg")),
            (frames(b"\xff\xe3\x18\xc4", 72, 3), Look::Certain("audio/mpeg")),
            (frames(b"\xff\xe2\x18\xc4", 72, 3), Look::Certain("audio/mpeg")),
            (frames(b"\xff\xfd\x80\x04", 417, 3), Look::Certain("audio/mpeg")),
            // AAC: MPEG 4 and 2, with and without a checksum; frames of 100 bytes.
            (frames(b"\xff\xf1\x50\x80\x0c\x9f\xfc", 100, 3), Look::Certain("audio/aac")),
            (frames(b"\xff\xf0\x50\x80\x0c\x9f\xfc", 100, 3), Look::Certain("audio/aac")),
            (frames(b"\xff\xf9\x50\x80\x0c\x9f\xfc", 100, 3), Look::Certain("audio/aac")),
            (frames(b"\xff\xf8\x50\x80\x0c\x9f\xfc", 100, 3), Look::Certain("audio/aac")),
            // One header alone may be chance.
            (frames(b"\xff\xfb\x90\x64\0", 100, 1), Look::Perhaps("audio/mpeg")),
            (frames(b"\xff\xf8\x50\x80\x0c\x9f\xfc\0", 50, 1), Look::Perhaps("audio/aac")),
            ([frames(b"\xff\xfb\x90\x64\0", 417, 1), vec![7; 100]].concat(), Look::Perhaps("audio/mpeg")),
            // Reserved values.
            (frames(b"\xff\xeb\x90\x64\0", 417, 3), Look::Unknown),
            (frames(b"\xff\xfb\xf0\x64\0", 417, 3), Look::Unknown),
            (frames(b"\xff\xfb\x9c\x64\0", 417, 3), Look::Unknown),
            (id3(20, b""), Look::Certain("audio/mpeg")),
            (id3(20, &frames(b"\xff\xfb\x90\x64", 417, 2)), Look::Certain("audio/mpeg")),
            (id3(20, &frames(b"\xff\xf1\x50\x80\x0c\x9f\xfc", 100, 2)), Look::Certain("audio/aac")),
            (b"ID3\x04\0\0\xff\xff\xff\xff".to_vec(), Look::Unknown),
            (b"#!AMR\n\x3c\x55\x0a\x7c\xf7\x6c".to_vec(), Look::Certain("audio/amr")),
        ] {
            assert_eq!(look(&bytes), expected, "{:02x?}", &bytes[..bytes.len().min(12)]);
        }
    }

    #[test]
    fn other_signatures() {
        let exe = [&b"MZ\x90\0"[..], &[0; 56], &[64, 0, 0, 0], b"PE\0\0"].concat();
        for (bytes, expected) in [
            (&b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x02\0\0\0"[..], Look::Certain("image/bmp")),
            (b"BM\x01\x02 and more of what is no image at all", Look::Unknown),
            (b"RIFF\x24\0\0\0WEBPVP8X", Look::Certain("image/webp")),
            (b"RIFF\x24\0\0\0CDR9", Look::Unknown),
            (b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0", Look::Certain("audio/wav")),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm\x42", Look::Certain("video/webm")),
            (b"\x1a\x45\xdf\xa3\xa3\x42\x82\x88matroska\x42", Look::Certain("video/x-matroska")),
            (b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x2a\x80theora\x03", Look::Certain("video/ogg")),
            (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n\x01", Look::Certain("application/pdf")),
            (b"\r\n%PDF-1.4\n\0", Look::Certain("application/pdf")),
            (&exe, Look::Binary("application/vnd.microsoft.portable-executable")),
            (b"MZ\x90\0", Look::Unknown),
            (b"PK\x03\x04\x14\0\0\0", Look::Binary("application/zip")),
            (b"Rar!\x1a\x07\x01\0", Look::Binary("application/vnd.rar")),
            (b"<!DOCTYPE html><html>", Look::Perhaps("text/html")),
            (b"", Look::Unknown),
            (b"\0", Look::Unknown),
        ] {
            assert_eq!(look(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn text_is_never_taken_for_anything_else(begin in "(GIF8[79]a|BM|MZ|ID3|RIFF[^\\pC]{4}WAVE|OggS|PK|%!|BC|Rar!)?", rest in "[^\\pC]{0,200}") {
            let look = look(format!("{begin}{rest}").as_bytes());
            prop_assert!(!matches!(look, Look::Certain(_) | Look::Binary(_)), "{:?}", look);
        }

        #[test]
        fn whatever_the_bytes_are_nothing_panics(
            begin in prop::sample::select(vec![
                &b""[..], b"\xff\xfb", b"\xff\xf1", b"ID3\x04\0\0", b"\0\0\0\x18ftyp", b"\0\0\0\x01free", b"OggS\0\x02", b"RIFF",
                b"\x1a\x45\xdf\xa3", b"BM", b"MZ", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"#!AMR\n",
            ]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            look(&[begin, &rest].concat());
        }
    }
}
