//! See `harness/manifest.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| orset_fuzz::run(orset_fuzz::manifest::manifest, input));
