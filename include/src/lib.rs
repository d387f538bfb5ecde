//! Struct layouts and constants of C headers, rdma-core's and our own; no functions, and nothing to link.
//!
//! [`verbs`] is made from rdma-core 56 by `cargo xtask regen`. rdma-core only appends to its structures, so that
//! programs compiled against older headers find every member where they expect it; `tests/layout` compares the
//! bindings with the headers of the machine. What those headers compute in inline functions is in [`inline`].

pub mod inline;

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "bindgen's Default sets all bytes to zero, a value of every integer and pointer"
)]
#[expect(missing_docs, non_camel_case_types, reason = "dmverbs.h says what they are")]
pub mod dmverbs;

#[expect(missing_docs, non_camel_case_types, reason = "uapi/softaccel.h says what they are")]
pub mod softaccel;

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "bindgen's Default sets all bytes to zero, a value of every integer, pointer, and union of these"
)]
#[expect(missing_docs, non_camel_case_types, non_snake_case, reason = "the names and their manual are rdma-core's")]
pub mod verbs;
