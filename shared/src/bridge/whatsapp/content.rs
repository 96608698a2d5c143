//! A message of ours in WhatsApp's form.

use whatsapp_rust::download::MediaType;
use whatsapp_rust::prelude::{MessageField, wa};
use whatsapp_rust::upload::UploadResponse;

use super::vcard;
use crate::message::{Contact, MessageType};
use crate::ports::bridge::SendRequest;

/// What kind of file WhatsApp keeps it as.
pub(super) const fn media_type(kind: MessageType) -> Option<MediaType> {
    match kind {
        MessageType::Image => Some(MediaType::Image),
        MessageType::Video => Some(MediaType::Video),
        MessageType::Audio => Some(MediaType::Audio),
        MessageType::Document => Some(MediaType::Document),
        MessageType::Sticker => Some(MediaType::Sticker),
        MessageType::Text | MessageType::Location | MessageType::Contact => None,
    }
}

/// The message; `me` is who wrote what it answers.
///
/// # Errors
/// What is missing, in a sentence: nothing that validation lets through.
pub(super) fn message(
    request: &SendRequest,
    me: &str,
    uploaded: Option<UploadResponse>,
) -> Result<wa::Message, String> {
    let context = request.quoted.as_ref().map(|quoted| wa::ContextInfo {
        stanza_id: Some(quoted.clone()),
        participant: Some(me.to_owned()),
        quoted_message: MessageField::some(wa::Message { conversation: Some(String::new()), ..Default::default() }),
        ..Default::default()
    });
    let content = &request.content;
    if let (Some(_), Some(file)) = (media_type(request.kind), uploaded) {
        return Ok(media(request, file, context));
    }
    match request.kind {
        MessageType::Text => {
            let text = content.text.clone().ok_or("The message has no text.")?;
            Ok(match context {
                None => wa::Message { conversation: Some(text), ..Default::default() },
                Some(context) => wa::Message {
                    extended_text_message: MessageField::some(wa::message::ExtendedTextMessage {
                        text: Some(text),
                        context_info: MessageField::some(context),
                        ..Default::default()
                    }),
                    ..Default::default()
                },
            })
        }
        MessageType::Location => {
            let place = content.location.as_ref().ok_or("The message has no place.")?;
            Ok(wa::Message {
                location_message: MessageField::some(wa::message::LocationMessage {
                    degrees_latitude: Some(place.latitude),
                    degrees_longitude: Some(place.longitude),
                    name: place.name.clone(),
                    address: place.address.clone(),
                    context_info: context.map(MessageField::some).unwrap_or_default(),
                    ..Default::default()
                }),
                ..Default::default()
            })
        }
        MessageType::Contact => {
            let (name, vcard) = content.contact.as_ref().and_then(card).ok_or("The message has no contact card.")?;
            Ok(wa::Message {
                contact_message: MessageField::some(wa::message::ContactMessage {
                    display_name: Some(name),
                    vcard: Some(vcard),
                    context_info: context.map(MessageField::some).unwrap_or_default(),
                    ..Default::default()
                }),
                ..Default::default()
            })
        }
        MessageType::Image | MessageType::Video | MessageType::Audio | MessageType::Document | MessageType::Sticker => {
            Err("The message has no file.".to_owned())
        }
    }
}

fn media(request: &SendRequest, file: UploadResponse, context: Option<wa::ContextInfo>) -> wa::Message {
    use whatsapp_rust::media::{
        AudioOptions, DocumentOptions, ImageOptions, VideoOptions, audio_message, document_message, image_message,
        video_message,
    };
    let caption = request.content.caption.clone();
    let attachment = request.file.as_ref();
    let mimetype = attachment.map(|file| file.mime_type.clone());
    let context_info = context.map(Box::new);
    match request.kind {
        MessageType::Video => {
            video_message(file, VideoOptions { caption, mimetype, context_info, ..Default::default() })
        }
        MessageType::Audio => {
            let ptt = request.content.media.as_ref().and_then(|media| media.voice);
            audio_message(file, AudioOptions { mimetype, ptt, context_info, ..Default::default() })
        }
        MessageType::Document => {
            let file_name = attachment.and_then(|file| file.filename.clone());
            let title = file_name.clone();
            let options = DocumentOptions { caption, mimetype, file_name, title, context_info, ..Default::default() };
            document_message(file, options)
        }
        MessageType::Sticker => wa::Message {
            sticker_message: MessageField::some(wa::message::StickerMessage {
                url: Some(file.url),
                direct_path: Some(file.direct_path),
                media_key: Some(file.media_key.to_vec()),
                file_sha256: Some(file.file_sha256.to_vec()),
                file_enc_sha256: Some(file.file_enc_sha256.to_vec()),
                file_length: Some(file.file_length),
                media_key_timestamp: Some(file.media_key_timestamp),
                mimetype,
                context_info: context_info.map(|context| MessageField::some(*context)).unwrap_or_default(),
                ..Default::default()
            }),
            ..Default::default()
        },
        MessageType::Image | MessageType::Text | MessageType::Location | MessageType::Contact => {
            image_message(file, ImageOptions { caption, mimetype, context_info, ..Default::default() })
        }
    }
}

/// A contact's name and its vCard (RFC 6350's predecessor 3.0, which WhatsApp writes).
fn card(contact: &Contact) -> Option<(String, String)> {
    if let Some(card) = &contact.vcard {
        return Some((vcard::display_name(card), card.clone()));
    }
    let (name, phone) = (contact.name.clone()?, contact.phone_number.as_ref()?);
    let written = name.replace('\\', "\\\\").replace(',', "\\,").replace(';', "\\;").replace('\n', "\\n");
    let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
    let vcard = format!(
        "BEGIN:VCARD\r\nVERSION:3.0\r\nN:;{written};;;\r\nFN:{written}\r\nTEL;type=CELL;waid={digits}:+{digits}\r\nEND:VCARD"
    );
    Some((name, vcard))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::ids::new_whatsapp_id;
    use crate::message::{Content, Location};
    use crate::recipient::Recipient;
    use crate::time::Time;

    fn request(kind: MessageType, content: Content) -> SendRequest {
        SendRequest {
            whatsapp_id: new_whatsapp_id(),
            recipient: Recipient::parse("+15551234567").expect("a number"),
            kind,
            content,
            file: None,
            quoted: None,
            attempt: 1,
            expires_at: Time::now(),
            patience: Duration::from_secs(30),
        }
    }

    #[test]
    fn a_card_is_written_from_name_and_number() {
        let contact =
            Contact { name: Some("Doe; Jane".to_owned()), phone_number: Some("+15551234567".to_owned()), vcard: None };
        let made =
            message(&request(MessageType::Contact, Content { contact: Some(contact), ..Content::default() }), "", None);
        let made = made.expect("a message");
        let card = made.contact_message.as_option().expect("a card");
        assert_eq!(card.display_name.as_deref(), Some("Doe; Jane"));
        let vcard = card.vcard.as_deref().expect("a vCard");
        assert!(vcard.contains("FN:Doe\\; Jane") && vcard.contains("waid=15551234567:+15551234567"), "{vcard}");
    }

    #[test]
    fn a_given_card_is_shown_by_its_name() {
        let given = "BEGIN:VCARD\nVERSION:3.0\nFN;CHARSET=UTF-8:Jane\nEND:VCARD";
        let contact = Contact { vcard: Some(given.to_owned()), ..Contact::default() };
        let content = Content { contact: Some(contact), ..Content::default() };
        let made = message(&request(MessageType::Contact, content), "", None).expect("a message");
        let card = made.contact_message.as_option().expect("a card");
        assert_eq!((card.display_name.as_deref(), card.vcard.as_deref()), (Some("Jane"), Some(given)));
    }

    #[test]
    fn an_answer_names_what_it_answers() {
        let content = Content { text: Some("yes".to_owned()), ..Content::default() };
        let request = SendRequest { quoted: Some("3EB0AA".to_owned()), ..request(MessageType::Text, content) };
        let made = message(&request, "15550001111@s.whatsapp.net", None).expect("a message");
        let text = made.extended_text_message.as_option().expect("a text");
        let context = text.context_info.as_option().expect("a context");
        assert_eq!(context.stanza_id.as_deref(), Some("3EB0AA"));
        assert_eq!(context.participant.as_deref(), Some("15550001111@s.whatsapp.net"));
    }

    #[test]
    fn what_is_missing_is_said() {
        for kind in MessageType::ALL {
            assert!(message(&request(kind, Content::default()), "", None).is_err(), "{kind:?}");
        }
        let location = Some(Location { latitude: 1.5, longitude: -2.5, name: None, address: None });
        assert!(message(&request(MessageType::Location, Content { location, ..Content::default() }), "", None).is_ok());
    }
}
