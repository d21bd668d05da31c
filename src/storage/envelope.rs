//! The outer form of every header on disk, the same in all versions of the format:
//!
//! ```text
//! magic (8)  format version u32  length of the body u32  crc32c of version, length, body u32  body
//! ```
//!
//! all little-endian. So a file of a later version is told from a damaged one.

use std::path::Path;

use super::error::StoreError;

/// The format of all files that this program writes.
pub const FORMAT_VERSION: u32 = 2;
/// Bytes before the body.
pub const ENVELOPE_BYTES: usize = 20;

/// Wraps `body` and appends the outcome to `out`; returns the checksum.
pub fn wrap(out: &mut Vec<u8>, magic: [u8; 8], version: u32, body: &[u8]) -> u32 {
    let length = u32::try_from(body.len()).expect("headers are small");
    let checksum = checksum(version, length, body);
    out.extend_from_slice(&magic);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(body);
    checksum
}

fn checksum(version: u32, length: u32, body: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(&version.to_le_bytes()), &length.to_le_bytes());
    crc32c::crc32c_append(head, body)
}

/// An unwrapped header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unwrapped<'a> {
    /// The format version that the file says it is of.
    pub version: u32,
    /// The body.
    pub body: &'a [u8],
    /// The checksum.
    pub checksum: u32,
}

/// Unwraps the header at the start of `bytes`, which lie at `offset` of the file `path`.
///
/// # Errors
/// [`StoreError::Damaged`], or [`StoreError::Newer`] for a sound header of a later version.
pub fn unwrap<'a>(bytes: &'a [u8], magic: [u8; 8], path: &Path, offset: u64) -> Result<Unwrapped<'a>, StoreError> {
    unwrap_up_to(bytes, magic, path, offset, FORMAT_VERSION)
}

/// The same where versions up to `known` are known.
///
/// # Errors
/// As [`unwrap`].
pub fn unwrap_up_to<'a>(
    bytes: &'a [u8],
    magic: [u8; 8],
    path: &Path,
    offset: u64,
    known: u32,
) -> Result<Unwrapped<'a>, StoreError> {
    let damaged = |what| StoreError::damaged(path, offset, what);
    let head = bytes.first_chunk::<ENVELOPE_BYTES>().ok_or_else(|| damaged("the header is cut off"))?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if head[..8] != magic {
        return Err(damaged("this is no such file (its first bytes are wrong)"));
    }
    let (version, length, expected) = (number(8), number(12), number(16));
    let body = bytes[ENVELOPE_BYTES..].get(..length as usize).ok_or_else(|| damaged("the header is cut off"))?;
    if checksum(version, length, body) != expected {
        return Err(damaged("the header's checksum is wrong"));
    }
    match version {
        0 => Err(damaged("format version 0")),
        _ if version <= known => Ok(Unwrapped { version, body, checksum: expected }),
        _ => Err(StoreError::Newer { path: path.to_path_buf(), found: version, known }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_one_to_the_known_one_are_unwrapped() {
        let magic = *b"ORSETXYZ";
        let unwrapped = |version| {
            let mut bytes = Vec::new();
            wrap(&mut bytes, magic, version, b"body");
            unwrap_up_to(&bytes, magic, Path::new("x"), 0, 2)
                .map(|unwrapped| (unwrapped.version, unwrapped.body.to_vec()))
        };
        assert!(matches!(unwrapped(0), Err(StoreError::Damaged { .. })));
        assert_eq!(unwrapped(1).unwrap(), (1, b"body".to_vec()));
        assert_eq!(unwrapped(2).unwrap(), (2, b"body".to_vec()));
        assert!(matches!(unwrapped(3), Err(StoreError::Newer { found: 3, known: 2, .. })));
    }
}
