//! The frame around every exported function.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Errno;

/// Runs the body of the exported function `name`: a panic ends here as EIO, and a failure is logged by name.
///
/// # Errors
/// The body's, or EIO.
pub fn call<T>(name: &'static str, body: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(died(name, &*panic)));
    result.inspect_err(|e| e.report(name))
}

/// The same for a function on the fast path, whose body makes its own value; `broken` stands for EIO.
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
