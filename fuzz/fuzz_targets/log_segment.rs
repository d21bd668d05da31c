//! See `harness/log_segment.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| orset_fuzz::run(orset_fuzz::log_segment::log_segment, input));
