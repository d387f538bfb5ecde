//! Messages that stay where the NIC has put them: include/dmverbs.h.

use std::ffi::c_int;

use dmverbs_ffi::{Code, Errno, Out, entry};
use dmverbs_provider::object::{MessagePiece, Place};
use rdma_core_sys::dmverbs::{DMV_IN_HOST, DMV_IN_POOL, dmv_message, dmv_piece};

use crate::mr::Mr;
use crate::qp::Qp;

// The provider's pieces are given out as they are.
const _: () = {
    assert!(size_of::<MessagePiece>() == size_of::<dmv_piece>());
    assert!(align_of::<MessagePiece>() == align_of::<dmv_piece>());
    assert!(Place::Pool as u32 == DMV_IN_POOL && Place::Host as u32 == DMV_IN_HOST);
};

entry! {
    /// dmv_post_recv()
    pub fn dmv_post_recv(qp: &Qp, mr: &Mr, length: u32, wr_id: u64) -> Code {
        Ok(qp.provider().post_recv_in_place(wr_id, length, mr)?)
    }

    /// dmv_take_message()
    pub fn dmv_take_message(qp: &Qp, message: Out<'_, dmv_message>) -> Code {
        const NO_DMABUF: c_int = -1;
        let mut message = message;
        let taken = qp.provider().take_message().ok_or(Errno::new(libc::EAGAIN, "no message to take"))?;
        message.set(dmv_message {
            wr_id: taken.id,
            handle: taken.handle,
            // The QP keeps them until the message is returned.
            pieces: taken.pieces.as_ptr().cast(),
            // Each has a byte at least, and the message fewer than 2³².
            num_pieces: taken.pieces.len() as u32,
            dmabuf: taken.dmabuf.unwrap_or(NO_DMABUF),
        });
        Ok(())
    }

    /// dmv_return_message()
    pub fn dmv_return_message(qp: &Qp, handle: u64) -> Code {
        Ok(qp.provider().return_message(handle)?)
    }
}
