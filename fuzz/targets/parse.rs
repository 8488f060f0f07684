//! Any bytes as a policy file and as an inventory.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| policy::testing::fuzz::parse(bytes));
