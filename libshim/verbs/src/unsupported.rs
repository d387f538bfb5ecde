//! What libibverbs exports and dmverbs does not do: each call fails as rdma-core's does over a device that lacks it.

use std::ffi::{c_int, c_void};

use dmverbs_ffi::{Code, Errno, MinusOne, Ptr, Void, entry, set_errno};
use rdma_core_sys::verbs::*;

/// Functions that fail with EOPNOTSUPP, whatever they are given.
macro_rules! unsupported {
    ($(fn $name:ident -> $ret:ty = $what:literal;)*) => {
        entry! {$(
            /// Not supported
            pub fn $name() -> $ret {
                Err(Errno::unsupported($what))
            }
        )*}
    };
}

unsupported! {
    fn ibv_create_ah -> Ptr<ibv_ah> = "there are no address handles";
    fn ibv_create_ah_from_wc -> Ptr<ibv_ah> = "there are no address handles";
    fn ibv_destroy_ah -> Code = "there are no address handles";
    fn ibv_init_ah_from_wc -> MinusOne = "there are no address handles";
    fn ibv_resolve_eth_l2_from_gid -> Code = "peers are reached by IP, not by their MAC";
    fn ibv_create_srq -> Ptr<ibv_srq> = "there are no shared receive queues";
    fn ibv_modify_srq -> Code = "there are no shared receive queues";
    fn ibv_query_srq -> Code = "there are no shared receive queues";
    fn ibv_destroy_srq -> Code = "there are no shared receive queues";
    fn ibv_attach_mcast -> Code = "there is no multicast";
    fn ibv_detach_mcast -> Code = "there is no multicast";
    fn ibv_import_device -> Ptr<ibv_context> = "there is no kernel object to import";
    fn ibv_import_pd -> Ptr<ibv_pd> = "there is no kernel object to import";
    fn ibv_import_mr -> Ptr<ibv_mr> = "there is no kernel object to import";
    fn ibv_import_dm -> Ptr<ibv_dm> = "there is no kernel object to import";
    fn ibv_unimport_pd -> Void = "there is no kernel object to import";
    fn ibv_unimport_mr -> Void = "there is no kernel object to import";
    fn ibv_unimport_dm -> Void = "there is no kernel object to import";
    fn ibv_query_ece -> Code = "there are no enhanced connections";
    fn ibv_set_ece -> Code = "there are no enhanced connections";
    fn ibv_alloc_dmah -> Ptr<c_void> = "there are no DMA handles";
    fn ibv_dealloc_dmah -> Code = "there are no DMA handles";
    fn ibv_reg_mr_ex -> Ptr<ibv_mr> = "there is no extended registration";
    fn ibv_dm_export_dmabuf_fd -> MinusOne = "there is no device memory";
    fn ibv_query_port_speed -> Code = "there is no speed beyond ibv_query_port's";
    fn ibv_alloc_buf -> Ptr<c_void> = "there are no library buffers";
    fn ibv_free_buf -> Code = "there are no library buffers";
    fn ibv_reg_buf_mr -> Ptr<ibv_mr> = "there are no library buffers";
    fn ibv_export_buf_dmabuf_fd -> MinusOne = "there are no library buffers";
    fn ibv_create_comp_cntr -> Ptr<c_void> = "there are no completion counters";
    fn comp_cntr -> Code = "there are no completion counters";
    fn private_code -> Code = "a call for kernel drivers";
    fn private_minus_one -> MinusOne = "a call for kernel drivers";
    fn private_pointer -> Ptr<c_void> = "a call for kernel drivers";
}

/// The interface of 2005 (IBVERBS_1.0) passes structures that nothing since has used. Its device list is empty
/// by failing, so that no program gets as far as the other calls.
pub extern "C" fn old_code() -> c_int {
    set_errno(libc::ENOSYS);
    libc::ENOSYS
}

/// As [`old_code`], for calls that return a pointer.
pub extern "C" fn old_pointer() -> *mut c_void {
    set_errno(libc::ENOSYS);
    std::ptr::null_mut()
}

/// For calls that return nothing and have nothing to do: the vendor libraries' constructors register drivers,
/// and [`old_code`]'s kin acknowledge events.
pub extern "C" fn nothing() {}

/// ibv_fork_init(3): registered memory is not pinned and a child's copies of our sockets are closed on exec, so
/// there is nothing to prepare.
pub extern "C" fn ibv_fork_init() -> c_int {
    0
}

/// ibv_is_fork_initialized(3).
pub extern "C" fn ibv_is_fork_initialized() -> ibv_fork_status {
    IBV_FORK_UNNEEDED
}

/// Marks memory for fork: as for [`ibv_fork_init`], nothing is to be done.
pub extern "C" fn ibv_dontfork_range(_: *mut c_void, _: usize) -> c_int {
    0
}

/// Undoes [`ibv_dontfork_range`].
pub extern "C" fn ibv_dofork_range(_: *mut c_void, _: usize) -> c_int {
    0
}

/// ibv_bind_mw(3); unreachable from correct programs, since ibv_alloc_mw() fails.
///
/// # Safety
/// Any arguments.
pub unsafe extern "C" fn bind_mw(_: *mut ibv_qp, _: *mut ibv_mw, _: *mut ibv_mw_bind) -> c_int {
    libc::EOPNOTSUPP
}

/// ibv_dealloc_mw(3); unreachable from correct programs, since ibv_alloc_mw() fails.
///
/// # Safety
/// Any arguments.
pub unsafe extern "C" fn dealloc_mw(_: *mut ibv_mw) -> c_int {
    libc::EOPNOTSUPP
}

/// ibv_post_srq_recv(3); unreachable from correct programs, since ibv_create_srq() fails.
///
/// # Safety
/// `bad_wr` is NULL or a place for a pointer.
pub unsafe extern "C" fn post_srq_recv(_: *mut ibv_srq, wr: *mut ibv_recv_wr, bad_wr: *mut *mut ibv_recv_wr) -> c_int {
    // SAFETY: NULL or a place for a pointer: the caller's duty.
    if let Some(place) = unsafe { bad_wr.as_mut() } {
        *place = wr;
    }
    libc::EOPNOTSUPP
}
