//! Threads that the program cancels; pthread_cancel(3), pthreads(7).
//!
//! A thread that ends inside this library would take its locks along. So what is done for every message calls the kernel
//! by number ([`libc::syscall`] is no point of cancellation, and spares two locked instructions), and everything else is
//! done with cancellation disabled.

use std::marker::PhantomData;

use libc::c_int;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// pthread.h
const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// Until this is dropped, its thread is not cancelled.
#[derive(Debug)]
#[must_use = "its drop lets the thread be cancelled"]
pub struct Uncancelled {
    before: c_int,
    of_one_thread: PhantomData<*const ()>,
}

impl Uncancelled {
    /// From now on. It may be done within another.
    pub fn begin() -> Uncancelled {
        let mut before = PTHREAD_CANCEL_DISABLE;
        // SAFETY: `before` is writable. The state is a valid one, so that this cannot fail.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut before) };
        Uncancelled { before, of_one_thread: PhantomData }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        let mut disabled = 0;
        // SAFETY: as above.
        unsafe { pthread_setcancelstate(self.before, &raw mut disabled) };
    }
}
