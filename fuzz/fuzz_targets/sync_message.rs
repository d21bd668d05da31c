//! See `harness/sync_message.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| orset_fuzz::run(orset_fuzz::sync_message::sync_message, input));
