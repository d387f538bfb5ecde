//! The table of keys. Keys are random, so that a peer cannot guess those it was not told.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use super::Region;
use crate::object::Error;
use crate::sys::random;

/// Every registered region of the process, by key.
#[derive(Debug, Default)]
pub(crate) struct KeyTable(RwLock<HashMap<u32, Arc<Region>, BuildHasherDefault<KeyHasher>>>);

/// The process's table.
pub(crate) fn keys() -> &'static KeyTable {
    static TABLE: OnceLock<KeyTable> = OnceLock::new();
    TABLE.get_or_init(KeyTable::default)
}

impl KeyTable {
    /// Makes a region under a fresh key.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub(crate) fn insert(&self, make: impl FnOnce(u32) -> Region) -> Result<Arc<Region>, Error> {
        let mut table = self.0.write();
        let key = loop {
            let mut bytes = [0; 4];
            random::fill(&mut bytes)?;
            let key = u32::from_ne_bytes(bytes);
            // Programs take 0 for "no key".
            if key != 0 && !table.contains_key(&key) {
                break key;
            }
        };
        let region = Arc::new(make(key));
        table.insert(key, region.clone());
        Ok(region)
    }

    /// Has this be the region under its key, in place of another.
    pub(crate) fn replace(&self, region: &Arc<Region>) {
        self.0.write().insert(region.key(), region.clone());
    }

    #[inline]
    pub(crate) fn lookup(&self, key: u32) -> Option<Arc<Region>> {
        self.0.read().get(&key).cloned()
    }

    pub(crate) fn remove(&self, key: u32) {
        self.0.write().remove(&key);
    }
}

/// Keys are random already: they hash to themselves, spread over both halves that the map looks at.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, key: u32) {
        self.0 = (self.0 << 8 ^ u64::from(key)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use dmverbs_proto::Access;

    use super::*;
    use crate::mem::{PdId, register};

    #[test]
    fn keys_are_unique_and_found_until_they_are_removed() {
        let regions: Vec<_> = (0..1000).map(|i| register(0, 0, i, Access::empty(), PdId(3)).unwrap()).collect();
        let distinct: HashSet<u32> = regions.iter().map(|region| region.key()).collect();
        assert_eq!(distinct.len(), regions.len());
        assert!(!distinct.contains(&0));
        for region in &regions {
            assert!(Arc::ptr_eq(&keys().lookup(region.key()).unwrap(), region));
            keys().remove(region.key());
            assert!(keys().lookup(region.key()).is_none_or(|other| !Arc::ptr_eq(&other, region)));
        }
    }
}
