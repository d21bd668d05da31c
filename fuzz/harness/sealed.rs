//! Pieces of an input, and damage to sound files.

use std::path::Path;

use orset::storage::disk::{Disk, MemDisk};

/// Where the files of a target lie.
pub const DIR: &str = "/n1";

/// The pieces of an input: each is two bytes of length (little-endian) and so many bytes, or what there is.
pub fn pieces(mut input: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((head, rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*head)).min(rest.len());
        pieces.push(&rest[..length]);
        input = &rest[length..];
    }
    pieces
}

/// What [`pieces`] takes apart.
///
/// # Panics
/// If a piece is over 64 KiB.
pub fn joined(pieces: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(&u16::try_from(piece.len()).expect("a short piece").to_le_bytes());
        bytes.extend_from_slice(piece);
    }
    bytes
}

/// `sound`, changed as `edits` say: four bytes each, what is done, where (two bytes) and with which byte.
pub fn damaged(sound: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for [what, low, high, byte] in edits.as_chunks::<4>().0.iter().take(8) {
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(u16::from_le_bytes([*low, *high])) % bytes.len();
        match what % 5 {
            0 => bytes[at] ^= byte,
            1 => bytes.truncate(at),
            2 => bytes.insert(at, *byte),
            3 => bytes.push(*byte),
            _ => {
                let again = bytes[at..].to_vec();
                bytes.extend_from_slice(&again);
            }
        }
    }
    bytes
}

/// Puts a file of this content on the disk.
pub fn put(disk: &MemDisk, path: &Path, content: &[u8]) {
    disk.create(path).and_then(|file| file.write_all_at(content, 0)).expect("a disk in memory takes everything");
}
