// Made by `cargo xtask regen` from uapi/softaccel.h; changes here are lost.

pub const SOFTACCEL_HOST: i32 = -1;
pub const SOFTACCEL_SEGMENTS_MAX: u32 = 4096;
pub const SOFTACCEL_WAITING_MAX: u32 = 65536;
pub type __s32 = ::core::ffi::c_int;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct softaccel_info {
    pub size: __u64,
    pub free: __u64,
    pub copies: __u64,
    pub copied_bytes: __u64,
    pub sums: __u64,
    pub summed_bytes: __u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct softaccel_alloc {
    pub size: __u64,
    pub fd: __s32,
    pub reserved: __u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct softaccel_segment {
    pub src: __u64,
    pub dst: __u64,
    pub len: __u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct softaccel_copy {
    pub segments: __u64,
    pub count: __u32,
    pub src_fd: __s32,
    pub dst_fd: __s32,
    pub event_fd: __s32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct softaccel_sum {
    pub offset: __u64,
    pub len: __u64,
    pub fd: __s32,
    pub crc: __u32,
}
pub const INFO: ::core::ffi::c_ulong = 2150683904;
pub const ALLOC: ::core::ffi::c_ulong = 3222328577;
pub const COPY: ::core::ffi::c_ulong = 1075369218;
pub const SUM: ::core::ffi::c_ulong = 3222852867;
