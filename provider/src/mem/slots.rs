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
    /// None: what comes stays where it comes, for a receive with this number, and memory like this.
    InPlace(u64, Arc<Region>),
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

    /// Lets go of regions that are no longer live; requests that name them have a fault.
    pub(crate) fn forget_revoked(&mut self) {
        self.last.take_if(|region| !region.is_live());
        for slot in &mut self.slots {
            let live = match &slot.memory {
                Memory::One(span) => span.is_live(),
                Memory::Many(spans) => spans.iter().all(Span::is_live),
                Memory::InPlace(_, region) => region.is_live(),
                Memory::None | Memory::Inline(_) => true,
            };
            if !live {
                *slot = Slot { memory: Memory::None, fault: Some(AccessError::NoKey) };
            }
        }
    }

    /// The memory of a request; each element must grant `need`.
    ///
    /// # Errors
    /// The first element that is not allowed.
    #[inline]
    pub(crate) fn resolve(&mut self, slot: usize, sges: &[Sge], pd: PdId, need: Access) -> Result<(), AccessError> {
        if let [sge] = sges
            && sge.length != 0
            && let Some(Slot { memory: Memory::One(span), fault: None }) = self.slots.get_mut(slot)
            && let Ok(region) = cached(&mut self.last, sge.lkey)
            && span.point(region, sge.addr, u64::from(sge.length), need, pd)
        {
            return Ok(());
        }
        let result = match sges {
            [] => Ok(Memory::None),
            [sge] => self.span(sge, pd, need).map(Memory::One),
            sges => {
                // The list that the slot held before is used again: no allocation per request.
                let mut spans = match std::mem::take(&mut self.slot(slot).memory) {
                    Memory::Many(spans) => spans,
                    _ => Vec::with_capacity(sges.len()),
                };
                spans.clear();
                sges.iter()
                    .try_for_each(|sge| self.span(sge, pd, need).map(|span| spans.push(span)))
                    .map(|()| Memory::Many(spans))
            }
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

    /// The message for a request stays where it comes.
    pub(crate) fn set_in_place(&mut self, slot: usize, id: u64, region: &Arc<Region>) {
        *self.slot(slot) = Slot { memory: Memory::InPlace(id, region.clone()), fault: None };
    }

    /// The number of a request whose message stays where it comes, and memory of the kind that it is for.
    #[inline]
    pub(crate) fn in_place(&self, slot: usize) -> Option<(u64, &Arc<Region>)> {
        match &self.slots.get(slot)?.memory {
            Memory::InPlace(id, region) => Some((*id, region)),
            _ => None,
        }
    }

    /// Whether payload must be copied even if it is large.
    #[inline]
    pub(crate) fn must_copy(&self, slot: usize) -> bool {
        match &self.slots[slot].memory {
            Memory::One(span) => span.must_copy(),
            Memory::Many(spans) => spans.iter().any(Span::must_copy),
            Memory::None | Memory::Inline(_) | Memory::InPlace(..) => true,
        }
    }

    /// The region that the payload's first bytes are in.
    #[inline]
    pub(crate) fn region(&self, slot: usize) -> Option<&Arc<Region>> {
        match &self.slots.get(slot)?.memory {
            Memory::One(span) => span.region(),
            Memory::Many(spans) => spans.first()?.region(),
            Memory::None | Memory::Inline(_) | Memory::InPlace(..) => None,
        }
    }

    /// Whether the payload is of several parts.
    #[inline]
    pub(crate) fn is_list(&self, slot: usize) -> bool {
        matches!(self.slots[slot].memory, Memory::Many(_))
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
                let from = offset as usize;
                let part = bytes.get(from..from + len as usize).ok_or(AccessError::OutOfRange)?;
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
    pub(crate) fn parts(
        &self,
        slot: usize,
        offset: u32,
        len: u32,
        mut each: impl FnMut(&Span, usize, usize) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        let spans = match self.check(slot)? {
            Memory::Many(spans) => spans.as_slice(),
            Memory::One(span) => std::slice::from_ref(span),
            Memory::None | Memory::Inline(_) | Memory::InPlace(..) => &[],
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
    use crate::mem::register;

    const PD: PdId = PdId(7);

    fn region(bytes: &mut [u8], access: Access) -> Arc<Region> {
        let addr = bytes.as_mut_ptr().expose_provenance() as u64;
        register(addr, bytes.len() as u64, addr, access, PD).unwrap()
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
    fn a_slot_that_names_one_region_again_and_again_is_checked_each_time() {
        let (mut first, mut second): (Vec<u8>, Vec<u8>) = ((0..100).collect(), (100..200).collect());
        let (first, second) = (region(&mut first, Access::LOCAL_WRITE), region(&mut second, Access::empty()));
        let mut ring = SlotRing::new(1);
        let read = |ring: &mut SlotRing, sge: Sge, need| {
            let mut out = Vec::new();
            ring.resolve(0, &[sge], PD, need)?;
            ring.copy_out(0, 0, sge.length, &mut out).map(|()| out)
        };
        let (none, write) = (Access::empty(), Access::LOCAL_WRITE);
        assert_eq!(read(&mut ring, sge(&first, 1, 2), write), Ok(vec![1, 2]));
        assert_eq!(read(&mut ring, sge(&first, 97, 3), write), Ok(vec![97, 98, 99]));
        assert_eq!(read(&mut ring, sge(&first, 98, 3), write), Err(AccessError::OutOfRange));
        assert!(ring.copy_out(0, 0, 1, &mut Vec::new()).is_err(), "a bad request names what the one before named");
        assert_eq!(read(&mut ring, sge(&second, 1, 1), none), Ok(vec![101]));
        assert_eq!(read(&mut ring, sge(&second, 1, 1), write), Err(AccessError::Denied));
        assert_eq!(read(&mut ring, sge(&first, 0, 1), none), Ok(vec![0]));
        assert!(ring.resolve(0, &[sge(&first, 0, 1)], PdId(8), none).is_err());
        first.revoke();
        assert!(ring.resolve(0, &[sge(&first, 0, 1)], PD, none).is_err());
        assert_eq!(read(&mut ring, sge(&second, 0, 1), none), Ok(vec![100]));
    }

    #[test]
    fn a_slot_is_used_again_without_what_it_named_before() {
        let mut memory: Vec<u8> = (0..100).collect();
        let region = region(&mut memory, Access::LOCAL_WRITE);
        let mut ring = SlotRing::new(1);
        let read = |ring: &SlotRing, len| {
            let mut out = Vec::new();
            ring.copy_out(0, 0, len, &mut out).map(|()| out)
        };
        let (one, two, three) = (sge(&region, 1, 1), sge(&region, 2, 2), sge(&region, 3, 3));
        ring.resolve(0, &[three, two, one], PD, Access::empty()).unwrap();
        assert_eq!(read(&ring, 6), Ok(vec![3, 4, 5, 2, 3, 1]));
        ring.resolve(0, &[one, two], PD, Access::empty()).unwrap();
        assert_eq!(read(&ring, 3), Ok(vec![1, 2, 3]));
        assert_eq!(read(&ring, 4), Err(AccessError::OutOfRange));
        let wrong = Sge { lkey: region.key() ^ 1, ..two };
        assert_eq!(ring.resolve(0, &[one, wrong], PD, Access::empty()), Err(AccessError::NoKey));
        assert_eq!(read(&ring, 1), Err(AccessError::NoKey));
        ring.set_inline(0, &[7, 8]);
        assert_eq!(read(&ring, 2), Ok(vec![7, 8]));
        ring.resolve(0, &[two], PD, Access::empty()).unwrap();
        assert_eq!(read(&ring, 2), Ok(vec![2, 3]));
    }

    #[test]
    fn on_demand_memory_that_is_not_mapped_is_a_fault_when_it_is_touched() {
        let everything = register(0, u64::MAX, 0, Access::LOCAL_WRITE | Access::ON_DEMAND, PD).unwrap();
        let mut memory = vec![1_u8, 2, 3, 4];
        let addr = memory.as_mut_ptr().expose_provenance() as u64;
        let at = |addr| Sge { addr, length: 4, lkey: everything.key() };
        let mut ring = SlotRing::new(1);
        ring.resolve(0, &[at(addr)], PD, Access::LOCAL_WRITE).unwrap();
        assert!(ring.must_copy(0) && ring.iovs(0, 0, 4, |_| ()).is_none());
        ring.copy_in(0, 1, &[9, 9]).unwrap();
        assert_eq!(memory, [1, 9, 9, 4]);
        ring.resolve(0, &[at(8)], PD, Access::LOCAL_WRITE).unwrap();
        assert_eq!(ring.copy_in(0, 0, &[1]), Err(AccessError::Fault));
        assert_eq!(ring.copy_out(0, 0, 4, &mut Vec::new()), Err(AccessError::Fault));
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
    fn a_revoked_region_is_let_go_of_and_its_requests_have_a_fault() {
        let (mut gone, mut stays) = (vec![0; 64], vec![1; 64]);
        let [gone, stays] = [&mut gone, &mut stays].map(|bytes| region(bytes, Access::empty()));
        let mut ring = SlotRing::new(3);
        ring.resolve(0, &[sge(&stays, 0, 8), sge(&gone, 0, 8)], PD, Access::empty()).unwrap();
        ring.resolve(1, &[sge(&stays, 0, 8)], PD, Access::empty()).unwrap();
        ring.resolve(2, &[sge(&gone, 0, 8)], PD, Access::empty()).unwrap();
        crate::mem::keys().remove(gone.key());
        gone.revoke();
        ring.forget_revoked();
        assert_eq!(Arc::strong_count(&gone), 1);
        assert_eq!([0, 1, 2].map(|slot| ring.copy_out(slot, 0, 8, &mut Vec::new()).is_ok()), [false, true, false]);
    }

    #[test]
    fn memory_that_is_not_mapped_cannot_be_registered() {
        let page = mman_page();
        assert!(matches!(register(page, page, page, Access::empty(), PD), Err(crate::object::Error::Fault)));
    }

    fn mman_page() -> u64 {
        crate::sys::mman::page_size()
    }
}
