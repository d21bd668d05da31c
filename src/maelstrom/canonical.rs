//! JSON text → canonical element: the one text that all texts of the same JSON value share.
//!
//! ```
//! use orset::maelstrom::{Limits, canonical};
//! let text = r#" { "b": [1.0, 1e0],  "\u0061": "caf\u00e9\/\n" } "#;
//! let element = canonical(text, &Limits::default()).unwrap();
//! assert_eq!(element.as_str(), r#"{"a":"café/\n","b":[1.0,1e0]}"#);
//! ```
//!
//! # Format
//!
//! - No white space. The members of an object are sorted by the canonical bytes between the quotes of their keys
//!   (which is the order of their UTF-8, but for keys with characters that are escaped). A key twice is refused, also
//!   if it is written in two ways.
//! - In strings only `"`, `\` and the control characters below 20 are escaped, in the shortest form; all else is raw
//!   UTF-8. Nothing is normalised: a composed and a decomposed é differ. Half a surrogate pair is no text, and refused.
//! - Numbers are exactly as the client wrote them: 1, 1.0 and 1e0 are three elements, and nothing goes through a float.
//!
//! # Invariants
//!
//! - Total: any text gives an element or an error. The recursion is no deeper than [`Limits::max_depth`].
//! - A canonical text is its own canonical text, and has no control characters (that is what [`Element`] asks for).
//! - The common cases, a short string or number, are one scan and one allocation.

use thiserror::Error;

use crate::crdt::Element;

use super::text::{is_special, push_escape};

/// What an element may be at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of canonical text.
    pub max_element_bytes: usize,
    /// Arrays and objects inside one another; `[[1]]` is 2 deep, a string 0.
    pub max_depth: usize,
    /// Characters of a number. Over 1,000 digits make Maelstrom deaf.
    pub max_number_chars: usize,
    /// Characters of an object's key, unescaped and counted as Java does (UTF-16 units). Over 50,000 make Maelstrom
    /// deaf.
    pub max_key_chars: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_element_bytes: 65_536, max_depth: 128, max_number_chars: 1_000, max_key_chars: 50_000 }
    }
}

/// The most that [`Limits::max_element_bytes`] may be.
pub const LARGEST_ELEMENT_BYTES: usize = 1 << 20;

impl Limits {
    /// The same for an element that is there already, perhaps from a node or a time with other limits: it must be possible
    /// to ask for it and to remove it.
    #[must_use]
    pub fn of_present(&self) -> Self {
        Self { max_element_bytes: LARGEST_ELEMENT_BYTES, ..*self }
    }
}

/// Why a text is no element.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CanonicalError {
    /// Not JSON.
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    /// A `\ud800` to `\udfff` without its other half: there is no such text.
    #[error("half a surrogate pair at byte {0}")]
    LoneSurrogate(usize),
    /// An object with the same key twice.
    #[error("an object has the same key twice")]
    DuplicateKey,
    /// Over [`Limits::max_element_bytes`].
    #[error("more than {0} bytes of canonical text")]
    TooLong(usize),
    /// Over [`Limits::max_depth`].
    #[error("nested more than {0} deep")]
    TooDeep(usize),
    /// Over [`Limits::max_number_chars`].
    #[error("a number of more than {0} characters")]
    LongNumber(usize),
    /// Over [`Limits::max_key_chars`].
    #[error("a key of more than {0} characters")]
    LongKey(usize),
}

/// The element that a JSON text stands for.
///
/// # Errors
/// If it is not JSON, or over a limit.
pub fn canonical(json: &str, limits: &Limits) -> Result<Element, CanonicalError> {
    let text = json.as_bytes();
    if is_canonical_scalar(text) && text.len() <= limits.max_element_bytes.min(limits.max_number_chars) {
        return Element::checked(text).ok_or(CanonicalError::Syntax(0));
    }
    let mut scanner = Scanner { text, at: 0, limits, out: Vec::with_capacity(text.len().min(1 << 16)) };
    scanner.skip_space();
    scanner.value(0)?;
    scanner.skip_space();
    if scanner.at < text.len() {
        return Err(CanonicalError::Syntax(scanner.at));
    }
    Element::checked(&scanner.out).ok_or(CanonicalError::Syntax(0))
}

/// Whether the text is a string without escapes or a whole number: then it is canonical as it stands.
fn is_canonical_scalar(text: &[u8]) -> bool {
    match text {
        [b'"', inner @ .., b'"'] => !inner.iter().any(|byte| is_special(*byte)),
        [b'0'] => true,
        [b'-', b'1'..=b'9', digits @ ..] | [b'1'..=b'9', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// Checks the limits that keep Maelstrom listening (depth, numbers, keys) in a text that is known to be JSON and goes
/// back as it came.
///
/// # Errors
/// If one is exceeded.
pub(super) fn check_limits(json: &str, limits: &Limits) -> Result<(), CanonicalError> {
    let text = json.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = text.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                at = end_of_string(text, at);
                // Longer than its content by escapes, so this may refuse a key that would just have done.
                let is_key = text[at..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
                if is_key && at - start - 2 > limits.max_key_chars {
                    return Err(CanonicalError::LongKey(limits.max_key_chars));
                }
            }
            b'-' | b'0'..=b'9' => {
                let in_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                at += text[at..].iter().take_while(|byte| in_number(byte)).count();
                if at - start > limits.max_number_chars {
                    return Err(CanonicalError::LongNumber(limits.max_number_chars));
                }
            }
            _ => {}
        }
        if depth > limits.max_depth {
            return Err(CanonicalError::TooDeep(limits.max_depth));
        }
    }
    Ok(())
}

/// The position after the closing quote of a string whose content starts at `at`.
fn end_of_string(text: &[u8], mut at: usize) -> usize {
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// One member of an object, as positions in the output.
struct Member {
    key_start: usize,
    key_end: usize,
    end: usize,
}

/// Reads `text` from `at` on and appends its canonical form to `out`.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    limits: &'a Limits,
    out: Vec<u8>,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn syntax<T>(&self) -> Result<T, CanonicalError> {
        Err(CanonicalError::Syntax(self.at))
    }

    /// Copies one particular byte.
    fn expect(&mut self, byte: u8) -> Result<(), CanonicalError> {
        if self.peek() != Some(byte) {
            return self.syntax();
        }
        self.at += 1;
        self.out.push(byte);
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), CanonicalError> {
        match self.peek() {
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'[' | b'{') if depth == self.limits.max_depth => {
                return Err(CanonicalError::TooDeep(self.limits.max_depth));
            }
            Some(b'[') => self.array(depth + 1)?,
            Some(b'{') => self.object(depth + 1)?,
            Some(b't') => self.word(b"true")?,
            Some(b'f') => self.word(b"false")?,
            Some(b'n') => self.word(b"null")?,
            _ => return self.syntax(),
        }
        if self.out.len() > self.limits.max_element_bytes {
            return Err(CanonicalError::TooLong(self.limits.max_element_bytes));
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), CanonicalError> {
        if !self.text[self.at..].starts_with(word) {
            return self.syntax();
        }
        self.at += word.len();
        self.out.extend_from_slice(word);
        Ok(())
    }

    fn number(&mut self) -> Result<(), CanonicalError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1
        } else {
            self.digits()?
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        if self.at - start > self.limits.max_number_chars {
            return Err(CanonicalError::LongNumber(self.limits.max_number_chars));
        }
        self.out.extend_from_slice(&self.text[start..self.at]);
        Ok(())
    }

    /// Passes over at least one digit.
    fn digits(&mut self) -> Result<(), CanonicalError> {
        let count = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { self.syntax() } else { Ok(()) }
    }

    fn array(&mut self, depth: usize) -> Result<(), CanonicalError> {
        self.expect(b'[')?;
        self.skip_space();
        if self.peek() == Some(b']') {
            return self.expect(b']');
        }
        loop {
            self.value(depth)?;
            self.skip_space();
            if self.peek() == Some(b']') {
                return self.expect(b']');
            }
            self.expect(b',')?;
            self.skip_space();
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), CanonicalError> {
        self.expect(b'{')?;
        self.skip_space();
        if self.peek() == Some(b'}') {
            return self.expect(b'}');
        }
        let mut members = Vec::new();
        loop {
            members.push(self.member(depth)?);
            self.skip_space();
            if self.peek() == Some(b'}') {
                self.sort(&mut members)?;
                return self.expect(b'}');
            }
            self.expect(b',')?;
            self.skip_space();
        }
    }

    fn member(&mut self, depth: usize) -> Result<Member, CanonicalError> {
        let key_start = self.out.len();
        self.string()?;
        let key_end = self.out.len();
        self.check_key(key_start, key_end)?;
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        self.value(depth)?;
        Ok(Member { key_start, key_end, end: self.out.len() })
    }

    fn check_key(&self, start: usize, end: usize) -> Result<(), CanonicalError> {
        let key = &self.out[start + 1..end - 1];
        let max = self.limits.max_key_chars;
        if key.len() <= max {
            return Ok(());
        }
        let text = std::str::from_utf8(key).map_err(|_| CanonicalError::Syntax(self.at))?;
        let (mut units, mut chars) = (0, text.chars());
        while let Some(char) = chars.next() {
            if char == '\\' {
                // `\n` and `\u0001` both stand for one character.
                let skip = if chars.next() == Some('u') { 4 } else { 0 };
                chars.by_ref().take(skip).for_each(drop);
                units += 1;
            } else {
                units += char.len_utf16();
            }
        }
        if units > max { Err(CanonicalError::LongKey(max)) } else { Ok(()) }
    }

    /// Brings the members, which are all that follows the first one's start in the output, into the order of their keys.
    fn sort(&mut self, members: &mut [Member]) -> Result<(), CanonicalError> {
        let out = &self.out;
        let key = |member: &Member| &out[member.key_start + 1..member.key_end - 1];
        if members.is_sorted_by(|a, b| key(a) < key(b)) {
            return Ok(());
        }
        let first = members.first().map_or(out.len(), |member| member.key_start);
        members.sort_by(|a, b| key(a).cmp(key(b)));
        if members.windows(2).any(|pair| key(&pair[0]) == key(&pair[1])) {
            return Err(CanonicalError::DuplicateKey);
        }
        let mut sorted = Vec::with_capacity(out.len() - first);
        for member in members {
            if !sorted.is_empty() {
                sorted.push(b',');
            }
            sorted.extend_from_slice(&out[member.key_start..member.end]);
        }
        self.out.truncate(first);
        self.out.extend_from_slice(&sorted);
        Ok(())
    }

    fn string(&mut self) -> Result<(), CanonicalError> {
        self.expect(b'"')?;
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len());
            self.out.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => return self.expect(b'"'),
                Some(b'\\') => self.escape()?,
                _ => return self.syntax(),
            }
        }
    }

    fn escape(&mut self) -> Result<(), CanonicalError> {
        self.at += 1;
        let char = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => self.unicode_escape()?,
            _ => return self.syntax(),
        };
        self.at += 1;
        match u8::try_from(char) {
            Ok(byte) if is_special(byte) => push_escape(&mut self.out, byte),
            _ => self.out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        Ok(())
    }

    /// From the `u` of a `\u1234` to its last digit, or that of the second half of the pair.
    fn unicode_escape(&mut self) -> Result<char, CanonicalError> {
        let start = self.at;
        let first = self.code_unit()?;
        let mut units = [first, 0];
        let mut used = 1;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at + 1..].starts_with(b"\\u") {
            self.at += 2;
            units[1] = self.code_unit()?;
            used = 2;
        }
        match char::decode_utf16(units[..used].iter().copied()).next() {
            Some(Ok(char)) => Ok(char),
            _ => Err(CanonicalError::LoneSurrogate(start)),
        }
    }

    /// The four digits after the `u` at which it stands; stops at the last.
    fn code_unit(&mut self) -> Result<u16, CanonicalError> {
        let mut unit = 0;
        for _ in 0..4 {
            self.at += 1;
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else { return self.syntax() };
            unit = unit << 4 | u16::try_from(digit).expect("below 16");
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests;
