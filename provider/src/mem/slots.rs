//! The memory that posted requests name: one slot a request, reused in turn.

use std::sync::Arc;

use dmverbs_proto::Access;

use super::{AccessError, PdId, Region, Span, cached};
use crate::object::Sge;
use crate::sys::socket::Iov;

/// Slots of a send or receive queue.
#[derive(Debug)]
pub(crate) struct SlotRing {
    slots: Vec<Slot>,
    capacity: usize,
    /// The region that the last key named: most requests name the same.
    last: Option<Arc<Region>>,
}

#[derive(Debug, Default)]
struct Slot {
    memory: Memory,
    fault: Option<AccessError>,
}

#[derive(Debug, Default)]
enum Memory {
    #[default]
    None,
    One(Span),
    Many(Vec<Span>),
    Inline(Vec<u8>),
}

impl SlotRing {
    pub(crate) fn new(capacity: usize) -> SlotRing {
        SlotRing { slots: Vec::new(), capacity, last: None }
    }

    #[inline]
    fn slot(&mut self, slot: usize) -> &mut Slot {
        debug_assert!(slot < self.capacity);
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, Slot::default);
        }
        &mut self.slots[slot]
    }

    /// Forgets what the slots named.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.last = None;
    }

    /// The memory of a request; each element must grant `need`.
    ///
    /// # Errors
    /// The first element that is not allowed.
    #[inline]
    pub(crate) fn resolve(&mut self, slot: usize, sges: &[Sge], pd: PdId, need: Access) -> Result<(), AccessError> {
        let result = match sges {
            [] => Ok(Memory::None),
            [sge] => self.span(sge, pd, need).map(Memory::One),
            sges => sges.iter().map(|sge| self.span(sge, pd, need)).collect::<Result<_, _>>().map(Memory::Many),
        };
        let slot = self.slot(slot);
        match result {
            Ok(memory) => {
                *slot = Slot { memory, fault: None };
                Ok(())
            }
            Err(e) => {
                *slot = Slot { memory: Memory::None, fault: Some(e) };
                Err(e)
            }
        }
    }

    #[inline]
    fn span(&mut self, sge: &Sge, pd: PdId, need: Access) -> Result<Span, AccessError> {
        if sge.length == 0 {
            return Ok(Span::empty());
        }
        Region::span(cached(&mut self.last, sge.lkey)?, sge.addr, u64::from(sge.length), need, pd)
    }

    /// The payload of a request itself.
    #[inline]
    pub(crate) fn set_inline(&mut self, slot: usize, bytes: &[u8]) {
        let slot = self.slot(slot);
        slot.fault = None;
        if let Memory::Inline(buffer) = &mut slot.memory {
            buffer.clear();
            buffer.extend_from_slice(bytes);
        } else {
            slot.memory = Memory::Inline(bytes.to_vec());
        }
    }

    /// Whether payload must be copied even if it is large.
    #[inline]
    pub(crate) fn must_copy(&self, slot: usize) -> bool {
        match &self.slots[slot].memory {
            Memory::One(span) => span.is_on_demand(),
            Memory::Many(spans) => spans.iter().any(Span::is_on_demand),
            Memory::None | Memory::Inline(_) => true,
        }
    }

    fn check(&self, slot: usize) -> Result<&Memory, AccessError> {
        let slot = self.slots.get(slot).ok_or(AccessError::OutOfRange)?;
        match slot.fault {
            Some(fault) => Err(fault),
            None => Ok(&slot.memory),
        }
    }

    /// Appends `len` payload bytes from `offset` to `target`.
    #[inline]
    pub(crate) fn copy_out(&self, slot: usize, offset: u32, len: u32, target: &mut Vec<u8>) -> Result<(), AccessError> {
        match self.check(slot)? {
            Memory::One(span) => span.copy_out(offset as usize, len as usize, target),
            Memory::Inline(bytes) => {
                let part = bytes.get(offset as usize..(offset + len) as usize).ok_or(AccessError::OutOfRange)?;
                target.extend_from_slice(part);
                Ok(())
            }
            _ => self.parts(slot, offset, len, |span, offset, len| span.copy_out(offset, len, target)),
        }
    }

    /// Writes `source` at `offset` of the payload.
    #[inline]
    pub(crate) fn copy_in(&self, slot: usize, offset: u32, mut source: &[u8]) -> Result<(), AccessError> {
        match self.check(slot)? {
            Memory::One(span) => span.copy_in(offset as usize, source),
            _ => self.parts(slot, offset, source.len() as u32, |span, offset, len| {
                let (now, later) = source.split_at(len);
                source = later;
                span.copy_in(offset, now)
            }),
        }
    }

    /// Gives `len` payload bytes from `offset` as ranges for the kernel; `None` if they must be copied.
    #[inline]
    pub(crate) fn iovs(&self, slot: usize, offset: u32, len: u32, mut each: impl FnMut(Iov)) -> Option<()> {
        match self.check(slot).ok()? {
            Memory::One(span) => span.iov(offset as usize, len as usize).map(each),
            _ => self
                .parts(slot, offset, len, |span, offset, len| {
                    span.iov(offset, len).map(&mut each).ok_or(AccessError::NoKey)
                })
                .ok(),
        }
    }

    /// Calls `each` for the parts of the spans that make up `len` bytes from `offset`.
    fn parts(
        &self,
        slot: usize,
        offset: u32,
        len: u32,
        mut each: impl FnMut(&Span, usize, usize) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        let spans = match self.check(slot)? {
            Memory::Many(spans) => spans.as_slice(),
            Memory::One(span) => std::slice::from_ref(span),
            Memory::None | Memory::Inline(_) => &[],
        };
        let (mut skip, mut left) = (offset as usize, len as usize);
        for span in spans {
            if left == 0 {
                break;
            }
            if skip >= span.len() {
                skip -= span.len();
                continue;
            }
            let n = left.min(span.len() - skip);
            each(span, skip, n)?;
            (skip, left) = (0, left - n);
        }
        if left == 0 { Ok(()) } else { Err(AccessError::OutOfRange) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::register_host;

    const PD: PdId = PdId(7);

    fn region(bytes: &mut [u8], access: Access) -> Arc<Region> {
        let addr = bytes.as_mut_ptr().expose_provenance() as u64;
        register_host(addr, bytes.len() as u64, addr, access, PD).unwrap()
    }

    fn sge(region: &Region, offset: u64, length: u32) -> Sge {
        Sge { addr: region.iova() + offset, length, lkey: region.key() }
    }

    #[test]
    fn a_gather_list_reads_as_one_run_of_bytes_from_any_offset() {
        let mut memory: Vec<u8> = (0..100).collect();
        let region = region(&mut memory, Access::LOCAL_WRITE);
        let mut ring = SlotRing::new(4);
        let list = [sge(&region, 10, 5), sge(&region, 0, 0), sge(&region, 50, 7), sge(&region, 90, 10)];
        ring.resolve(2, &list, PD, Access::empty()).unwrap();
        let expected: Vec<u8> = (10..15).chain(50..57).chain(90..100).collect();
        for offset in 0..expected.len() {
            for len in 0..=expected.len() - offset {
                let mut out = vec![0xaa];
                ring.copy_out(2, offset as u32, len as u32, &mut out).unwrap();
                assert_eq!(out[1..], expected[offset..offset + len]);
            }
        }
        assert_eq!(ring.copy_out(2, 20, 3, &mut Vec::new()), Err(AccessError::OutOfRange));
    }

    #[test]
    fn a_scatter_list_is_written_across_its_elements() {
        let mut memory = vec![0; 16];
        let region = region(&mut memory, Access::LOCAL_WRITE);
        let mut ring = SlotRing::new(1);
        ring.resolve(0, &[sge(&region, 0, 3), sge(&region, 8, 4)], PD, Access::LOCAL_WRITE).unwrap();
        ring.copy_in(0, 1, &[1, 2, 3, 4]).unwrap();
        assert_eq!(memory[..12], [0, 1, 2, 0, 0, 0, 0, 0, 3, 4, 0, 0]);
    }

    #[test]
    fn what_a_region_does_not_grant_is_refused() {
        let mut memory = vec![0; 64];
        let region = region(&mut memory, Access::empty());
        let mut ring = SlotRing::new(1);
        let mut ask = |sge, pd, need| ring.resolve(0, &[sge], pd, need);
        assert_eq!(ask(sge(&region, 0, 64), PD, Access::empty()), Ok(()));
        assert_eq!(ask(sge(&region, 0, 64), PD, Access::LOCAL_WRITE), Err(AccessError::Denied));
        assert_eq!(ask(sge(&region, 1, 64), PD, Access::empty()), Err(AccessError::OutOfRange));
        assert_eq!(ask(sge(&region, u64::MAX - region.iova(), 2), PD, Access::empty()), Err(AccessError::OutOfRange));
        assert_eq!(ask(sge(&region, 0, 1), PdId(8), Access::empty()), Err(AccessError::NoKey));
        region.revoke();
        assert_eq!(ask(sge(&region, 0, 1), PD, Access::empty()), Err(AccessError::NoKey));
    }

    #[test]
    fn memory_that_is_not_mapped_cannot_be_registered() {
        let page = mman_page();
        assert!(matches!(register_host(page, page, page, Access::empty(), PD), Err(crate::object::Error::Fault)));
    }

    fn mman_page() -> u64 {
        crate::sys::mman::page_size()
    }
}
