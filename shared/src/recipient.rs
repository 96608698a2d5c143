//! To whom a message goes: the one place that reads and writes recipients.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A recipient in canonical form: `+15551234567`, `<id>@g.us` for a group, or `<id>@lid`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(transparent)]
#[sqlx(transparent)]
#[schema(value_type = String, examples("+15551234567"))]
pub struct Recipient(String);

/// Country codes that the ITU has assigned (E.164, list of 2016-11-15 with its amendments), by length. Numbers within a
/// country are not looked at: numbering plans change faster than software.
const COUNTRY_CODES_1: &[u32] = &[1, 7];
const COUNTRY_CODES_2: &[u32] = &[
    20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 51, 52, 53, 54, 55, 56, 57, 58, 60, 61, 62,
    63, 64, 65, 66, 81, 82, 84, 86, 90, 91, 92, 93, 94, 95, 98,
];
const COUNTRY_CODES_3: &[u32] = &[
    211, 212, 213, 216, 218, 220, 221, 222, 223, 224, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 235, 236, 237,
    238, 239, 240, 241, 242, 243, 244, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255, 256, 257, 258, 260, 261,
    262, 263, 264, 265, 266, 267, 268, 269, 290, 291, 297, 298, 299, 350, 351, 352, 353, 354, 355, 356, 357, 358, 359,
    370, 371, 372, 373, 374, 375, 376, 377, 378, 379, 380, 381, 382, 383, 385, 386, 387, 389, 420, 421, 423, 500, 501,
    502, 503, 504, 505, 506, 507, 508, 509, 590, 591, 592, 593, 594, 595, 596, 597, 598, 599, 670, 672, 673, 674, 675,
    676, 677, 678, 679, 680, 681, 682, 683, 685, 686, 687, 688, 689, 690, 691, 692, 850, 852, 853, 855, 856, 870, 880,
    881, 882, 883, 886, 960, 961, 962, 963, 964, 965, 966, 967, 968, 970, 971, 972, 973, 974, 975, 976, 977, 979, 992,
    993, 994, 995, 996, 998,
];

/// Digits of the shortest number that E.164 makes possible here: a country code and four digits.
const MIN_DIGITS: usize = 7;
/// Digits of the longest number of E.164.
const MAX_DIGITS: usize = 15;
/// The longest text that is looked at.
const MAX_TEXT: usize = 64;

impl Recipient {
    /// Reads a recipient in any of the accepted forms.
    ///
    /// # Errors
    /// What is wrong with it and how to mend it, in a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("A recipient is needed: a phone number such as +15551234567, or a group id.".to_owned());
        }
        if text.len() > MAX_TEXT {
            return Err(format!("A recipient has at most {MAX_TEXT} characters."));
        }
        if let Some((id, domain)) = text.split_once('@') {
            return match domain {
                "c.us" | "s.whatsapp.net" if is_digits(id) => number(id),
                "g.us" if is_group_id(id) => Ok(Self(text.to_owned())),
                "lid" if is_digits(id) && id.len() <= 20 => Ok(Self(text.to_owned())),
                "c.us" | "s.whatsapp.net" | "g.us" | "lid" => Err(format!("The part before @{domain} must be digits.")),
                _ => Err("After the @ only c.us, s.whatsapp.net, g.us and lid are known.".to_owned()),
            };
        }
        let (plus, rest) = match text.trim_matches(' ').strip_prefix('+') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut digits = String::with_capacity(rest.len());
        for c in rest.chars() {
            match c {
                '0'..='9' => digits.push(c),
                ' ' | '-' | '.' | '(' | ')' => {}
                _ => {
                    return Err(
                        "A phone number has digits, spaces, dashes, dots and parentheses only, such as +15551234567."
                            .to_owned(),
                    );
                }
            }
        }
        if !plus && digits.starts_with("00") {
            return Err("Write the number with + instead of 00, such as +15551234567.".to_owned());
        }
        number(&digits)
    }

    /// The canonical form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn number(digits: &str) -> Result<Recipient, String> {
    if digits.starts_with('0') {
        return Err(
            "Write the number with its country code and without the leading 0, such as +15551234567.".to_owned()
        );
    }
    if digits.len() < MIN_DIGITS || digits.len() > MAX_DIGITS {
        return Err(format!("A phone number has {MIN_DIGITS} to {MAX_DIGITS} digits with its country code."));
    }
    let starts_with = |codes: &[u32], length: usize| digits[..length].parse().is_ok_and(|code| codes.contains(&code));
    if starts_with(COUNTRY_CODES_1, 1) || starts_with(COUNTRY_CODES_2, 2) || starts_with(COUNTRY_CODES_3, 3) {
        Ok(Recipient(format!("+{digits}")))
    } else {
        Err("The number doesn't begin with a country code. Write it as +15551234567.".to_owned())
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// New groups have one number, old ones `<creator>-<time>`.
fn is_group_id(text: &str) -> bool {
    text.len() <= 40 && text.split('-').count() <= 2 && text.split('-').all(is_digits)
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_number_has_one_form() {
        for text in
            ["+15551234567", "15551234567", "+1 (555) 123-45.67", "15551234567@c.us", "15551234567@s.whatsapp.net"]
        {
            assert_eq!(Recipient::parse(text).expect(text).as_str(), "+15551234567");
        }
        for text in ["120363025246125486@g.us", "491700000000-1423000000@g.us", "123456789012345@lid"] {
            assert_eq!(Recipient::parse(text).expect(text).as_str(), text);
        }
    }

    #[test]
    fn what_is_no_number_is_refused_with_a_hint() {
        for (text, hint) in [
            ("", "needed"),
            ("0015551234567", "instead of 00"),
            ("01701234567", "leading 0"),
            ("+0123456789", "leading 0"),
            ("12345", "digits"),
            ("+1234567890123456", "digits"),
            ("+99912345678", "country code"),
            ("hello", "digits"),
            ("++15551234567", "digits"),
            ("1555\u{0}1234567", "digits"),
            ("１５５５１２３４５６７", "digits"),
            ("abc@g.us", "digits"),
            ("1@2@g.us", "After the @"),
            ("15551234567@example.org", "After the @"),
            ("0@c.us", "leading 0"),
        ] {
            let said = Recipient::parse(text).expect_err(text);
            assert!(said.contains(hint), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_is_idempotent(text in "\\PC{0,70}") {
            if let Ok(recipient) = Recipient::parse(&text) {
                prop_assert_eq!(Recipient::parse(recipient.as_str()), Ok(recipient));
            }
        }
    }
}
