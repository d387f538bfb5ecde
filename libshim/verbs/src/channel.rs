//! Completion channels.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use dmverbs_ffi::{Arg, Class, Code, Errno, Handle, Out, Own, Ptr, Void, entry, wait};
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

    /// ibv_ack_cq_events(3)
    pub fn ibv_ack_cq_events(cq: *mut ibv_cq, nevents: c_uint) -> Void {
        // SAFETY: NULL, or a CQ that has events to acknowledge: destroying it waits for this call.
        let cq = unsafe { Cq::hot(cq) }.ok_or_else(|| stale("cq"))?;
        cq.provider().ack_events(nevents);
        Ok(())
    }
}

/// ibv_get_cq_event(3)
///
/// # Safety
/// Pointers are NULL or what the manual page asks for.
pub unsafe extern "C-unwind" fn ibv_get_cq_event(
    channel: *mut ibv_comp_channel,
    cq: *mut *mut ibv_cq,
    cq_context: *mut *mut c_void,
) -> c_int {
    let arguments = || -> Result<(&Channel, Out<'_, *mut ibv_cq>, Out<'_, *mut c_void>), Errno> {
        // SAFETY: the pointers are NULL or what the manual page asks for: the caller's duty.
        unsafe {
            let channel = <&Channel as Arg>::take(channel, "channel")?;
            Ok((channel, Out::take(cq, "cq")?, Out::take(cq_context, "cq_context")?))
        }
    };
    let claim = || {
        let (channel, mut cq, mut cq_context) = arguments()?;
        let Some(cookie) = channel.claim() else { return Ok(false) };
        let seen: *mut ibv_cq = std::ptr::with_exposed_provenance_mut(cookie);
        // SAFETY: the provider names CQs that live: destroying one waits until this event is acknowledged.
        cq_context.set(unsafe { (*seen).cq_context });
        cq.set(seen);
        Ok(true)
    };
    wait("ibv_get_cq_event", &|| arguments().map(|(channel, ..)| channel.fd()), &claim)
}
