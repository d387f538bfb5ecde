// Made by `cargo xtask regen` from dmverbs.h; changes here are lost.

pub const DMV_IN_POOL: dmv_where = 0;
pub const DMV_IN_HOST: dmv_where = 1;
pub type dmv_where = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct dmv_piece {
    pub at: u64,
    pub length: u32,
    pub where_: u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dmv_message {
    pub wr_id: u64,
    pub handle: u64,
    pub pieces: *const dmv_piece,
    pub num_pieces: u32,
    pub dmabuf: ::core::ffi::c_int,
}
impl Default for dmv_message {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
