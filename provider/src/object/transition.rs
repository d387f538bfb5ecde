//! Which transitions of QP states there are, and what they take: the table of ibv_modify_qp(3) for RC, as
//! `qp_state_table` of the kernel's drivers/infiniband/core/verbs.c has it.

use super::{Error, QpModify, QpState};

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    struct Attr: u32 {
        const CUR_STATE = 1;
        const SQD_NOTIFY = 1 << 1;
        const ACCESS = 1 << 2;
        const PKEY_INDEX = 1 << 3;
        const PORT = 1 << 4;
        const AV = 1 << 5;
        const PATH_MTU = 1 << 6;
        const TIMEOUT = 1 << 7;
        const RETRY_CNT = 1 << 8;
        const RNR_RETRY = 1 << 9;
        const RQ_PSN = 1 << 10;
        const MAX_RD_ATOMIC = 1 << 11;
        const MIN_RNR_TIMER = 1 << 12;
        const SQ_PSN = 1 << 13;
        const MAX_DEST_RD_ATOMIC = 1 << 14;
        const DEST_QPN = 1 << 15;
    }
}

/// Whether `m` is what the transition `from` → `to` takes.
///
/// # Errors
/// [`Error::Invalid`]: there is no such transition, or an attribute is missing or does not belong; the log names it.
pub(super) fn check(from: QpState, to: QpState, m: &QpModify) -> Result<(), Error> {
    let (needed, optional) = table(from, to).ok_or(Error::Invalid("no such transition of QP states"))?;
    let given = given(m);
    let missing = needed.difference(given);
    if !missing.is_empty() {
        tracing::error!("QP {from:?} to {to:?}: attributes are missing: {missing:?}");
        return Err(Error::Invalid("an attribute that this transition of QP states needs is missing"));
    }
    let foreign = given.difference(needed | optional);
    if !foreign.is_empty() {
        tracing::error!("QP {from:?} to {to:?}: attributes do not belong: {foreign:?}");
        return Err(Error::Invalid("an attribute does not belong to this transition of QP states"));
    }
    Ok(())
}

fn given(m: &QpModify) -> Attr {
    let mut given = Attr::empty();
    given.set(Attr::CUR_STATE, m.cur_state.is_some());
    given.set(Attr::SQD_NOTIFY, m.sqd_async_notify);
    given.set(Attr::ACCESS, m.access.is_some());
    given.set(Attr::PKEY_INDEX, m.pkey_index.is_some());
    given.set(Attr::PORT, m.port.is_some());
    given.set(Attr::AV, m.ah.is_some());
    given.set(Attr::PATH_MTU, m.path_mtu.is_some());
    given.set(Attr::TIMEOUT, m.timeout.is_some());
    given.set(Attr::RETRY_CNT, m.retry_cnt.is_some());
    given.set(Attr::RNR_RETRY, m.rnr_retry.is_some());
    given.set(Attr::RQ_PSN, m.rq_psn.is_some());
    given.set(Attr::MAX_RD_ATOMIC, m.max_rd_atomic.is_some());
    given.set(Attr::MIN_RNR_TIMER, m.min_rnr_timer.is_some());
    given.set(Attr::SQ_PSN, m.sq_psn.is_some());
    given.set(Attr::MAX_DEST_RD_ATOMIC, m.max_dest_rd_atomic.is_some());
    given.set(Attr::DEST_QPN, m.dest_qpn.is_some());
    given
}

/// What a transition needs, and what else it takes.
fn table(from: QpState, to: QpState) -> Option<(Attr, Attr)> {
    use QpState::{Err as Failed, Init, Reset, Rtr, Rts, Sqd};
    let none = Attr::empty();
    let local = Attr::PKEY_INDEX | Attr::PORT | Attr::ACCESS;
    let running = Attr::CUR_STATE | Attr::ACCESS | Attr::MIN_RNR_TIMER;
    let peer = Attr::AV | Attr::PATH_MTU | Attr::DEST_QPN | Attr::RQ_PSN;
    let patience = Attr::TIMEOUT | Attr::RETRY_CNT | Attr::RNR_RETRY | Attr::MAX_RD_ATOMIC;
    Some(match (from, to) {
        (_, Reset | Failed) => (none, Attr::CUR_STATE),
        (Reset, Init) => (local, none),
        (Init, Init) => (none, local),
        (Init, Rtr) => (peer | Attr::MAX_DEST_RD_ATOMIC | Attr::MIN_RNR_TIMER, Attr::ACCESS | Attr::PKEY_INDEX),
        (Rtr, Rts) => (patience | Attr::SQ_PSN, running),
        (Rts, Rts) | (Sqd, Rts) => (none, running),
        (Rts, Sqd) => (none, Attr::SQD_NOTIFY),
        (Sqd, Sqd) => (none, local | Attr::AV | patience | Attr::MAX_DEST_RD_ATOMIC | Attr::MIN_RNR_TIMER),
        _ => return None,
    })
}
