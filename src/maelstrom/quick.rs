//! The common request, read without looking back: an add, a remove or a look-up of one short element, put in the plainest
//! words. Such lines are nearly all of a burst, and this takes a fifth of what the general reader takes for them.
//!
//! ```text
//! {"src":"c1","dest":"n1","body":{"type":"or_set_add","msg_id":2,"element":"apple"}}          read here
//! {"id":7,"src":"c1","dest":"n1","body":{"msg_id":2,"element":5,"type":"add"}}                read here
//! {"src":"c\u0031","dest":"n1","body":{"type":"or_set_add","msg_id":2,"element":{"a":1}}}     not read here
//! ```
//!
//! # Invariants
//!
//! - What this makes of a line is what the general reader makes of it. Whatever it is not sure of (an escape, a key that
//!   it does not know or that comes twice, another kind of number) it leaves to that one, errors among it: so there is
//!   one place for what a line means and what is said about one that means nothing.

use crate::replica::Style;

/// What is asked about the element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Add(Style),
    Remove,
    Contains,
}

/// A request about one element, borrowed from its line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Quick<'a> {
    pub src: &'a str,
    pub dest: &'a str,
    pub msg_id: i64,
    pub verb: Verb,
    /// JSON: a string without escapes, or a whole number.
    pub element: &'a str,
}

/// The request that the line is, if it is one of these.
pub(super) fn read(line: &[u8]) -> Option<Quick<'_>> {
    let mut cursor = Cursor { line, at: 0 };
    let (mut src, mut dest, mut body) = (None, None, None);
    let mut has_id = false;
    cursor.members(|cursor, key| match key {
        b"src" => put(&mut src, cursor.name()?),
        b"dest" => put(&mut dest, cursor.name()?),
        b"body" => put(&mut body, read_body(cursor)?),
        b"id" => {
            cursor.whole_number()?;
            (!std::mem::replace(&mut has_id, true)).then_some(())
        }
        _ => None,
    })?;
    cursor.skip_space();
    let Body { verb, msg_id, element } = body?;
    (cursor.at == line.len()).then_some(Quick { src: src?, dest: dest?, msg_id, verb, element })
}

struct Body<'a> {
    verb: Verb,
    msg_id: i64,
    element: &'a str,
}

fn read_body<'a>(cursor: &mut Cursor<'a>) -> Option<Body<'a>> {
    let (mut kind, mut msg_id, mut element, mut message) = (None, None, None, None);
    cursor.members(|cursor, key| match key {
        b"type" => put(&mut kind, cursor.name()?),
        b"msg_id" => put(&mut msg_id, cursor.whole_number()?.parse().ok()?),
        b"element" => put(&mut element, cursor.scalar()?),
        b"message" => put(&mut message, cursor.scalar()?),
        _ => None,
    })?;
    let verb = match kind? {
        "or_set_add" => Verb::Add(Style::OrSet),
        "or_set_remove" => Verb::Remove,
        "or_set_contains" => Verb::Contains,
        "add" => Verb::Add(Style::GSet),
        "broadcast" => Verb::Add(Style::Broadcast),
        _ => return None,
    };
    let element = if verb == Verb::Add(Style::Broadcast) { message } else { element };
    Some(Body { verb, msg_id: msg_id?, element: element? })
}

/// Puts a value where there is none yet.
fn put<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

struct Cursor<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Passes over one particular byte and the space before it.
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    /// An object that is not empty; `member` reads the value of a key.
    fn members(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            member(self, key)?;
            self.skip_space();
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// What is between the quotes of a string without escapes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let rest = &self.line[self.at..];
        let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        self.at += length + 1;
        (rest[length] == b'"').then(|| &rest[..length])
    }

    /// A string that is not empty.
    fn name(&mut self) -> Option<&'a str> {
        let name = self.string()?;
        if name.is_empty() {
            return None;
        }
        std::str::from_utf8(name).ok()
    }

    /// A whole number as JSON has it, but for −0.
    fn whole_number(&mut self) -> Option<&'a str> {
        self.skip_space();
        let rest = &self.line[self.at..];
        let sign = usize::from(rest.first() == Some(&b'-'));
        let digits = rest[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let end = sign + digits;
        let is_whole = match rest[sign..end] {
            [] => false,
            [b'0'] => sign == 0,
            [b'0', ..] => false,
            _ => true,
        };
        if !is_whole || matches!(rest.get(end), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        self.at += end;
        std::str::from_utf8(&rest[..end]).ok()
    }

    /// A string without escapes, quotes included, or a whole number.
    fn scalar(&mut self) -> Option<&'a str> {
        self.skip_space();
        if self.peek() != Some(b'"') {
            return self.whole_number();
        }
        let start = self.at;
        self.string()?;
        std::str::from_utf8(&self.line[start..self.at]).ok()
    }
}
