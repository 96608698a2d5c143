//! What WhatsApp's refusals mean: the number of an acknowledgement's error, in the words of our API.

use crate::message::MessageError;
use crate::ports::bridge::Attempt;

/// How an attempt ended that WhatsApp's server refused. Nothing was sent, whatever the number.
pub(super) fn attempt(code: &str) -> Attempt {
    let error = |word: &str, detail: &str, retryable: bool| {
        MessageError::new(word, format!("{detail} (WhatsApp's error {code}); nothing was sent."), retryable)
    };
    match code {
        // Reach-out limit: https://faq.whatsapp.com ("account restriction"); the number is the client crate's.
        "463" => {
            Attempt::Restricted(error("restricted", "WhatsApp restricts this account's messages to new contacts", true))
        }
        "429" => Attempt::Transient(error("whatsapp_rate_limited", "WhatsApp asks to send more slowly", true)),
        "401" | "403" => {
            Attempt::Permanent(error("recipient_not_allowed", "This account may not send to this recipient", false))
        }
        "404" => Attempt::Permanent(error("recipient_gone", "WhatsApp doesn't know the recipient any more", false)),
        "400" | "479" => Attempt::Permanent(error("refused", "WhatsApp took the message for malformed", false)),
        _ if code.starts_with('5') && code.len() == 3 => {
            Attempt::Transient(error("whatsapp_unavailable", "WhatsApp's server couldn't take the message", true))
        }
        _ => Attempt::Permanent(error("refused", "WhatsApp refused the message", false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_code() {
        let code = |text: &str| match attempt(text) {
            Attempt::Restricted(e) | Attempt::Transient(e) | Attempt::Permanent(e) => (e.code, e.retryable),
            other => panic!("{other:?}"),
        };
        for (number, word, retryable) in [
            ("463", "restricted", true),
            ("429", "whatsapp_rate_limited", true),
            ("479", "refused", false),
            ("400", "refused", false),
            ("404", "recipient_gone", false),
            ("403", "recipient_not_allowed", false),
            ("503", "whatsapp_unavailable", true),
            ("5", "refused", false),
            ("", "refused", false),
        ] {
            assert_eq!(code(number), (word.to_owned(), retryable), "{number}");
        }
    }
}
