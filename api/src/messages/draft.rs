//! What a client wants sent, read from JSON field by field.

use std::time::Duration;

use sanasr_shared::ids::{MediaId, MessageId, new_whatsapp_id};
use sanasr_shared::media::{HEAD_BYTES, check, check_voice, fit, identify, is_same_type, name};
use sanasr_shared::message::{Contact, Content, Location, MAX_LIFE, Media, Message, MessageType, NewMessage};
use sanasr_shared::ports::files::StoredFile;
use sanasr_shared::recipient::{BareNumbers, Recipient};
use sanasr_shared::session::DEFAULT_SESSION;
use sanasr_shared::time::Time;
use serde_json::Value;
use uuid::Uuid;

use super::encoded::{self, Encoded};
use super::files::NewContent;
use crate::fields::{FieldErrors, Fields, TextRule};
use crate::multipart::Upload;
use crate::sessions::resolve::KnownSession;

const TEXT: TextRule = TextRule::lines(4_096);
const CAPTION: TextRule = TextRule::lines(1_024);
pub(crate) const REFERENCE: TextRule = TextRule::line(255);
const URL: TextRule = TextRule::line(2_048);
const FILENAME: TextRule = TextRule::line(255);
const MIME_TYPE: TextRule = TextRule::line(127);
const NAME: TextRule = TextRule::line(255);
const ADDRESS: TextRule = TextRule::lines(1_024);
const VCARD: TextRule = TextRule::lines(16_384);
/// Characters of the name of a session that can exist; what is longer needn't be looked up.
const SESSION: TextRule = TextRule::line(64);
/// How far a client's clock may be behind ours: a `send_at` this little in the past means "now".
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// A file that isn't what it is said to be.
const MISMATCH: &str = "media_type_mismatch";

const MEDIA_TYPES: [MessageType; 5] =
    [MessageType::Image, MessageType::Video, MessageType::Audio, MessageType::Document, MessageType::Sticker];

/// The forms in which a message may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `POST /messages` and the items of a batch.
    Full,
    /// `POST /messages/send-text`.
    Text,
    /// `POST /messages/send-media` with the file's address.
    Media,
    /// `POST /messages/send-media` with the file itself.
    Upload,
}

/// What the reading of a message depends on, besides its text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// When it came.
    pub(crate) now: Time,
    pub(crate) bare_numbers: BareNumbers,
}

/// A message as far as it could be read. What could not is in `errors`; with none, [`Draft::finish`] makes a message.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Its position in its request.
    pub(crate) position: u32,
    /// What stands before its fields' names.
    prefix: String,
    /// The name of its session; `None` if that is wrong already.
    pub(crate) session: Option<String>,
    pub(crate) reply_to: Option<MessageId>,
    recipient: Option<Recipient>,
    kind: Option<MessageType>,
    content: Content,
    /// The file that came with it; what is known of it is in `content.media`.
    pub(crate) file: Option<NewContent>,
    reference: Option<String>,
    send_at: Option<Time>,
    expires_at: Option<Time>,
    pub(crate) errors: FieldErrors,
}

/// A file that isn't there: the code and what is said of it.
pub(crate) const UNKNOWN_MEDIA: &str = "unknown_media";
pub(crate) const NO_MEDIA: &str = "There is no such uploaded file.";

/// A message that can be accepted, with what its answer says besides.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) position: u32,
    /// What stands before its fields' names.
    pub(crate) prefix: String,
    pub(crate) session: String,
    pub(crate) known: KnownSession,
    pub(crate) message: NewMessage,
    /// The file that came with it and isn't kept yet.
    pub(crate) file: Option<NewContent>,
}

impl Draft {
    /// Reads a message. `prefix` stands before its fields' names: nothing, or `messages[3]`.
    pub(crate) fn read(value: Value, form: Form, position: u32, prefix: &str, rules: Rules) -> Self {
        let mut errors = FieldErrors::default();
        let dotted = if prefix.is_empty() { String::new() } else { format!("{prefix}.") };
        let mut draft = match value {
            Value::Object(map) => {
                let mut fields = Fields::new(map, dotted.as_str(), &mut errors);
                let draft = read(&mut fields, form, rules);
                fields.finish();
                draft
            }
            _ => {
                errors.add(prefix, "invalid_type", "Must be an object.");
                blank()
            }
        };
        draft.position = position;
        draft.prefix = dotted;
        draft.errors = errors;
        draft
    }

    /// Notes what is wrong with a field that had to be looked up.
    pub(crate) fn fail(&mut self, name: &str, code: &'static str, detail: &str) {
        self.errors.add(format!("{}{name}", self.prefix), code, detail);
    }

    /// The uploaded file that it names.
    pub(crate) fn media_id(&self) -> Option<MediaId> {
        self.content.media.as_ref()?.id
    }

    /// Takes the file that came as a part of its own.
    pub(crate) fn attach(&mut self, upload: Option<Upload>) {
        let Some(Upload { file, head, filename, declared, .. }) = upload else {
            return self.fail("file", "required", "This part is needed.");
        };
        let Some(kind) = self.kind else { return };
        match fit(kind, &identify(&head, declared.as_deref())) {
            Ok(mime_type) => {
                self.content.media = Some(Media { mime_type: Some(mime_type), filename, ..Media::default() });
                self.file = Some(NewContent::File(file));
            }
            Err(detail) => self.fail("file", MISMATCH, &detail),
        }
    }

    /// Takes what is known of the uploaded file that it names.
    pub(crate) fn refer(&mut self, file: Option<&StoredFile>) {
        let Some(file) = file else {
            return self.fail("media.id", UNKNOWN_MEDIA, NO_MEDIA);
        };
        let (Some(kind), Some(media)) = (self.kind, &mut self.content.media) else { return };
        match fit(kind, &file.mime_type) {
            Ok(mime_type) => {
                let voice = media.voice.filter(|voice| *voice).map(|_| check_voice(&mime_type));
                media.mime_type = Some(mime_type);
                media.filename = media.filename.take().or_else(|| file.filename.clone());
                if let Some(Err(detail)) = voice {
                    self.fail("media.voice", MISMATCH, &detail);
                }
            }
            Err(detail) => self.fail("media.id", MISMATCH, &detail),
        }
    }

    /// Checks the message that it answers: one of the same conversation, as WhatsApp shows an answer beside what it answers.
    pub(crate) fn answer(&mut self, answered: Option<&Message>) {
        let Some(answered) = answered else {
            return self.fail("reply_to", "unknown_message", "There is no such message.");
        };
        let elsewhere = self.recipient.as_ref().is_some_and(|to| *to != answered.to)
            || self.session.as_ref().is_some_and(|session| *session != answered.session);
        if elsewhere {
            self.fail(
                "reply_to",
                "other_conversation",
                "The message that is answered went to another recipient, or from another session.",
            );
        }
    }

    /// The message, or all that is wrong with it.
    pub(crate) fn finish(self, known: Option<KnownSession>, request_id: &str) -> Result<Prepared, FieldErrors> {
        match (known, self.session, self.recipient, self.kind) {
            (Some(known), Some(session), Some(recipient), Some(kind)) if self.errors.is_empty() => Ok(Prepared {
                position: self.position,
                prefix: self.prefix,
                session,
                known,
                message: NewMessage {
                    id: MessageId::generate(),
                    session: known.id,
                    recipient,
                    whatsapp_id: new_whatsapp_id(),
                    kind,
                    content: self.content,
                    reply_to: self.reply_to,
                    replayed_from: None,
                    reference: self.reference,
                    send_at: self.send_at,
                    expires_at: self.expires_at,
                    request_id: request_id.to_owned(),
                },
                file: self.file,
            }),
            _ => Err(self.errors),
        }
    }
}

fn blank() -> Draft {
    Draft {
        position: 0,
        prefix: String::new(),
        session: None,
        reply_to: None,
        recipient: None,
        kind: None,
        content: Content::default(),
        file: None,
        reference: None,
        send_at: None,
        expires_at: None,
        errors: FieldErrors::default(),
    }
}

fn read(fields: &mut Fields<'_>, form: Form, Rules { now, bare_numbers }: Rules) -> Draft {
    let to = match form {
        Form::Full => fields.synonym("to", "recipient"),
        Form::Text | Form::Media | Form::Upload => fields.synonym("recipient", "to"),
    };
    fields.require(to);
    let recipient = fields.parsed(to, "invalid_phone_number", |text| Recipient::read(text, bare_numbers));
    let mut file = None;
    let (kind, content) = match form {
        Form::Full => full_content(fields, bare_numbers, &mut file),
        Form::Text => text_content(fields),
        Form::Media => media_content(fields),
        Form::Upload => upload_content(fields),
    };
    let session = match fields.has("session") {
        true => fields.text("session", SESSION),
        false => Some(DEFAULT_SESSION.to_owned()),
    };
    let reply_to = fields.id("reply_to").map(MessageId);
    let reference = fields.text("reference", REFERENCE);
    let (send_at, expires_at) = times(fields, now);
    Draft { session, reply_to, recipient, kind, content, file, reference, send_at, expires_at, ..blank() }
}

fn text_content(fields: &mut Fields<'_>) -> (Option<MessageType>, Content) {
    let name = fields.synonym("content", "text");
    fields.require(name);
    let text = fields.text(name, TEXT);
    (Some(MessageType::Text), Content { text, ..Content::default() })
}

fn media_content(fields: &mut Fields<'_>) -> (Option<MessageType>, Content) {
    fields.require("media_type");
    let kind = fields.word("media_type", &MEDIA_TYPES, MessageType::as_str);
    fields.require("media_url");
    let url = fields.parsed("media_url", "invalid_url", check_url);
    let caption = caption(fields, kind);
    let media = url.map(|url| Media { url: Some(url), ..Media::default() });
    (kind, Content { media, caption, ..Content::default() })
}

fn upload_content(fields: &mut Fields<'_>) -> (Option<MessageType>, Content) {
    fields.require("media_type");
    let kind = fields.word("media_type", &MEDIA_TYPES, MessageType::as_str);
    if fields.parsed("media_url", "invalid_url", check_url).is_some() {
        fields.fail("media_url", "given_twice", "Give only one of file and media_url.");
    }
    let caption = caption(fields, kind);
    (kind, Content { caption, ..Content::default() })
}

fn full_content(
    fields: &mut Fields<'_>,
    bare_numbers: BareNumbers,
    file: &mut Option<NewContent>,
) -> (Option<MessageType>, Content) {
    let text_name = fields.synonym("text", "content");
    let given = fields.has("type");
    let kind = match fields.word("type", &MessageType::ALL, MessageType::as_str) {
        None if !given && fields.has(text_name) => Some(MessageType::Text),
        None if !given => {
            fields.fail("type", "required", "This field is needed, unless there is a text.");
            None
        }
        kind => kind,
    };
    part(fields, text_name, kind, |kind| kind == MessageType::Text);
    let text = fields.text(text_name, TEXT);
    part(fields, "media", kind, MessageType::is_media);
    let media = fields.object("media", |media| read_media(media, kind, file));
    part(fields, "location", kind, |kind| kind == MessageType::Location);
    let location = fields.object("location", read_location).flatten();
    part(fields, "contact", kind, |kind| kind == MessageType::Contact);
    let contact = fields.object("contact", |contact| read_contact(contact, bare_numbers));
    let caption = caption(fields, kind);
    (kind, Content { text, media, location, contact, caption })
}

/// Notes a part that a message of this type needs and hasn't, or has and can't.
fn part(fields: &mut Fields<'_>, name: &'static str, kind: Option<MessageType>, belongs: fn(MessageType) -> bool) {
    let Some(kind) = kind else { return };
    if belongs(kind) {
        fields.require(name);
    } else if fields.has(name) {
        fields.fail(name, "not_allowed", format!("A message of type {} has none.", kind.as_str()));
    }
}

fn caption(fields: &mut Fields<'_>, kind: Option<MessageType>) -> Option<String> {
    let may = |kind| matches!(kind, MessageType::Image | MessageType::Video | MessageType::Document);
    if let Some(kind) = kind.filter(|kind| !may(*kind) && fields.has("caption")) {
        fields.fail("caption", "not_allowed", format!("A message of type {} has none.", kind.as_str()));
    }
    fields.text("caption", CAPTION)
}

fn read_media(fields: &mut Fields<'_>, kind: Option<MessageType>, file: &mut Option<NewContent>) -> Media {
    let sources = ["url", "id", "base64"];
    let given: Vec<_> = sources.into_iter().filter(|name| fields.has(name)).collect();
    match given.as_slice() {
        [] => fields.fail("url", "required", "One of url, id and base64 is needed."),
        [_] => {}
        [_, more @ ..] => {
            for name in more {
                fields.fail(name, "given_twice", "Give only one of url, id and base64.");
            }
        }
    }
    let url = fields.parsed("url", "invalid_url", check_url);
    // Whether there is such a file is looked up with all others, as for `reply_to`.
    let id = fields.parsed("id", "unknown_media", |text| {
        Uuid::try_parse(text).map(MediaId).map_err(|_| "There is no such uploaded file.".to_owned())
    });
    let encoded = fields.has("base64");
    let read = fields.parsed("base64", "invalid_base64", encoded::decode);
    let given = fields.has("mime_type");
    if !encoded && given {
        fields.fail(
            "mime_type",
            "not_allowed",
            "Goes with base64 only; what other files are is told by their content.",
        );
    }
    let declared = fields.parsed("mime_type", "invalid_mime_type", |text| check_mime_type(text, kind));
    let mut mime_type = None;
    *file = read.map(|Encoded { bytes, mime_type: named }| {
        let declared = one_type(fields, named.as_deref(), given, declared.as_deref(), kind);
        if let (Some(declared), Some(kind)) = (declared, kind.filter(|kind| kind.is_media())) {
            match check(&bytes[..bytes.len().min(HEAD_BYTES)], kind, Some(&declared)) {
                Ok(found) => mime_type = Some(found),
                Err(detail) => fields.fail("base64", MISMATCH, detail),
            }
        }
        NewContent::Bytes(bytes)
    });
    if encoded && file.is_none() && !given {
        fields.fail("mime_type", "required", "This field is needed.");
    }
    let filename = fields.text("filename", FILENAME);
    let kept = filename.as_deref().map(name::kept);
    if kept == Some(None) {
        fields.fail("filename", "empty", "Must name a file, not a folder.");
    }
    if fields.has("voice") && kind.is_some_and(|kind| kind != MessageType::Audio) {
        fields.fail("voice", "not_allowed", "Goes with type audio only.");
    }
    let voice = fields.flag("voice");
    if let (Some(true), Some(mime_type), Some(MessageType::Audio)) = (voice, &mime_type, kind)
        && let Err(detail) = check_voice(mime_type)
    {
        fields.fail("voice", MISMATCH, detail);
    }
    Media { url, id, mime_type, filename: kept.flatten(), voice }
}

/// What a file in base64 is declared to be: by `mime_type` (which may be given and wrong), or by the `data:` address that it
/// came as; both must mean the same.
fn one_type(
    fields: &mut Fields<'_>,
    named: Option<&str>,
    given: bool,
    declared: Option<&str>,
    kind: Option<MessageType>,
) -> Option<String> {
    match (named, declared) {
        (None, None) if !given => {
            fields.fail("mime_type", "required", "This field is needed.");
            None
        }
        (Some(named), None) if !given => match check_mime_type(named, kind) {
            Ok(named) => Some(named),
            Err(detail) => {
                fields.fail(
                    "base64",
                    "invalid_mime_type",
                    format!("Its data: address names the type {named}: {detail}"),
                );
                None
            }
        },
        (Some(named), Some(declared)) if !is_same_type(named, declared) => {
            fields.fail("mime_type", "invalid_mime_type", "Contradicts the type in the data: address of base64.");
            None
        }
        (_, declared) => declared.map(str::to_owned),
    }
}

fn check_url(text: &str) -> Result<String, String> {
    if text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        return Err("Must be an http:// or https:// address. Send a data: address as media.base64.".to_owned());
    }
    URL.check(text).map_err(|(_, detail)| detail)?;
    let sane = text.parse::<axum::http::Uri>().is_ok_and(|uri| {
        let named = uri.authority().is_some_and(|host| !host.host().is_empty() && !host.as_str().contains('@'));
        matches!(uri.scheme_str(), Some("http" | "https")) && named
    });
    if sane {
        Ok(text.to_owned())
    } else {
        Err("Must be an http:// or https:// address without a password.".to_owned())
    }
}

fn check_mime_type(text: &str, kind: Option<MessageType>) -> Result<String, String> {
    MIME_TYPE.check(text).map_err(|(_, detail)| detail)?;
    let token =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    let lower = text.trim_ascii().to_ascii_lowercase();
    let essence = lower.split(';').next().unwrap_or_default().trim_end();
    let Some((group, _)) = essence.split_once('/').filter(|(group, sub)| token(group) && token(sub)) else {
        return Err("Must be a media type such as image/png.".to_owned());
    };
    let fits = match kind {
        Some(MessageType::Image) => group == "image",
        Some(MessageType::Video) => group == "video",
        Some(MessageType::Audio) => group == "audio",
        Some(MessageType::Sticker) => essence == "image/webp",
        Some(MessageType::Document | MessageType::Text | MessageType::Location | MessageType::Contact) | None => true,
    };
    if fits { Ok(lower) } else { Err("Doesn't fit the message's type.".to_owned()) }
}

fn read_location(fields: &mut Fields<'_>) -> Option<Location> {
    fields.require("latitude");
    fields.require("longitude");
    let latitude = fields.number("latitude", -90.0, 90.0);
    let longitude = fields.number("longitude", -180.0, 180.0);
    let name = fields.text("name", NAME);
    let address = fields.text("address", ADDRESS);
    Some(Location { latitude: latitude?, longitude: longitude?, name, address })
}

fn read_contact(fields: &mut Fields<'_>, bare_numbers: BareNumbers) -> Contact {
    let phone_name = fields.synonym("phone_number", "phone");
    if fields.has("vcard") {
        for name in ["name", phone_name] {
            if fields.has(name) {
                fields.fail(name, "not_allowed", "Give either a vcard, or name and phone_number.");
            }
        }
    } else {
        fields.require("name");
        fields.require(phone_name);
    }
    let name = fields.text("name", NAME);
    let number = fields.parsed(phone_name, "invalid_phone_number", |text| Recipient::read_number(text, bare_numbers));
    let phone_number = number.map(|number| number.as_str().to_owned());
    let vcard = fields.text("vcard", VCARD);
    // Files of cards may begin with a byte order mark.
    let vcard = vcard.map(|vcard| vcard.trim_start_matches('\u{feff}').to_owned());
    if let Err(wrong) = vcard.as_deref().map_or(Ok(()), check_card) {
        fields.fail("vcard", "invalid_vcard", wrong);
    }
    Contact { name, phone_number, vcard }
}

/// Whether the text is one vCard, which may hold others as its agents (version 2.1).
fn check_card(text: &str) -> Result<(), &'static str> {
    let is = |line: &str, other: &str| line.trim().eq_ignore_ascii_case(other);
    let mut lines = text.split(['\r', '\n']).skip_while(|line| line.trim().is_empty());
    if !lines.next().is_some_and(|line| is(line, "BEGIN:VCARD")) {
        return Err("Must begin with a line BEGIN:VCARD.");
    }
    let mut open = 1_u32;
    for line in lines {
        match open {
            0 if is(line, "BEGIN:VCARD") => return Err("Must be one vCard. Send each in a message of its own."),
            0 if !line.trim().is_empty() => return Err("Must end with a line END:VCARD."),
            0 => {}
            _ if is(line, "BEGIN:VCARD") => open += 1,
            _ if is(line, "END:VCARD") => open -= 1,
            _ => {}
        }
    }
    if open == 0 { Ok(()) } else { Err("Must end with a line END:VCARD.") }
}

/// When to send it, if not at once, and when it is worthless.
fn times(fields: &mut Fields<'_>, now: Time) -> (Option<Time>, Option<Time>) {
    let days = MAX_LIFE.as_secs() / 86_400;
    let asked = fields.time("send_at");
    let send_at = asked.filter(|at| *at > now);
    if asked.is_some_and(|at| at.plus(CLOCK_SKEW) < now) {
        fields.fail("send_at", "in_the_past", "Must not be in the past.");
    } else if send_at.is_some_and(|at| at > now.plus(MAX_LIFE)) {
        fields.fail("send_at", "too_far_ahead", format!("Must be within {days} days."));
    }
    let due = send_at.unwrap_or(now);
    let expires_at = fields.time("expires_at");
    if let Some(at) = expires_at {
        if at <= now {
            fields.fail("expires_at", "in_the_past", "Must be in the future.");
        } else if at <= due {
            fields.fail("expires_at", "before_send_at", "Must be after send_at.");
        } else if at > due.plus(MAX_LIFE) {
            fields.fail(
                "expires_at",
                "too_far_ahead",
                format!("Must be within {days} days after the message falls due."),
            );
        }
    }
    (send_at, expires_at)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    const NOW: Time = Time(1_700_000_000_000);

    const RULES: Rules = Rules { now: NOW, bare_numbers: BareNumbers::Refused };

    fn at(ms: i64) -> String {
        Time(NOW.0 + ms).to_string()
    }

    fn known() -> Option<KnownSession> {
        Some(KnownSession {
            id: sanasr_shared::ids::SessionId::generate(),
            bridge: sanasr_shared::session::BridgeKind::Simulator,
            blocked_by: None,
        })
    }

    fn read_form(form: Form, value: Value) -> Result<NewMessage, Vec<(String, &'static str)>> {
        let draft = Draft::read(value, form, 0, "", RULES);
        match draft.finish(known(), "r") {
            Ok(prepared) => Ok(prepared.message),
            Err(errors) => Err(errors.into_vec().into_iter().map(|e| (e.field, e.code)).collect()),
        }
    }

    fn read(value: Value) -> Result<NewMessage, Vec<(String, &'static str)>> {
        read_form(Form::Full, value)
    }

    /// A good text message with other fields.
    fn with(more: Value) -> Value {
        let mut body = json!({"to": "+15551234567", "type": "text", "text": "hi"});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        body
    }

    /// The first bytes of a PNG.
    const PNG: &str = "iVBORw0KGgoAAAANSUhEUg==";

    fn file(media: Value) -> Value {
        json!({"to": "+15551234567", "type": "image", "media": media})
    }

    /// The first bytes of a voice note, and of a WAV file.
    const OPUS: &[u8] = b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01";
    const WAV: &[u8] = b"RIFF\x24\0\0\0WAVEfmt ";

    fn audio(bytes: &[u8], voice: bool) -> Value {
        let base64 = STANDARD.encode(bytes);
        let mime_type = if bytes == OPUS { "audio/ogg" } else { "audio/wav" };
        json!({"to": "+15551234567", "type": "audio", "media": {"base64": base64, "mime_type": mime_type, "voice": voice}})
    }

    #[test]
    fn a_card_is_one_whole_vcard() {
        for good in [
            "BEGIN:VCARD\nEND:VCARD",
            "BEGIN:VCARD\rFN:Jane\rEND:VCARD\r",
            "\r\nbegin:vcard\r\nFN:Jane\r\nend:vcard\r\n\r\n",
            "BEGIN:VCARD\nAGENT:\nBEGIN:VCARD\nFN:Joe\nEND:VCARD\nEND:VCARD\n",
        ] {
            assert_eq!(check_card(good), Ok(()), "{good:?}");
        }
        let one = "BEGIN:VCARD\nFN:Jane\nEND:VCARD\n";
        for (bad, said) in [
            ("Jane", "begin"),
            ("BEGIN:VCARDS\nEND:VCARD", "begin"),
            ("FN:Jane\nBEGIN:VCARD\nEND:VCARD", "begin"),
            ("BEGIN:VCARD", "end"),
            ("BEGIN:VCARD\nFN:Jane\n", "end"),
            ("BEGIN:VCARD\nFN:Jane\nEND:VCARD\nFN:Joe\n", "end"),
            (&one.repeat(2), "one vCard"),
        ] {
            assert!(check_card(bad).is_err_and(|wrong| wrong.contains(said)), "{bad:?}");
        }
    }

    #[test]
    fn every_type_can_be_given() {
        for body in [
            with(json!({})),
            json!({"recipient": "15551234567@c.us", "type": "text", "content": "a\nb"}),
            file(json!({"url": "https://example.org/a.png", "filename": "C:\\x\\a.png"})),
            file(json!({"base64": PNG, "mime_type": "image/PNG"})),
            file(json!({"id": "01890a5d-ac96-774b-bcce-b302099a8057"})),
            json!({"to": "+15551234567", "type": "audio", "media": {"url": "http://a/b", "voice": true}}),
            json!({"to": "+15551234567", "type": "location", "location": {"latitude": 1, "longitude": -180, "name": "x"}}),
            json!({"to": "+15551234567", "type": "contact", "contact": {"name": "A", "phone_number": "+1 555 1234567"}}),
            json!({"to": "+15551234567", "type": "contact", "contact": {"name": "A", "phone": "+1 555 1234567"}}),
            json!({"to": "+15551234567", "type": "contact", "contact": {"vcard": "BEGIN:VCARD\nEND:VCARD"}}),
            json!({"to": "+15551234567", "text": "no type"}),
            json!({"to": "+15551234567", "content": "no type"}),
            json!({"to": "+15551234567", "type": "contact", "contact": {"vcard": "\u{feff}begin:vcard\nEND:VCARD"}}),
            file(json!({"base64": format!("data:image/png;base64,{PNG}")})),
            file(json!({"base64": format!("data:image/png;base64,{PNG}"), "mime_type": "image/png"})),
            file(json!({"base64": format!("data:application/octet-stream;base64,{PNG}"), "mime_type": "image/png"})),
            file(json!({"base64": PNG.trim_end_matches('='), "mime_type": "image/png"})),
            audio(OPUS, true),
            audio(WAV, false),
        ] {
            let result = read(body.clone());
            assert!(result.is_ok(), "{body}: {result:?}");
        }
        let named = read(file(json!({"url": "https://example.org/a.png", "filename": "C:\\x\\a.png"}))).expect("good");
        assert_eq!(named.content.media.and_then(|m| m.filename).as_deref(), Some("a.png"));
        let text = read_form(Form::Text, json!({"recipient": "+15551234567", "content": "x"})).expect("good");
        assert_eq!((text.kind, text.content.text.as_deref()), (MessageType::Text, Some("x")));
        let media =
            json!({"recipient": "+15551234567", "media_url": "https://a/b", "media_type": "video", "caption": "c"});
        assert_eq!(read_form(Form::Media, media).expect("good").kind, MessageType::Video);
    }

    #[test]
    fn every_bad_field_is_named() {
        for (body, expected) in [
            (json!({}), vec![("to", "required"), ("type", "required")]),
            (json!({"type": "text"}), vec![("to", "required"), ("text", "required")]),
            (with(json!({"to": "15551234567"})), vec![("to", "invalid_phone_number")]),
            (with(json!({"type": null, "text": null})), vec![("type", "required")]),
            (with(json!({"to": "hello"})), vec![("to", "invalid_phone_number")]),
            (with(json!({"recipient": "+15551234567"})), vec![("recipient", "given_twice")]),
            (with(json!({"type": "smoke"})), vec![("type", "unknown_value")]),
            (with(json!({"type": 1})), vec![("type", "invalid_type")]),
            (with(json!({"text": "a\u{0}"})), vec![("text", "control_characters")]),
            (with(json!({"text": "a".repeat(4_097)})), vec![("text", "too_long")]),
            (with(json!({"caption": "c"})), vec![("caption", "not_allowed")]),
            (with(json!({"media": {"url": "https://a/b"}})), vec![("media", "not_allowed")]),
            (
                with(json!({"session": 5, "reference": "", "more": 1})),
                vec![("session", "invalid_type"), ("reference", "empty"), ("more", "unknown_field")],
            ),
            (
                with(json!({"reference": "a".repeat(256), "reply_to": "x"})),
                vec![("reply_to", "invalid_id"), ("reference", "too_long")],
            ),
            (file(json!({})), vec![("media.url", "required")]),
            (
                file(json!({"url": "ftp://a/b", "more": 1})),
                vec![("media.url", "invalid_url"), ("media.more", "unknown_field")],
            ),
            (file(json!({"id": "x"})), vec![("media.id", "unknown_media")]),
            (file(json!({"url": "https://me:secret@a/b"})), vec![("media.url", "invalid_url")]),
            (file(json!({"base64": "UEsDBBQAAAAIAA==", "mime_type": "image/png"})), vec![("media.base64", MISMATCH)]),
            (
                file(json!({"base64": "a", "mime_type": "text"})),
                vec![("media.base64", "invalid_base64"), ("media.mime_type", "invalid_mime_type")],
            ),
            (
                file(json!({"base64": "aGk=", "mime_type": "video/mp4", "voice": true})),
                vec![("media.mime_type", "invalid_mime_type"), ("media.voice", "not_allowed")],
            ),
            (file(json!({"base64": "aGk="})), vec![("media.mime_type", "required")]),
            (file(json!({"base64": "data:;base64,aGk="})), vec![("media.mime_type", "required")]),
            (
                file(json!({"base64": format!("data:image/gif;base64,{PNG}"), "mime_type": "image/png"})),
                vec![("media.mime_type", "invalid_mime_type")],
            ),
            (
                file(json!({"base64": format!("data:video/mp4;base64,{PNG}")})),
                vec![("media.base64", "invalid_mime_type")],
            ),
            (file(json!({"base64": format!("data:image/gif;base64,{PNG}")})), vec![("media.base64", MISMATCH)]),
            (
                file(json!({"base64": "data:image/png,abc", "mime_type": "image/png"})),
                vec![("media.base64", "invalid_base64")],
            ),
            (file(json!({"url": format!("data:image/png;base64,{PNG}")})), vec![("media.url", "invalid_url")]),
            (file(json!({"url": "https://a/b", "filename": "a/.."})), vec![("media.filename", "empty")]),
            (audio(WAV, true), vec![("media.voice", MISMATCH)]),
            (
                file(json!({"url": "https://a/b", "base64": PNG, "mime_type": "image/png"})),
                vec![("media.base64", "given_twice")],
            ),
            (
                json!({"to": "+15551234567", "type": "location", "location": {"latitude": 91, "longitude": "x"}}),
                vec![("location.latitude", "out_of_range"), ("location.longitude", "invalid_type")],
            ),
            (
                json!({"to": "+15551234567", "type": "contact", "contact": {"phone_number": "1@g.us"}}),
                vec![("contact.name", "required"), ("contact.phone_number", "invalid_phone_number")],
            ),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(field, code)| (field.to_owned(), code)).collect();
            assert_eq!(read(body.clone()).expect_err(&body.to_string()), expected, "{body}");
        }
    }

    #[test]
    fn times_are_checked_against_each_other() {
        let day = 86_400_000;
        assert_eq!(read(with(json!({"send_at": at(-4_000)}))).expect("skew").send_at, None);
        assert_eq!(read(with(json!({"send_at": at(60_000)}))).expect("later").send_at, Some(Time(NOW.0 + 60_000)));
        assert!(read(with(json!({"send_at": at(30 * day), "expires_at": at(60 * day)}))).is_ok());
        for (more, field, code) in [
            (json!({"send_at": at(-6_000)}), "send_at", "in_the_past"),
            (json!({"send_at": at(30 * day + 1)}), "send_at", "too_far_ahead"),
            (json!({"send_at": "2030-01-01T00:00:00"}), "send_at", "invalid_time"),
            (json!({"expires_at": at(0)}), "expires_at", "in_the_past"),
            (json!({"send_at": at(day), "expires_at": at(day)}), "expires_at", "before_send_at"),
            (json!({"expires_at": at(30 * day + 1)}), "expires_at", "too_far_ahead"),
            (json!({"expires_at": 5}), "expires_at", "invalid_type"),
        ] {
            assert_eq!(read(with(more.clone())).expect_err("wrong"), [(field.to_owned(), code)], "{more}");
        }
    }

    #[test]
    fn text_is_no_picture_and_a_document_in_any_case() {
        for text in ["BMW,model,year\n", "GIFT CARD;1", "RIFF1234WAVE", "ID3", "MZ"] {
            let body = |kind: &str, mime_type: &str| {
                let media = json!({"base64": STANDARD.encode(text), "mime_type": mime_type});
                json!({"to": "+15551234567", "type": kind, "media": media})
            };
            let sent = read(body("document", "text/csv")).expect(text);
            assert_eq!(sent.content.media.and_then(|media| media.mime_type).as_deref(), Some("text/csv"), "{text}");
            for (kind, mime_type) in [("image", "image/gif"), ("audio", "audio/wav"), ("video", "video/mp4")] {
                assert_eq!(read(body(kind, mime_type)).expect_err(text), [("media.base64".to_owned(), MISMATCH)]);
            }
        }
    }

    #[test]
    fn an_items_fields_have_its_path() {
        for (item, expected) in [(json!("x"), "messages[3]"), (json!({"type": "text", "text": "x"}), "messages[3].to")]
        {
            let errors = Draft::read(item, Form::Full, 3, "messages[3]", RULES).errors.into_vec();
            assert_eq!(errors[0].field, expected);
        }
    }
}
