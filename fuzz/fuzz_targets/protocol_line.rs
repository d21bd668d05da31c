//! See `harness/protocol_line.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| orset_fuzz::run(orset_fuzz::protocol_line::protocol_line, input));
