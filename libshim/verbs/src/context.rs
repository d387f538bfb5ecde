//! Opened devices, and the function tables that verbs.h's inline functions go through.

use std::ffi::c_int;
use std::fs::File;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use dmverbs_ffi::{Class, Errno, Handle, MinusOne, Own, Ptr, entry};
use dmverbs_provider::object;
use rdma_core_sys::verbs::{ibv_context, ibv_context_ops, verbs_context};

use crate::device::DeviceClass;
use crate::{cq, cq_ex, mr, post, qp, query, unsupported};

/// `ibv_context`, at the end of its `verbs_context`.
#[derive(Debug)]
pub enum ContextClass {}

// SAFETY: pointers, integers, optional functions and a mutex may be zero; the offset is of that field.
unsafe impl Class for ContextClass {
    type C = verbs_context;
    type Seen = ibv_context;
    type Inner = Opened;
    const NAME: &'static str = "ibv_context";
    const SEEN_AT: usize = offset_of!(verbs_context, context);
}

/// An opened device.
pub type Context = Handle<ContextClass>;

/// What we keep of one.
#[derive(Debug)]
pub struct Opened {
    context: Arc<object::Context>,
    /// What programs find as `cmd_fd`: a file of which every command fails.
    _commands: File,
}

impl Opened {
    /// The provider's context.
    pub fn provider(&self) -> &Arc<object::Context> {
        &self.context
    }

    /// The device.
    pub fn device(&self) -> &Arc<object::Device> {
        self.context.device()
    }
}

entry! {
    /// ibv_open_device(3)
    pub fn ibv_open_device(device: &Handle<DeviceClass>) -> Ptr<ibv_context> {
        let context = object::Context::open(&device.latest()).map_err(|e| Errno::from(e).loud())?;
        let commands = File::open("/dev/null").map_err(|e| Errno::from(object::Error::Io(e)))?;
        let mut new = Context::reserve();
        let c = new.c();
        c.sz = size_of::<verbs_context>();
        c.query_port = Some(query::query_port);
        c.advise_mr = Some(mr::advise_mr);
        c.query_device_ex = Some(query::query_device_ex);
        c.create_cq_ex = Some(cq_ex::create_cq_ex);
        c.create_qp_ex = Some(qp::create_qp_ex);
        let c = &mut c.context;
        c.device = device.seen();
        c.ops = OPS;
        c.cmd_fd = commands.as_raw_fd();
        c.async_fd = context.async_fd();
        c.num_comp_vectors = COMP_VECTORS;
        // __VERBS_ABI_IS_EXTENDED: a verbs_context is around this ibv_context.
        c.abi_compat = std::ptr::without_provenance_mut(usize::MAX);
        Ok(new.commit(Opened { context, _commands: commands }))
    }

    /// ibv_open_device(3)
    pub fn ibv_close_device(context: Own<'_, ContextClass>) -> MinusOne {
        context.free();
        Ok(0)
    }
}

/// Completion vectors: one thread serves all.
pub const COMP_VECTORS: c_int = 1;

/// What the inline functions call through `ibv_context.ops`. An empty `alloc_mw` makes ibv_alloc_mw() fail with
/// EOPNOTSUPP; the other ones are called unchecked.
const OPS: ibv_context_ops = ibv_context_ops {
    _compat_query_device: Some(query::ibv_query_device),
    _compat_query_port: Some(query::ibv_query_port),
    _compat_alloc_pd: None,
    _compat_dealloc_pd: None,
    _compat_reg_mr: None,
    _compat_rereg_mr: None,
    _compat_dereg_mr: None,
    alloc_mw: None,
    bind_mw: Some(unsupported::bind_mw),
    dealloc_mw: Some(unsupported::dealloc_mw),
    _compat_create_cq: None,
    poll_cq: Some(cq::poll_cq),
    req_notify_cq: Some(cq::req_notify_cq),
    _compat_cq_event: None,
    _compat_resize_cq: None,
    _compat_destroy_cq: None,
    _compat_create_srq: None,
    _compat_modify_srq: None,
    _compat_query_srq: None,
    _compat_destroy_srq: None,
    post_srq_recv: Some(unsupported::post_srq_recv),
    _compat_create_qp: None,
    _compat_query_qp: None,
    _compat_modify_qp: None,
    _compat_destroy_qp: None,
    post_send: Some(post::post_send),
    post_recv: Some(post::post_recv),
    _compat_create_ah: None,
    _compat_destroy_ah: None,
    _compat_attach_mcast: None,
    _compat_detach_mcast: None,
    _compat_async_event: None,
};
