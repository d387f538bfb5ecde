//! Completion channels.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use dmverbs_ffi::{Class, Code, Handle, MinusOne, Out, Own, Ptr, Void, entry};
use dmverbs_provider::object;
use rdma_core_sys::verbs::{ibv_comp_channel, ibv_cq};

use crate::context::Context;
use crate::cq::{Cq, stale};

/// `ibv_comp_channel`.
#[derive(Debug)]
pub enum ChannelClass {}

// SAFETY: pointers and integers may be zero.
unsafe impl Class for ChannelClass {
    type C = ibv_comp_channel;
    type Seen = ibv_comp_channel;
    type Inner = Arc<object::Channel>;
    const NAME: &'static str = "ibv_comp_channel";
}

/// A completion channel.
pub type Channel = Handle<ChannelClass>;

entry! {
    /// ibv_create_comp_channel(3)
    pub fn ibv_create_comp_channel(context: &Context) -> Ptr<ibv_comp_channel> {
        let channel = object::Channel::create(context.provider())?;
        let mut new = Channel::reserve();
        *new.c() = ibv_comp_channel { context: context.seen(), fd: channel.fd(), refcnt: 0 };
        Ok(new.commit(channel))
    }

    /// ibv_create_comp_channel(3)
    pub fn ibv_destroy_comp_channel(channel: Own<'_, ChannelClass>) -> Code {
        object::Channel::destroy(Arc::clone(&channel)).map_err(|(_, e)| e)?;
        channel.free();
        Ok(())
    }

    /// ibv_get_cq_event(3)
    pub fn ibv_get_cq_event(
        channel: &Channel, cq: Out<'_, *mut ibv_cq>, cq_context: Out<'_, *mut c_void>,
    ) -> MinusOne {
        let (mut cq, mut cq_context) = (cq, cq_context);
        let seen: *mut ibv_cq = std::ptr::with_exposed_provenance_mut(channel.wait()?);
        // SAFETY: the provider names CQs that live: destroying one waits until this event is acknowledged.
        cq_context.set(unsafe { (*seen).cq_context });
        cq.set(seen);
        Ok(0)
    }

    /// ibv_ack_cq_events(3)
    pub fn ibv_ack_cq_events(cq: *mut ibv_cq, nevents: c_uint) -> Void {
        // SAFETY: NULL, or a CQ that has events to acknowledge: destroying it waits for this call.
        let cq = unsafe { Cq::hot(cq) }.ok_or_else(|| stale("cq"))?;
        cq.provider().ack_events(nevents);
        Ok(())
    }
}
