//! A registered region, and checked ranges of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dmverbs_proto::Access;

use super::bytes::{append, publish, word};
use super::{Device, PdId};
use crate::sys::mman;
use crate::sys::socket::Iov;

/// Why memory may not be touched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AccessError {
    /// Its region, or the QP, does not give the right.
    Denied,
    /// It is not mapped (on-demand regions only).
    Fault,
    /// No such key, or it belongs to another protection domain.
    NoKey,
    /// It is not all inside the region.
    OutOfRange,
    /// An atomic's address is not a multiple of 8.
    Unaligned,
}

/// Memory that was registered, until it is deregistered.
///
/// # Invariants
/// If it is pinned, `addr..addr + len` was mapped with the rights of `access` at registration, and its owner keeps it so
/// until deregistration has returned (README says so: here nobody keeps pages); nothing is copied once `live` is false.
#[derive(Debug)]
pub(crate) struct Region {
    key: u32,
    /// Where it begins: in the memory of the process, or in its dma-buf.
    addr: u64,
    len: u64,
    iova: u64,
    access: Access,
    pd: PdId,
    live: AtomicBool,
    backing: Backing,
}

/// What kind of memory a region is.
#[derive(Debug)]
pub(super) enum Backing {
    /// A dma-buf, which its device's engine copies from and to, or the CPU while the exporter knows.
    Device(Box<dyn Device>),
    /// It may not be mapped when it is touched: only touched by copies that survive that.
    OnDemand,
    /// It was mapped at registration.
    Pinned,
}

impl Region {
    pub(super) fn new(key: u32, addr: u64, len: u64, iova: u64, access: Access, pd: PdId, backing: Backing) -> Region {
        Region { key, addr, len, iova, access, pd, live: AtomicBool::new(true), backing }
    }

    pub(crate) fn key(&self) -> u32 {
        self.key
    }

    pub(crate) fn base(&self) -> u64 {
        self.addr
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn iova(&self) -> u64 {
        self.iova
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    pub(crate) fn pd(&self) -> PdId {
        self.pd
    }

    pub(crate) fn is_dmabuf(&self) -> bool {
        self.device().is_some()
    }

    /// Whose memory it is, unless the process's.
    pub(crate) fn device(&self) -> Option<&dyn Device> {
        if let Backing::Device(device) = &self.backing { Some(device.as_ref()) } else { None }
    }

    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        // Acquire pairs with the Release in `revoke`; who holds a connection's lock sees a revocation that came before.
        self.live.load(Ordering::Acquire)
    }

    /// From now on nobody may use it; who already does is waited for by `Progress::quiesce`. False if that was so before.
    pub(crate) fn revoke(&self) -> bool {
        self.live.swap(false, Ordering::AcqRel)
    }

    /// `len` bytes at `addr`, if range, rights and protection domain allow.
    #[inline]
    pub(crate) fn span(this: &Arc<Region>, addr: u64, len: u64, need: Access, pd: PdId) -> Result<Span, AccessError> {
        let addr = this.locate(addr, len, need, pd)?;
        Ok(Span { addr, len: len as usize, region: Some(this.clone()) })
    }

    /// Where they are, as [`Region::span`] would find.
    #[inline]
    pub(super) fn locate(&self, addr: u64, len: u64, need: Access, pd: PdId) -> Result<u64, AccessError> {
        if self.pd != pd || !self.is_live() {
            return Err(AccessError::NoKey);
        }
        if !self.access.contains(need) {
            return Err(AccessError::Denied);
        }
        let offset = addr.checked_sub(self.iova).ok_or(AccessError::OutOfRange)?;
        if len > self.len || offset > self.len - len {
            return Err(AccessError::OutOfRange);
        }
        Ok(self.addr + offset)
    }

    /// Writes what a peer sends at `addr`, the first of `len` bytes that range, rights and protection domain have to allow;
    /// see [`Span::copy_in`].
    #[inline]
    pub(crate) fn put(&self, addr: u64, len: u64, pd: PdId, source: &[u8]) -> Result<(), AccessError> {
        if source.len() as u64 > len {
            return Err(AccessError::OutOfRange);
        }
        let addr = self.locate(addr, len, Access::REMOTE_WRITE, pd)?;
        // SAFETY: `locate` has found `len` bytes at `addr`, and there are no more of them.
        unsafe { self.write(addr, source) }
    }

    /// Writes `source` at `addr`.
    ///
    /// # Safety
    /// `addr..+source.len()` is inside the region.
    #[inline]
    unsafe fn write(&self, addr: u64, source: &[u8]) -> Result<(), AccessError> {
        if source.is_empty() {
            return Ok(());
        }
        match &self.backing {
            Backing::Device(device) => device.write(addr, source).map_err(|e| fault(&e))?,
            Backing::OnDemand => mman::copy_in(addr, source).map_err(|_| AccessError::Fault)?,
            // SAFETY: inside the region (the caller's duty), mapped writable (invariant of Region).
            Backing::Pinned => unsafe { publish(addr, source) },
        }
        Ok(())
    }

    #[inline]
    fn is_pinned(&self) -> bool {
        matches!(self.backing, Backing::Pinned)
    }

    pub(super) fn is_on_demand(&self) -> bool {
        matches!(self.backing, Backing::OnDemand)
    }
}

/// A checked range of a region. It stays inside; whether the region is still live is checked at each use.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    addr: u64,
    len: usize,
    /// `None` only for the empty span.
    region: Option<Arc<Region>>,
}

impl Span {
    /// No bytes.
    pub(crate) fn empty() -> Span {
        Span { addr: 0, len: 0, region: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes it `len` bytes at `addr` of `region`, if it is of that already, and they are allowed: to count who shares a
    /// region takes longer than all else of a small message here.
    #[inline]
    pub(crate) fn point(&mut self, region: &Arc<Region>, addr: u64, len: u64, need: Access, pd: PdId) -> bool {
        let own = self.region.as_ref().filter(|own| Arc::ptr_eq(own, region));
        let Some(addr) = own.and_then(|own| own.locate(addr, len, need, pd).ok()) else { return false };
        (self.addr, self.len) = (addr, len as usize);
        true
    }

    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.region.as_ref().is_none_or(|region| region.is_live())
    }

    pub(crate) fn region(&self) -> Option<&Arc<Region>> {
        self.region.as_ref()
    }

    /// Whether it may only be touched by `copy_in` and `copy_out`: on-demand memory and dma-bufs.
    pub(crate) fn must_copy(&self) -> bool {
        self.region.as_ref().is_some_and(|region| !region.is_pinned())
    }

    /// Where in its device's memory `len` bytes at `offset` are, if it is a device's.
    pub(crate) fn on_device(&self, offset: usize, len: usize) -> Option<(&Arc<Region>, u64)> {
        let region = self.region.as_ref().filter(|region| region.is_dmabuf() && region.is_live())?;
        self.contains(offset, len).then(|| (region, self.addr + offset as u64))
    }

    /// For the kernel to read from or write to; not for memory that must be copied, nor if it is no longer live.
    #[inline]
    pub(crate) fn iov(&self, offset: usize, len: usize) -> Option<Iov> {
        if self.must_copy() || !self.is_live() || !self.contains(offset, len) {
            return None;
        }
        // SAFETY:
        // - The range is inside this span, hence inside its region, whose rights were checked when the span was made.
        // - Callers use it under the connection's lock, under which a region that is live stays so.
        Some(unsafe { Iov::registered(self.addr + offset as u64, len) })
    }

    #[inline]
    fn contains(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// The address of `len` bytes at `offset`, and the region that holds them.
    #[inline]
    fn range(&self, offset: usize, len: usize) -> Result<(u64, &Region), AccessError> {
        let region = self.region.as_ref().ok_or(AccessError::OutOfRange)?;
        if !region.is_live() {
            return Err(AccessError::NoKey);
        }
        if !self.contains(offset, len) {
            return Err(AccessError::OutOfRange);
        }
        Ok((self.addr + offset as u64, region))
    }

    /// Writes `source` at `offset`. Its last bytes become visible last, and a word at the end, if it is aligned, becomes
    /// visible at once: programs poll on them.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, source: &[u8]) -> Result<(), AccessError> {
        if source.is_empty() {
            return Ok(());
        }
        let (addr, region) = self.range(offset, source.len())?;
        // SAFETY: inside the region: checked by `range`.
        unsafe { region.write(addr, source) }
    }

    /// Appends `len` bytes from `offset` to `target`.
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, len: usize, target: &mut Vec<u8>) -> Result<(), AccessError> {
        if len == 0 {
            return Ok(());
        }
        let (addr, region) = self.range(offset, len)?;
        match &region.backing {
            Backing::Device(device) => device.read(addr, len, target).map_err(|e| fault(&e))?,
            Backing::OnDemand => mman::copy_out(addr, len, target).map_err(|_| AccessError::Fault)?,
            // SAFETY: `addr..+len` is inside the region (checked by `range`), mapped readable (invariant of Region).
            Backing::Pinned => unsafe { append(addr, len, target) },
        }
        Ok(())
    }

    /// Replaces a word by what `change` makes of it; gives what was there.
    fn atomic(&self, offset: usize, change: &dyn Fn(u64) -> u64) -> Result<u64, AccessError> {
        let (addr, region) = self.range(offset, 8)?;
        if !addr.is_multiple_of(8) {
            return Err(AccessError::Unaligned);
        }
        match &region.backing {
            Backing::Device(device) => return device.update(addr, change).map_err(|e| fault(&e)),
            // No fault-safe call does 8-byte atomics: a program that unmaps the word at this very moment crashes, as it
            // would by touching it itself.
            Backing::OnDemand => mman::populate(addr, 8, true).map_err(|_| AccessError::Fault)?,
            Backing::Pinned => {}
        }
        // SAFETY:
        // - 8 bytes at `addr` are inside the region and mapped writable.
        // - They live until this returns: the region is not deregistered under a connection's lock.
        Ok(update(unsafe { word(addr) }, change))
    }

    /// Compare and swap; gives what was there.
    pub(crate) fn compare_swap(&self, offset: usize, compare: u64, swap: u64) -> Result<u64, AccessError> {
        self.atomic(offset, &|found| if found == compare { swap } else { found })
    }

    /// Fetch and add; gives what was there.
    pub(crate) fn fetch_add(&self, offset: usize, add: u64) -> Result<u64, AccessError> {
        self.atomic(offset, &|found| found.wrapping_add(add))
    }
}

/// Replaces a word by what `change` makes of it; gives what was there. Peers and local threads agree on one order of
/// all of these.
pub(super) fn update(word: &AtomicU64, change: &dyn Fn(u64) -> u64) -> u64 {
    word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |found| Some(change(found))).unwrap_or_else(|found| found)
}

/// A device that does not copy: whoever asked hears of a fault, and the log of the cause.
fn fault(error: &io::Error) -> AccessError {
    tracing::error!(error = %error, "the memory of a device cannot be copied");
    AccessError::Fault
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU8;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn region(addr: u64, len: u64, iova: u64) -> Arc<Region> {
        Arc::new(Region::new(1, addr, len, iova, Access::LOCAL_WRITE, PdId(1), Backing::Pinned))
    }

    /// Numbers near all the borders.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..64_u64, any::<u64>(), (0..64_u64).prop_map(|n| u64::MAX - n)]
    }

    proptest! {
        #[test]
        fn a_span_is_given_exactly_when_it_is_inside_the_region(
            base in number(), size in number(), iova in number(), ask in number(), len in number()
        ) {
            // What registration refuses.
            prop_assume!(base.checked_add(size).is_some() && iova.checked_add(size).is_some());
            let [wide_iova, wide_size, wide_ask, wide_len] = [iova, size, ask, len].map(u128::from);
            let inside = wide_ask >= wide_iova && wide_ask + wide_len <= wide_iova + wide_size;
            let span = Region::span(&region(base, size, iova), ask, len, Access::empty(), PdId(1));
            match span {
                Ok(span) => {
                    prop_assert!(inside);
                    prop_assert_eq!(u128::from(span.addr), u128::from(base) + wide_ask - wide_iova);
                    prop_assert_eq!(span.len as u128, wide_len);
                }
                Err(e) => {
                    prop_assert!(!inside);
                    prop_assert_eq!(e, AccessError::OutOfRange);
                }
            }
        }

        #[test]
        fn a_part_is_given_exactly_when_it_is_inside_the_span(len in 0..64_u64, offset in number(), part in number()) {
            let span = Region::span(&region(4096, 64, 0), 0, len, Access::empty(), PdId(1)).unwrap();
            let inside = u128::from(offset) + u128::from(part) <= u128::from(len);
            prop_assert_eq!(span.iov(offset as usize, part as usize).is_some(), inside);
            prop_assert_eq!(span.range(offset as usize, part as usize).is_ok(), inside);
        }
    }

    #[test]
    fn a_copy_writes_its_bytes_and_no_others_whatever_its_alignment() {
        for offset in 0..16 {
            for len in 0..40 {
                let mut memory = [0xee_u8; 64];
                let addr = memory.as_mut_ptr().expose_provenance() as u64;
                let span = Region::span(&region(addr, 64, 0), 0, 64, Access::LOCAL_WRITE, PdId(1)).unwrap();
                let source: Vec<u8> = (0..len).collect();
                span.copy_in(offset, &source).unwrap();
                let mut expected = [0xee_u8; 64];
                expected[offset..offset + source.len()].copy_from_slice(&source);
                assert_eq!(memory, expected);
            }
        }
    }

    /// The length is odd and short, the kind of copy whose last bytes memcpy writes first, and the range lies across a
    /// cache line, so that another processor sees in between. It takes two free processors to see that nearly always;
    /// on a busy machine a wrong copy goes unseen most of the time, a right one never fails.
    #[test]
    fn a_thread_that_sees_the_last_byte_sees_the_whole_copy() {
        const LEN: usize = 7;
        /// A value that ends the test.
        const END: u8 = 255;
        #[repr(align(128))]
        struct Lines([AtomicU8; 256]);
        let lines = Lines([const { AtomicU8::new(0) }; 256]);
        let memory = &lines.0[60..60 + LEN];
        let answer = &lines.0[200];
        let addr = memory.as_ptr().expose_provenance() as u64;
        let span = Region::span(&region(addr, LEN as u64, 0), 0, LEN as u64, Access::LOCAL_WRITE, PdId(1)).unwrap();
        // Acquire: pairs with the Release of `publish`, and of the answer below.
        let changed = |byte: &AtomicU8, old| loop {
            for _ in 0..1000 {
                match byte.load(Ordering::Acquire) {
                    new if new != old => return new,
                    _ => std::hint::spin_loop(),
                }
            }
            // The other thread may be waiting for this processor.
            std::thread::yield_now();
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut seen, mut torn) = (0, 0);
                while seen != END {
                    seen = changed(&memory[LEN - 1], seen);
                    torn += usize::from(memory.iter().any(|byte| byte.load(Ordering::Relaxed) != seen));
                    answer.store(seen, Ordering::Release);
                }
                torn
            });
            let until = Instant::now() + Duration::from_millis(500);
            let rounds = (1..=250_u8).cycle().take_while(|_| Instant::now() < until);
            let mut before = 0;
            for round in rounds.chain([END]) {
                span.copy_in(0, &[round; LEN]).unwrap();
                before = changed(answer, before);
            }
            assert_eq!(reader.join().unwrap(), 0, "copies seen in part");
        });
    }

    #[test]
    fn atomics_give_what_was_there_and_want_an_aligned_word() {
        let mut memory = [5_u64, 0];
        let addr = memory.as_mut_ptr().expose_provenance() as u64;
        let span = Region::span(&region(addr, 16, 0), 0, 16, Access::empty(), PdId(1)).unwrap();
        assert_eq!(span.compare_swap(0, 4, 9), Ok(5));
        assert_eq!(span.compare_swap(0, 5, u64::MAX), Ok(5));
        assert_eq!(span.fetch_add(0, 3), Ok(u64::MAX));
        assert_eq!(span.fetch_add(4, 1), Err(AccessError::Unaligned));
        assert_eq!(span.fetch_add(16, 1), Err(AccessError::OutOfRange));
        assert_eq!(memory, [2, 0]);
    }
}
