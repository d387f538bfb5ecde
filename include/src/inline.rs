//! What programs compute by themselves, in the inline functions of `infiniband/verbs.h`.
//!
//! A program holds a pointer to an [`ibv_context`], which is the end of a [`verbs_context`]. The inline functions
//! look for the slots of the latter in front of the pointer that they have.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::without_provenance_mut;

use crate::verbs::{ibv_context, verbs_context};

/// The value of [`ibv_context::abi_compat`] that says that the context is part of a [`verbs_context`].
pub const ABI_COMPAT_EXTENDED: *mut c_void = without_provenance_mut(usize::MAX);

/// How far the [`ibv_context`] lies behind the start of its [`verbs_context`].
pub const CONTEXT_OFFSET: usize = offset_of!(verbs_context, context);

/// What [`verbs_context::sz`] must hold to offer all slots that these bindings know.
///
/// New slots are put in front of the old ones. So a program that knows other slots than the library counts from
/// the end: it takes a slot for present if `sz` reaches from the end of the structure to the slot's start, and if
/// the slot is not null.
pub const CONTEXT_SIZE: usize = size_of::<verbs_context>();

/// The `sz` from which on a program finds the slot at this offset of [`verbs_context`].
pub const fn size_with_slot(offset: usize) -> usize {
    CONTEXT_SIZE - offset
}

const _: () = assert!(
    CONTEXT_OFFSET + size_of::<ibv_context>() == CONTEXT_SIZE,
    "the context that programs see is the last member of the extended one"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_slots_are_found_in_smaller_contexts() {
        let oldest = size_with_slot(offset_of!(verbs_context, sz));
        let newest = size_with_slot(offset_of!(verbs_context, query_port));
        assert!(oldest < newest);
        assert!(newest <= CONTEXT_SIZE);
    }
}
