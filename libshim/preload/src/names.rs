//! dlopen() of libibverbs under any name opens the drop-in library.
//!
//! dlopen(3) searches the caller's RUNPATH and opens the library in the caller's namespace, and knows the caller by
//! its return address. So our functions exchange the name in its register and jump: they leave no frame behind.

use std::arch::naked_asm;
use std::ffi::{CStr, c_char, c_int, c_void};

use crate::next::Next;
use crate::settings::settings;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("dlopen's stand-in is written in assembly, for x86-64 and aarch64");

/// Where to jump, and with which name: what the ABI returns in two registers.
#[repr(C)]
struct Jump {
    name: *const c_char,
    to: *mut c_void,
}

extern "C" fn before_dlopen(name: *const c_char) -> Jump {
    static NEXT: Next = Next::new(c"dlopen");
    Jump { name: exchange(name), to: NEXT.address() }
}

extern "C" fn before_dlmopen(name: *const c_char) -> Jump {
    static NEXT: Next = Next::new(c"dlmopen");
    Jump { name: exchange(name), to: NEXT.address() }
}

/// dlopen(3)
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void {
    #[cfg(target_arch = "x86_64")]
    naked_asm!(
        "push rsi", // which aligns the stack as well
        "call {before}",
        "pop rsi",
        "mov rdi, rax",
        "jmp rdx",
        before = sym before_dlopen,
    );
    #[cfg(target_arch = "aarch64")]
    naked_asm!(
        "stp x1, x30, [sp, #-16]!",
        "bl {before}",
        "mov x16, x1",
        "ldp x1, x30, [sp], #16",
        "br x16",
        before = sym before_dlopen,
    );
}

/// dlmopen(3)
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlmopen(namespace: libc::c_long, name: *const c_char, flags: c_int) -> *mut c_void {
    #[cfg(target_arch = "x86_64")]
    naked_asm!(
        "push rdi",
        "push rdx",
        "push rdx", // aligns the stack
        "mov rdi, rsi",
        "call {before}",
        "mov rsi, rax",
        "mov rax, rdx",
        "pop rdx",
        "pop rdx",
        "pop rdi",
        "jmp rax",
        before = sym before_dlmopen,
    );
    #[cfg(target_arch = "aarch64")]
    naked_asm!(
        "stp x0, x2, [sp, #-32]!",
        "str x30, [sp, #16]",
        "mov x0, x1",
        "bl {before}",
        "mov x16, x1",
        "mov x1, x0",
        "ldr x30, [sp, #16]",
        "ldp x0, x2, [sp], #32",
        "br x16",
        before = sym before_dlmopen,
    );
}

/// The name to open in place of `name`.
fn exchange(name: *const c_char) -> *const c_char {
    if name.is_null() {
        return name;
    }
    // SAFETY: dlopen(3) is called with a C string or NULL.
    let wanted = unsafe { CStr::from_ptr(name) };
    if !is_libibverbs(wanted.to_bytes()) {
        return name;
    }
    settings().map_or(name, |settings| settings.library().as_ptr())
}

/// Whether a name or path is libibverbs, of whatever version: two libraries of that name in one process would not
/// know each other's objects.
fn is_libibverbs(name: &[u8]) -> bool {
    let file = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    file.strip_prefix(b"libibverbs.so").is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::is_libibverbs;

    #[test]
    fn only_libibverbs_is_exchanged() {
        for name in ["libibverbs.so", "libibverbs.so.1", "/opt/lib/libibverbs.so.1", "libibverbs.so.1.14.44.0"] {
            assert!(is_libibverbs(name.as_bytes()), "{name}");
        }
        for name in ["", "libibverbs", "libibverbs.sock", "libmlx5.so.1", "libibverbs.so/x", "xlibibverbs.so"] {
            assert!(!is_libibverbs(name.as_bytes()), "{name}");
        }
    }
}
