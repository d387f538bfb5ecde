//! Copies from and to memory that is mapped.

use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Copies `source` to `addr` so that a thread which sees its last byte sees all of it.
///
/// memcpy alone would not do: it writes overlapping words, of short runs the last one first. So the largest aligned word
/// that ends the range is written by itself, after everything else, by one store.
///
/// # Safety
/// `addr..addr + source.len()` is mapped writable, and no reference of Rust's points into it.
#[inline]
pub(super) unsafe fn publish(addr: u64, source: &[u8]) {
    let end = addr + source.len() as u64;
    let width = 1_usize << end.trailing_zeros().min(source.len().checked_ilog2().unwrap_or(0)).min(3);
    let (head, word) = source.split_at(source.len() - width);
    let target: *mut u8 = ptr::with_exposed_provenance_mut(addr as usize);
    // SAFETY:
    // - `target..+head.len()` is mapped writable, by contract.
    // - `source` is a slice of Rust's, hence disjoint from it.
    unsafe { ptr::copy_nonoverlapping(head.as_ptr(), target, head.len()) };
    let last = target.wrapping_add(head.len());
    // Release, each: pairs with the Acquire, or the data dependency, of whoever polls on the last byte.
    match *word {
        [a, b, c, d, e, f, g, h] => {
            // SAFETY: the last 8 bytes of the range are mapped writable, by contract, and aligned: `width` divides `end`.
            let last = unsafe { AtomicU64::from_ptr(last.cast()) };
            last.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Ordering::Release);
        }
        [a, b, c, d] => {
            // SAFETY: as above, for 4 bytes.
            let last = unsafe { AtomicU32::from_ptr(last.cast()) };
            last.store(u32::from_ne_bytes([a, b, c, d]), Ordering::Release);
        }
        [a, b] => {
            // SAFETY: as above, for 2 bytes.
            let last = unsafe { AtomicU16::from_ptr(last.cast()) };
            last.store(u16::from_ne_bytes([a, b]), Ordering::Release);
        }
        [a] => {
            // SAFETY: as above, for one byte.
            unsafe { AtomicU8::from_ptr(last) }.store(a, Ordering::Release);
        }
        _ => debug_assert!(false, "{width} is no width of a word"),
    }
}

/// Appends the `len` bytes at `addr` to `target`.
///
/// # Safety
/// `addr..addr + len` is mapped readable.
#[inline]
pub(super) unsafe fn append(addr: u64, len: usize, target: &mut Vec<u8>) {
    target.reserve(len);
    let source: *const u8 = ptr::with_exposed_provenance(addr as usize);
    let end = target.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY:
    // - `source..+len` is mapped readable, by contract.
    // - `end..+len` is spare capacity of `target` (reserved above), hence disjoint.
    unsafe { ptr::copy_nonoverlapping(source, end, len) };
    // SAFETY: the `len` bytes behind the old length were just written.
    unsafe { target.set_len(target.len() + len) };
}

/// The word at `addr`, a multiple of 8.
///
/// # Safety
/// 8 bytes at `addr` are mapped writable for as long as the reference is used.
pub(super) unsafe fn word<'a>(addr: u64) -> &'a AtomicU64 {
    debug_assert!(addr.is_multiple_of(8));
    // SAFETY: by contract; nothing but atomics and copies touches registered memory.
    unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(addr as usize)) }
}
