//! To whom a message goes: the one place that reads and writes recipients.

use std::fmt;
use std::sync::LazyLock;

use phonenumber::metadata::DATABASE;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A recipient in canonical form: `+15551234567`, `<id>@g.us` for a group, or `<id>@lid`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(transparent)]
#[sqlx(transparent)]
#[schema(value_type = String, examples("+15551234567"))]
pub struct Recipient(String);

/// What is made of a number without `+`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum BareNumbers {
    /// It is refused: nobody can tell whether it begins with a country code.
    #[default]
    Refused,
    /// 11 to 15 digits are taken for a number with its country code.
    International,
}

/// Country codes that the ITU has assigned (E.164, list of 2016-11-15 with its amendments), by length. Of the numbers within
/// a country only the length is looked at ([`check_length`]): numbering plans change faster than software.
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

/// Countries in which a number dialled within the country begins with 0, and a number dialled from abroad never does: a 0
/// after their country code is dropped. From libphonenumber 9.0.43. Left out: 54, 55 and 57, in which digits that don't
/// belong to the number may follow the 0.
const TRUNK_ZERO: &[u32] = &[
    20, 27, 31, 32, 33, 40, 41, 43, 44, 46, 49, 51, 53, 58, 60, 61, 62, 63, 64, 66, 81, 82, 84, 86, 90, 91, 92, 93, 94,
    95, 98, 211, 212, 213, 218, 231, 232, 233, 234, 243, 249, 250, 251, 252, 254, 255, 256, 260, 261, 262, 263, 264,
    265, 291, 353, 355, 358, 359, 373, 374, 377, 380, 381, 382, 383, 385, 386, 387, 389, 421, 423, 508, 590, 591, 593,
    594, 595, 596, 598, 686, 850, 855, 856, 880, 886, 961, 962, 963, 964, 966, 967, 970, 971, 972, 976, 977, 994, 995,
    996,
];
/// Country codes after which a number may begin with 0, and with what such a number begins. From libphonenumber 9.0.43.
const KEEPS_ZERO: &[(u32, &str)] = &[
    (39, "0"),
    (225, "0"),
    (226, "0"),
    (229, "0"),
    (241, "0"),
    (242, "0"),
    (250, "06"),
    (378, "0549"),
    (379, "0"),
    (870, "0"),
    (881, "0"),
    (882, "0"),
    (883, "0"),
    (979, "0"),
    (992, "0"),
];

/// Countries in which a number dialled within the country begins, or began, with 8: their code, the digits of a number
/// without it, and what may stand before them, the longest first. The 8 may be a number's own first digit, too, so only the
/// length tells. From libphonenumber 9.0.43, and for 992 and 998 from their plans before 2020.
const TRUNK_EIGHT: &[(u32, usize, &[&str])] = &[
    (7, 10, &["8"]),
    (370, 8, &["8", "0"]),
    (375, 9, &["80", "8", "0"]),
    (992, 9, &["8"]),
    (993, 8, &["8"]),
    (998, 9, &["8"]),
];

/// Digits of the shortest number that E.164 makes possible here: a country code and four digits.
const MIN_DIGITS: usize = 7;
/// Digits of the longest number of E.164.
const MAX_DIGITS: usize = 15;
/// Digits of the shortest number that is taken without `+`, where that is allowed: shorter ones are often numbers of calls
/// within a country.
const MIN_BARE_DIGITS: usize = 11;
/// Lengths of numbers without their country code that libphonenumber doesn't know, and WhatsApp does: Mexico's mobiles had a 1
/// before their ten digits until 2019, and WhatsApp's ids have kept it.
const MORE_LENGTHS: &[(&str, usize)] = &[("52", 11)];
/// Characters of the longest text that is looked at.
const MAX_TEXT: usize = 64;
/// What address books and messengers write before a number.
const PREFIXES: [&str; 2] = ["tel:", "whatsapp:"];

impl Recipient {
    /// Reads a recipient in any of the accepted forms; a number needs its `+`.
    ///
    /// # Errors
    /// What is wrong with it and how to mend it, in a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text, BareNumbers::Refused)
    }

    /// Reads a recipient in any of the accepted forms.
    ///
    /// # Errors
    /// What is wrong with it and how to mend it, in a sentence.
    pub fn read(text: &str, bare_numbers: BareNumbers) -> Result<Self, String> {
        let text = bare(text);
        if text.is_empty() {
            return Err("A recipient is needed: a phone number such as +15551234567, or a group id.".to_owned());
        }
        if text.len() > MAX_TEXT && text.chars().count() > MAX_TEXT {
            return Err(format!("A recipient has at most {MAX_TEXT} characters."));
        }
        match text.split_once('@') {
            Some((id, domain)) => whatsapp_id(id, domain),
            None => written_number(text, bare_numbers),
        }
    }

    /// Reads a phone number: no group, and no id that hides the number.
    ///
    /// # Errors
    /// What is wrong with it and how to mend it, in a sentence.
    pub fn read_number(text: &str, bare_numbers: BareNumbers) -> Result<Self, String> {
        match Self::read(text, bare_numbers)? {
            number if number.0.starts_with('+') => Ok(number),
            _ => Err("Must be a phone number such as +15551234567.".to_owned()),
        }
    }

    /// The canonical form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text without what is around it: blanks, marks that can't be seen, and a prefix such as `tel:`.
fn bare(text: &str) -> &str {
    let around = |c: char| c.is_whitespace() || is_invisible(c);
    let text = text.trim_matches(around);
    let prefix =
        PREFIXES.iter().find(|prefix| text.get(..prefix.len()).is_some_and(|t| t.eq_ignore_ascii_case(prefix)));
    prefix.map_or(text, |prefix| text[prefix.len()..].trim_start_matches(around))
}

/// Marks of direction and joining, which come along when a number is copied from an address book.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// What may stand between a number's digits: blanks within a line, dashes and dots, as keyboards and typesetters have them.
fn is_separator(c: char) -> bool {
    let blank = matches!(c, ' ' | '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}');
    let dash = matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}');
    blank || dash || c == '.' || is_invisible(c)
}

/// `<id>@<domain>`, as WhatsApp's own programs write it.
fn whatsapp_id(id: &str, domain: &str) -> Result<Recipient, String> {
    let domain = domain.to_ascii_lowercase();
    match domain.as_str() {
        "c.us" | "s.whatsapp.net" if is_digits(id) => number(id),
        "g.us" if is_group_id(id) => Ok(Recipient(format!("{id}@g.us"))),
        "lid" if is_digits(id) && id.len() <= 20 => Ok(Recipient(format!("{id}@lid"))),
        "c.us" | "s.whatsapp.net" | "g.us" | "lid" => Err(format!("The part before @{domain} must be digits.")),
        _ => Err("After the @ only c.us, s.whatsapp.net, g.us and lid are known.".to_owned()),
    }
}

/// A phone number as people write it.
fn written_number(text: &str, bare_numbers: BareNumbers) -> Result<Recipient, String> {
    // As in `(+49) 170 …`.
    let opened = text.strip_prefix('(').filter(|rest| rest.starts_with('+'));
    let text = opened.unwrap_or(text);
    let (plus, rest) = match text.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut digits = String::with_capacity(rest.len());
    let mut group = None;
    for c in rest.chars() {
        match c {
            '0'..='9' => digits.push(c),
            '(' => group = Some(digits.len()),
            ')' => {
                let alone = group.take().filter(|at| *at > 0).map(|at| digits.split_at(at));
                match alone {
                    Some((before, "0")) => check_optional(before, "0")?,
                    Some((before, "8")) => {
                        check_optional(before, "8")?;
                        digits.pop();
                    }
                    _ => {}
                }
            }
            _ if is_separator(c) => {}
            _ => {
                return Err(
                    "A phone number has digits, spaces, dashes, dots and parentheses only, such as +15551234567."
                        .to_owned(),
                );
            }
        }
    }
    if !plus {
        if digits.starts_with("00") {
            return Err("Write the number with + instead of 00, such as +15551234567.".to_owned());
        }
        if digits.len() > MAX_DIGITS && is_group_id(text) {
            return Err(format!("The number is too long for a phone number. A group's id ends in @g.us: {text}@g.us."));
        }
        if digits.starts_with('0') {
            return number(&digits);
        }
        if bare_numbers == BareNumbers::Refused || digits.len() < MIN_BARE_DIGITS {
            return Err(without_plus(&digits));
        }
    }
    let number = number(&digits)?;
    check_length(&number.0[1..])?;
    Ok(number)
}

/// What to do about a number without `+`: it may be one of a call within a country, and then its first digits are no country
/// code.
fn without_plus(digits: &str) -> String {
    let advice = "Write the number with + and its country code, such as +15551234567.";
    let meant = number(digits).ok().filter(|number| check_length(&number.0[1..]).is_ok());
    match meant.and_then(|number| Some((country_code(digits)?, number))) {
        Some((code, number)) => format!("{advice} If {code} is its country code, that is {number}."),
        None => advice.to_owned(),
    }
}

/// Whether a number may be this long in its country: its digits, the country code's first.
fn check_length(digits: &str) -> Result<(), String> {
    let Some(code) = country_code(digits) else { return Ok(()) };
    let known = code.parse().ok().and_then(|code: usize| LENGTHS.get(code)).copied().unwrap_or_default();
    let length = digits.len() - code.len();
    if known == 0 || known & (1 << length) != 0 || MORE_LENGTHS.contains(&(code, length)) {
        return Ok(());
    }
    let (shortest, longest) = (known.trailing_zeros(), known.ilog2());
    let possible = if shortest == longest { shortest.to_string() } else { format!("{shortest} to {longest}") };
    Err(format!(
        "A number has {possible} digits after the country code +{code}; this has {length}. Write it as it is dialled from abroad."
    ))
}

/// For each country code, a bit for each length that its numbers may have without it; 0 where none is known.
static LENGTHS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let lengths = |code| {
        let plans = DATABASE.by_code(&code).unwrap_or_default();
        plans.iter().fold(0, |all, plan| {
            let kinds = plan.descriptors();
            // Not those of whole companies, mailboxes and pagers, which have lengths of their own.
            let kinds = [
                kinds.fixed_line(),
                kinds.mobile(),
                kinds.toll_free(),
                kinds.premium_rate(),
                kinds.shared_cost(),
                kinds.personal_number(),
                kinds.voip(),
            ];
            let possible = kinds.into_iter().flatten().flat_map(|kind| kind.possible_length());
            possible.filter(|length| **length < 32).fold(all, |all, length| all | 1 << length)
        })
    };
    (0..1_000).map(lengths).collect()
});

/// Whether the digits before `(0)` or `(8)` are a country code after which that means the digit of calls within the country.
/// The 0 itself is left out with any other ([`without_trunk`]).
fn check_optional(before: &str, digit: &str) -> Result<(), String> {
    let dropped = |code| match trunk_eight(code) {
        Some((_, _, trunks)) => trunks.contains(&digit),
        None => digit == "0" && is_in(TRUNK_ZERO, code),
    };
    match country_code(before) {
        Some(code) if code.len() == before.len() && dropped(code) => Ok(()),
        _ => Err(format!(
            "It isn't clear whether the {digit} in +{before} ({digit}) belongs to the number. Write it as it is dialled from \
             abroad, such as +15551234567."
        )),
    }
}

fn trunk_eight(code: &str) -> Option<&'static (u32, usize, &'static [&'static str])> {
    TRUNK_EIGHT.iter().find(|(of, ..)| code == of.to_string())
}

/// A number by all its digits, the country code's first.
fn number(digits: &str) -> Result<Recipient, String> {
    if digits.starts_with('0') {
        return Err(
            "Write the number with its country code and without the leading 0, such as +15551234567.".to_owned()
        );
    }
    let within = |digits: &str| (MIN_DIGITS..=MAX_DIGITS).contains(&digits.len());
    // A digit that will be dropped may be one too many.
    if !within(digits) && digits.len() != MAX_DIGITS + 1 {
        return Err(length());
    }
    let Some(code) = country_code(digits) else {
        return Err("The number doesn't begin with a country code. Write it as +15551234567.".to_owned());
    };
    let national = without_trunk(code, &digits[code.len()..])?;
    let number = format!("{code}{national}");
    if within(&number) { Ok(Recipient(format!("+{number}"))) } else { Err(length()) }
}

fn length() -> String {
    format!("A phone number has {MIN_DIGITS} to {MAX_DIGITS} digits with its country code.")
}

/// The digits after the country code, as they are dialled from abroad: `0170 …` in Germany is `170 …`.
fn without_trunk<'a>(code: &str, national: &'a str) -> Result<&'a str, String> {
    if let Some((_, length, trunks)) = trunk_eight(code) {
        let longer = trunks.iter().find_map(|trunk| national.strip_prefix(trunk).filter(|rest| rest.len() == *length));
        if let Some(rest) = longer {
            return Ok(rest);
        }
    }
    let kept = KEEPS_ZERO.iter().any(|(of, begin)| code == of.to_string() && national.starts_with(begin));
    let Some(rest) = national.strip_prefix('0').filter(|_| !kept) else { return Ok(national) };
    if is_in(TRUNK_ZERO, code) && !rest.starts_with('0') {
        return Ok(rest);
    }
    Err(format!(
        "After the country code +{code} no number begins with {}. Write it as it is dialled from abroad, such as \
         +15551234567.",
        if rest.starts_with('0') { "00" } else { "0" },
    ))
}

/// The country code with which digits begin. None is the beginning of another.
fn country_code(digits: &str) -> Option<&str> {
    let codes = [(COUNTRY_CODES_1, 1), (COUNTRY_CODES_2, 2), (COUNTRY_CODES_3, 3)];
    codes.into_iter().find_map(|(codes, length)| digits.get(..length).filter(|code| is_in(codes, code)))
}

fn is_in(codes: &[u32], code: &str) -> bool {
    code.parse().is_ok_and(|code| codes.contains(&code))
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
        for text in ["+15551234567", "+1 (555) 123-45.67", "15551234567@c.us", "15551234567@s.whatsapp.net"] {
            assert_eq!(Recipient::parse(text).expect(text).as_str(), "+15551234567");
        }
        for text in ["120363025246125486@g.us", "491700000000-1423000000@g.us", "123456789012345@lid"] {
            assert_eq!(Recipient::parse(text).expect(text).as_str(), text);
        }
    }

    #[test]
    fn what_stands_around_a_number_or_an_id_is_dropped() {
        for (text, expected) in [
            (" +15551234567\n", "+15551234567"),
            ("\t15551234567@c.us ", "+15551234567"),
            (" 120363025246125486@g.us ", "120363025246125486@g.us"),
            ("120363025246125486@G.US", "120363025246125486@g.us"),
            (" 123456789012345@lid", "123456789012345@lid"),
            ("tel:+14155552671", "+14155552671"),
            ("TEL: +1-415-555-2671", "+14155552671"),
            ("whatsapp:+14155552671", "+14155552671"),
            ("WhatsApp: 120363025246125486@g.us", "120363025246125486@g.us"),
            ("\u{202a}+1 415 555 2671\u{202c}", "+14155552671"),
            ("\u{feff}+14155552671", "+14155552671"),
            ("+1\u{a0}415\u{202f}555\u{2011}26\u{2013}71", "+14155552671"),
            ("(+49) 170 1234567", "+491701234567"),
        ] {
            assert_eq!(Recipient::parse(text).expect(text).as_str(), expected, "{text:?}");
        }
        for text in ["tel:", "tel:tel:+14155552671", "sms:+14155552671", "tel:+14155552671;ext=5", "+1\n4155552671"] {
            assert!(Recipient::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_digit_of_calls_within_a_country_never_makes_a_wrong_number() {
        for (text, expected) in [
            ("+44 (0)20 7946 0958", "+442079460958"),
            ("+44(0) 20 7946 0958", "+442079460958"),
            ("+44 ( 0 ) 20 7946 0958", "+442079460958"),
            ("(+44) (0)20 7946 0958", "+442079460958"),
            ("tel:+44(0)20-7946-0958", "+442079460958"),
            ("+49 (0) 170 1234567", "+491701234567"),
            ("+49 0170 1234567", "+491701234567"),
            ("+49 (0170) 1234567", "+491701234567"),
            ("4901701234567@c.us", "+491701234567"),
            ("+33 06 12 34 56 78", "+33612345678"),
            ("+62 0812 3456 7890", "+6281234567890"),
            ("+234 0803 123 4567", "+2348031234567"),
            ("+880 01711 123456", "+8801711123456"),
            // A 0 that belongs to the number, or to the country code.
            ("+39 06 6982 1234", "+390669821234"),
            ("+378 0549 882312", "+3780549882312"),
            ("+225 07 12 34 56 78", "+2250712345678"),
            ("+229 01 97 12 34 56", "+2290197123456"),
            ("+242 06 123 4567", "+242061234567"),
            ("+250 06 123 456", "+25006123456"),
            ("+250 078 812 3456", "+250788123456"),
            ("+992 00 123 4567", "+992001234567"),
            ("+38 (050) 123-45-67", "+380501234567"),
            ("+20 10 0123 4567", "+201001234567"),
            ("+1 (800) 555 0100", "+18005550100"),
            // A number within the country began with 8.
            ("+370 (8) 612 34567", "+37061234567"),
            ("+370 8 612 34567", "+37061234567"),
            ("+370 0612 34567", "+37061234567"),
            ("+370 612 34567", "+37061234567"),
            ("+370 800 12345", "+37080012345"),
            ("+375 (8) 029 123 45 67", "+375291234567"),
            ("+375 (8 029) 123-45-67", "+375291234567"),
            ("+375 8 29 123 45 67", "+375291234567"),
            ("+375 (0) 29 123 45 67", "+375291234567"),
            ("+375 029 123 45 67", "+375291234567"),
            ("+7 8 912 345 67 89", "+79123456789"),
            ("+7 (8) 912 345-67-89", "+79123456789"),
            ("+7 (812) 345-67-89", "+78123456789"),
            ("78123456789@c.us", "+78123456789"),
            ("+998 (8) 90 123 45 67", "+998901234567"),
            // A digit of its own for mobiles is the number's.
            ("+54 (9) 11 2345 6789", "+5491123456789"),
            // The longest number, with a 0 too many.
            ("+49 0123456789012 3", "+491234567890123"),
            // Mexico's mobiles as WhatsApp has them.
            ("+52 1 55 1234 5678", "+5215512345678"),
        ] {
            let read = Recipient::parse(text).unwrap_or_else(|said| panic!("{text}: {said}"));
            assert_eq!(read.as_str(), expected, "{text}");
        }
        for (text, hint) in [
            // Italy keeps a fixed line's 0, and not a mobile's.
            ("+39 (0)6 6982 1234", "isn't clear"),
            // What is before it is no country code: +38 (0)50 is the Ukraine, +385 0… Croatia.
            ("+38 (0)50 123 45 67", "isn't clear"),
            ("+2 (0)10 1234 5678", "isn't clear"),
            ("+44 20 (0) 7946 0958", "isn't clear"),
            ("+55 (0) 15 11 91234 5678", "isn't clear"),
            ("+7 (0) 912 345 67 89", "isn't clear"),
            ("+49 (8) 170 1234567", "isn't clear whether the 8"),
            ("+37 (8) 0612 34567", "isn't clear whether the 8"),
            ("+371 (8) 2123 4567", "isn't clear whether the 8"),
            ("(0)20 7946 0958", "leading 0"),
            ("+36 06 20 123 4567", "+36 no number begins with 0"),
            ("+52 01 55 1234 5678", "+52 no number begins with 0"),
            ("+1 0415 555 2671", "+1 no number begins with 0"),
            ("+378 0123 456789", "+378 no number begins with 0"),
            ("+49 00170 1234567", "+49 no number begins with 00"),
            ("+49 (0) 0170 1234567", "+49 no number begins with 00"),
            ("36062012345678@c.us", "+36 no number begins with 0"),
        ] {
            let said = Recipient::parse(text).expect_err(text);
            assert!(said.contains(hint), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused_with_a_hint() {
        for (text, hint) in [
            ("", "needed"),
            ("0015551234567", "instead of 00"),
            ("01701234567", "leading 0"),
            ("+0123456789", "leading 0"),
            ("12345", "with + and its country code"),
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
            ("120363025246125486", "@g.us: 120363025246125486@g.us"),
            (" 120363025246125486 ", "@g.us: 120363025246125486@g.us"),
            ("491700000000-1423000000", "@g.us: 491700000000-1423000000@g.us"),
        ] {
            let said = Recipient::parse(text).expect_err(text);
            assert!(said.contains(hint), "{text}: {said}");
        }
    }

    #[test]
    fn a_number_without_its_plus_never_goes_abroad() {
        for (text, hint) in [
            ("(202) 555-0123", "If 20 is its country code, that is +2025550123."),
            ("555-123-4567", "If 55 is its country code, that is +5551234567."),
            ("7911 123456", "with + and its country code"),
            ("15551234567", "If 1 is its country code, that is +15551234567."),
            ("tel:15551234567", "that is +15551234567."),
        ] {
            let said = Recipient::parse(text).expect_err(text);
            assert!(said.contains(hint), "{text}: {said}");
        }
        let read = |text| Recipient::read(text, BareNumbers::International);
        for (text, expected) in [
            ("15551234567", "+15551234567"),
            ("49 170 1234567", "+491701234567"),
            ("44 (0) 20 7946 0958", "+442079460958"),
        ] {
            assert_eq!(read(text).expect(text).as_str(), expected);
        }
        for text in ["(202) 555-0123", "5551234567", "1555123456789012", "1555123456", "01701234567"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(Recipient::read_number("120363025246125486@g.us", BareNumbers::International).is_err());
    }

    #[test]
    fn a_length_that_its_country_does_not_have_is_refused() {
        for (text, hint) in [
            ("+1 555 123 456", "10 digits after the country code +1; this has 9"),
            ("+1 555 123 45678", "10 digits after the country code +1; this has 11"),
            ("+44 20 7946 09581", "after the country code +44; this has 11"),
            ("+20 12345", "after the country code +20; this has 5"),
            ("+33 6 12 34 56 7", "after the country code +33; this has 8"),
            ("+55 1234567", "after the country code +55; this has 7"),
        ] {
            let said = Recipient::parse(text).expect_err(text);
            assert!(said.contains(hint), "{text}: {said}");
        }
        // WhatsApp's own ids are taken as they are.
        assert!(Recipient::parse("5215512345678@c.us").is_ok() && Recipient::parse("155512345678@c.us").is_ok());
        for code in [COUNTRY_CODES_1, COUNTRY_CODES_2, COUNTRY_CODES_3].concat() {
            let known = LENGTHS[code as usize];
            assert!(known != 0 || [379, 979].contains(&code), "nothing is known of +{code}");
            assert_eq!(known & 0b111, 0, "+{code} has numbers of one or two digits");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_is_idempotent(text in "\\PC{0,70}") {
            if let Ok(recipient) = Recipient::parse(&text) {
                prop_assert_eq!(Recipient::parse(recipient.as_str()), Ok(recipient));
            }
        }

        #[test]
        fn a_number_is_written_in_its_own_digits(text in "(tel:)?\\(?\\+?[0-9]{1,3}( ?\\(0?\\) ?)?[0-9 ().-]{4,14}") {
            if let Ok(recipient) = Recipient::parse(&text) {
                let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
                let (given, read) = (digits(&text), digits(recipient.as_str()));
                // Left out is at most the digit of calls within the country, after the country code.
                let (code, national) = read.split_at(country_code(&read).map_or(0, str::len));
                let trunks = ["", "0", "8", "80", "88"];
                let is_given = trunks.iter().any(|trunk| given == format!("{code}{trunk}{national}"));
                prop_assert!(is_given, "{} was read as {}", text, recipient);
                prop_assert_eq!(Recipient::parse(recipient.as_str()), Ok(recipient));
            }
        }
    }
}
