//! The frame decoder. Run with `RUSTC_BOOTSTRAP=1 cargo fuzz run frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dmverbs_proto::testing::fuzz::frame(bytes));
