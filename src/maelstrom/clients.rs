//! Client names, so that a request of a client that is known costs no allocation.
//!
//! A direct-mapped cache: each name has one slot, and a newcomer takes it over. So it never grows, and nothing has to
//! be evicted. Two busy clients that share a slot pay one allocation a request, as everybody would without the cache.

use std::sync::Arc;

const SLOTS: usize = 256;
/// Longer names are not kept: what the cache holds on to is at most [`SLOTS`] times this.
const MAX_KEPT_BYTES: usize = 64;

/// The names of the clients that were heard of last.
#[derive(Debug)]
pub(super) struct Clients(Vec<Option<Arc<str>>>);

impl Clients {
    pub(super) fn new() -> Self {
        Self(vec![None; SLOTS])
    }

    /// The name as a shared string.
    pub(super) fn get(&mut self, name: &str) -> Arc<str> {
        if name.len() > MAX_KEPT_BYTES {
            return name.into();
        }
        let slot = &mut self.0[slot(name)];
        match slot {
            Some(known) if **known == *name => known.clone(),
            _ => slot.insert(name.into()).clone(),
        }
    }
}

/// FNV-1a, which is short and good enough for names such as c17.
fn slot(name: &str) -> usize {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    usize::try_from(hash).expect("at least 32 bits") % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_is_shared_and_every_name_is_right() {
        let mut clients = Clients::new();
        let first = clients.get("c1");
        assert!(Arc::ptr_eq(&first, &clients.get("c1")));
        for round in 0..2 {
            for n in 0..1_000 {
                let name = format!("c{n}");
                assert_eq!(*clients.get(&name), *name, "{round}");
            }
        }
        let long = "c".repeat(MAX_KEPT_BYTES + 1);
        assert!(!Arc::ptr_eq(&clients.get(&long), &clients.get(&long)));
    }
}
