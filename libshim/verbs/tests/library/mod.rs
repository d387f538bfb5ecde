//! Loading the library, and a connected pair of queue pairs over loopback.

mod path;

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdma_core_sys::verbs::*;

/// Declares a function of the library, by the version a program of its time would bind to.
macro_rules! call {
    ($version:literal, fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {
        let $name = |$($arg: $ty),*| $(-> $ret)? {
            let symbol = $crate::library::symbol(stringify!($name), $version);
            // SAFETY: the declared type is the function's in verbs.h.
            let function: unsafe extern "C" fn($($ty),*) $(-> $ret)? = unsafe { std::mem::transmute(symbol) };
            // SAFETY: the arguments are what the test means to pass; bad ones must be refused.
            unsafe { function($($arg),*) }
        };
    };
}
pub(crate) use call;

/// A function's address, by name and version.
pub fn symbol(name: &str, version: &str) -> *mut c_void {
    static LIBRARY: OnceLock<usize> = OnceLock::new();
    let handle = *LIBRARY.get_or_init(|| {
        let path = CString::new(path::library().to_str().expect("a path in UTF-8")).expect("a path without NUL");
        // SAFETY: a string; the library's constructors are Rust's own.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{}", loader_error());
        handle.expose_provenance()
    });
    let (name, version) = (CString::new(name).unwrap(), CString::new(version).unwrap());
    let handle = std::ptr::with_exposed_provenance_mut(handle);
    // SAFETY: an open library and two strings.
    let symbol = unsafe { libc::dlvsym(handle, name.as_ptr(), version.as_ptr()) };
    assert!(!symbol.is_null(), "{}", loader_error());
    symbol
}

fn loader_error() -> String {
    // SAFETY: dlerror gives a string after a failure.
    unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned()
}

/// This thread's `errno`.
pub fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The loopback device, opened.
#[derive(Debug)]
pub struct Device {
    pub context: *mut ibv_context,
}

impl Device {
    pub fn open() -> Device {
        call!("IBVERBS_1.1", fn ibv_get_device_list(count: *mut c_int) -> *mut *mut ibv_device);
        call!("IBVERBS_1.1", fn ibv_free_device_list(list: *mut *mut ibv_device));
        call!("IBVERBS_1.1", fn ibv_get_device_name(device: *mut ibv_device) -> *const libc::c_char);
        call!("IBVERBS_1.1", fn ibv_open_device(device: *mut ibv_device) -> *mut ibv_context);
        let mut count = 0;
        let list = ibv_get_device_list(&raw mut count);
        assert!(!list.is_null(), "no device list: errno {}", errno());
        // SAFETY: the list has `count` devices.
        let devices = unsafe { std::slice::from_raw_parts(list, usize::try_from(count).unwrap()) };
        // SAFETY: names are strings.
        let name = |device: *mut ibv_device| unsafe { CStr::from_ptr(ibv_get_device_name(device)) };
        let device = devices.iter().copied().find(|device| name(*device) == c"dmv_lo").expect("dmv_lo is a device");
        let context = ibv_open_device(device);
        assert!(!context.is_null(), "dmv_lo cannot be opened: errno {}", errno());
        ibv_free_device_list(list);
        Device { context }
    }

    /// The context as verbs.h finds it around the plain one.
    pub fn extended(&self) -> &verbs_context {
        // SAFETY: the context is open.
        assert_eq!(unsafe { (*self.context).abi_compat }.addr(), usize::MAX);
        let at = self.context.wrapping_byte_sub(std::mem::offset_of!(verbs_context, context));
        // SAFETY: `abi_compat` says that a verbs_context is around it.
        unsafe { &*at.cast() }
    }

    pub fn port(&self, port: u8) -> Result<ibv_port_attr, c_int> {
        let mut attr = ibv_port_attr::default();
        let query = self.extended().query_port.unwrap();
        // SAFETY: an open context and a structure of that size.
        match unsafe { query(self.context, port, &raw mut attr, size_of::<ibv_port_attr>()) } {
            0 => Ok(attr),
            code => Err(code),
        }
    }

    pub fn poll(&self, cq: *mut ibv_cq, max: c_int, wc: *mut ibv_wc) -> c_int {
        // SAFETY: an open context; the arguments are what the test means to pass.
        unsafe { (*self.context).ops.poll_cq.unwrap()(cq, max, wc) }
    }

    pub fn post_send(&self, qp: *mut ibv_qp, wr: *mut ibv_send_wr, bad: *mut *mut ibv_send_wr) -> c_int {
        // SAFETY: an open context; the arguments are what the test means to pass.
        unsafe { (*self.context).ops.post_send.unwrap()(qp, wr, bad) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        call!("IBVERBS_1.1", fn ibv_close_device(context: *mut ibv_context) -> c_int);
        assert_eq!(ibv_close_device(self.context), 0);
    }
}

/// Two connected queue pairs of this process on one CQ, and a kilobyte of memory that both may use.
#[derive(Debug)]
pub struct Pair {
    pub pd: *mut ibv_pd,
    pub cq: *mut ibv_cq,
    pub a: *mut ibv_qp,
    pub b: *mut ibv_qp,
    pub memory: Box<[u8; 1024]>,
    mr: NonNull<ibv_mr>,
    pub device: Device,
}

/// A completion read through the extended interface.
#[derive(Debug)]
pub struct Read {
    pub wr_id: u64,
    pub status: ibv_wc_status,
    pub opcode: ibv_wc_opcode,
    pub byte_len: u32,
    pub imm_data: u32,
    pub flags: u32,
}

impl Pair {
    pub fn connected(inline: u32) -> Pair {
        Pair::with_cq(64, inline)
    }

    pub fn with_cq(cqe: c_int, inline: u32) -> Pair {
        call!("IBVERBS_1.1", fn ibv_create_cq(
            context: *mut ibv_context, cqe: c_int, cookie: *mut c_void, channel: *mut ibv_comp_channel, vector: c_int
        ) -> *mut ibv_cq);
        call!("IBVERBS_1.1", fn ibv_create_qp(pd: *mut ibv_pd, attr: *mut ibv_qp_init_attr) -> *mut ibv_qp);
        let make_cq = |device: &Device| ibv_create_cq(device.context, cqe, null_mut(), null_mut(), 0);
        Pair::make(inline, make_cq, |_, pd, mut attr| ibv_create_qp(pd, &raw mut attr))
    }

    /// The same by the extended calls.
    pub fn extended(inline: u32) -> Pair {
        let make_cq = |device: &Device| {
            let wc_flags = u64::from(IBV_WC_STANDARD_FLAGS);
            let mut attr = ibv_cq_init_attr_ex { cqe: 64, wc_flags, ..Default::default() };
            // SAFETY: an open context and an attribute structure.
            unsafe { device.extended().create_cq_ex.unwrap()(device.context, &raw mut attr) }.cast()
        };
        let make_qp = |device: &Device, pd, attr: ibv_qp_init_attr| {
            let mut attr = ibv_qp_init_attr_ex {
                send_cq: attr.send_cq,
                recv_cq: attr.recv_cq,
                cap: attr.cap,
                qp_type: attr.qp_type,
                comp_mask: IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
                pd,
                send_ops_flags: (IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_SEND_WITH_IMM).into(),
                ..Default::default()
            };
            // SAFETY: an open context and an attribute structure.
            unsafe { device.extended().create_qp_ex.unwrap()(device.context, &raw mut attr) }
        };
        Pair::make(inline, make_cq, make_qp)
    }

    fn make(
        inline: u32,
        make_cq: impl Fn(&Device) -> *mut ibv_cq,
        make_qp: impl Fn(&Device, *mut ibv_pd, ibv_qp_init_attr) -> *mut ibv_qp,
    ) -> Pair {
        call!("IBVERBS_1.1", fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd);
        call!("IBVERBS_1.1", fn ibv_reg_mr(pd: *mut ibv_pd, at: *mut c_void, len: usize, access: c_int) -> *mut ibv_mr);
        let device = Device::open();
        let pd = ibv_alloc_pd(device.context);
        assert!(!pd.is_null());
        let cq = make_cq(&device);
        assert!(!cq.is_null(), "no CQ: errno {}", errno());
        let mut memory = Box::new([0; 1024]);
        let access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
        let mr = ibv_reg_mr(pd, memory.as_mut_ptr().cast(), memory.len(), access.cast_signed());
        let mr = NonNull::new(mr).expect("memory can be registered");
        let cap =
            ibv_qp_cap { max_send_wr: 16, max_recv_wr: 16, max_send_sge: 4, max_recv_sge: 4, max_inline_data: inline };
        let attr = ibv_qp_init_attr { send_cq: cq, recv_cq: cq, cap, qp_type: IBV_QPT_RC, ..Default::default() };
        let [a, b] = [(); 2].map(|()| make_qp(&device, pd, attr));
        assert!(!a.is_null() && !b.is_null(), "no QP: errno {}", errno());
        connect(a, b);
        connect(b, a);
        Pair { pd, cq, a, b, memory, mr, device }
    }

    pub fn base(&self) -> u64 {
        self.memory.as_ptr().expose_provenance() as u64
    }

    pub fn lkey(&self) -> u32 {
        // SAFETY: the region lives as long as the pair.
        unsafe { self.mr.as_ref() }.lkey
    }

    pub fn rkey(&self) -> u32 {
        // SAFETY: the region lives as long as the pair.
        unsafe { self.mr.as_ref() }.rkey
    }

    pub fn sge(&self, offset: u64, length: u32) -> ibv_sge {
        ibv_sge { addr: self.base() + offset, length, lkey: self.lkey() }
    }

    pub fn send_request(&self, wr_id: u64, sg_list: *mut ibv_sge, num_sge: c_int) -> ibv_send_wr {
        let send_flags = IBV_SEND_SIGNALED;
        ibv_send_wr { wr_id, sg_list, num_sge, opcode: IBV_WR_SEND, send_flags, ..Default::default() }
    }

    /// Posts a receive on `b`.
    pub fn receive(&self, wr_id: u64, offset: u64, length: u32) {
        let mut sge = self.sge(offset, length);
        let mut wr = ibv_recv_wr { wr_id, next: null_mut(), sg_list: &raw mut sge, num_sge: 1 };
        // SAFETY: an open context, a living QP and a request.
        let code = unsafe { (*self.device.context).ops.post_recv.unwrap()(self.b, &raw mut wr, null_mut()) };
        assert_eq!(code, 0);
    }

    /// Takes `b` to the error state, which flushes its receives.
    pub fn fail(&self) {
        call!("IBVERBS_1.1", fn ibv_modify_qp(qp: *mut ibv_qp, attr: *mut ibv_qp_attr, mask: c_int) -> c_int);
        let mut attr = ibv_qp_attr { qp_state: IBV_QPS_ERR, ..Default::default() };
        assert_eq!(ibv_modify_qp(self.b, &raw mut attr, IBV_QP_STATE.cast_signed()), 0);
    }

    /// Polls until there is a completion.
    pub fn completion(&mut self) -> ibv_wc {
        let mut wc = ibv_wc::default();
        until("a completion", || match self.device.poll(self.cq, 1, &raw mut wc) {
            0 => None,
            1 => Some(wc),
            code => panic!("ibv_poll_cq gives {code}"),
        })
    }

    /// Polls an extended CQ until there is a completion, and reads it.
    pub fn next_extended(&mut self) -> Read {
        let cq: *mut ibv_cq_ex = self.cq.cast();
        let mut attr = ibv_poll_cq_attr::default();
        until("a completion", || {
            // SAFETY: a living CQ, made by create_cq_ex; its functions are called in the order of ibv_create_cq_ex(3).
            unsafe {
                match (*cq).start_poll.unwrap()(cq, &raw mut attr) {
                    libc::ENOENT => return None,
                    code => assert_eq!(code, 0),
                }
                let read = Read {
                    wr_id: (*cq).wr_id,
                    status: (*cq).status,
                    opcode: (*cq).read_opcode.unwrap()(cq),
                    byte_len: (*cq).read_byte_len.unwrap()(cq),
                    imm_data: (*cq).read_imm_data.unwrap()(cq),
                    flags: (*cq).read_wc_flags.unwrap()(cq),
                };
                (*cq).end_poll.unwrap()(cq);
                Some(read)
            }
        })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        call!("IBVERBS_1.1", fn ibv_destroy_qp(qp: *mut ibv_qp) -> c_int);
        call!("IBVERBS_1.1", fn ibv_destroy_cq(cq: *mut ibv_cq) -> c_int);
        call!("IBVERBS_1.1", fn ibv_dereg_mr(mr: *mut ibv_mr) -> c_int);
        call!("IBVERBS_1.1", fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int);
        if std::thread::panicking() {
            return;
        }
        assert_eq!(ibv_destroy_cq(self.cq), libc::EBUSY, "QPs still use it");
        assert_eq!((ibv_destroy_qp(self.a), ibv_destroy_qp(self.b)), (0, 0));
        assert_eq!(ibv_destroy_cq(self.cq), 0);
        assert_eq!(ibv_dereg_mr(self.mr.as_ptr()), 0);
        assert_eq!(ibv_dealloc_pd(self.pd), 0);
    }
}

/// Takes a QP from RESET to RTS, towards a peer on the same device.
fn connect(qp: *mut ibv_qp, peer: *mut ibv_qp) {
    call!("IBVERBS_1.1", fn ibv_modify_qp(qp: *mut ibv_qp, attr: *mut ibv_qp_attr, mask: c_int) -> c_int);
    let modify = |mut attr: ibv_qp_attr, mask: u32| {
        assert_eq!(ibv_modify_qp(qp, &raw mut attr, mask.cast_signed()), 0, "to state {}", attr.qp_state);
    };
    let access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
    let init = ibv_qp_attr { qp_state: IBV_QPS_INIT, port_num: 1, qp_access_flags: access, ..Default::default() };
    modify(init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    let mut rtr = ibv_qp_attr {
        qp_state: IBV_QPS_RTR,
        path_mtu: IBV_MTU_1024,
        // SAFETY: the peer lives.
        dest_qp_num: unsafe { (*peer).qp_num },
        max_dest_rd_atomic: 1,
        min_rnr_timer: 12,
        ..Default::default()
    };
    rtr.ah_attr.is_global = 1;
    rtr.ah_attr.port_num = 1;
    rtr.ah_attr.grh.hop_limit = 1;
    rtr.ah_attr.grh.dgid = ibv_gid { raw: std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets() };
    let mask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN;
    modify(rtr, mask | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    let rts = ibv_qp_attr {
        qp_state: IBV_QPS_RTS,
        timeout: 14,
        retry_cnt: 7,
        rnr_retry: 7,
        max_rd_atomic: 1,
        ..Default::default()
    };
    let mask = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY;
    modify(rts, mask | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

/// Repeats until there is an answer; gives up after a while.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::yield_now();
    }
}
