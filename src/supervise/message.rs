//! What the rules have to know of a message.

use serde::Deserialize;

/// The parts of a line that matter here. A line that is no message has none of them; whether that is right is not for
/// the supervisor to judge.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Message {
    /// Who has sent it.
    #[serde(default)]
    pub src: String,
    /// Whom it is for.
    #[serde(default)]
    pub dest: String,
    /// Its body.
    #[serde(default)]
    pub body: Body,
}

/// The parts of a body that matter here.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Body {
    /// Its type.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The sender's number for it.
    pub msg_id: Option<i64>,
    /// The number of the request that it answers.
    pub in_reply_to: Option<i64>,
}

impl Message {
    /// Reads a line.
    pub fn of(line: &[u8]) -> Self {
        serde_json::from_slice(line).unwrap_or_default()
    }
}

/// Whether it is a client's name in Maelstrom: `c0`, `c1`, …. Nodes are called `n0` and so on, and services like `lin-kv`.
pub fn is_client(name: &str) -> bool {
    name.starts_with('c')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_whatever_else_is_in_it() {
        let line = br#"{"id":3,"src":"c1","dest":"n0","body":{"msg_id":7,"type":"add","element":[{"type":"x"}]}}"#;
        let body = Body { kind: "add".into(), msg_id: Some(7), in_reply_to: None };
        assert_eq!(Message::of(line), Message { src: "c1".into(), dest: "n0".into(), body });
    }

    #[test]
    fn what_is_no_message_has_no_parts() {
        for line in [&b""[..], b"hello", b"{", b"[1]", b"\xff", br#"{"src":1}"#] {
            assert_eq!(Message::of(line), Message::default(), "{}", String::from_utf8_lossy(line));
        }
    }
}
