//! One file of the log: a header, then frames.
//!
//! ```text
//! header   envelope "ORSETLOG" { counter, nonce, previous segment's end, LSN and vector before this segment, repeats }
//! frame    magic "ORFR" (4)  length u32  crc32c u32 over (nonce, offset of the frame, payload)  payload
//! ```
//!
//! The checksum covers a random nonce and the offset, so bytes that an element brings in, or that an older file left on
//! the disk, never pass for a frame of this file at this place.

use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};

use crate::crdt::VersionVector;
use crate::storage::Lsn;
use crate::storage::codec::{self, Context, MAX_PAYLOAD_BYTES};
use crate::storage::envelope::{self, ENVELOPE_BYTES, FORMAT_VERSION};
use crate::storage::error::StoreError;

const MAGIC: [u8; 8] = *b"ORSETLOG";
const FRAME_MAGIC: [u8; 4] = *b"ORFR";
/// Bytes of a frame before its payload.
pub const FRAME_HEAD_BYTES: usize = 12;

/// Where a segment ends, as the next one remembers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SegmentEnd {
    /// The segment's number.
    pub counter: u64,
    /// Its nonce.
    pub nonce: u128,
    /// How many of its bytes count.
    pub length: u64,
}

/// The head of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The segment's number; none is used twice in a store.
    pub counter: u64,
    /// Random; part of every frame's checksum.
    pub nonce: u128,
    /// The segment before it; `None` for the first.
    pub previous: Option<SegmentEnd>,
    /// The last LSN before it (a repeated batch not counted: that has already been).
    pub lsn: Lsn,
    /// What was held at that LSN.
    pub vv: VersionVector,
    /// Whether its first frame repeats the last batch of the segment before it.
    pub repeats: bool,
}

#[derive(Encode, Decode)]
struct HeaderForm {
    counter: u64,
    nonce: u128,
    previous: Option<SegmentEnd>,
    lsn: u64,
    repeats: bool,
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let form = HeaderForm {
            counter: self.counter,
            nonce: self.nonce,
            previous: self.previous,
            lsn: self.lsn.0,
            repeats: self.repeats,
        };
        let mut body = bincode::encode_to_vec(form, codec::config()).expect("a Vec takes everything");
        Context { vv: self.vv.clone(), ..Context::default() }.encode(&mut body);
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + body.len());
        envelope::wrap(&mut bytes, MAGIC, FORMAT_VERSION, &body);
        bytes
    }

    /// Decodes the header at the start of a segment's bytes, and says how long it is.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Newer`].
    pub fn decode(bytes: &[u8], path: &Path) -> Result<(Self, usize), StoreError> {
        let body = envelope::unwrap(bytes, MAGIC, path, 0)?.body;
        let damaged = |what| StoreError::damaged(path, 0, what);
        let (form, length): (HeaderForm, usize) = bincode::decode_from_slice(body, codec::config())
            .map_err(|_| damaged("the segment header cannot be decoded"))?;
        let (context, _) = Context::decode(&body[length..]).map_err(|error| damaged(error.0))?;
        let header = Self {
            counter: form.counter,
            nonce: form.nonce,
            previous: form.previous,
            lsn: Lsn(form.lsn),
            vv: context.vv,
            repeats: form.repeats,
        };
        Ok((header, ENVELOPE_BYTES + body.len()))
    }
}

/// The name of segment `counter`.
pub fn file_name(counter: u64) -> String {
    format!("{counter:010}.log")
}

/// The number in a segment's file name.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let counter = name.strip_suffix(".log")?.parse().ok()?;
    (file_name(counter) == name).then_some(counter)
}

/// Appends a frame to `out`, which is to be written at `offset` of the segment with this nonce; returns its checksum.
///
/// # Panics
/// If the payload is over [`MAX_PAYLOAD_BYTES`]: it could not be read back.
pub fn encode_frame(out: &mut Vec<u8>, nonce: u128, offset: u64, payload: &[u8]) -> u32 {
    assert!(payload.len() <= MAX_PAYLOAD_BYTES, "a frame of {} bytes", payload.len());
    let length = u32::try_from(payload.len()).expect("below 2^24");
    let checksum = frame_checksum(nonce, offset, payload);
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(payload);
    checksum
}

fn frame_checksum(nonce: u128, offset: u64, payload: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), &offset.to_le_bytes());
    crc32c::crc32c_append(place, payload)
}

/// A frame with a good checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawFrame<'a> {
    /// Where it starts.
    pub offset: u64,
    /// Where it ends.
    pub end: u64,
    /// Its checksum.
    pub checksum: u32,
    /// What is in it.
    pub payload: &'a [u8],
}

/// The bytes of a segment, as far as they are to be looked at.
#[derive(Clone)]
pub struct SegmentBytes {
    /// The file.
    pub path: PathBuf,
    /// Its head.
    pub header: SegmentHeader,
    /// Where the first frame starts.
    pub frames_start: usize,
    /// Everything, header included.
    pub bytes: Vec<u8>,
}

impl SegmentBytes {
    /// Takes a segment's bytes apart.
    ///
    /// # Errors
    /// If the header is damaged or of a later version.
    pub fn new(path: PathBuf, bytes: Vec<u8>) -> Result<Self, StoreError> {
        let (header, frames_start) = SegmentHeader::decode(&bytes, &path)?;
        Ok(Self { path, header, frames_start, bytes })
    }

    /// The good frame at `offset`, if there is one.
    pub fn frame_at(&self, offset: usize) -> Option<RawFrame<'_>> {
        frame_at(&self.bytes, self.header.nonce, offset)
    }

    /// The good frames from the start on, until one is bad or the bytes end.
    pub fn frames(&self) -> impl Iterator<Item = RawFrame<'_>> {
        let mut offset = self.frames_start;
        std::iter::from_fn(move || {
            let frame = self.frame_at(offset)?;
            offset = usize::try_from(frame.end).expect("within memory");
            Some(frame)
        })
    }

    /// Where the first good frame after `offset` starts.
    pub fn good_frame_after(&self, offset: usize) -> Option<usize> {
        good_frame_from(&self.bytes, self.header.nonce, offset + 1)
    }
}

/// The good frame at `offset` of the bytes of a segment with this nonce, if there is one.
pub fn frame_at(bytes: &[u8], nonce: u128, offset: usize) -> Option<RawFrame<'_>> {
    frame_in(bytes.get(offset..)?, nonce, offset as u64)
}

/// The good frame at the start of `bytes`, which are from `offset` on in a segment with this nonce, if there is one.
pub fn frame_in(bytes: &[u8], nonce: u128, offset: u64) -> Option<RawFrame<'_>> {
    let head = bytes.first_chunk::<FRAME_HEAD_BYTES>()?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (length, checksum) = (number(4) as usize, number(8));
    if head[..4] != FRAME_MAGIC || length > MAX_PAYLOAD_BYTES {
        return None;
    }
    let payload = bytes.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length)?;
    let end = offset + (FRAME_HEAD_BYTES + length) as u64;
    let good = frame_checksum(nonce, offset, payload) == checksum;
    good.then_some(RawFrame { offset, end, checksum, payload })
}

/// Where the first good frame at or after `offset` starts.
pub fn good_frame_from(bytes: &[u8], nonce: u128, offset: usize) -> Option<usize> {
    let rest = bytes.get(offset..)?;
    let starts = rest.windows(FRAME_MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == FRAME_MAGIC);
    starts.map(|(n, _)| offset + n).find(|start| frame_at(bytes, nonce, *start).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            counter: 3,
            nonce: 99,
            previous: Some(SegmentEnd { counter: 2, nonce: 98, length: 1000 }),
            lsn: Lsn(17),
            vv: VersionVector::new(),
            repeats: true,
        }
    }

    #[test]
    fn a_header_comes_back_and_every_flipped_bit_in_it_is_seen() {
        let bytes = header().encode();
        let path = Path::new("3.log");
        assert_eq!(SegmentHeader::decode(&bytes, path).unwrap(), (header(), bytes.len()));
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped, path).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_is_good_at_its_own_place_only() {
        let mut bytes = header().encode();
        let start = bytes.len();
        encode_frame(&mut bytes, 99, start as u64, b"one");
        let moved = bytes[start..].to_vec();
        bytes.extend_from_slice(&moved);
        let segment = SegmentBytes::new("3.log".into(), bytes).unwrap();
        assert_eq!(segment.frames().map(|f| f.payload).collect::<Vec<_>>(), [b"one"]);
        assert_eq!(segment.good_frame_after(start), None, "a copy of the frame elsewhere is none");
    }

    #[test]
    fn segment_names_read_back() {
        assert_eq!(parse_file_name(&file_name(12)), Some(12));
        for other in ["12.log", "0000000012.log.tmp", "x.log", "-000000012.log"] {
            assert_eq!(parse_file_name(other), None);
        }
    }

    #[test]
    fn a_frame_may_be_as_long_as_the_longest() {
        let (mut bytes, mut longer) = (Vec::new(), vec![0; FRAME_HEAD_BYTES + MAX_PAYLOAD_BYTES + 1]);
        encode_frame(&mut bytes, 99, 0, &vec![0; MAX_PAYLOAD_BYTES]);
        assert!(frame_at(&bytes, 99, 0).is_some());
        // One that says that it is longer, and would be good.
        let length = u32::try_from(MAX_PAYLOAD_BYTES + 1).unwrap();
        let checksum = frame_checksum(99, 0, &longer[FRAME_HEAD_BYTES..]);
        longer[..4].copy_from_slice(&FRAME_MAGIC);
        longer[4..8].copy_from_slice(&length.to_le_bytes());
        longer[8..12].copy_from_slice(&checksum.to_le_bytes());
        assert!(frame_at(&longer, 99, 0).is_none());
    }
}
