//! The bodies that send, as the reference shows them. [`super::draft`] reads them by hand, so that every bad field is named
//! at once; a test holds the two together.

use sanasr_shared::message::{Message, MessageType};
use sanasr_shared::time::Time;
use utoipa::ToSchema;

use crate::problem::Document;

/// A message to be sent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
pub(crate) struct SendMessage {
    /// To whom: a phone number with `+` and its country code; spaces, dashes, dots and parentheses are fine (`(0)` and the 0 of
    /// calls within the country are left out, or refused where they may belong to the number), also after `tel:` or
    /// `whatsapp:`. Or a WhatsApp id: `<digits>@c.us`, `<digits>@s.whatsapp.net`, `<id>@lid`, or `<id>@g.us` for a group.
    /// `recipient` means the same.
    #[schema(min_length = 1, max_length = 64, examples("+15551234567"))]
    to: String,
    /// What is sent. The part that belongs to it is needed: `text` for text, `media` for image, video, audio, document and
    /// sticker, `location`, or `contact`. With `text` it may be left out.
    #[schema(examples("text"))]
    r#type: Option<MessageType>,
    /// The name of the session that sends it; `default` if absent.
    #[schema(min_length = 1, max_length = 64, examples("default"))]
    session: Option<String>,
    /// The text, for type `text`. Line breaks and tabs are fine, other control characters are refused. `content` means the
    /// same.
    #[schema(min_length = 1, max_length = 4096, examples("Your order has been shipped."))]
    text: Option<String>,
    /// The file, for the media types.
    media: Option<MediaSource>,
    /// The place, for type `location`.
    location: Option<Place>,
    /// The card, for type `contact`.
    contact: Option<Card>,
    /// The words under an image, a video or a document.
    #[schema(min_length = 1, max_length = 1024, examples("Your receipt"))]
    caption: Option<String>,
    /// The id of the message that it answers: one of your own, to the same recipient and from the same session.
    #[schema(examples("019ac3f2-6b1e-7c39-a6b0-3f5d1c2e4a77"), format = "uuid")]
    reply_to: Option<String>,
    /// When to send it, if not at once: up to 30 days ahead.
    send_at: Option<Time>,
    /// When it is worthless, and no longer sent: 24 hours after it falls due if absent, at most 30 days after.
    expires_at: Option<Time>,
    /// Your own mark, such as an order's number: messages can be listed and cancelled by it.
    #[schema(min_length = 1, max_length = 255, examples("order-1042"))]
    reference: Option<String>,
}

/// A file to send: give one of `url`, `id` and `base64`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
pub(crate) struct MediaSource {
    /// Where it is fetched, by http or https, when the message is sent.
    #[schema(min_length = 1, max_length = 2048, format = "uri", examples("https://example.org/receipt.pdf"))]
    url: Option<String>,
    /// A file that was uploaded before (`POST /media`).
    #[schema(format = "uuid")]
    id: Option<String>,
    /// The file itself, in base64; needs `mime_type`, unless it is a `data:` address that names its type. Padding may be missing;
    /// line breaks and the URL-safe alphabet are fine. For small files: the whole body has at most 1 MiB.
    #[schema(min_length = 1, content_encoding = "base64")]
    base64: Option<String>,
    /// What the file is; with `base64` only. It stands unless the content is certainly another.
    #[schema(min_length = 1, max_length = 127, examples("image/png"))]
    mime_type: Option<String>,
    /// The name that the recipient sees; of a path only the last part is kept. A document by `url` has the name that its server
    /// or its address gives it, if this is absent.
    #[schema(min_length = 1, max_length = 255, examples("receipt.pdf"))]
    filename: Option<String>,
    /// With type `audio` only: shown as a voice note. The file must be Ogg Opus.
    voice: Option<bool>,
}

/// A place on the map.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
pub(crate) struct Place {
    /// Degrees.
    #[schema(minimum = -90, maximum = 90, examples(48.137))]
    latitude: f64,
    /// Degrees.
    #[schema(minimum = -180, maximum = 180, examples(11.575))]
    longitude: f64,
    /// The place's name.
    #[schema(min_length = 1, max_length = 255, examples("Our shop"))]
    name: Option<String>,
    /// The place's address.
    #[schema(min_length = 1, max_length = 1024, examples("1 Market Square"))]
    address: Option<String>,
}

/// A contact card: `name` and `phone_number`, or a whole vCard.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
pub(crate) struct Card {
    /// The name.
    #[schema(min_length = 1, max_length = 255, examples("Support"))]
    name: Option<String>,
    /// The phone number. `phone` means the same.
    #[schema(min_length = 1, max_length = 64, examples("+15551234567"))]
    phone_number: Option<String>,
    /// One vCard's text, from its line `BEGIN:VCARD` to `END:VCARD`.
    #[schema(min_length = 1, max_length = 16384)]
    vcard: Option<String>,
}

/// A text to be sent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
pub(crate) struct SendText {
    /// To whom: a phone number with its country code, or a group id. `to` means the same.
    #[schema(min_length = 1, max_length = 64, examples("+15551234567"))]
    recipient: String,
    /// The text. `text` means the same.
    #[schema(min_length = 1, max_length = 4096, examples("Your order has been shipped."))]
    content: String,
    /// The name of the session that sends it; `default` if absent.
    #[schema(min_length = 1, max_length = 64, examples("default"))]
    session: Option<String>,
    /// The id of the message that it answers.
    #[schema(format = "uuid")]
    reply_to: Option<String>,
    /// When to send it, if not at once: up to 30 days ahead.
    send_at: Option<Time>,
    /// When it is worthless, and no longer sent: 24 hours after it falls due if absent, at most 30 days after.
    expires_at: Option<Time>,
    /// Your own mark.
    #[schema(min_length = 1, max_length = 255, examples("order-1042"))]
    reference: Option<String>,
}

/// A file to be sent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
pub(crate) struct SendMedia {
    /// To whom: a phone number with its country code, or a group id. `to` means the same.
    #[schema(min_length = 1, max_length = 64, examples("+15551234567"))]
    recipient: String,
    /// Where the file is fetched, by http or https, when the message is sent.
    #[schema(min_length = 1, max_length = 2048, format = "uri", examples("https://example.org/receipt.pdf"))]
    media_url: String,
    /// What the file is to be shown as.
    media_type: MediaType,
    /// The words under an image, a video or a document.
    #[schema(min_length = 1, max_length = 1024, examples("Your receipt"))]
    caption: Option<String>,
    /// The name of the session that sends it; `default` if absent.
    #[schema(min_length = 1, max_length = 64, examples("default"))]
    session: Option<String>,
    /// The id of the message that it answers.
    #[schema(format = "uuid")]
    reply_to: Option<String>,
    /// When to send it, if not at once: up to 30 days ahead.
    send_at: Option<Time>,
    /// When it is worthless, and no longer sent: 24 hours after it falls due if absent, at most 30 days after.
    expires_at: Option<Time>,
    /// Your own mark.
    #[schema(min_length = 1, max_length = 255, examples("order-1042"))]
    reference: Option<String>,
}

/// A file to be sent, with the request: give `file` or `media_url`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
pub(crate) struct SendMediaUpload {
    /// To whom: a phone number with its country code, or a group id. `to` means the same.
    #[schema(min_length = 1, max_length = 64, examples("+15551234567"))]
    recipient: String,
    /// What the file is to be shown as.
    media_type: MediaType,
    /// The file, up to 16 MiB unless set otherwise. It must be what `media_type` says.
    #[schema(value_type = String, format = Binary, nullable = false)]
    file: Option<Vec<u8>>,
    /// Where the file is fetched, instead.
    #[schema(min_length = 1, max_length = 2048, format = "uri", nullable = false)]
    media_url: Option<String>,
    /// The words under an image, a video or a document.
    #[schema(min_length = 1, max_length = 1024, nullable = false)]
    caption: Option<String>,
    /// The name of the session that sends it; `default` if absent.
    #[schema(min_length = 1, max_length = 64, nullable = false)]
    session: Option<String>,
    /// The id of the message that it answers.
    #[schema(format = "uuid", nullable = false)]
    reply_to: Option<String>,
    /// When to send it, if not at once: up to 30 days ahead.
    #[schema(nullable = false)]
    send_at: Option<Time>,
    /// When it is worthless, and no longer sent: 24 hours after it falls due if absent, at most 30 days after.
    #[schema(nullable = false)]
    expires_at: Option<Time>,
    /// Your own mark.
    #[schema(min_length = 1, max_length = 255, nullable = false)]
    reference: Option<String>,
}

/// The types of messages that carry a file.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
pub(crate) enum MediaType {
    Image,
    Video,
    Audio,
    Document,
    Sticker,
}

/// Many messages, each for itself.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of what is read by hand")]
pub(crate) struct SendBatch {
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<SendMessage>,
}

/// What became of a batch's item: either `message` or `error`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reference's form of the answer's borrowed one")]
pub(crate) struct BatchItem {
    /// The message, if it was accepted.
    #[schema(nullable = false)]
    message: Option<Message>,
    /// Why it wasn't.
    #[schema(nullable = false)]
    error: Option<Document<'static>>,
}
