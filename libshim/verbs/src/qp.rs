//! Queue pairs: creating, modifying, querying and destroying them.

use std::ffi::c_int;
use std::mem::offset_of;
use std::sync::Arc;

use dmverbs_ffi::{Class, Code, Errno, Handle, In, InOut, OrZero, Out, Own, Ptr, entry};
use dmverbs_provider::object::{self, Access, AhAttr, Gid, QpAttr, QpCap, QpInit, QpModify, QpState, QpType};
use rdma_core_sys::verbs::*;

use crate::context::Context;
use crate::cq::Cq;
use crate::event::Acks;
use crate::pd::Pd;
use crate::query::check_port;
use crate::wr::{self, Builder};

/// `ibv_qp`, at the start of an `ibv_qp_ex`: every QP has room for the extended interface.
#[derive(Debug)]
pub enum QpClass {}

// SAFETY: pointers, integers, optional functions, mutexes and conditions may be zero; an `ibv_qp_ex` starts with
// an `ibv_qp`.
unsafe impl Class for QpClass {
    type C = ibv_qp_ex;
    type Seen = ibv_qp;
    type Inner = QpInner;
    const NAME: &'static str = "ibv_qp";
}

/// A queue pair.
pub type Qp = Handle<QpClass>;

/// What we keep of one.
#[derive(Debug)]
pub struct QpInner {
    qp: Arc<object::Qp>,
    sq_sig_all: bool,
    /// Requests between ibv_wr_start() and ibv_wr_complete().
    pub builder: Builder,
    /// Asynchronous events about it.
    pub acks: Acks,
}

impl QpInner {
    /// The provider's QP.
    #[inline]
    pub fn provider(&self) -> &Arc<object::Qp> {
        &self.qp
    }
}

entry! {
    /// ibv_create_qp(3)
    pub fn ibv_create_qp(pd: &Pd, qp_init_attr: InOut<'_, ibv_qp_init_attr>) -> Ptr<ibv_qp> {
        let mut attr = qp_init_attr;
        create(pd, &mut attr, None)
    }

    /// ibv_create_qp_ex(3)
    pub fn create_qp_ex(context: &Context, qp_init_attr_ex: InOut<'_, ibv_qp_init_attr_ex>) -> Ptr<ibv_qp> {
        let (_, mut attr) = (context, qp_init_attr_ex);
        let known = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_CREATE_FLAGS | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
        if attr.comp_mask & !known != 0 {
            return Err(Errno::unsupported("`comp_mask` asks for XRC, TSO, RSS or something unknown"));
        }
        if attr.comp_mask & IBV_QP_INIT_ATTR_PD == 0 {
            return Err(Errno::invalid("`comp_mask` lacks IBV_QP_INIT_ATTR_PD"));
        }
        if attr.comp_mask & IBV_QP_INIT_ATTR_CREATE_FLAGS != 0 && attr.create_flags != 0 {
            return Err(Errno::unsupported("`create_flags` is not 0"));
        }
        let ops = (attr.comp_mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS != 0).then_some(attr.send_ops_flags);
        if ops.is_some_and(|ops| ops & !wr::SUPPORTED != 0) {
            return Err(Errno::unsupported("`send_ops_flags` asks for windows, TSO or atomic writes"));
        }
        let pd = Pd::find(attr.pd, "pd")?;
        let mut base = ibv_qp_init_attr {
            qp_context: attr.qp_context,
            send_cq: attr.send_cq,
            recv_cq: attr.recv_cq,
            srq: attr.srq,
            cap: attr.cap,
            qp_type: attr.qp_type,
            sq_sig_all: attr.sq_sig_all,
        };
        let qp = create(pd, &mut base, ops)?;
        attr.cap = base.cap;
        Ok(qp)
    }

    /// ibv_qp_to_qp_ex(3): NULL for a QP that was not created with IBV_QP_INIT_ATTR_SEND_OPS_FLAGS
    pub fn ibv_qp_to_qp_ex(qp: &Qp) -> Ptr<ibv_qp_ex> {
        // SAFETY: the structure lives; this member never changes after creation.
        let extended = unsafe { (*qp.c()).wr_start.is_some() };
        if extended { Ok(qp.c()) } else { Err(Errno::unsupported("the QP was created without send_ops_flags")) }
    }

    /// ibv_modify_qp(3)
    pub fn ibv_modify_qp(qp: &Qp, attr: In<'_, ibv_qp_attr>, attr_mask: c_int) -> Code {
        let modify = modification(&attr, attr_mask.cast_unsigned())?;
        qp.provider().modify(&modify)?;
        if let Some(state) = modify.state {
            // SAFETY: the structure lives; a program must not modify a QP from two threads at once.
            unsafe { (*qp.c()).qp_base.state = state as u32 };
        }
        Ok(())
    }

    /// ibv_query_qp(3)
    pub fn ibv_query_qp(
        qp: &Qp, attr: Out<'_, ibv_qp_attr>, attr_mask: c_int, init_attr: Out<'_, ibv_qp_init_attr>,
    ) -> Code {
        // Every attribute costs the same, so what the mask permits to leave out is there, too.
        let (mut attr, mut init_attr) = (attr, init_attr);
        let now = qp.provider().query();
        // A program of before 2017 has no `rate_limit`.
        attr.set_front(&attributes(&now), offset_of!(ibv_qp_attr, rate_limit));
        if attr_mask.cast_unsigned() & IBV_QP_STATE != 0 {
            // SAFETY: the structure lives; a program must not query a QP in one thread and modify it in another.
            unsafe { (*qp.c()).qp_base.state = now.state as u32 };
        }
        // SAFETY: the structure lives; these members never change after creation.
        let base = unsafe { &(*qp.c()).qp_base };
        init_attr.set(ibv_qp_init_attr {
            qp_context: base.qp_context,
            send_cq: base.send_cq,
            recv_cq: base.recv_cq,
            srq: base.srq,
            cap: cap_to_c(&now.cap),
            qp_type: base.qp_type,
            sq_sig_all: c_int::from(qp.sq_sig_all),
        });
        Ok(())
    }

    /// ibv_query_qp_data_in_order(3): nothing is promised, as the kernel and memcpy(3) copy in any order. (Whoever sees
    /// the last byte of a message sees all of it.)
    pub fn ibv_query_qp_data_in_order(qp: &Qp, op: ibv_wr_opcode, flags: u32) -> OrZero<c_int> {
        let (_, _, _) = (qp, op, flags);
        Ok(0)
    }

    /// ibv_create_qp(3)
    pub fn ibv_destroy_qp(qp: Own<'_, QpClass>) -> Code {
        object::Qp::destroy(Arc::clone(qp.provider())).map_err(|(_, e)| e)?;
        qp.acks.settle();
        qp.free();
        Ok(())
    }
}

/// Makes a QP; `ops` are the operations that ibv_wr_*() is wanted for.
fn create(pd: &Pd, attr: &mut ibv_qp_init_attr, ops: Option<u64>) -> Result<*mut ibv_qp, Errno> {
    if attr.qp_type != IBV_QPT_RC {
        return Err(Errno::unsupported("`qp_type` is not IBV_QPT_RC"));
    }
    if !attr.srq.is_null() {
        return Err(Errno::unsupported("`srq` is not NULL: there are no shared receive queues"));
    }
    let send_cq = Cq::find(attr.send_cq, "send_cq")?;
    let recv_cq = Cq::find(attr.recv_cq, "recv_cq")?;
    let mut new = Qp::reserve();
    let cookie = new.seen().expose_provenance();
    let sq_sig_all = attr.sq_sig_all != 0;
    let init = QpInit {
        qp_type: QpType::Rc,
        send_cq: send_cq.provider(),
        recv_cq: recv_cq.provider(),
        cap: cap_from_c(&attr.cap),
        sq_sig_all,
        cookie,
    };
    let qp = object::Qp::create(pd, init)?;
    attr.cap = cap_to_c(&qp.cap());

    let c = new.c();
    // SAFETY: `find` has just found the domain alive; only a pointer in it is read.
    c.qp_base.context = unsafe { (*pd.seen()).context };
    c.qp_base.qp_context = attr.qp_context;
    c.qp_base.pd = pd.seen();
    c.qp_base.send_cq = attr.send_cq;
    c.qp_base.recv_cq = attr.recv_cq;
    c.qp_base.handle = qp.num();
    c.qp_base.qp_num = qp.num();
    c.qp_base.state = IBV_QPS_RESET;
    c.qp_base.qp_type = attr.qp_type;
    if ops.is_some() {
        wr::extend(c);
    }
    Ok(new.commit(QpInner { qp, sq_sig_all, builder: Builder::default(), acks: Acks::default() }))
}

fn cap_from_c(cap: &ibv_qp_cap) -> QpCap {
    QpCap {
        send_wr: cap.max_send_wr,
        recv_wr: cap.max_recv_wr,
        send_sge: cap.max_send_sge,
        recv_sge: cap.max_recv_sge,
        inline: cap.max_inline_data,
    }
}

fn cap_to_c(cap: &QpCap) -> ibv_qp_cap {
    ibv_qp_cap {
        max_send_wr: cap.send_wr,
        max_recv_wr: cap.recv_wr,
        max_send_sge: cap.send_sge,
        max_recv_sge: cap.recv_sge,
        max_inline_data: cap.inline,
    }
}

fn state_from_c(state: ibv_qp_state) -> Result<QpState, Errno> {
    Ok(match state {
        IBV_QPS_RESET => QpState::Reset,
        IBV_QPS_INIT => QpState::Init,
        IBV_QPS_RTR => QpState::Rtr,
        IBV_QPS_RTS => QpState::Rts,
        IBV_QPS_SQD => QpState::Sqd,
        IBV_QPS_SQE => QpState::Sqe,
        IBV_QPS_ERR => QpState::Err,
        _ => return Err(Errno::invalid("no such QP state")),
    })
}

/// Reads the attributes that the mask names.
fn modification(attr: &ibv_qp_attr, mask: u32) -> Result<QpModify, Errno> {
    const ALTERNATE: u32 = IBV_QP_ALT_PATH | IBV_QP_PATH_MIG_STATE;
    const KNOWN: u32 = (IBV_QP_DEST_QPN << 1) - 1;
    if mask & IBV_QP_RATE_LIMIT != 0 {
        return Err(Errno::unsupported("there is no rate limit"));
    }
    if mask & !KNOWN != 0 {
        return Err(Errno::invalid("`attr_mask` names something unknown"));
    }
    if mask & (ALTERNATE | IBV_QP_CAP) != 0 {
        return Err(Errno::unsupported("there are no alternate paths, and queues keep their size"));
    }
    if mask & IBV_QP_QKEY != 0 {
        return Err(Errno::invalid("an RC QP has no Q_Key"));
    }
    let has = |bit: u32| mask & bit != 0;
    if has(IBV_QP_PORT) {
        check_port(attr.port_num.into())?;
    }
    if has(IBV_QP_PKEY_INDEX) && attr.pkey_index != 0 {
        return Err(Errno::invalid("`pkey_index` is not 0"));
    }
    Ok(QpModify {
        state: has(IBV_QP_STATE).then(|| state_from_c(attr.qp_state)).transpose()?,
        cur_state: has(IBV_QP_CUR_STATE).then(|| state_from_c(attr.cur_qp_state)).transpose()?,
        access: has(IBV_QP_ACCESS_FLAGS).then(|| qp_access(attr.qp_access_flags)),
        pkey_index: has(IBV_QP_PKEY_INDEX).then_some(attr.pkey_index),
        port: has(IBV_QP_PORT).then_some(attr.port_num),
        ah: has(IBV_QP_AV).then(|| address(&attr.ah_attr)).transpose()?,
        path_mtu: has(IBV_QP_PATH_MTU).then_some(attr.path_mtu),
        timeout: has(IBV_QP_TIMEOUT).then_some(attr.timeout),
        retry_cnt: has(IBV_QP_RETRY_CNT).then_some(attr.retry_cnt),
        rnr_retry: has(IBV_QP_RNR_RETRY).then_some(attr.rnr_retry),
        rq_psn: has(IBV_QP_RQ_PSN).then_some(attr.rq_psn & PSN),
        max_rd_atomic: has(IBV_QP_MAX_QP_RD_ATOMIC).then_some(attr.max_rd_atomic),
        min_rnr_timer: has(IBV_QP_MIN_RNR_TIMER).then_some(attr.min_rnr_timer),
        sq_psn: has(IBV_QP_SQ_PSN).then_some(attr.sq_psn & PSN),
        max_dest_rd_atomic: has(IBV_QP_MAX_DEST_RD_ATOMIC).then_some(attr.max_dest_rd_atomic),
        dest_qpn: has(IBV_QP_DEST_QPN).then_some(attr.dest_qp_num),
        sqd_async_notify: has(IBV_QP_EN_SQD_ASYNC_NOTIFY) && attr.en_sqd_async_notify != 0,
    })
}

/// Nobody can be granted what there is not: as the kernel, this passes over other flags.
fn qp_access(flags: u32) -> Access {
    Access::from_bits_truncate(flags)
}

fn address(ah: &ibv_ah_attr) -> Result<AhAttr, Errno> {
    if ah.is_global == 0 {
        return Err(Errno::invalid("`ah_attr.is_global` is 0: an Ethernet peer is named by its GID, not by a LID"));
    }
    check_port(ah.port_num.into())?;
    let grh = &ah.grh;
    Ok(AhAttr {
        // SAFETY: every bit pattern of the union is sixteen bytes.
        dgid: Gid(unsafe { grh.dgid.raw }),
        sgid_index: grh.sgid_index,
        flow_label: grh.flow_label,
        hop_limit: grh.hop_limit,
        traffic_class: grh.traffic_class,
        sl: ah.sl,
        port: ah.port_num,
    })
}

fn attributes(now: &QpAttr) -> ibv_qp_attr {
    let ah_attr = ibv_ah_attr {
        grh: ibv_global_route {
            dgid: ibv_gid { raw: now.ah.dgid.0 },
            flow_label: now.ah.flow_label,
            sgid_index: now.ah.sgid_index,
            hop_limit: now.ah.hop_limit,
            traffic_class: now.ah.traffic_class,
        },
        sl: now.ah.sl,
        is_global: 1,
        port_num: now.ah.port,
        ..Default::default()
    };
    ibv_qp_attr {
        qp_state: now.state as u32,
        cur_qp_state: now.state as u32,
        path_mtu: now.path_mtu,
        path_mig_state: IBV_MIG_MIGRATED,
        rq_psn: now.rq_psn,
        sq_psn: now.sq_psn,
        dest_qp_num: now.dest_qpn,
        qp_access_flags: now.access.bits(),
        cap: cap_to_c(&now.cap),
        ah_attr,
        pkey_index: now.pkey_index,
        sq_draining: u8::from(now.draining),
        max_rd_atomic: now.max_rd_atomic,
        max_dest_rd_atomic: now.max_dest_rd_atomic,
        min_rnr_timer: now.min_rnr_timer,
        port_num: now.port,
        timeout: now.timeout,
        retry_cnt: now.retry_cnt,
        rnr_retry: now.rnr_retry,
        ..Default::default()
    }
}

/// PSNs have 24 bits; programs pass random words.
const PSN: u32 = 0xff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_attributes_in_the_mask_are_read() {
        let attr = ibv_qp_attr { qp_state: 99, port_num: 9, timeout: 14, ..Default::default() };
        let modify = modification(&attr, IBV_QP_TIMEOUT).unwrap();
        assert_eq!((modify.timeout, modify.state, modify.port), (Some(14), None, None));
        assert!(modification(&attr, IBV_QP_STATE).is_err());
        assert!(modification(&attr, IBV_QP_PORT).is_err());
    }

    #[test]
    fn a_peer_named_by_lid_is_refused() {
        let attr =
            ibv_qp_attr { ah_attr: ibv_ah_attr { port_num: 1, dlid: 3, ..Default::default() }, ..Default::default() };
        assert_eq!(modification(&attr, IBV_QP_AV).unwrap_err().code(), libc::EINVAL);
    }

    #[test]
    fn what_rc_over_ethernet_lacks_is_refused() {
        let attr = ibv_qp_attr::default();
        for (mask, code) in [
            (IBV_QP_QKEY, libc::EINVAL),
            (IBV_QP_ALT_PATH, libc::EOPNOTSUPP),
            (IBV_QP_CAP, libc::EOPNOTSUPP),
            (IBV_QP_RATE_LIMIT, libc::EOPNOTSUPP),
            (1 << 30, libc::EINVAL),
        ] {
            assert_eq!(modification(&attr, mask).unwrap_err().code(), code, "{mask:#x}");
        }
    }
}
