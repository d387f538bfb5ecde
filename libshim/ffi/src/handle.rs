//! Objects as C sees them, and the registry that tells the living from the dead.
//!
//! A program may pass a pointer to an object that it has destroyed. Calls off the fast path look the address
//! up before they touch it. The fast path reads one word behind the C structure instead; memory of destroyed
//! objects is therefore kept for a while, so that the word can be read and says that the object is gone.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::UnsafeCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Arg, Errno};

/// A kind of object.
///
/// # Safety
/// `C` may be all zeroes, and holds a `Seen` at `SEEN_AT`.
pub unsafe trait Class: 'static {
    /// The C structure at the start of the object.
    type C;
    /// The part of it that C has a pointer to.
    type Seen;
    /// What we keep.
    type Inner: Send + Sync;
    /// Its name in C.
    const NAME: &'static str;
    /// Marks a living object of the kind: [`class_word`] of `NAME`.
    const WORD: u64 = class_word(Self::NAME);
    /// Where in `C` the `Seen` is.
    const SEEN_AT: usize = 0;
}

/// A word that no zeroed or text-filled memory is likely to hold (FNV-1a of the name).
#[must_use]
pub const fn class_word(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash | 1
}

/// An object: the C structure, then ours.
///
/// # Invariants
/// While `word` is `K::WORD`, `inner` is initialised. `c` belongs to C and to us alike, as verbs.h has it.
#[repr(C)]
pub struct Handle<K: Class> {
    c: UnsafeCell<K::C>,
    word: AtomicU64,
    inner: UnsafeCell<MaybeUninit<K::Inner>>,
}

impl<K: Class> Handle<K> {
    /// Memory for a new object, zeroed, so that its address is known before it is.
    #[must_use]
    pub fn reserve() -> Reserved<K> {
        let layout = Layout::new::<Handle<K>>();
        // SAFETY: the layout has a size: `word` is in it.
        let memory = unsafe { alloc_zeroed(layout) }.cast::<Handle<K>>();
        Reserved(NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout)))
    }

    /// The pointer that C has.
    #[must_use]
    pub fn seen(&self) -> *mut K::Seen {
        self.c.get().wrapping_byte_add(K::SEEN_AT).cast()
    }

    /// The C structure.
    #[must_use]
    pub fn c(&self) -> *mut K::C {
        self.c.get()
    }

    /// The living object behind a pointer from C, by its word alone; for the fast path.
    ///
    /// # Safety
    /// `seen` is NULL, or was returned to C as an object of this kind, and is not being destroyed.
    #[inline]
    #[must_use]
    pub unsafe fn hot<'a>(seen: *mut K::Seen) -> Option<&'a Handle<K>> {
        if seen.is_null() {
            return None;
        }
        let handle = seen.wrapping_byte_sub(K::SEEN_AT).cast::<Handle<K>>();
        // SAFETY: the memory of a handle outlives the object (`GRAVEYARD`), so `word` can be read.
        let word = unsafe { &(*handle).word };
        if word.load(Ordering::Relaxed) != K::WORD {
            return None;
        }
        // SAFETY: the word says that it lives, and nobody destroys it meanwhile: the caller's duty.
        Some(unsafe { &*handle })
    }

    /// The living object behind a pointer from C, looked up before it is touched.
    ///
    /// # Errors
    /// EINVAL if it is NULL, unknown, of another kind, or being destroyed.
    pub fn find<'a>(seen: *mut K::Seen, name: &'static str) -> Result<&'a Handle<K>, Errno> {
        Self::locate(seen, name, &mut lock(seen.addr()), Phase::Live)
    }

    fn locate<'a>(
        seen: *mut K::Seen,
        name: &'static str,
        shard: &mut Shard,
        next: Phase,
    ) -> Result<&'a Handle<K>, Errno> {
        if seen.is_null() {
            return Err(Errno::misuse(format!("`{name}` is NULL")));
        }
        match shard.get_mut(&seen.addr()) {
            Some((word, phase @ Phase::Live)) if *word == K::WORD => {
                *phase = next;
                // SAFETY: the registry holds the addresses of living objects of this kind only.
                Ok(unsafe { &*seen.wrapping_byte_sub(K::SEEN_AT).cast::<Handle<K>>() })
            }
            Some((word, Phase::Dying)) if *word == K::WORD => {
                Err(Errno::misuse(format!("`{name}` is a {} that is being destroyed", K::NAME)))
            }
            _ => Err(Errno::misuse(format!("`{name}` is no living {}: destroyed before, or never created", K::NAME))),
        }
    }
}

impl<K: Class> Deref for Handle<K> {
    type Target = K::Inner;

    #[inline]
    fn deref(&self) -> &K::Inner {
        // SAFETY: a `&Handle` exists only of a living object, whose `inner` is initialised: type invariant.
        unsafe { (*self.inner.get()).assume_init_ref() }
    }
}

impl<K: Class> fmt::Debug for Handle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:p}", K::NAME, self.seen())
    }
}

impl<K: Class> Arg for &Handle<K> {
    type C = *mut K::Seen;

    unsafe fn take(c: *mut K::Seen, name: &'static str) -> Result<Self, Errno> {
        Handle::find(c, name)
    }
}

/// Memory of an object to be.
#[derive(Debug)]
pub struct Reserved<K: Class>(NonNull<Handle<K>>);

impl<K: Class> Reserved<K> {
    /// The pointer that C will have.
    #[must_use]
    pub fn seen(&self) -> *mut K::Seen {
        self.0.as_ptr().wrapping_byte_add(K::SEEN_AT).cast()
    }

    /// The C structure, all zeroes at first.
    pub fn c(&mut self) -> &mut K::C {
        // SAFETY:
        // - `self` owns the memory, and nobody else has seen it.
        // - All zeroes is a valid `C`: contract of `Class`.
        unsafe { (*self.0.as_ptr()).c.get_mut() }
    }

    /// Makes it a living object.
    #[must_use]
    pub fn commit(self, inner: K::Inner) -> *mut K::Seen {
        let (handle, seen) = (self.0.as_ptr(), self.seen());
        std::mem::forget(self);
        // SAFETY: we own the memory until the registry knows it. INVARIANT: `inner` before `word`.
        unsafe { (*handle).inner.get().write(MaybeUninit::new(inner)) };
        // SAFETY: the memory is a zeroed `Handle`, so `word` is valid.
        let word = unsafe { &(*handle).word };
        // pairs with the program's own hand-over of the pointer between threads
        word.store(K::WORD, Ordering::Release);
        lock(seen.addr()).insert(seen.addr(), (K::WORD, Phase::Live));
        seen
    }
}

impl<K: Class> Drop for Reserved<K> {
    fn drop(&mut self) {
        // SAFETY: allocated in `reserve` with this layout; nothing in it was initialised.
        unsafe { dealloc(self.0.as_ptr().cast(), Layout::new::<Handle<K>>()) }
    }
}

/// An object that a call is about to destroy: nobody else finds it meanwhile. Dropping this leaves it alive.
#[derive(Debug)]
pub struct Own<'a, K: Class>(&'a Handle<K>);

impl<K: Class> Own<'_, K> {
    /// Ends the object.
    pub fn free(self) {
        let handle = self.0;
        let seen = handle.seen().addr();
        std::mem::forget(self);
        lock(seen).remove(&seen);
        handle.word.store(0, Ordering::Release);
        // SAFETY: initialised while it lived (type invariant); the word just said that it does no more.
        unsafe { (*handle.inner.get()).assume_init_drop() };
        bury(std::ptr::from_ref(handle).cast_mut().cast(), Layout::new::<Handle<K>>());
    }
}

impl<K: Class> Deref for Own<'_, K> {
    type Target = Handle<K>;

    fn deref(&self) -> &Handle<K> {
        self.0
    }
}

impl<K: Class> Drop for Own<'_, K> {
    fn drop(&mut self) {
        let seen = self.0.seen().addr();
        if let Some((_, phase)) = lock(seen).get_mut(&seen) {
            *phase = Phase::Live;
        }
    }
}

impl<K: Class> Arg for Own<'_, K> {
    type C = *mut K::Seen;

    unsafe fn take(c: *mut K::Seen, name: &'static str) -> Result<Self, Errno> {
        Handle::locate(c, name, &mut lock(c.addr()), Phase::Dying).map(Own)
    }
}

/// Runs `f` on the object at an address if it is alive and not being destroyed; destroying it waits for `f`.
pub fn if_live<K: Class, R>(seen: usize, f: impl FnOnce(&Handle<K>) -> R) -> Option<R> {
    let mut shard = lock(seen);
    let handle = Handle::locate(std::ptr::with_exposed_provenance_mut(seen), "event", &mut shard, Phase::Live).ok()?;
    Some(f(handle))
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Live,
    Dying,
}

type Shard = BTreeMap<usize, (u64, Phase)>;

/// Every living object, by the address that C knows.
static LIVING: [Mutex<Shard>; SHARDS] = [const { Mutex::new(BTreeMap::new()) }; SHARDS];

fn lock(seen: usize) -> MutexGuard<'static, Shard> {
    // Objects are hundreds of bytes apart, so the low bits say little.
    LIVING[(seen >> 8) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
}

struct Grave(*mut u8, Layout);

// SAFETY: the memory belongs to the graveyard alone; its contents are dropped.
unsafe impl Send for Grave {}

/// Memory of destroyed objects, oldest first.
static GRAVEYARD: Mutex<VecDeque<Grave>> = Mutex::new(VecDeque::new());

fn bury(memory: *mut u8, layout: Layout) {
    let mut graves = GRAVEYARD.lock().unwrap_or_else(PoisonError::into_inner);
    graves.push_back(Grave(memory, layout));
    if graves.len() > MAX_GRAVES
        && let Some(Grave(memory, layout)) = graves.pop_front()
    {
        // SAFETY: allocated in `reserve` with this layout, and dropped.
        unsafe { dealloc(memory, layout) };
    }
}

const SHARDS: usize = 16;
/// About 2 MiB at most.
const MAX_GRAVES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[repr(C)]
    struct Thing {
        hidden: u64,
        seen: u64,
    }

    #[derive(Debug)]
    enum ThingClass {}

    // SAFETY: integers may be zero; `seen` is a `u64`.
    unsafe impl Class for ThingClass {
        type C = Thing;
        type Seen = u64;
        type Inner = Arc<str>;
        const NAME: &'static str = "thing";
        const SEEN_AT: usize = std::mem::offset_of!(Thing, seen);
    }

    fn thing() -> *mut u64 {
        let mut new = Handle::<ThingClass>::reserve();
        new.c().hidden = 1;
        new.c().seen = 2;
        new.commit("inside".into())
    }

    fn own<'a>(seen: *mut u64) -> Result<Own<'a, ThingClass>, Errno> {
        // SAFETY: any address may be looked up.
        unsafe { Own::take(seen, "thing") }
    }

    #[test]
    fn a_living_object_is_found_by_the_pointer_that_c_has() {
        let seen = thing();
        let found = Handle::<ThingClass>::find(seen, "thing").unwrap();
        assert_eq!(&***found, "inside");
        assert_eq!(found.seen(), seen);
        // SAFETY: it lives.
        assert!(unsafe { Handle::<ThingClass>::hot(seen) }.is_some());
        own(seen).unwrap().free();
    }

    #[test]
    fn a_destroyed_object_is_refused_by_name() {
        let seen = thing();
        own(seen).unwrap().free();
        // SAFETY: it was an object of the kind.
        assert!(unsafe { Handle::<ThingClass>::hot(seen) }.is_none());
        let e = Handle::<ThingClass>::find(seen, "thing").unwrap_err();
        assert_eq!(e.code(), libc::EINVAL);
        assert!(e.to_string().contains("no living thing"), "{e}");
        assert!(own(seen).is_err());
    }

    #[test]
    fn null_is_refused_by_name() {
        let e = Handle::<ThingClass>::find(std::ptr::null_mut(), "thing").unwrap_err();
        assert!(e.to_string().contains("`thing` is NULL"), "{e}");
    }

    #[test]
    fn an_object_being_destroyed_is_not_found_and_lives_on_if_that_fails() {
        let seen = thing();
        let dying = own(seen).unwrap();
        assert!(Handle::<ThingClass>::find(seen, "thing").is_err());
        assert_eq!(if_live::<ThingClass, _>(seen.expose_provenance(), |_| ()), None);
        drop(dying);
        assert_eq!(if_live::<ThingClass, _>(seen.expose_provenance(), |_| ()), Some(()));
        own(seen).unwrap().free();
    }

    #[test]
    fn destroying_an_object_drops_what_is_inside() {
        let inside: Arc<str> = "x".into();
        let seen = Handle::<ThingClass>::reserve().commit(inside.clone());
        assert_eq!(Arc::strong_count(&inside), 2);
        own(seen).unwrap().free();
        assert_eq!(Arc::strong_count(&inside), 1);
    }
}
