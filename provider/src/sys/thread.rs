//! Threads of ours in a program that knows nothing of them; pthreads(7), signal(7).

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread::Builder;

/// Starts a thread. The program's signals are not for it: one that the program waits for, or that is to interrupt a
/// thread of its own, would go astray here. Only a thread's own faults can come to it, for which the program may have
/// handlers.
///
/// # Errors
/// There can be no thread.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // A new thread begins with the mask of who starts it.
    let before = set_mask(&all_but_faults());
    let spawned = Builder::new().name(name.to_owned()).spawn(work);
    set_mask(&before);
    spawned.map(drop)
}

fn all_but_faults() -> libc::sigset_t {
    const FAULTS: [libc::c_int; 6] =
        [libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];
    let mut signals = MaybeUninit::uninit();
    // SAFETY: `signals` is writable, and set by the first call; the signals are valid ones.
    unsafe {
        libc::sigfillset(signals.as_mut_ptr());
        for fault in FAULTS {
            libc::sigdelset(signals.as_mut_ptr(), fault);
        }
        signals.assume_init()
    }
}

/// Blocks these signals in this thread, and no others; gives those that were.
fn set_mask(signals: &libc::sigset_t) -> libc::sigset_t {
    let mut before = MaybeUninit::zeroed();
    // SAFETY: both sets are valid for the call, which cannot fail; a set is numbers, for which zero is a value.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, ptr::from_ref(signals), before.as_mut_ptr());
        before.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_takes_no_signals_and_who_starts_it_keeps_its_own() {
        let (tell, told) = mpsc::channel();
        spawn("blocked", move || tell.send(blocked()).unwrap()).unwrap();
        let there = told.recv().unwrap();
        assert_eq!([libc::SIGTERM, libc::SIGUSR1, libc::SIGRTMIN()].map(&there), [true; 3]);
        assert_eq!([libc::SIGSEGV, libc::SIGBUS].map(&there), [false; 2]);
        assert!(!blocked()(libc::SIGTERM));
    }

    fn blocked() -> impl Fn(libc::c_int) -> bool + Send {
        let mut mask = MaybeUninit::zeroed();
        // SAFETY: no new mask is given, and the old one is written.
        let mask: libc::sigset_t = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr());
            mask.assume_init()
        };
        // SAFETY: the set is valid, and so are the signals that are asked for.
        move |signal| unsafe { libc::sigismember(&raw const mask, signal) == 1 }
    }
}
