//! The functions we stand before.

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A function of libc, or of another preloaded library that comes after us, found when we are loaded, or at its first
/// call: other libraries' constructors may call before ours could run.
#[derive(Debug)]
pub struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Next {
    /// The next function called `name`.
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, address: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Its address.
    ///
    /// # Panics
    /// There is none; but a program that calls the function was linked against a library that has it.
    pub fn address(&self) -> *mut c_void {
        // Nothing is published with the address, and everybody finds the same: no ordering is needed.
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        let found = self.find();
        assert!(!found.is_null(), "dmverbs: no library has {:?}", self.name);
        found
    }

    /// Looks for it; null if there is none.
    pub fn find(&self) -> *mut c_void {
        // SAFETY: `name` is a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Defines functions that stand before those of the same name; `next` is the one that would have been called.
/// The type after `as` is `next`'s where it differs: C's variadic functions, which are called with their optional
/// argument and defined as if it were always there (the same thing in the ABIs of x86-64 and aarch64 Linux).
macro_rules! interpose {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $(as $other:ty)?, |$next:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As the function of libc that it stands before.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret {
            static NEXT: $crate::next::Next = {
                let name = concat!(stringify!($name), "\0");
                match std::ffi::CStr::from_bytes_with_nul(name.as_bytes()) {
                    Ok(name) => $crate::next::Next::new(name),
                    Err(_) => panic!("an identifier holds no NUL"),
                }
            };
            // Not in the program's calls: dlsym(3) waits while another thread is in dlopen(3), be it for this one, and
            // has dlerror(3) forget what it would tell.
            #[used]
            #[unsafe(link_section = ".init_array")]
            static AT_LOAD: extern "C" fn() = {
                extern "C" fn find() {
                    NEXT.find();
                }
                find
            };
            type Function = $crate::next::interpose!(@type ($($ty),*) -> $ret $(, $other)?);
            // SAFETY: it is the function of this name, hence of this type.
            let $next = unsafe { std::mem::transmute::<*mut std::ffi::c_void, Function>(NEXT.address()) };
            // SAFETY: the caller keeps to the function's contract, and the body passes on its arguments, a path
            // exchanged for another C string at most.
            unsafe { $body }
        }
    )*};
    (@type ($($ty:ty),*) -> $ret:ty) => { unsafe extern "C" fn($($ty),*) -> $ret };
    (@type ($($ty:ty),*) -> $ret:ty, $other:ty) => { $other };
}
pub(crate) use interpose;
