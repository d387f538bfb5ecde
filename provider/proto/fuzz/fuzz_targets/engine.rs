//! What a peer sends to a QP at work. Run with `RUSTC_BOOTSTRAP=1 cargo fuzz run engine`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dmverbs_proto::testing::fuzz::engine(bytes));
