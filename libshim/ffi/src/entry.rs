//! The frame around every exported function.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dmverbs_provider::Uncancelled;
use dmverbs_provider::object::Error;

use crate::{Errno, MinusOne, Ret};

/// Runs the body of the exported function `name`: a panic ends here as EIO, a failure is logged by name, and the thread
/// is not cancelled meanwhile.
///
/// # Errors
/// The body's, or EIO.
pub fn call<T>(name: &'static str, body: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let _uncancelled = Uncancelled::begin();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(died(name, &*panic)));
    result.inspect_err(|e| e.report(name))
}

/// The same for a function on the fast path, whose body makes its own value; `broken` stands for EIO. Where a thread
/// could be cancelled the provider sees to that.
#[inline]
pub fn guard<T>(name: &'static str, broken: T, body: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(panic) => {
            died(name, &*panic);
            broken
        }
    }
}

/// A function that waits for an event: reads one from the eventfd that `fd` gives, and has `claim` look what it was, again
/// and again until that says true. Gives 0, or -1 with `errno`: the read's `EAGAIN` and `EINTR` as read(2) has them, and
/// those of both.
///
/// In the read, and nowhere else, the thread may be cancelled, as in rdma-core's. Then this and all that called it end
/// without returning: there is nothing to drop here, nor may there be in an exported function that calls this, which is
/// `extern "C-unwind"`.
#[inline(never)]
pub fn wait(
    name: &'static str,
    fd: &dyn Fn() -> Result<RawFd, Errno>,
    claim: &dyn Fn() -> Result<bool, Errno>,
) -> c_int {
    unsafe extern "C-unwind" {
        fn read(fd: c_int, to: *mut c_void, len: usize) -> isize;
    }
    loop {
        let fd = MinusOne::give(call(name, fd));
        if fd < 0 {
            return -1;
        }
        let mut count = 0_u64;
        // SAFETY: `count` is writable for the length given.
        if unsafe { read(fd, (&raw mut count).cast(), size_of::<u64>()) } < 0 {
            let error = io::Error::last_os_error();
            return MinusOne::give(call(name, || Err(Error::from(error).into())));
        }
        let claimed = MinusOne::give(call(name, || claim().map(c_int::from)));
        if claimed != 0 {
            return claimed.min(0);
        }
    }
}

#[cold]
fn died(name: &'static str, panic: &(dyn Any + Send)) -> Errno {
    let what = panic.downcast_ref::<&str>().copied();
    let what = what.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?");
    tracing::error!("{name}: a fault in dmverbs itself: {what}");
    Errno::new(libc::EIO, "a fault in dmverbs itself")
}

/// Writes exported functions: each argument is checked and borrowed by its [`crate::Arg`] type, the body is
/// safe Rust that returns `Result<_, Errno>`, and the [`crate::Ret`] type says how C hears of the result.
///
/// ```text
/// entry! {
///     /// ibv_dealloc_pd(3)
///     pub fn ibv_dealloc_pd(pd: Own<PdClass>) -> Code { ... Ok(()) }
/// }
/// ```
#[macro_export]
macro_rules! entry {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block)*) => {$(
        $(#[$meta])*
        ///
        /// # Safety
        /// Pointers are NULL or what the manual page asks for.
        $vis unsafe extern "C" fn $name($($arg: <$ty as $crate::Arg>::C),*) -> <$ret as $crate::Ret>::C {
            <$ret as $crate::Ret>::give($crate::call(stringify!($name), || {
                $(
                    // SAFETY: the pointer is NULL or what the manual page asks for: the caller's duty.
                    let $arg = unsafe { <$ty as $crate::Arg>::take($arg, stringify!($arg)) }?;
                )*
                let body = || -> Result<<$ret as $crate::Ret>::Value, $crate::Errno> { $body };
                body()
            }))
        }
    )*};
}
