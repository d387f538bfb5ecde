//! How C arguments become Rust ones, and Rust results C ones.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use crate::{Errno, set_errno};

/// A checked argument of an exported function.
pub trait Arg: Sized {
    /// What C passes.
    type C;

    /// Checks it; `name` is the argument's, for the log.
    ///
    /// # Errors
    /// EINVAL for a NULL or dead object.
    ///
    /// # Safety
    /// A pointer is NULL or points at what the exported function's manual page asks for, for the whole call.
    unsafe fn take(c: Self::C, name: &'static str) -> Result<Self, Errno>;
}

macro_rules! plain {
    ($($ty:ty),*) => {$(
        impl Arg for $ty {
            type C = $ty;

            unsafe fn take(c: $ty, _: &'static str) -> Result<$ty, Errno> {
                Ok(c)
            }
        }
    )*};
}
plain!(u8, u16, u32, u64, usize, i32);

/// An address that is used as a number, or checked by the body.
impl<T> Arg for *mut T {
    type C = *mut T;

    unsafe fn take(c: *mut T, _: &'static str) -> Result<*mut T, Errno> {
        Ok(c)
    }
}

fn null(name: &'static str) -> Errno {
    Errno::misuse(format!("`{name}` is NULL"))
}

/// A structure that is only read.
#[derive(Debug)]
pub struct In<'a, T>(&'a T);

impl<T> Deref for In<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

impl<T> Arg for In<'_, T> {
    type C = *const T;

    unsafe fn take(c: *const T, name: &'static str) -> Result<Self, Errno> {
        // SAFETY: not NULL inside `as_ref`; then readable for the call: the caller's duty.
        unsafe { c.as_ref() }.map(In).ok_or_else(|| null(name))
    }
}

/// A structure that is read and written.
#[derive(Debug)]
pub struct InOut<'a, T>(&'a mut T);

impl<T> Deref for InOut<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

impl<T> DerefMut for InOut<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0
    }
}

impl<T> Arg for InOut<'_, T> {
    type C = *mut T;

    unsafe fn take(c: *mut T, name: &'static str) -> Result<Self, Errno> {
        // SAFETY: not NULL inside `as_mut`; then ours for the call: the caller's duty.
        unsafe { c.as_mut() }.map(InOut).ok_or_else(|| null(name))
    }
}

/// A place for a result; its old contents mean nothing.
#[derive(Debug)]
pub struct Out<'a, T>(&'a mut MaybeUninit<T>);

impl<T> Out<'_, T> {
    /// Stores the result.
    pub fn set(&mut self, value: T) {
        self.0.write(value);
    }

    /// Stores the first `len` bytes of the result: those that a structure had which has grown since its call was made.
    ///
    /// # Panics
    /// If it has not so many.
    pub fn set_front(&mut self, value: &T, len: usize)
    where
        T: Copy,
    {
        assert!(len <= size_of::<T>());
        // SAFETY:
        // - `value` is readable for `len` bytes, no more than its size.
        // - The place is the caller's for as long as `self` lives, with at least these bytes; it is no part of `value`.
        unsafe { self.0.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping((&raw const *value).cast(), len) };
    }
}

impl<T> Arg for Out<'_, T> {
    type C = *mut T;

    unsafe fn take(c: *mut T, name: &'static str) -> Result<Self, Errno> {
        // SAFETY: not NULL inside `as_mut`; then ours for the call: the caller's duty.
        unsafe { c.cast::<MaybeUninit<T>>().as_mut() }.map(Out).ok_or_else(|| null(name))
    }
}

/// A C type that has a NULL.
pub trait Nullable: Copy {
    /// Whether this is it.
    fn is_null(self) -> bool;
}

impl<T> Nullable for *const T {
    fn is_null(self) -> bool {
        self.is_null()
    }
}

impl<T> Nullable for *mut T {
    fn is_null(self) -> bool {
        self.is_null()
    }
}

/// An argument that may be NULL.
impl<A: Arg<C: Nullable>> Arg for Option<A> {
    type C = A::C;

    unsafe fn take(c: A::C, name: &'static str) -> Result<Self, Errno> {
        if c.is_null() {
            return Ok(None);
        }
        // SAFETY: as for `Self`: the caller's duty.
        unsafe { A::take(c, name) }.map(Some)
    }
}

/// How an exported function answers.
pub trait Ret {
    /// What the body gives.
    type Value;
    /// What C gets.
    type C;

    /// Translates.
    fn give(result: Result<Self::Value, Errno>) -> Self::C;
}

/// 0, or the `errno` value itself.
#[derive(Debug)]
pub struct Code;

impl Ret for Code {
    type Value = ();
    type C = c_int;

    fn give(result: Result<(), Errno>) -> c_int {
        let code = result.map_or_else(|e| e.code(), |()| 0);
        if code != 0 {
            // Many programs print errno whatever the manual says.
            set_errno(code);
        }
        code
    }
}

/// A value ≥ 0, or −1 and `errno`.
#[derive(Debug)]
pub struct MinusOne;

impl Ret for MinusOne {
    type Value = c_int;
    type C = c_int;

    fn give(result: Result<c_int, Errno>) -> c_int {
        result.unwrap_or_else(|e| {
            set_errno(e.code());
            -1
        })
    }
}

/// A number, or 0.
#[derive(Debug)]
pub struct OrZero<T>(PhantomData<T>);

impl<T: Default> Ret for OrZero<T> {
    type Value = T;
    type C = T;

    fn give(result: Result<T, Errno>) -> T {
        result.unwrap_or_default()
    }
}

/// A count, or the negated `errno` value.
#[derive(Debug)]
pub struct Count;

impl Ret for Count {
    type Value = usize;
    type C = isize;

    fn give(result: Result<usize, Errno>) -> isize {
        result.map_or_else(|e| -(e.code() as isize), |n| isize::try_from(n).unwrap_or(isize::MAX))
    }
}

/// A pointer, or NULL and `errno`.
#[derive(Debug)]
pub struct Ptr<T>(PhantomData<T>);

impl<T> Ret for Ptr<T> {
    type Value = *mut T;
    type C = *mut T;

    fn give(result: Result<*mut T, Errno>) -> *mut T {
        result.unwrap_or_else(|e| {
            set_errno(e.code());
            std::ptr::null_mut()
        })
    }
}

/// Nothing; a failure is only logged.
#[derive(Debug)]
pub struct Void;

impl Ret for Void {
    type Value = ();
    type C = ();

    fn give(_: Result<(), Errno>) {}
}
