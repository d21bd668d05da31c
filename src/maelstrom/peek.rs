//! What can still be read of a line that is broken or cut off: who sent it, and in which request.
//!
//! ```
//! use orset::maelstrom::reject_overlong;
//! let prefix = br#"{"src":"c1","dest":"n1","body":{"msg_id":7,"type":"or_set_add","element":"xxxxxxxxxxx"#;
//! let reply = reject_overlong(prefix).reply.unwrap();
//! assert_eq!((&*reply.client, reply.msg_id), ("c1", 7));
//! ```
//!
//! It runs only after the line was found bad, so it may take its time. An error reply is definite, so it must not hit
//! another request than the one that it is about:
//!
//! - A number counts only if what follows it says that it has ended: `"msg_id":12` at the end of a line that was cut
//!   off may have been 123.
//! - Whatever is there twice is not known.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::replica::ErrorCode;

use super::decode::{MAX_LINE_BYTES, PEER_TYPE_PREFIX};
use super::rejection::{ErrorReply, Rejection};

/// The rejection of a line of more than [`MAX_LINE_BYTES`], of which only the first bytes were kept.
pub fn reject_overlong(prefix: &[u8]) -> Rejection {
    reject(prefix, &format!("a line of more than {MAX_LINE_BYTES} bytes"))
}

/// The rejection of a line that is not a message at all.
pub(super) fn reject(line: &[u8], why: &str) -> Rejection {
    let peeked = peek(line);
    let from_peer = matches!(&peeked.kind, Some(Scalar::Text(kind)) if kind.starts_with(PEER_TYPE_PREFIX));
    let is_reply = !matches!(peeked.in_reply_to, None | Some(Scalar::Null));
    let asked_by = match (peeked.src, peeked.msg_id) {
        (Some(Scalar::Text(src)), Some(Scalar::Integer(msg_id))) if !src.is_empty() => Some((src, msg_id)),
        _ => None,
    };
    match asked_by {
        Some((src, msg_id)) if !from_peer && !is_reply && !peeked.twice => {
            let dest = match peeked.dest {
                Some(Scalar::Text(dest)) => Some(dest.into()),
                _ => None,
            };
            let (client, code) = (src.into(), ErrorCode::MalformedRequest);
            Rejection::with_reply(why, ErrorReply { client, msg_id, dest, code, text: why.to_owned() })
        }
        _ => Rejection::silent(why),
    }
}

/// What came by before the first error.
#[derive(Default)]
struct Peeked {
    src: Option<Scalar>,
    dest: Option<Scalar>,
    kind: Option<Scalar>,
    msg_id: Option<Scalar>,
    in_reply_to: Option<Scalar>,
    /// The last thing that came by, of which the end was not seen yet, and where it belongs.
    pending: Option<(Field, Scalar)>,
    /// Something came twice.
    twice: bool,
}

enum Scalar {
    Text(String),
    Integer(i64),
    Null,
    Other,
}

#[derive(Clone, Copy)]
enum Field {
    Src,
    Dest,
    Body,
    Type,
    MsgId,
    InReplyTo,
    Other,
}

fn peek(line: &[u8]) -> Peeked {
    let mut peeked = Peeked::default();
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let outcome = Object { peeked: &mut peeked, in_body: false }.deserialize(&mut deserializer);
    // Cut off after a number only if there is something between the number and the end.
    let ended = line.last().is_some_and(|byte| !matches!(byte, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E'));
    if outcome.is_ok() || outcome.is_err_and(|error| error.is_eof() && ended) {
        peeked.settle();
    }
    peeked
}

impl Peeked {
    /// The end of what is pending was seen.
    fn settle(&mut self) {
        let Some((field, value)) = self.pending.take() else { return };
        let known = match field {
            Field::Src => &mut self.src,
            Field::Dest => &mut self.dest,
            Field::Type => &mut self.kind,
            Field::MsgId => &mut self.msg_id,
            Field::InReplyTo => &mut self.in_reply_to,
            Field::Body | Field::Other => return,
        };
        self.twice |= known.replace(value).is_some();
    }
}

/// The line itself, or the body in it.
struct Object<'a> {
    peeked: &'a mut Peeked,
    in_body: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(Key { peeked: &mut *self.peeked, in_body: self.in_body })? {
            match field {
                Field::Body => map.next_value_seed(Object { peeked: &mut *self.peeked, in_body: true })?,
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
                known => self.peeked.pending = Some((known, map.next_value()?)),
            }
        }
        self.peeked.settle();
        Ok(())
    }
}

/// A key. That there is one shows that the value before it has ended.
struct Key<'a> {
    peeked: &'a mut Peeked,
    in_body: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        self.peeked.settle();
        // As bytes, since a key that is not UTF-8 is no obstacle here.
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E: Error>(self, key: &[u8]) -> Result<Field, E> {
        Ok(match (self.in_body, key) {
            (false, b"src") => Field::Src,
            (false, b"dest") => Field::Dest,
            (false, b"body") => Field::Body,
            (true, b"type") => Field::Type,
            (true, b"msg_id") => Field::MsgId,
            (true, b"in_reply_to") => Field::InReplyTo,
            _ => Field::Other,
        })
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
        Ok(i64::try_from(number).map_or(Scalar::Other, Scalar::Integer))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Scalar, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_by(line: &[u8]) -> Option<(String, i64)> {
        reject(line, "bad").reply.map(|reply| (reply.client.to_string(), reply.msg_id))
    }

    #[test]
    fn a_line_cut_anywhere_is_answered_once_its_msg_id_is_whole_and_never_wrongly() {
        let line = br#"{"src":"c1","dest":"n1","body":{"msg_id":123,"type":"add","element":[1,"x"]},"id":4}"#;
        let whole_at = 1 + line.windows(5).position(|window| window == b"123,\"").unwrap() + 3;
        for cut in 0..=line.len() {
            let expected = (cut >= whole_at).then(|| ("c1".to_owned(), 123));
            assert_eq!(asked_by(&line[..cut]), expected, "{}", String::from_utf8_lossy(&line[..cut]));
        }
    }

    #[test]
    fn what_comes_after_the_body_is_found_too() {
        let line = br#"{"body":{"type":"add","element":1,"msg_id":2} ,"id":1,"src":"c2"}}}}"#;
        assert_eq!(asked_by(line), Some(("c2".to_owned(), 2)));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_no_obstacle_elsewhere() {
        let line = b"{\"src\":\"c1\",\"\xff\":\"\xff\",\"body\":{\"element\":\"\xff\",\"msg_id\":2}}";
        assert_eq!(asked_by(line), Some(("c1".to_owned(), 2)));
        assert_eq!(asked_by(b"{\"src\":\"c\xff\",\"body\":{\"msg_id\":2}}"), None);
    }

    #[test]
    fn nobody_is_told_where_it_is_not_sure_who_asked_what() {
        for line in [
            r#"{"src":"c1","body":{"msg_id":12x"#,
            r#"{"src":"c1","body":{"msg_id":1.5}"#,
            r#"{"src":"c1","body":{"msg_id":"1"}"#,
            r#"{"src":"c1","body":{"msg_id":9223372036854775808}"#,
            r#"{"src":"c1","body":{"msg_id":1,"msg_id":2}"#,
            r#"{"src":"c1","src":"c2","body":{"msg_id":1}"#,
            r#"{"src":"c1","body":{"msg_id":1},"body":{"msg_id":2}"#,
            r#"{"src":"","body":{"msg_id":1}"#,
            r#"{"src":7,"body":{"msg_id":1}"#,
            r#"{"src":null,"body":{"msg_id":1}"#,
            r#"{"src":["c1"],"body":{"msg_id":1}"#,
            r#"{"src":"c1","body":[{"msg_id":1}]"#,
            r#"{"src":"c1","body":{"a":{"msg_id":1}}"#,
            r#"{"src":"c1","msg_id":1,"#,
            r#"[{"src":"c1","body":{"msg_id":1}}]"#,
        ] {
            assert_eq!(asked_by(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn peers_messages_and_replies_are_not_answered() {
        assert_eq!(asked_by(br#"{"src":"n2","body":{"type":"orset_ops","msg_id":1,"#), None);
        assert_eq!(asked_by(br#"{"src":"n2","body":{"type":"error","in_reply_to":3,"msg_id":1,"#), None);
        assert!(asked_by(br#"{"src":"c2","body":{"type":{"a":[1,{}]},"in_reply_to":null,"msg_id":1,"#).is_some());
    }

    #[test]
    fn deep_nesting_does_no_harm() {
        for open in ["[", "{\"a\":"] {
            for start in [r#"{"src":"#, r#"{"src":"c1","body":{"msg_id":1,"type":"#, ""] {
                reject(format!("{start}{}", open.repeat(1 << 20)).as_bytes(), "deep");
            }
        }
    }
}
