//! Fuzzes `entries::proxy_header`.
#![no_main]
#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|input: &[u8]| entries::proxy_header(input));
