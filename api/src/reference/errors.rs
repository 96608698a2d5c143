//! Every code that an answer, a field or a message can have: what it means, when it occurs and what to do. The pages at
//! `/errors/{code}` and the responses in the document are made from this table; tests compare it with the codes in use.

use sanasr_shared::message::BlockedBy;
use sanasr_shared::session::ADVICE;
use serde_json::{Value, json};

use crate::problem::Code;

/// Where a code stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In `code` of an answer: a problem.
    Problem(Code),
    /// In `errors[].code` of an answer: what is wrong with a field or a query parameter.
    Field,
    /// In `error.code` of a message: why it failed, or why its last attempt did.
    Message,
    /// In `blocked_by` of a message: what it waits for.
    Waiting,
    /// In `blocked_reason` of a session: why it isn't connected, or doesn't send.
    Session,
}

/// A code, explained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Explained {
    pub(crate) place: Place,
    pub(crate) code: &'static str,
    /// What it means, in one sentence.
    pub(crate) meaning: &'static str,
    /// When it occurs.
    pub(crate) when: &'static str,
    /// What to do about it.
    pub(crate) remedy: &'static str,
}

/// Every code, those of one place together.
pub(crate) fn all() -> impl Iterator<Item = Explained> {
    Code::ALL
        .into_iter()
        .map(problem)
        .chain(FIELDS.iter().map(field))
        .chain(MESSAGES.iter().map(message))
        .chain(BlockedBy::ALL.into_iter().map(waiting))
        .chain(ADVICE.iter().map(session))
}

/// An answer's code, explained.
pub(crate) const fn problem(code: Code) -> Explained {
    let (meaning, when, remedy) = match code {
        Code::MalformedRequest => (
            "The request can't be read.",
            "The body is no JSON, or broke off; a name stands twice in one object, or a text has half of a character; a cursor isn't one of this list; a header such as Idempotency-Key \
             has another form. In a batch only the item is refused.",
            "Mend the request: `detail` says what is wrong, and `errors` names each field or query parameter. Repeating it as \
             it is won't help.",
        ),
        Code::Unauthenticated => (
            "The credentials are missing or not valid.",
            "No credentials were sent, or they are unknown; a login has ended; an API key was sent as \
             `Authorization: Bearer`. At login: the name or the password is wrong.",
            "Send `Authorization: Bearer <access token>`, `Authorization: ApiKey <key>` or `X-Api-Key: <key>`. An access \
             token lives 15 minutes: get a new one by `POST /api/v1/auth/refresh`.",
        ),
        Code::InvalidApiKey => (
            "The API key has the right form, but opens nothing.",
            "It isn't known here, or it was revoked or has expired. `detail` shows its public part.",
            "Check that the whole key was copied and that it belongs to this service, or ask an admin for a new one.",
        ),
        Code::TokenExpired => (
            "The access token has expired.",
            "An access token lives 15 minutes, unless set otherwise.",
            "Get the next one by `POST /api/v1/auth/refresh`, with the refresh token.",
        ),
        Code::UserInactive => (
            "The user is deactivated.",
            "The credentials are genuine, but an admin has deactivated the user. Its messages stay, and nothing of them is sent until it is activated again.",
            "Ask an admin to activate the user.",
        ),
        Code::Forbidden => (
            "You are known, but not allowed to do this.",
            "An endpoint for admins was asked without being one, or by an API key, which never opens those; or `user_id` was \
             given by somebody who isn't an admin.",
            "Log in as an admin, or leave `user_id` out: everybody sees their own.",
        ),
        Code::NotFound => (
            "There is no such thing, or it isn't yours.",
            "The path, or the id or name in it, is unknown or belongs to another user: which of the two isn't told.",
            "Check the id. An admin opens others' messages and sessions by their id, and lists them with `?user_id=`.",
        ),
        Code::MethodNotAllowed => (
            "The endpoint doesn't know this method.",
            "Such as `PUT /api/v1/messages`.",
            "`detail` and the header `Allow` name the methods that it knows.",
        ),
        Code::NotAcceptable => (
            "The answer can't be given in a form that you accept.",
            "At `GET /api/v1/sessions/{name}/qr` with an `Accept` that allows neither PNG nor SVG nor JSON.",
            "Send `Accept: image/png`, `image/svg+xml` or `application/json`.",
        ),
        Code::Conflict => (
            "The thing isn't in a state in which this can be done.",
            "A name is taken; a user has as many sessions as may be; a message that waits needs the file; a message is too far along to be cancelled; a session is in the wrong state; the session \
             `default` can't be deleted; the last active admin must stay one; a message was accepted under this \
             Idempotency-Key, but isn't kept any more.",
            "`detail` says which it is. Look at the thing as it is now before trying again.",
        ),
        Code::PayloadTooLarge => (
            "The body is larger than allowed.",
            "A JSON body has at most 1 MiB, a batch or a file 16 MiB, unless the operator has set other limits.",
            "Send less at once: split a batch, or upload a file instead of sending it as base64.",
        ),
        Code::RequestTimeout => (
            "The body came too slowly.",
            "After its first 5 seconds a body brings at least 4 kB a second.",
            "Send it again, over a better connection. Nothing was changed.",
        ),
        Code::HeadTooLarge => (
            "The request line and the headers are too large.",
            "Together they have at most 20 KiB, in at most 100 headers. The answer closes the connection.",
            "Send shorter headers, or put what is long in the body.",
        ),
        Code::UnsupportedMediaType => (
            "The body is of a kind that the endpoint doesn't take.",
            "Its `Content-Type` is missing or isn't `application/json` in UTF-8 (for uploads `multipart/form-data`), or it \
             has a `Content-Encoding`.",
            "Send JSON with `Content-Type: application/json`.",
        ),
        Code::ValidationFailed => (
            "Some fields are wrong.",
            "The request could be read, but fields are missing, unknown or have values that can't be.",
            "`errors` names every bad field at once, by its path such as `media.url` or `messages[3].to`, with a code of its \
             own. Mend them all, then send again.",
        ),
        Code::IdempotencyKeyReused => (
            "This Idempotency-Key was used for another request.",
            "A key came with another body, or at another endpoint, in the last 24 hours.",
            "Take a new key for a new request. To repeat a request, send it as it was.",
        ),
        Code::QuotaExceeded => (
            "The user's messages of today are used up, or the user's files take as much as they may.",
            "More messages than `max_messages_per_day` would be accepted on this UTC day, or more than ten times as many with \
             those that were cancelled since: `limit`, `used` and `resets_at` say more. Or the user's files would have more \
             bytes than `files.limit` in `GET /usage`. Nothing was accepted.",
            "Send again after `resets_at` (the header Retry-After has the seconds), or ask an admin for a greater limit. Files \
             make room when they are removed: by `DELETE /media/{id}`, or a day after nobody needs them.",
        ),
        Code::RateLimited => (
            "Too many requests in a short time.",
            "An API key or a logged-in user asks faster than allowed, or an address asks too often without valid \
             credentials; or too many logins have failed; or a user has as many event streams open as may be.",
            "Wait as many seconds as the header Retry-After says. `RateLimit` on every answer says how much is left: slow \
             down before it is nothing.",
        ),
        Code::Internal => (
            "Something went wrong in the service: a defect.",
            "Never, if all is well.",
            "Tell the operator the `request_id`: it finds the cause in the logs. A send is safely repeated with the same \
             Idempotency-Key.",
        ),
        Code::Overloaded => (
            "The service has more to do than it takes on. Nothing was accepted.",
            "Too many messages wait to be sent, in all or of this user, or too many requests wait for the database; or \
             the disk is nearly full, and no files are taken.",
            "Try again after the seconds in Retry-After. If it stays so, sending is slower than accepting: look at \
             `blocked_by` of waiting messages.",
        ),
        Code::Unavailable => (
            "The database can't be reached, or can't write just now. Nothing was changed.",
            "While the database is away or restarts, or its disk is full.",
            "Try again after the seconds in Retry-After.",
        ),
        Code::CommitUnknown => (
            "Nobody can say whether the request was carried out.",
            "The database was lost in the very moment in which it wrote.",
            "Repeat the request. A send with the same Idempotency-Key is never accepted twice.",
        ),
    };
    Explained { place: Place::Problem(code), code: code.as_str(), meaning, when, remedy }
}

type Row = (&'static str, &'static str, &'static str, &'static str);

const fn field(&(code, meaning, when, remedy): &Row) -> Explained {
    Explained { place: Place::Field, code, meaning, when, remedy }
}

const fn message(&(code, meaning, when, remedy): &Row) -> Explained {
    Explained { place: Place::Message, code, meaning, when, remedy }
}

/// What a message waits for, explained.
fn waiting(blocked_by: BlockedBy) -> Explained {
    let (meaning, when, remedy) = match blocked_by {
        BlockedBy::Scheduled => (
            "The message's time hasn't come.",
            "Until its `send_at`.",
            "Nothing. `POST /api/v1/messages/{id}/cancel` takes it back.",
        ),
        BlockedBy::UserInactive => (
            "The user is deactivated.",
            "Until an admin activates the user again; what expires meanwhile isn't sent.",
            "Ask an admin to activate the user.",
        ),
        BlockedBy::SessionPaused => (
            "The message's session is paused.",
            "Somebody paused it, by `POST /api/v1/sessions/{name}/pause`.",
            "Resume it: `POST /api/v1/sessions/{name}/resume`.",
        ),
        BlockedBy::SessionNotConnected => (
            "The message's session isn't connected.",
            "Nobody has connected it yet, no phone is linked to it, or it has lost its connection.",
            "Connect it (`POST /api/v1/sessions/{name}/connect`), then scan its QR code with the phone \
             (`GET /api/v1/sessions/{name}/qr`). `advice` of the session says what it needs. The message goes out then, if it \
             hasn't expired.",
        ),
        BlockedBy::EarlierMessage => (
            "An earlier message to the same recipient isn't through.",
            "Messages of a session to one recipient keep their order.",
            "Nothing, or look at what the earlier message waits for.",
        ),
        BlockedBy::Restricted => (
            "WhatsApp restricts the account's messages to people who haven't written to it.",
            "After many first messages to strangers.",
            "Wait: the message is tried again every few minutes until it expires. Write less to strangers.",
        ),
        BlockedBy::Retry => (
            "The next attempt comes later.",
            "The last attempt failed for the moment, or nobody knows whether it succeeded: `error` says more.",
            "Nothing: it is tried again after 1 s, 2 s, 4 s and so on, up to 5 min, until it expires.",
        ),
        BlockedBy::Pacing => (
            "The session's pace lets it wait.",
            "A session sends only so many messages a minute, and only so many first messages to new people.",
            "Nothing, or set another pace: `PATCH /api/v1/sessions/{name}`.",
        ),
    };
    Explained { place: Place::Waiting, code: blocked_by.as_str(), meaning, when, remedy }
}

/// Why a session isn't connected or doesn't send, explained: its advice says what it means, then what to do.
fn session((code, advice): &(&'static str, &'static str)) -> Explained {
    let (meaning, remedy) = match advice.find(". ") {
        Some(at) => (&advice[..=at], &advice[at + 2..]),
        None => (*advice, "Nothing is to be done."),
    };
    Explained { place: Place::Session, code, meaning, when: "`advice` of the session says the same.", remedy }
}

/// What can be wrong with a field.
const FIELDS: &[Row] = &[
    (
        "invalid_cursor",
        "The text is no cursor of this list.",
        "In a 400: a cursor belongs to the list that gave it, and isn't written by hand.",
        "Take `next` from the page before, or begin without a cursor.",
    ),
    (
        "before_send_at",
        "The message would expire before it is to be sent.",
        "`expires_at` isn't later than `send_at`.",
        "Give a later `expires_at`, or none: then it is 24 hours after `send_at`.",
    ),
    (
        "control_characters",
        "The text has characters that can't be shown.",
        "Control characters; in texts, captions and addresses line breaks and tabs are fine.",
        "Remove them.",
    ),
    ("empty", "There is nothing in it.", "A text, a list or a file is empty.", "Fill it, or leave the field out."),
    (
        "given_twice",
        "The same thing is given under two names.",
        "`to` and `recipient`, `text` and `content`, a query parameter, or two of a file's `url`, `id` and `base64`; or, in a 400, one name twice in \
         one object.",
        "Give one of the two.",
    ),
    (
        "in_the_past",
        "The time is over.",
        "`send_at` or `expires_at` is in the past.",
        "Check your clock and the time's zone.",
    ),
    (
        "invalid",
        "The database refuses the value.",
        "A value that passed all other checks can't be stored.",
        "`detail` says what it is about.",
    ),
    (
        "invalid_base64",
        "The text is no base64.",
        "It has other characters than base64 has, or is a `data:` address without `;base64`.",
        "Encode the file in base64. Line breaks, the URL-safe alphabet, missing padding and `data:image/png;base64,` before it are \
         fine.",
    ),
    ("invalid_id", "The text is no id.", "Ids of messages and files are UUIDs.", "Send the id as it was answered."),
    (
        "invalid_mime_type",
        "The text is no media type, or one that doesn't fit the message's type or the file's `data:` address.",
        "A message of type `image` needs an `image/…`, a sticker needs `image/webp`, and so on; `mime_type` must not contradict a \
         `data:` address in `base64`.",
        "Send the file's real type, or choose another message type: `document` takes every file.",
    ),
    (
        "invalid_name",
        "A session can't have this name.",
        "A session's name has 1 to 64 of a to z, 0 to 9, `_` and `-`, and isn't `status`, `init` or `disconnect`.",
        "Choose another name.",
    ),
    (
        "invalid_phone_number",
        "The text is no phone number, or none that can be.",
        "It has no `+` and no country code, or as many digits as no number of its country; or `(0)` or `(8)` after its country \
         code, which may or may not belong to it. Where a recipient is wanted: it is no WhatsApp id either, which ends in \
         `@c.us`, `@s.whatsapp.net`, `@g.us` or `@lid`.",
        "Write it as `+15551234567`: with `+` and the country code, without a leading 0 or 00, as it is dialled from abroad. \
         Software that sends international numbers without `+` can go on with `SANASR_BARE_NUMBERS=international`.",
    ),
    (
        "invalid_text",
        "The text has half of a character.",
        "In a 400: JSON can name half of a surrogate pair (`\\ud83d` alone), which is left when a text is cut in the middle of an \
         emoji.",
        "Cut texts between characters, not between UTF-16 units.",
    ),
    (
        "invalid_time",
        "The text is no time.",
        "Times are RFC 3339 with a zone.",
        "Write it as `2030-01-31T12:00:00Z` or `2030-01-31T13:00:00+01:00`.",
    ),
    (
        "invalid_type",
        "The value is of another JSON type.",
        "Such as a number where a string is needed.",
        "See the reference.",
    ),
    (
        "invalid_url",
        "The text is no address of the web.",
        "It must begin with http:// or https://.",
        "Mend the address.",
    ),
    (
        "invalid_vcard",
        "The text isn't one vCard.",
        "It must begin with a line `BEGIN:VCARD`, end with a line `END:VCARD` and hold no second card.",
        "Send one whole vCard, or `name` and `phone`.",
    ),
    (
        "not_allowed",
        "The field doesn't belong here.",
        "Such as `caption` with a text, or `voice` with an image.",
        "Leave it out, or choose the type that it belongs to.",
    ),
    (
        "other_conversation",
        "The message that is answered is of another conversation.",
        "`reply_to` names a message to another recipient, or from another session. WhatsApp shows an answer beside what it answers.",
        "Answer a message of the same recipient and session, or leave `reply_to` out.",
    ),
    (
        "out_of_range",
        "The number is too small or too large.",
        "`detail` names the bounds. In a 400: a number beyond about 1.8e308.",
        "Give a number within them.",
    ),
    (
        "taken",
        "Somebody else has this name.",
        "In a 409: a user's or a session's name stands for one alone.",
        "Choose another, or use the thing that has it.",
    ),
    ("required", "The field is needed.", "It is absent or null.", "Give it."),
    (
        "too_deep",
        "The JSON is nested too deep.",
        "In a 400: objects and arrays may be nested 127 deep. No request needs more than four.",
        "Send the fields that the reference names.",
    ),
    (
        "too_far_ahead",
        "The time is too far ahead.",
        "`send_at` is at most 30 days ahead, `expires_at` at most 30 days after the message falls due.",
        "Choose an earlier time.",
    ),
    ("too_long", "The text is too long.", "`detail` names the most characters that it may have.", "Shorten it."),
    ("too_many", "The list is too long.", "A batch has at most 1,000 messages.", "Split it."),
    (
        "media_type_mismatch",
        "The file isn't what it is said to be.",
        "An upload, or a file in base64, whose content is of another kind than its message's type or its `mime_type`; or a voice \
         note that isn't Ogg Opus.",
        "Send it as what it is: `document` takes every file, and audio without `voice` most audio files.",
    ),
    (
        "unknown_media",
        "There is no such file.",
        "`media.id` names no uploaded file of yours, or one that has been removed since: a day after its upload.",
        "Upload it again by `POST /api/v1/media`.",
    ),
    (
        "unknown_field",
        "There is no such field here.",
        "A misspelt name, or a field of another endpoint. Unknown fields are refused so that none is quietly lost.",
        "Remove it or mend its name.",
    ),
    (
        "unknown_message",
        "There is no such message.",
        "`reply_to` names a message that doesn't exist or isn't yours.",
        "Give the id of a message that was sent here.",
    ),
    (
        "unknown_session",
        "There is no such session.",
        "`session` names none of yours, or it has just been deleted.",
        "Make it by `POST /api/v1/sessions`, or leave the field out for `default`.",
    ),
    ("unknown_value", "The word isn't one of the known ones.", "`detail` lists them.", "Choose one of them."),
    (
        "invalid_proxy",
        "The text is no proxy.",
        "A proxy is `socks5://host:port` or `http://host:port`, with `user:password@` before the host if it needs that.",
        "Write it so; special characters of a password are percent-encoded.",
    ),
    (
        "invalid_email",
        "The text is no mail address.",
        "It needs something before and after an `@`, and no spaces.",
        "Write it as `name@example.org`, or leave it empty.",
    ),
    (
        "invalid_username",
        "A user can't have this name.",
        "A username has 1 to 150 characters, without spaces and control characters.",
        "Choose another name.",
    ),
    (
        "too_large",
        "The file is too large.",
        "A file in base64 has more bytes than files may have: 16 MiB, unless the operator has set another limit.",
        "Send a smaller one.",
    ),
    (
        "too_common",
        "The password is one of those that everybody tries first.",
        "It stands in lists of passwords that were found again and again.",
        "Choose another: several random words make a good one.",
    ),
    (
        "too_predictable",
        "The password is easily guessed.",
        "It is made of the username or the service's name, or repeats itself.",
        "Choose another: several random words make a good one.",
    ),
    ("too_short", "The password is too short.", "A password has at least 8 characters.", "Choose a longer one."),
    ("unknown_user", "There is no such user.", "`user_id` names nobody.", "See `GET /api/v1/users`."),
    (
        "wrong_password",
        "This isn't the password.",
        "`current_password` isn't the password as it is, when changing one's own.",
        "Give the right one. Who has forgotten it asks an admin for a new one.",
    ),
];

/// Why a message can fail.
const MESSAGES: &[Row] = &[
    (
        "connection_lost",
        "The connection to WhatsApp was lost.",
        "Before the message was sent, or before WhatsApp acknowledged it.",
        "Nothing: it is tried again until it expires, under the same id at WhatsApp, so that it is shown once.",
    ),
    (
        "internal",
        "Something went wrong in the service: a defect.",
        "The message's sending has crashed three times, or its row can't be read. It is a dead letter.",
        "An admin finds it at `GET /api/v1/dead-letters` and can replay it as a new message once the cause is mended.",
    ),
    (
        "ledger_failed",
        "The simulator's ledger can't be written.",
        "Only with the simulator: its file's disk is full, or its folder gone.",
        "Mend `SANASR_SIMULATOR_LEDGER`; the message is tried again.",
    ),
    (
        "media_forbidden_address",
        "The file's address leads to where files aren't fetched from.",
        "The address, or one that it redirects to, is a private, loopback, link-local or metadata address, or no address of the \
         web.",
        "Put the file where everybody can fetch it, upload it, or have the operator allow the host \
         (`SANASR_MEDIA_ALLOW_HOSTS`).",
    ),
    (
        "media_gone",
        "The file isn't there any more.",
        "Its address answers 404 or 410, or it was uploaded here and isn't kept any more.",
        "Send it again as a new message, with a file that is there.",
    ),
    (
        "media_refused",
        "WhatsApp doesn't take the file.",
        "Its media server refuses the file's size or kind. Nothing was sent, and the unit of the quota is given back.",
        "Send a smaller file, or another kind.",
    ),
    (
        "media_fetch_failed",
        "The file can't be fetched.",
        "Its address answers with an error, with nothing, in a coding that isn't understood, or redirects too often.",
        "Check what the address answers; `detail` says what came.",
    ),
    (
        "media_too_large",
        "The file is too large.",
        "It has more than 16 MiB, unless the operator has set another limit.",
        "Send a smaller one.",
    ),
    (
        "media_type_mismatch",
        "The file isn't what it is said to be.",
        "What came from its address is of another kind than the message's type, or, as a voice note, isn't Ogg Opus.",
        "Send it as what it is: `document` takes every file, and audio without `voice` most audio files.",
    ),
    (
        "media_unreachable",
        "The file can't be reached just now.",
        "Its server doesn't answer in time, or asks to come later. It is tried again until the message expires.",
        "Nothing, unless it stays so: then check the address.",
    ),
    (
        "media_upload_failed",
        "The file couldn't be uploaded to WhatsApp.",
        "Its media server didn't answer. Nothing was sent; the message is tried again until it expires.",
        "Nothing, unless it stays so: then check the network.",
    ),
    (
        "no_acknowledgement",
        "WhatsApp hasn't acknowledged the message in time.",
        "It may have been sent: it is in doubt.",
        "Nothing: it is sent again under the same id at WhatsApp, so that it is shown once, until it expires.",
    ),
    (
        "recipient_not_allowed",
        "The account may not send to this recipient.",
        "It isn't in the group, or may not write there. Nothing was sent, and the unit of the quota is given back.",
        "Have somebody add the account to the group, or check the group's id.",
    ),
    (
        "not_on_whatsapp",
        "The number isn't on WhatsApp.",
        "Nothing was sent, and the unit of the quota is given back.",
        "Check the number. It isn't worth trying again.",
    ),
    (
        "whatsapp_rate_limited",
        "WhatsApp asks to send more slowly.",
        "Nothing was sent; the message is tried again after a while.",
        "Set a slower pace for the session (`PATCH /api/v1/sessions/{name}`).",
    ),
    (
        "recipient_gone",
        "WhatsApp doesn't know the recipient any more.",
        "Their account was deleted. Nothing was sent, and the unit of the quota is given back.",
        "It isn't worth trying again.",
    ),
    (
        "refused",
        "WhatsApp refused the message.",
        "WhatsApp's errors 400 and 479: it took the message for malformed. Nothing was sent; the unit is given back.",
        "Look at what is special about it: an unusual file, or a recipient of an unusual kind.",
    ),
    (
        "restricted",
        "WhatsApp restricts the account's messages to people who haven't written to it.",
        "After many first messages to strangers. Nothing was sent.",
        "Wait: the message is tried again every few minutes until it expires. Write less to strangers.",
    ),
    (
        "state_unavailable",
        "The session's keys couldn't be read or stored.",
        "The database didn't answer in time. Nothing was sent; the message is tried again.",
        "Nothing, unless it stays so: then look at the database.",
    ),
    (
        "unknown_outcome",
        "The message may have been sent; nobody can say.",
        "No acknowledgement came before it expired, or its session was deleted meanwhile. The unit of the quota stays taken. \
         If a receipt comes later, it becomes `sent`, `delivered` or `read` after all.",
        "Ask the recipient before you send it again: it might be shown twice.",
    ),
    (
        "whatsapp_unavailable",
        "WhatsApp's server couldn't take the message, or didn't answer a question about the recipient.",
        "Nothing was sent; the message is tried again until it expires.",
        "Nothing, unless it stays so: then look at the session.",
    ),
];

/// What an answer with this code looks like.
pub(crate) fn example(explained: &Explained) -> Value {
    match explained.place {
        Place::Problem(code) => problem_example(code),
        Place::Field => {
            let mut problem = problem_example(if explained.code == "invalid_cursor" {
                Code::MalformedRequest
            } else {
                Code::ValidationFailed
            });
            problem["errors"] = json!([{"field": "…", "code": explained.code, "detail": explained.meaning}]);
            problem
        }
        Place::Message => {
            let retryable = !matches!(
                explained.code,
                "internal"
                    | "recipient_not_allowed"
                    | "not_on_whatsapp"
                    | "recipient_gone"
                    | "refused"
                    | "unknown_outcome"
                    | "media_forbidden_address"
                    | "media_gone"
                    | "media_refused"
                    | "media_fetch_failed"
                    | "media_too_large"
                    | "media_type_mismatch"
            );
            json!({"code": explained.code, "detail": explained.meaning, "retryable": retryable})
        }
        Place::Waiting => json!({"status": "accepted", "blocked_by": explained.code}),
        Place::Session => json!({
            "status": "disconnected", "blocked_reason": explained.code, "advice": format!("{} {}", explained.meaning, explained.remedy)
        }),
    }
}

fn problem_example(code: Code) -> Value {
    let mut example = json!({
        "success": false,
        "type": format!("/errors/{}", code.as_str()),
        "title": code.title(),
        "status": code.status().as_u16(),
        "code": code.as_str(),
        "detail": problem(code).meaning,
        "request_id": "019ac3f26b1e7c39a6b03f5d1c2e4a77",
    });
    match code {
        Code::ValidationFailed => {
            example["errors"] = json!([{"field": "to", "code": "required", "detail": "This field is needed."}]);
        }
        Code::QuotaExceeded => {
            example["limit"] = 10_000.into();
            example["used"] = 10_000.into();
            example["resets_at"] = "2030-02-01T00:00:00.000Z".into();
        }
        _ => {}
    }
    example
}
