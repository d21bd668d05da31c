//! See `harness/snapshot.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| orset_fuzz::run(orset_fuzz::snapshot::snapshot, input));
