//! Bytes as frames: the verdict against what another parser says of them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| datapath::testing::fuzz::frames(bytes));
