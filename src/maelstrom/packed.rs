//! Long arrays in peers' messages, packed: a text in place of the array, base64 of the array's own text in raw DEFLATE
//! (RFC 1951).
//!
//! ```
//! # use orset::maelstrom::packed::{pack, unpack};
//! let runs = format!("[[0,2,[{}[\"pear\"]]]]", "[\"apple\"],".repeat(200));
//! let text = pack(runs.as_bytes()).expect("it is long, and much the same throughout");
//! assert!(text.len() < 100);
//! assert_eq!(unpack(&text).unwrap(), runs);
//! assert_eq!(pack(b"[[0,2,[[\"apple\"]]]]"), None, "not worth it");
//! ```
//!
//! Half of what operations take on the wire is brackets and digits that repeat, and the bitmaps of a set from which
//! little was removed are all ones.
//!
//! # Invariants
//!
//! - Nothing unpacks to more than [`MAX_UNPACKED_BYTES`], so a short line costs no more memory than one of that length.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec_with_limit;
use thiserror::Error;

/// Shorter arrays go as they are: they can be read, and cost no work.
const PACKED_FROM_BYTES: usize = 1 << 10;

/// Longer arrays go as they are: a message is cut at some 60 KiB, so these are single elements.
pub const MAX_UNPACKED_BYTES: usize = 256 << 10;

/// DEFLATE's effort, of 1 to 9.
const LEVEL: u8 = 6;

/// Why a text is no packed array.
#[derive(Debug, Error)]
pub enum PackError {
    /// It is no base64.
    #[error("packed: {0}")]
    Base64(#[from] base64::DecodeError),
    /// It is no DEFLATE, or too long.
    #[error("packed: no DEFLATE of at most {MAX_UNPACKED_BYTES} bytes")]
    Deflate,
    /// It is no text.
    #[error("packed: not UTF-8")]
    Utf8,
}

/// The packed form of an array's text; `None` if that would not be shorter, or must not be.
pub fn pack(array: &[u8]) -> Option<String> {
    if !(PACKED_FROM_BYTES..=MAX_UNPACKED_BYTES).contains(&array.len()) {
        return None;
    }
    let packed = BASE64.encode(compress_to_vec(array, LEVEL));
    (packed.len() + 2 < array.len()).then_some(packed)
}

/// The array's text.
///
/// # Errors
/// If it is no packed array, or one that is too long.
pub fn unpack(text: &str) -> Result<String, PackError> {
    let bytes =
        decompress_to_vec_with_limit(&BASE64.decode(text)?, MAX_UNPACKED_BYTES).map_err(|_| PackError::Deflate)?;
    String::from_utf8(bytes).map_err(|_| PackError::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_array_never_unpacks_to_more_than_the_bound() {
        let bomb = BASE64.encode(compress_to_vec(&vec![b' '; MAX_UNPACKED_BYTES + 1], LEVEL));
        assert!(bomb.len() < 1_000, "it is short");
        assert!(matches!(unpack(&bomb), Err(PackError::Deflate)));
        assert_eq!(pack(&vec![b' '; MAX_UNPACKED_BYTES + 1]), None, "and nobody makes such a one");
        let longest = vec![b' '; MAX_UNPACKED_BYTES];
        assert_eq!(unpack(&pack(&longest).unwrap()).unwrap().as_bytes(), longest);
    }

    #[test]
    fn what_is_no_packed_array_is_an_error() {
        assert!(matches!(unpack("{"), Err(PackError::Base64(_))));
        assert!(matches!(unpack("AAAA"), Err(PackError::Deflate)));
        let no_text = BASE64.encode(compress_to_vec(&[0xff; 9], LEVEL));
        assert!(matches!(unpack(&no_text), Err(PackError::Utf8)));
    }
}
