//! Registered memory, as far as a test needs it: regions under keys, at addresses of one flat space.

use alloc::vec::Vec;

use crate::work::Access;

/// A piece of registered memory, as in `ibv_sge`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sge {
    /// Where it begins.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Local or remote key: they are equal here.
    pub key: u32,
}

impl Sge {
    /// The part of it from `offset` on, `len` bytes long; not checked, so that a test can ask for what is not there.
    #[must_use]
    pub fn part(self, offset: u64, len: u32) -> Sge {
        Sge { addr: self.addr + offset, len, ..self }
    }
}

/// A key, a range or a right was wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Denied;

/// The registered memory of one side.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    regions: Vec<Region>,
    end: u64,
}

#[derive(Clone, Debug)]
struct Region {
    addr: u64,
    rights: Access,
    bytes: Vec<u8>,
    live: bool,
}

impl Memory {
    /// Registers fresh memory that holds `bytes`.
    pub fn register(&mut self, bytes: Vec<u8>, rights: Access) -> Sge {
        // A gap between regions, so that running over an end is never within the next one; and 8-byte alignment.
        let addr = (self.end + GAP) & !7;
        self.end = addr + bytes.len() as u64;
        let sge = Sge { addr, len: bytes.len() as u32, key: FIRST_KEY + self.regions.len() as u32 };
        self.regions.push(Region { addr, rights, bytes, live: true });
        sge
    }

    /// What was registered first.
    pub(super) fn first(&self) -> Sge {
        let region = &self.regions[0];
        Sge { addr: region.addr, len: region.bytes.len() as u32, key: FIRST_KEY }
    }

    /// Deregisters; false if there was nothing.
    pub fn revoke(&mut self, key: u32) -> bool {
        let index = key.wrapping_sub(FIRST_KEY) as usize;
        self.regions.get_mut(index).is_some_and(|region| core::mem::replace(&mut region.live, false))
    }

    /// Whether all of `sge` may be used as `need` says. A piece without bytes always may: RC does not look at its key.
    ///
    /// # Errors
    /// Key, range or right is wrong.
    pub fn check(&self, sge: Sge, need: Access) -> Result<(), Denied> {
        if sge.len == 0 {
            return Ok(());
        }
        self.find(sge, need).map(|_| ())
    }

    /// The bytes of `sge`.
    ///
    /// # Errors
    /// As [`Memory::check`].
    pub fn read(&self, sge: Sge, need: Access) -> Result<&[u8], Denied> {
        if sge.len == 0 {
            return Ok(&[]);
        }
        let (index, from) = self.find(sge, need)?;
        Ok(&self.regions[index].bytes[from..from + sge.len as usize])
    }

    /// The bytes of `sge`, to change them.
    ///
    /// # Errors
    /// As [`Memory::check`].
    pub fn write(&mut self, sge: Sge, need: Access) -> Result<&mut [u8], Denied> {
        if sge.len == 0 {
            return Ok(&mut []);
        }
        let (index, from) = self.find(sge, need)?;
        Ok(&mut self.regions[index].bytes[from..from + sge.len as usize])
    }

    fn find(&self, sge: Sge, need: Access) -> Result<(usize, usize), Denied> {
        let index = sge.key.wrapping_sub(FIRST_KEY) as usize;
        let region =
            self.regions.get(index).filter(|region| region.live && region.rights.contains(need)).ok_or(Denied)?;
        let from = sge.addr.checked_sub(region.addr).ok_or(Denied)?;
        let end = from.checked_add(u64::from(sge.len)).ok_or(Denied)?;
        if end > region.bytes.len() as u64 {
            return Err(Denied);
        }
        Ok((index, from as usize))
    }
}

/// The pieces of `sges` that `len` bytes from `offset` on cover.
pub(super) fn slice(sges: &[Sge], offset: u32, len: u32) -> impl Iterator<Item = Sge> + '_ {
    let (mut skip, mut left) = (offset, len);
    sges.iter().filter_map(move |sge| {
        let skipped = skip.min(sge.len);
        skip -= skipped;
        let n = left.min(sge.len - skipped);
        left -= n;
        (n > 0).then(|| sge.part(u64::from(skipped), n))
    })
}

const FIRST_KEY: u32 = 0x1000;
const GAP: u64 = 4096;
