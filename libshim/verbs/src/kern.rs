//! Copies between kernel structures and libibverbs', exported for librdmacm.

use dmverbs_ffi::{In, InOut, Void, entry};
use rdma_core_sys::verbs::{ibv_ah_attr, ibv_gid, ibv_global_route, ibv_qp_attr, ibv_qp_cap};

/// `struct ib_uverbs_ah_attr` of rdma/ib_user_verbs.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct KernAh {
    dgid: [u8; 16],
    flow_label: u32,
    sgid_index: u8,
    hop_limit: u8,
    traffic_class: u8,
    _grh_reserved: u8,
    dlid: u16,
    sl: u8,
    src_path_bits: u8,
    static_rate: u8,
    is_global: u8,
    port_num: u8,
    _reserved: u8,
}

/// `struct ib_uverbs_qp_attr` of rdma/ib_user_verbs.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct KernQp {
    qp_attr_mask: u32,
    qp_state: u32,
    cur_qp_state: u32,
    path_mtu: u32,
    path_mig_state: u32,
    qkey: u32,
    rq_psn: u32,
    sq_psn: u32,
    dest_qp_num: u32,
    qp_access_flags: u32,
    ah_attr: KernAh,
    alt_ah_attr: KernAh,
    max_send_wr: u32,
    max_recv_wr: u32,
    max_send_sge: u32,
    max_recv_sge: u32,
    max_inline_data: u32,
    pkey_index: u16,
    alt_pkey_index: u16,
    en_sqd_async_notify: u8,
    sq_draining: u8,
    max_rd_atomic: u8,
    max_dest_rd_atomic: u8,
    min_rnr_timer: u8,
    port_num: u8,
    timeout: u8,
    retry_cnt: u8,
    rnr_retry: u8,
    alt_port_num: u8,
    alt_timeout: u8,
    _reserved: [u8; 5],
}

/// `struct ib_user_path_rec` of rdma/ib_user_sa.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KernPath {
    dgid: [u8; 16],
    sgid: [u8; 16],
    dlid: u16,
    slid: u16,
    raw_traffic: u32,
    flow_label: u32,
    reversible: u32,
    mtu: u32,
    pkey: u16,
    hop_limit: u8,
    traffic_class: u8,
    numb_path: u8,
    sl: u8,
    mtu_selector: u8,
    rate_selector: u8,
    rate: u8,
    packet_life_time_selector: u8,
    packet_life_time: u8,
    preference: u8,
}

/// `struct ibv_sa_path_rec` of infiniband/sa.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SaPath {
    dgid: [u64; 2],
    sgid: [u64; 2],
    dlid: u16,
    slid: u16,
    raw_traffic: i32,
    flow_label: u32,
    hop_limit: u8,
    traffic_class: u8,
    reversible: i32,
    numb_path: u8,
    pkey: u16,
    sl: u8,
    mtu_selector: u8,
    mtu: u8,
    rate_selector: u8,
    rate: u8,
    packet_life_time_selector: u8,
    packet_life_time: u8,
    preference: u8,
}

entry! {
    /// An address, from the kernel's form
    pub fn ibv_copy_ah_attr_from_kern(dst: InOut<'_, ibv_ah_attr>, src: In<'_, KernAh>) -> Void {
        let mut dst = dst;
        *dst = address(&src);
        Ok(())
    }

    /// QP attributes, from the kernel's form; like rdma-core, leaves `qp_state` to the caller, and
    /// `rate_limit`, which old programs have no room for
    pub fn ibv_copy_qp_attr_from_kern(dst: InOut<'_, ibv_qp_attr>, src: In<'_, KernQp>) -> Void {
        let mut dst = dst;
        dst.cur_qp_state = src.cur_qp_state;
        dst.path_mtu = src.path_mtu;
        dst.path_mig_state = src.path_mig_state;
        dst.qkey = src.qkey;
        dst.rq_psn = src.rq_psn;
        dst.sq_psn = src.sq_psn;
        dst.dest_qp_num = src.dest_qp_num;
        dst.qp_access_flags = src.qp_access_flags;
        dst.cap = ibv_qp_cap {
            max_send_wr: src.max_send_wr,
            max_recv_wr: src.max_recv_wr,
            max_send_sge: src.max_send_sge,
            max_recv_sge: src.max_recv_sge,
            max_inline_data: src.max_inline_data,
        };
        dst.ah_attr = address(&src.ah_attr);
        dst.alt_ah_attr = address(&src.alt_ah_attr);
        dst.pkey_index = src.pkey_index;
        dst.alt_pkey_index = src.alt_pkey_index;
        dst.en_sqd_async_notify = src.en_sqd_async_notify;
        dst.sq_draining = src.sq_draining;
        dst.max_rd_atomic = src.max_rd_atomic;
        dst.max_dest_rd_atomic = src.max_dest_rd_atomic;
        dst.min_rnr_timer = src.min_rnr_timer;
        dst.port_num = src.port_num;
        dst.timeout = src.timeout;
        dst.retry_cnt = src.retry_cnt;
        dst.rnr_retry = src.rnr_retry;
        dst.alt_port_num = src.alt_port_num;
        dst.alt_timeout = src.alt_timeout;
        Ok(())
    }

    /// A path record, from the kernel's form
    pub fn ibv_copy_path_rec_from_kern(dst: InOut<'_, SaPath>, src: In<'_, KernPath>) -> Void {
        let mut dst = dst;
        *dst = SaPath {
            dgid: words(src.dgid),
            sgid: words(src.sgid),
            dlid: src.dlid,
            slid: src.slid,
            raw_traffic: src.raw_traffic.cast_signed(),
            flow_label: src.flow_label,
            hop_limit: src.hop_limit,
            traffic_class: src.traffic_class,
            reversible: src.reversible.cast_signed(),
            numb_path: src.numb_path,
            pkey: src.pkey,
            sl: src.sl,
            mtu_selector: src.mtu_selector,
            mtu: src.mtu.to_le_bytes()[0],
            rate_selector: src.rate_selector,
            rate: src.rate,
            packet_life_time_selector: src.packet_life_time_selector,
            packet_life_time: src.packet_life_time,
            preference: src.preference,
        };
        Ok(())
    }

    /// A path record, in the kernel's form
    pub fn ibv_copy_path_rec_to_kern(dst: InOut<'_, KernPath>, src: In<'_, SaPath>) -> Void {
        let mut dst = dst;
        *dst = KernPath {
            dgid: bytes(src.dgid),
            sgid: bytes(src.sgid),
            dlid: src.dlid,
            slid: src.slid,
            raw_traffic: src.raw_traffic.cast_unsigned(),
            flow_label: src.flow_label,
            reversible: src.reversible.cast_unsigned(),
            mtu: src.mtu.into(),
            pkey: src.pkey,
            hop_limit: src.hop_limit,
            traffic_class: src.traffic_class,
            numb_path: src.numb_path,
            sl: src.sl,
            mtu_selector: src.mtu_selector,
            rate_selector: src.rate_selector,
            rate: src.rate,
            packet_life_time_selector: src.packet_life_time_selector,
            packet_life_time: src.packet_life_time,
            preference: src.preference,
        };
        Ok(())
    }
}

fn address(src: &KernAh) -> ibv_ah_attr {
    ibv_ah_attr {
        grh: ibv_global_route {
            dgid: ibv_gid { raw: src.dgid },
            flow_label: src.flow_label,
            sgid_index: src.sgid_index,
            hop_limit: src.hop_limit,
            traffic_class: src.traffic_class,
        },
        dlid: src.dlid,
        sl: src.sl,
        src_path_bits: src.src_path_bits,
        static_rate: src.static_rate,
        is_global: src.is_global,
        port_num: src.port_num,
    }
}

/// A GID as `union ibv_gid` aligns it.
fn words(gid: [u8; 16]) -> [u64; 2] {
    let value = u128::from_ne_bytes(gid);
    let mut words = [0; 2];
    for (i, word) in words.iter_mut().enumerate() {
        let shift = if cfg!(target_endian = "little") { 64 * i } else { 64 * (1 - i) };
        #[expect(clippy::cast_possible_truncation, reason = "each half of the 128 bits in turn")]
        let half = (value >> shift) as u64;
        *word = half;
    }
    words
}

fn bytes(words: [u64; 2]) -> [u8; 16] {
    let mut gid = [0; 16];
    for (to, from) in gid.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    gid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_record_survives_the_way_there_and_back() {
        let path = KernPath {
            dgid: *b"0123456789abcdef",
            sgid: *b"fedcba9876543210",
            dlid: 1,
            slid: 2,
            raw_traffic: 3,
            flow_label: 4,
            reversible: 5,
            mtu: 6,
            pkey: 7,
            hop_limit: 8,
            traffic_class: 9,
            numb_path: 10,
            sl: 11,
            mtu_selector: 12,
            rate_selector: 13,
            rate: 14,
            packet_life_time_selector: 15,
            packet_life_time: 16,
            preference: 17,
        };
        let (mut sa, mut back) = (SaPath::default(), KernPath::default());
        // SAFETY: structures of the right kinds.
        unsafe { ibv_copy_path_rec_from_kern(&raw mut sa, &raw const path) };
        // SAFETY: structures of the right kinds.
        unsafe { ibv_copy_path_rec_to_kern(&raw mut back, &raw const sa) };
        assert_eq!(back, path);
    }

    #[test]
    fn qp_attributes_leave_the_target_state_alone() {
        let mut to = ibv_qp_attr { qp_state: 2, ..Default::default() };
        let from = KernQp { qp_state: 3, dest_qp_num: 0x12_3456, max_inline_data: 64, ..Default::default() };
        // SAFETY: structures of the right kinds.
        unsafe { ibv_copy_qp_attr_from_kern(&raw mut to, &raw const from) };
        assert_eq!((to.qp_state, to.dest_qp_num, to.cap.max_inline_data), (2, 0x12_3456, 64));
    }

    #[test]
    fn kernel_structures_have_their_sizes() {
        assert_eq!((size_of::<KernAh>(), size_of::<KernQp>()), (32, 144));
        assert_eq!((size_of::<KernPath>(), size_of::<SaPath>()), (64, 64));
    }
}
