//! Writing JSON text: strings with one way of escaping, and whole numbers.
//!
//! ```text
//! say "hi"<newline>  →  "say \"hi\"\n"         é, 😀, / and 7f: as they are         01: \u0001
//! ```
//!
//! Only what has to be escaped is, in the shortest form, so equal strings have equal texts; and no control character
//! (so no newline either) is ever written.

use uuid::Uuid;

/// Appends `text` as a JSON string, quotes included.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    // Whole stretches are copied at once; most strings are one.
    while let Some(special) = rest.iter().position(|byte| is_special(*byte)) {
        out.extend_from_slice(&rest[..special]);
        push_escape(out, rest[special]);
        rest = &rest[special + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Whether a byte cannot stand for itself in a JSON string.
pub(super) const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Appends the escape of a byte that [`is_special`].
pub(super) fn push_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends `number` in decimal.
pub(super) fn push_u64(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends `number` in decimal.
pub(super) fn push_i64(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    push_u64(out, number.unsigned_abs());
}

/// Appends a UUID in its usual form, in quotes.
pub(super) fn push_uuid(out: &mut Vec<u8>, uuid: Uuid) {
    let mut buffer = Uuid::encode_buffer();
    out.push(b'"');
    out.extend_from_slice(uuid.hyphenated().encode_lower(&mut buffer).as_bytes());
    out.push(b'"');
}

/// `text` without what follows its first 200 characters: it ends up in error texts and logs.
pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_read_back_and_hold_no_control_characters() {
        let all: String = (0..=0x2fff).filter_map(char::from_u32).chain("😀\u{2028}".chars()).collect();
        let mut out = Vec::new();
        push_string(&mut out, &all);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), all);
        assert!(out.iter().all(|byte| *byte >= 0x20));
        assert!(out.starts_with(br#""\u0000\u0001"#), "lower-case hex, four digits");
        // serde_json happens to escape in just this way.
        assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&all).unwrap());
    }

    #[test]
    fn whole_numbers_are_written_as_the_standard_library_does() {
        for number in [0, 9, 10, 99, 1 << 53, i64::MAX, i64::MIN, -1] {
            let mut out = Vec::new();
            push_i64(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        let mut out = Vec::new();
        push_u64(&mut out, u64::MAX);
        assert_eq!(String::from_utf8(out).unwrap(), u64::MAX.to_string());
    }

    #[test]
    fn clipping_never_splits_a_character() {
        assert_eq!(clip(&"é".repeat(200)), "é".repeat(200));
        assert_eq!(clip(&"é".repeat(201)), "é".repeat(200) + "…");
    }
}
