//! The drop-in library as a C program meets it: loaded at run time, called through versioned symbols and through
//! the function pointers that verbs.h's inline functions use.

mod library;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;

use rdma_core_sys::verbs::*;

use library::{Device, Pair, call, errno};

#[test]
fn null_is_refused_and_never_followed() {
    call!("IBVERBS_1.1", fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int);
    call!("IBVERBS_1.1", fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd);
    call!("IBVERBS_1.1", fn ibv_free_device_list(list: *mut *mut ibv_device));
    call!("IBVERBS_1.1", fn ibv_create_qp(pd: *mut ibv_pd, attr: *mut ibv_qp_init_attr) -> *mut ibv_qp);
    assert_eq!(ibv_dealloc_pd(null_mut()), libc::EINVAL);
    assert!(ibv_alloc_pd(null_mut()).is_null());
    assert_eq!(errno(), libc::EINVAL);
    ibv_free_device_list(null_mut());
    assert!(ibv_create_qp(null_mut(), null_mut()).is_null());
    assert_eq!(errno(), libc::EINVAL);
    let device = Device::open();
    assert_eq!(device.poll(null_mut(), 1, null_mut()), -libc::EINVAL);
    let mut bad = null_mut();
    let mut wr = ibv_send_wr::default();
    assert_eq!(device.post_send(null_mut(), &raw mut wr, &raw mut bad), libc::EINVAL);
    assert_eq!(bad, &raw mut wr);
    let pair = Pair::connected(64);
    let mut nowhere = ibv_sge { addr: 0, length: 8, lkey: 0 };
    let mut wr = pair.send_request(1, &raw mut nowhere, 1);
    wr.send_flags = IBV_SEND_INLINE;
    assert_eq!(pair.device.post_send(pair.a, &raw mut wr, &raw mut bad), libc::EINVAL);
    assert_eq!(bad, &raw mut wr);
    wr.sg_list = null_mut();
    assert_eq!(pair.device.post_send(pair.a, &raw mut wr, &raw mut bad), libc::EINVAL);

    call!("IBVERBS_1.1", fn ibv_destroy_qp(qp: *mut ibv_qp) -> c_int);
    call!("IBVERBS_1.1", fn ibv_modify_qp(qp: *mut ibv_qp, attr: *mut ibv_qp_attr, mask: c_int) -> c_int);
    call!("IBVERBS_1.1", fn ibv_query_qp(
        qp: *mut ibv_qp, attr: *mut ibv_qp_attr, mask: c_int, init: *mut ibv_qp_init_attr
    ) -> c_int);
    call!("IBVERBS_1.1", fn ibv_dereg_mr(mr: *mut ibv_mr) -> c_int);
    call!("IBVERBS_1.1", fn ibv_destroy_cq(cq: *mut ibv_cq) -> c_int);
    call!("IBVERBS_1.0", fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int);
    call!("IBVERBS_1.1", fn ibv_close_device(context: *mut ibv_context) -> c_int);
    assert_eq!(ibv_destroy_qp(null_mut()), libc::EINVAL);
    assert_eq!(ibv_modify_qp(null_mut(), null_mut(), 0), libc::EINVAL);
    assert_eq!(ibv_modify_qp(pair.a, null_mut(), 0), libc::EINVAL);
    assert_eq!(ibv_query_qp(pair.a, null_mut(), 0, null_mut()), libc::EINVAL);
    assert_eq!(ibv_dereg_mr(null_mut()), libc::EINVAL);
    assert_eq!(ibv_destroy_cq(null_mut()), libc::EINVAL);
    assert_eq!(ibv_destroy_comp_channel(null_mut()), libc::EINVAL);
    assert_eq!(ibv_close_device(null_mut()), -1);
    call!("IBVERBS_1.14", fn ibv_query_qp_data_in_order(qp: *mut ibv_qp, op: c_uint, flags: u32) -> c_int);
    assert_eq!(ibv_query_qp_data_in_order(null_mut(), IBV_WR_SEND, 0), 0, "nothing is promised");
}

/// Which ends where `rate_limit` begins.
#[test]
fn a_structure_of_an_old_program_is_not_overrun() {
    call!("IBVERBS_1.1", fn ibv_query_qp(
        qp: *mut ibv_qp, attr: *mut ibv_qp_attr, mask: c_int, init: *mut ibv_qp_init_attr
    ) -> c_int);
    call!("IBVERBS_1.0", fn ibv_copy_qp_attr_from_kern(attr: *mut ibv_qp_attr, kern: *const [u64; 64]));
    let pair = Pair::connected(64);
    let (mut attr, mut init) = (ibv_qp_attr { rate_limit: 7, ..Default::default() }, Default::default());
    assert_eq!(ibv_query_qp(pair.a, &raw mut attr, IBV_QP_STATE.cast_signed(), &raw mut init), 0);
    assert_eq!((attr.qp_state, attr.rate_limit), (IBV_QPS_RTS, 7));
    ibv_copy_qp_attr_from_kern(&raw mut attr, &[u64::MAX; 64]);
    assert_eq!((attr.qp_state, attr.qkey, attr.rate_limit), (IBV_QPS_RTS, u32::MAX, 7));
}

#[test]
fn a_destroyed_object_is_refused() {
    call!("IBVERBS_1.1", fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd);
    call!("IBVERBS_1.1", fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int);
    call!("IBVERBS_1.1", fn ibv_create_cq(
        context: *mut ibv_context, cqe: c_int, cookie: *mut c_void, channel: *mut ibv_comp_channel, vector: c_int
    ) -> *mut ibv_cq);
    call!("IBVERBS_1.1", fn ibv_destroy_cq(cq: *mut ibv_cq) -> c_int);
    let device = Device::open();
    let pd = ibv_alloc_pd(device.context);
    assert_eq!(ibv_dealloc_pd(pd), 0);
    assert_eq!(ibv_dealloc_pd(pd), libc::EINVAL);
    let cq = ibv_create_cq(device.context, 1, null_mut(), null_mut(), 0);
    assert_eq!(ibv_destroy_cq(cq), 0);
    assert_eq!(device.poll(cq, 1, null_mut()), -libc::EINVAL);
    assert_eq!(ibv_destroy_cq(cq), libc::EINVAL);

    call!("IBVERBS_1.1", fn ibv_destroy_qp(qp: *mut ibv_qp) -> c_int);
    call!("IBVERBS_1.1", fn ibv_modify_qp(qp: *mut ibv_qp, attr: *mut ibv_qp_attr, mask: c_int) -> c_int);
    call!("IBVERBS_1.0", fn ibv_create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel);
    call!("IBVERBS_1.0", fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int);
    call!("IBVERBS_1.1", fn ibv_reg_mr(
        pd: *mut ibv_pd, addr: *mut c_void, length: usize, access: c_int
    ) -> *mut ibv_mr);
    call!("IBVERBS_1.1", fn ibv_dereg_mr(mr: *mut ibv_mr) -> c_int);
    call!("IBVERBS_1.1", fn ibv_create_qp(pd: *mut ibv_pd, attr: *mut ibv_qp_init_attr) -> *mut ibv_qp);
    let pair = Pair::connected(0);
    let cap = ibv_qp_cap { max_send_wr: 1, max_send_sge: 1, ..Default::default() };
    let mut attr =
        ibv_qp_init_attr { send_cq: pair.cq, recv_cq: pair.cq, cap, qp_type: IBV_QPT_RC, ..Default::default() };
    let qp = ibv_create_qp(pair.pd, &raw mut attr);
    assert_eq!(ibv_destroy_qp(qp), 0);
    assert_eq!(ibv_destroy_qp(qp), libc::EINVAL);
    let mut reset = ibv_qp_attr { qp_state: IBV_QPS_RESET, ..ibv_qp_attr::default() };
    assert_eq!(ibv_modify_qp(qp, &raw mut reset, IBV_QP_STATE.cast_signed()), libc::EINVAL);
    let (mut wr, mut bad) = (ibv_send_wr::default(), null_mut());
    assert_eq!(device.post_send(qp, &raw mut wr, &raw mut bad), libc::EINVAL);
    assert_eq!(bad, &raw mut wr);
    let channel = ibv_create_comp_channel(device.context);
    assert_eq!((ibv_destroy_comp_channel(channel), ibv_destroy_comp_channel(channel)), (0, libc::EINVAL));
    let mut memory = [0_u8; 64];
    let mr = ibv_reg_mr(pair.pd, memory.as_mut_ptr().cast(), memory.len(), 0);
    assert_eq!((ibv_dereg_mr(mr), ibv_dereg_mr(mr)), (0, libc::EINVAL));
}

#[test]
fn a_domain_with_a_region_is_busy() {
    call!("IBVERBS_1.1", fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int);
    let pair = Pair::connected(0);
    assert_eq!(ibv_dealloc_pd(pair.pd), libc::EBUSY);
}

#[test]
fn the_old_port_query_writes_48_bytes_and_the_new_one_all() {
    call!("IBVERBS_1.1", fn ibv_query_port(context: *mut ibv_context, port: u8, attr: *mut c_void) -> c_int);
    let device = Device::open();
    let mut bytes = [0xa5_u8; 64];
    assert_eq!(ibv_query_port(device.context, 1, bytes.as_mut_ptr().cast()), 0);
    assert_eq!(bytes[48..], [0xa5; 16]);
    let attr = device.port(1).unwrap();
    assert_eq!(attr.state, IBV_PORT_ACTIVE);
    assert_eq!(u32::from(attr.link_layer), IBV_LINK_LAYER_ETHERNET);
    assert_eq!(device.port(2).unwrap_err(), libc::EINVAL);
}

#[test]
fn gids_and_keys_answer_at_their_index_only() {
    call!("IBVERBS_1.1", fn ibv_query_gid(context: *mut ibv_context, port: u8, index: c_int, gid: *mut ibv_gid) -> c_int);
    call!("IBVERBS_1.1", fn ibv_query_pkey(context: *mut ibv_context, port: u8, index: c_int, key: *mut u16) -> c_int);
    call!("IBVERBS_1.11", fn _ibv_query_gid_table(
        context: *mut ibv_context, entries: *mut ibv_gid_entry, max: usize, flags: u32, size: usize
    ) -> isize);
    let device = Device::open();
    let mut gid = ibv_gid { raw: [0; 16] };
    assert_eq!(ibv_query_gid(device.context, 1, 0, &raw mut gid), 0);
    // SAFETY: sixteen bytes, whatever they are.
    assert_eq!(unsafe { gid.raw }, std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
    assert_eq!(ibv_query_gid(device.context, 1, 4096, &raw mut gid), -1);
    assert_eq!(ibv_query_gid(device.context, 2, 0, &raw mut gid), -1);

    let mut table = [ibv_gid_entry::default(); 64];
    let size = size_of::<ibv_gid_entry>();
    let count = _ibv_query_gid_table(device.context, table.as_mut_ptr(), table.len(), 0, size);
    assert!(count >= 1);
    assert_eq!((table[0].gid_index, table[0].port_num, table[0].gid_type), (0, 1, IBV_GID_TYPE_ROCE_V2));
    assert_eq!(
        _ibv_query_gid_table(device.context, table.as_mut_ptr(), 0, 0, size),
        -isize::try_from(libc::EINVAL).unwrap()
    );

    let mut key = 0;
    assert_eq!((ibv_query_pkey(device.context, 1, 0, &raw mut key), key), (0, 0xffff));
    assert_eq!(ibv_query_pkey(device.context, 1, 1, &raw mut key), -1);
}

#[test]
fn a_device_is_the_same_object_in_every_list() {
    let (first, second) = (Device::open(), Device::open());
    // SAFETY: both contexts are open.
    assert_eq!(unsafe { (*first.context).device }, unsafe { (*second.context).device });
}

#[test]
fn what_is_not_supported_says_so() {
    call!("IBVERBS_1.1", fn ibv_create_srq(pd: *mut ibv_pd, attr: *mut c_void) -> *mut ibv_srq);
    call!("IBVERBS_1.10", fn ibv_query_ece(qp: *mut ibv_qp, ece: *mut c_void) -> c_int);
    call!("IBVERBS_1.1", fn ibv_init_ah_from_wc(
        context: *mut ibv_context, port: u8, wc: *mut ibv_wc, grh: *mut c_void, attr: *mut ibv_ah_attr
    ) -> c_int);
    call!("IBVERBS_1.6", fn ibv_qp_to_qp_ex(qp: *mut ibv_qp) -> *mut ibv_qp_ex);
    let pair = Pair::connected(0);
    assert!(ibv_create_srq(pair.pd, null_mut()).is_null());
    assert_eq!(errno(), libc::EOPNOTSUPP);
    assert_eq!(ibv_query_ece(pair.a, null_mut()), libc::EOPNOTSUPP);
    let context = pair.device.context;
    assert_eq!(ibv_init_ah_from_wc(context, 1, null_mut(), null_mut(), null_mut()), -1, "as its manual page says");
    assert_eq!(errno(), libc::EOPNOTSUPP);
    assert!(ibv_qp_to_qp_ex(pair.a).is_null(), "a plain QP has no extended interface");
    assert!(pair.device.extended().create_srq_ex.is_none());
}

#[test]
fn a_bad_request_is_named_and_those_before_it_are_posted() {
    let mut pair = Pair::connected(0);
    pair.receive(1, 0, 64);
    let mut sge = pair.sge(64, 8);
    let mut third = pair.send_request(3, &raw mut sge, 1);
    let mut second = ibv_send_wr { opcode: 99, next: &raw mut third, ..pair.send_request(2, &raw mut sge, 1) };
    let mut first = ibv_send_wr { next: &raw mut second, ..pair.send_request(1, &raw mut sge, 1) };
    let mut bad = null_mut();
    let code = pair.device.post_send(pair.a, &raw mut first, &raw mut bad);
    assert_eq!((code, bad), (libc::EINVAL, &raw mut second));
    let mut done = [pair.completion(), pair.completion()];
    done.sort_by_key(|wc| wc.opcode);
    assert_eq!(done.map(|wc| (wc.wr_id, wc.status)), [(1, IBV_WC_SUCCESS), (1, IBV_WC_SUCCESS)]);
}

#[test]
fn scattered_inline_data_between_plain_requests_keeps_the_order() {
    let mut pair = Pair::connected(64);
    for i in 0..3 {
        pair.receive(i, 16 * i, 16);
    }
    pair.memory[64..72].copy_from_slice(b"plaindat");
    let parts = [b"in".as_slice(), b"", b"line"];
    let mut scattered = parts.map(|part| ibv_sge {
        addr: part.as_ptr().expose_provenance() as u64,
        length: u32::try_from(part.len()).unwrap(),
        lkey: 0xdead_beef,
    });
    let mut plain = pair.sge(64, 8);
    let mut third = pair.send_request(12, &raw mut plain, 1);
    let mut second = pair.send_request(11, scattered.as_mut_ptr(), 3);
    second.send_flags |= IBV_SEND_INLINE;
    second.next = &raw mut third;
    let mut first = pair.send_request(10, &raw mut plain, 1);
    first.next = &raw mut second;
    assert_eq!(pair.device.post_send(pair.a, &raw mut first, null_mut()), 0);
    let done: Vec<_> = (0..6).map(|_| pair.completion()).collect();
    let of = |recv: bool| done.iter().filter(move |wc| (wc.opcode & IBV_WC_RECV != 0) == recv);
    assert!(done.iter().all(|wc| wc.status == IBV_WC_SUCCESS));
    assert_eq!(of(false).map(|wc| wc.wr_id).collect::<Vec<_>>(), [10, 11, 12]);
    assert_eq!(of(true).map(|wc| wc.byte_len).collect::<Vec<_>>(), [8, 6, 8]);
    assert_eq!(
        (&pair.memory[..8], &pair.memory[16..22], &pair.memory[32..40]),
        (&b"plaindat"[..], &b"inline"[..], &b"plaindat"[..])
    );
}

#[test]
fn the_builder_posts_all_or_nothing_and_the_extended_cq_reads_it() {
    call!("IBVERBS_1.6", fn ibv_qp_to_qp_ex(qp: *mut ibv_qp) -> *mut ibv_qp_ex);
    let mut pair = Pair::extended(64);
    pair.receive(7, 0, 64);
    let ex = ibv_qp_to_qp_ex(pair.a);
    assert!(!ex.is_null());
    let (lkey, rkey, base) = (pair.lkey(), pair.rkey(), pair.base());
    pair.memory[128..132].copy_from_slice(b"data");

    // SAFETY: `ex` is a QP that lives; its functions are those of ibv_wr_start(3), called in their order.
    unsafe {
        (*ex).wr_start.unwrap()(ex);
        ((*ex).wr_id, (*ex).wr_flags) = (1, IBV_SEND_SIGNALED);
        (*ex).wr_rdma_write.unwrap()(ex, rkey, base + 256);
        (*ex).wr_set_sge.unwrap()(ex, lkey, base + 128, 4);
        (*ex).wr_abort.unwrap()(ex);

        (*ex).wr_start.unwrap()(ex);
        (*ex).wr_rdma_write.unwrap()(ex, rkey, base + 256);
        (*ex).wr_set_sge.unwrap()(ex, lkey, base + 128, 4);
        (*ex).wr_send_tso.unwrap()(ex, null_mut(), 0, 0);
        assert_eq!((*ex).wr_complete.unwrap()(ex), libc::EOPNOTSUPP);

        (*ex).wr_start.unwrap()(ex);
        ((*ex).wr_id, (*ex).wr_flags) = (2, IBV_SEND_SIGNALED);
        (*ex).wr_rdma_write.unwrap()(ex, rkey, base + 256);
        (*ex).wr_set_sge.unwrap()(ex, lkey, base + 128, 4);
        (*ex).wr_id = 3;
        (*ex).wr_send_imm.unwrap()(ex, 0x1234_5678_u32.to_be());
        (*ex).wr_set_inline_data.unwrap()(ex, c"inline".as_ptr().cast_mut().cast(), 6);
        assert_eq!((*ex).wr_complete.unwrap()(ex), 0);
    }

    let mut sends = Vec::new();
    let mut received = None;
    while sends.len() < 2 || received.is_none() {
        let read = pair.next_extended();
        if read.opcode & IBV_WC_RECV == 0 {
            sends.push((read.wr_id, read.status));
        } else {
            received = Some(read);
        }
    }
    assert_eq!(sends, [(2, IBV_WC_SUCCESS), (3, IBV_WC_SUCCESS)]);
    let received = received.unwrap();
    assert_eq!((received.wr_id, received.byte_len, received.flags), (7, 6, IBV_WC_WITH_IMM));
    assert_eq!(received.imm_data, 0x1234_5678_u32.to_be());
    assert_eq!((&pair.memory[256..260], &pair.memory[..6]), (&b"data"[..], &b"inline"[..]));
}

#[test]
fn a_queried_qp_shows_what_was_set() {
    call!("IBVERBS_1.1", fn ibv_query_qp(
        qp: *mut ibv_qp, attr: *mut ibv_qp_attr, mask: c_int, init: *mut ibv_qp_init_attr
    ) -> c_int);
    let pair = Pair::connected(32);
    let (mut attr, mut init) = (ibv_qp_attr::default(), ibv_qp_init_attr::default());
    assert_eq!(ibv_query_qp(pair.a, &raw mut attr, IBV_QP_STATE.cast_signed(), &raw mut init), 0);
    assert_eq!((attr.qp_state, attr.timeout, attr.retry_cnt), (IBV_QPS_RTS, 14, 7));
    // SAFETY: the QP lives.
    let peer = unsafe { (*pair.b).qp_num };
    assert_eq!(attr.dest_qp_num, peer);
    assert_eq!((init.qp_type, init.send_cq), (IBV_QPT_RC, pair.cq));
    assert!(init.cap.max_inline_data >= 32);
}

#[test]
fn an_extended_cq_refuses_what_it_cannot_read() {
    let device = Device::open();
    let create = device.extended().create_cq_ex.unwrap();
    let mut attr =
        ibv_cq_init_attr_ex { cqe: 4, wc_flags: u64::from(IBV_WC_EX_WITH_COMPLETION_TIMESTAMP), ..Default::default() };
    // SAFETY: an open context and an attribute structure.
    assert!(unsafe { create(device.context, &raw mut attr) }.is_null());
    assert_eq!(errno(), libc::EOPNOTSUPP);
}

#[test]
fn descriptions_are_those_of_rdma_core() {
    call!("IBVERBS_1.1", fn ibv_wc_status_str(status: c_uint) -> *const c_char);
    // SAFETY: the function gives static strings.
    let text = unsafe { std::ffi::CStr::from_ptr(ibv_wc_status_str(IBV_WC_RNR_RETRY_EXC_ERR)) };
    assert_eq!(text, c"RNR retry counter exceeded");
}

#[test]
fn registering_what_is_not_there_is_a_fault() {
    call!("IBVERBS_1.1", fn ibv_reg_mr(pd: *mut ibv_pd, at: *mut c_void, len: usize, access: c_int) -> *mut ibv_mr);
    call!("IBVERBS_1.12", fn ibv_reg_dmabuf_mr(
        pd: *mut ibv_pd, offset: u64, len: usize, iova: u64, fd: c_int, access: c_int
    ) -> *mut ibv_mr);
    let pair = Pair::connected(0);
    assert!(ibv_reg_mr(pair.pd, 0x1000 as *mut c_void, 4096, 1).is_null());
    assert_eq!(errno(), libc::EFAULT);
    assert!(ibv_reg_dmabuf_mr(pair.pd, 0, 4096, 0, -1, 1).is_null());
    assert_eq!(errno(), libc::EBADF);
}

#[test]
fn an_overflowed_cq_is_reported_and_lives_until_the_report_is_acknowledged() {
    call!("IBVERBS_1.1", fn ibv_get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int);
    call!("IBVERBS_1.1", fn ibv_ack_async_event(event: *mut ibv_async_event));
    let pair = Pair::with_cq(1, 0);
    // SAFETY: the CQ lives.
    let room = unsafe { (*pair.cq).cqe };
    assert!(room < 16, "{room} completions fit, so that 16 receives overflow nothing");
    (0..16).for_each(|i| pair.receive(i, 0, 8));
    pair.fail();
    let mut event = ibv_async_event::default();
    assert_eq!(ibv_get_async_event(pair.device.context, &raw mut event), 0);
    assert_eq!(event.event_type, IBV_EVENT_CQ_ERR);
    // SAFETY: an event about a CQ.
    assert_eq!(unsafe { event.element.cq }, pair.cq);

    let (told, event) = (std::sync::mpsc::channel(), SendMut(&raw mut event));
    let (tell, hear) = told;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let event = event;
            hear.recv().expect("the other thread is about to destroy the CQ");
            ibv_ack_async_event(event.0);
        });
        tell.send(()).expect("the other thread listens");
        drop(pair);
    });
}

/// A pointer that another thread may use.
struct SendMut<T>(*mut T);

// SAFETY: the test hands it over and does not use it itself.
unsafe impl<T> Send for SendMut<T> {}
