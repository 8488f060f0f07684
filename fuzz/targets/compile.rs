//! Bytes that steer a policy set, an inventory and flows: the compiler against the reference.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| policy::testing::fuzz::compile(bytes));
