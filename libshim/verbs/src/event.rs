//! Asynchronous events, and the rule that destroying an object waits until its events are acknowledged.

use std::ffi::c_int;

use dmverbs_ffi::{Arg, Errno, In, Out, Void, entry, if_live, wait};
use dmverbs_provider::object::AsyncEvent;
use parking_lot::{Condvar, Mutex};
use rdma_core_sys::verbs::*;

use crate::context::Context;
use crate::cq::{Cq, CqClass, stale};
use crate::qp::{Qp, QpClass};

/// Events about an object that a program was told of and has not acknowledged.
#[derive(Debug, Default)]
pub struct Acks {
    owed: Mutex<u32>,
    settled: Condvar,
}

impl Acks {
    fn deliver(&self) {
        *self.owed.lock() += 1;
    }

    fn acknowledge(&self) -> Result<(), Errno> {
        let mut owed = self.owed.lock();
        *owed = owed.checked_sub(1).ok_or_else(|| Errno::misuse("the event was acknowledged before"))?;
        self.settled.notify_all();
        Ok(())
    }

    /// Waits until everything is acknowledged; the object gets no more events.
    pub fn settle(&self) {
        let mut owed = self.owed.lock();
        while *owed > 0 {
            self.settled.wait(&mut owed);
        }
    }
}

entry! {
    /// ibv_get_async_event(3)
    pub fn ibv_ack_async_event(event: In<'_, ibv_async_event>) -> Void {
        match event.event_type {
            IBV_EVENT_CQ_ERR => {
                // SAFETY: the event's own member; a CQ that lives until this acknowledgement.
                let cq = unsafe { Cq::hot(event.element.cq) };
                cq.ok_or_else(|| stale("event->element.cq"))?.acks.acknowledge()
            }
            IBV_EVENT_QP_FATAL | IBV_EVENT_QP_REQ_ERR | IBV_EVENT_QP_ACCESS_ERR | IBV_EVENT_COMM_EST
            | IBV_EVENT_SQ_DRAINED => {
                // SAFETY: the event's own member; a QP that lives until this acknowledgement.
                let qp = unsafe { Qp::hot(event.element.qp) };
                qp.ok_or_else(|| stale("event->element.qp"))?.acks.acknowledge()
            }
            _ => Ok(()),
        }
    }
}

/// ibv_get_async_event(3)
///
/// # Safety
/// Pointers are NULL or what the manual page asks for.
pub unsafe extern "C-unwind" fn ibv_get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int {
    let arguments = || -> Result<(&Context, Out<'_, ibv_async_event>), Errno> {
        // SAFETY: the pointers are NULL or what the manual page asks for: the caller's duty.
        unsafe { Ok((<&Context as Arg>::take(context, "context")?, Out::take(event, "event")?)) }
    };
    let claim = || {
        let (context, mut event) = arguments()?;
        // An object may go between its event's leaving the queue and now; then there is nobody to tell.
        let Some(told) = context.provider().claim_event().and_then(tell) else { return Ok(false) };
        event.set(told);
        Ok(true)
    };
    wait("ibv_get_async_event", &|| Ok(arguments()?.0.provider().async_fd()), &claim)
}

/// The event as C sees it, owed an acknowledgement from now on; `None` if its object is gone.
fn tell(event: AsyncEvent) -> Option<ibv_async_event> {
    match event {
        AsyncEvent::CqErr(cookie) => about_cq(IBV_EVENT_CQ_ERR, cookie),
        AsyncEvent::QpFatal(cookie) => about_qp(IBV_EVENT_QP_FATAL, cookie),
        AsyncEvent::QpReqErr(cookie) => about_qp(IBV_EVENT_QP_REQ_ERR, cookie),
        AsyncEvent::QpAccessErr(cookie) => about_qp(IBV_EVENT_QP_ACCESS_ERR, cookie),
        AsyncEvent::SqDrained(cookie) => about_qp(IBV_EVENT_SQ_DRAINED, cookie),
        AsyncEvent::PortActive(port) => Some(about_port(IBV_EVENT_PORT_ACTIVE, port)),
        AsyncEvent::PortErr(port) => Some(about_port(IBV_EVENT_PORT_ERR, port)),
        AsyncEvent::GidChange(port) => Some(about_port(IBV_EVENT_GID_CHANGE, port)),
    }
}

fn about_cq(event_type: ibv_event_type, cookie: usize) -> Option<ibv_async_event> {
    if_live::<CqClass, _>(cookie, |cq| {
        cq.acks.deliver();
        ibv_async_event { element: ibv_async_event__bindgen_ty_1 { cq: cq.seen() }, event_type }
    })
}

fn about_qp(event_type: ibv_event_type, cookie: usize) -> Option<ibv_async_event> {
    if_live::<QpClass, _>(cookie, |qp| {
        qp.acks.deliver();
        ibv_async_event { element: ibv_async_event__bindgen_ty_1 { qp: qp.seen() }, event_type }
    })
}

fn about_port(event_type: ibv_event_type, port: u8) -> ibv_async_event {
    ibv_async_event { element: ibv_async_event__bindgen_ty_1 { port_num: c_int::from(port) }, event_type }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn destroying_waits_for_the_last_acknowledgement() {
        let acks = Arc::new(Acks::default());
        acks.deliver();
        acks.deliver();
        let other = acks.clone();
        let thread = std::thread::spawn(move || other.settle());
        acks.acknowledge().unwrap();
        assert!(!thread.is_finished());
        acks.acknowledge().unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn one_acknowledgement_too_many_is_refused() {
        assert_eq!(Acks::default().acknowledge().unwrap_err().code(), libc::EINVAL);
    }
}
