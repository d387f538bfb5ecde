//! What a program asks about a device and its port.

use std::ffi::{c_char, c_int};
use std::ptr;

use dmverbs_ffi::{Code, Count, Errno, In, MinusOne, Out, entry};
use dmverbs_provider::object::{Device, Gid, Limits, PortInfo};
use rdma_core_sys::verbs::*;

use crate::context::Context;

entry! {
    /// ibv_query_device(3)
    pub fn ibv_query_device(context: &Context, device_attr: Out<'_, ibv_device_attr>) -> Code {
        let mut device_attr = device_attr;
        device_attr.set(device_attributes(context.device()));
        Ok(())
    }

    /// ibv_query_device_ex(3)
    pub fn query_device_ex(
        context: &Context, input: Option<In<'_, ibv_query_device_ex_input>>, attr: *mut ibv_device_attr_ex,
        attr_size: usize,
    ) -> Code {
        if input.is_some_and(|input| input.comp_mask != 0) {
            return Err(Errno::invalid("`input` asks for something unknown"));
        }
        answer(&extended_attributes(context.device()), attr, attr_size)
    }

    /// ibv_query_port(3), for programs built before port_cap_flags2: never more than these 48 bytes
    pub fn ibv_query_port(context: &Context, port_num: u8, port_attr: *mut _compat_ibv_port_attr) -> Code {
        check_port(port_num.into())?;
        answer(&port_attributes(&context.device().port()), port_attr.cast(), COMPAT_PORT_ATTR)
    }

    /// ibv_query_port(3)
    pub fn query_port(
        context: &Context, port_num: u8, port_attr: *mut ibv_port_attr, port_attr_len: usize,
    ) -> Code {
        check_port(port_num.into())?;
        answer(&port_attributes(&context.device().port()), port_attr, port_attr_len)
    }

    /// ibv_query_gid(3)
    pub fn ibv_query_gid(context: &Context, port_num: u8, index: c_int, gid: Out<'_, ibv_gid>) -> MinusOne {
        let mut gid = gid;
        check_port(port_num.into())?;
        let index = usize::try_from(index).map_err(|_| Errno::invalid("`index` is negative"))?;
        match entry(context.device(), index) {
            Ok(found) => gid.set(found.gid),
            // An empty place in the table reads as the zero GID.
            Err(e) if e.code() == libc::ENODATA => gid.set(ibv_gid { raw: [0; 16] }),
            Err(e) => return Err(e),
        }
        Ok(0)
    }

    /// ibv_query_gid_ex(3)
    pub fn _ibv_query_gid_ex(
        context: &Context, port_num: u32, gid_index: u32, gid: Out<'_, ibv_gid_entry>, flags: u32, entry_size: usize,
    ) -> Code {
        let mut gid = gid;
        check_port(port_num)?;
        check_gid_call(flags, entry_size)?;
        gid.set(entry(context.device(), gid_index as usize)?);
        Ok(())
    }

    /// ibv_query_gid_table(3)
    pub fn _ibv_query_gid_table(
        context: &Context, entries: *mut ibv_gid_entry, max_entries: usize, flags: u32, entry_size: usize,
    ) -> Count {
        check_gid_call(flags, entry_size)?;
        let gids = context.device().gids()?;
        let there: Vec<_> = gids.into_iter().enumerate().filter(|(_, gid)| *gid != Gid::ZERO).collect();
        if there.len() > max_entries {
            return Err(Errno::invalid("`entries` is too short for the table"));
        }
        if entries.is_null() && !there.is_empty() {
            return Err(Errno::misuse("`entries` is NULL"));
        }
        for (place, (index, gid)) in there.iter().enumerate() {
            // SAFETY: the array has room for `max_entries` of them: the caller's duty; `place` is below that.
            unsafe { entries.add(place).write(gid_entry(context.device(), *index, *gid)) };
        }
        Ok(there.len())
    }

    /// The type of a GID, as rdma-core's own libraries ask for it
    pub fn ibv_query_gid_type(context: &Context, port_num: u8, index: u32, kind: Out<'_, c_int>) -> MinusOne {
        let mut kind = kind;
        check_port(port_num.into())?;
        entry(context.device(), index as usize)?;
        kind.set(SYSFS_ROCE_V2);
        Ok(0)
    }

    /// ibv_query_pkey(3): the only partition is the default one
    pub fn ibv_query_pkey(context: &Context, port_num: u8, index: c_int, pkey: Out<'_, u16>) -> MinusOne {
        let (_, mut pkey) = (context, pkey);
        check_port(port_num.into())?;
        if index != 0 {
            return Err(Errno::invalid("`index` is not 0"));
        }
        pkey.set(DEFAULT_PKEY.to_be());
        Ok(0)
    }

    /// ibv_get_pkey_index(3)
    pub fn ibv_get_pkey_index(context: &Context, port_num: u8, pkey: u16) -> MinusOne {
        let _ = context;
        check_port(port_num.into())?;
        if pkey != DEFAULT_PKEY.to_be() {
            return Err(Errno::invalid("`pkey` is not in the table"));
        }
        Ok(0)
    }
}

/// Checks a port number: devices have one port.
pub fn check_port(port: u32) -> Result<(), Errno> {
    if port == 1 { Ok(()) } else { Err(Errno::invalid("`port_num` is not 1")) }
}

fn check_gid_call(flags: u32, entry_size: usize) -> Result<(), Errno> {
    if flags != 0 {
        return Err(Errno::unsupported("`flags` is not 0"));
    }
    if entry_size != size_of::<ibv_gid_entry>() {
        return Err(Errno::invalid("`entry_size` is of another struct ibv_gid_entry"));
    }
    Ok(())
}

/// Copies as much of an answer as the program's structure holds; what it has beyond ours becomes zero.
fn answer<T>(from: &T, to: *mut T, room: usize) -> Result<(), Errno> {
    if to.is_null() {
        return Err(Errno::misuse("the place for the attributes is NULL"));
    }
    let len = size_of::<T>().min(room);
    // SAFETY: `to` has `room` bytes: the caller's duty; `from` has its size; they are different memory.
    unsafe { ptr::copy_nonoverlapping(ptr::from_ref(from).cast::<u8>(), to.cast::<u8>(), len) };
    // SAFETY: the rest of the same `room` bytes.
    unsafe { to.cast::<u8>().add(len).write_bytes(0, room - len) };
    Ok(())
}

fn entry(device: &Device, index: usize) -> Result<ibv_gid_entry, Errno> {
    let gid = device.gids()?.get(index).copied();
    if gid.is_none() && index >= device.port().gids.max(1) {
        return Err(Errno::invalid("the GID index is beyond the table"));
    }
    gid.filter(|gid| *gid != Gid::ZERO)
        .map(|gid| gid_entry(device, index, gid))
        .ok_or(Errno::new(libc::ENODATA, "no GID has this index"))
}

fn gid_entry(device: &Device, index: usize, gid: Gid) -> ibv_gid_entry {
    ibv_gid_entry {
        gid: ibv_gid { raw: gid.0 },
        gid_index: u32::try_from(index).unwrap_or(u32::MAX),
        port_num: 1,
        gid_type: IBV_GID_TYPE_ROCE_V2,
        ndev_ifindex: device.ifindex(),
    }
}

fn device_attributes(device: &Device) -> ibv_device_attr {
    let mut attr = ibv_device_attr {
        node_guid: u64::from_ne_bytes(device.guid()),
        sys_image_guid: u64::from_ne_bytes(device.guid()),
        vendor_id: NO_VENDOR,
        max_mr_size: u64::MAX,
        // Any page size will do: every bit from 4 KiB up.
        page_size_cap: !0xfff,
        max_qp: int(Limits::MAX_QP),
        max_qp_wr: int(Limits::MAX_QP_WR),
        device_cap_flags: IBV_DEVICE_CURR_QP_STATE_MOD
            | IBV_DEVICE_PORT_ACTIVE_EVENT
            | IBV_DEVICE_SYS_IMAGE_GUID
            | IBV_DEVICE_RC_RNR_NAK_GEN,
        max_sge: int(Limits::MAX_SGE),
        max_sge_rd: int(Limits::MAX_SGE),
        max_cq: int(Limits::MAX_CQ),
        max_cqe: int(Limits::MAX_CQE),
        max_mr: int(Limits::MAX_MR),
        max_pd: int(Limits::MAX_PD),
        max_qp_rd_atom: int(Limits::MAX_RD_ATOMIC),
        max_res_rd_atom: int(Limits::MAX_QP).saturating_mul(int(Limits::MAX_RD_ATOMIC)),
        max_qp_init_rd_atom: int(Limits::MAX_RD_ATOMIC),
        atomic_cap: IBV_ATOMIC_HCA,
        max_pkeys: 1,
        local_ca_ack_delay: ACK_DELAY,
        phys_port_cnt: 1,
        ..Default::default()
    };
    for (to, from) in attr.fw_ver.iter_mut().zip(env!("CARGO_PKG_VERSION").bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    attr
}

fn extended_attributes(device: &Device) -> ibv_device_attr_ex {
    let mut attr =
        ibv_device_attr_ex { orig_attr: device_attributes(device), phys_port_cnt_ex: 1, ..Default::default() };
    attr.device_cap_flags_ex = attr.orig_attr.device_cap_flags.into();
    attr.odp_caps.general_caps = (IBV_ODP_SUPPORT | IBV_ODP_SUPPORT_IMPLICIT).into();
    attr.odp_caps.per_transport_caps.rc_odp_caps = IBV_ODP_SUPPORT_SEND
        | IBV_ODP_SUPPORT_RECV
        | IBV_ODP_SUPPORT_WRITE
        | IBV_ODP_SUPPORT_READ
        | IBV_ODP_SUPPORT_ATOMIC;
    attr
}

fn port_attributes(port: &PortInfo) -> ibv_port_attr {
    let (active_width, active_speed) = width_and_speed(port.speed_mbps);
    ibv_port_attr {
        state: if port.active { IBV_PORT_ACTIVE } else { IBV_PORT_DOWN },
        max_mtu: port.mtu_code(),
        active_mtu: port.mtu_code(),
        gid_tbl_len: int(port.gids),
        port_cap_flags: IBV_PORT_IP_BASED_GIDS,
        max_msg_sz: Limits::MAX_MESSAGE,
        pkey_tbl_len: 1,
        max_vl_num: 1,
        active_width,
        active_speed,
        phys_state: if port.active { PHYS_LINK_UP } else { PHYS_DISABLED },
        link_layer: u8::try_from(IBV_LINK_LAYER_ETHERNET).unwrap_or(0),
        flags: IB_UVERBS_QPF_GRH_REQUIRED as u8,
        ..Default::default()
    }
}

/// The InfiniBand width and speed codes nearest to an Ethernet speed, as Linux gives them for RoCE.
fn width_and_speed(mbps: u32) -> (u8, u8) {
    const X1: u8 = 1;
    const X2: u8 = 16;
    const X4: u8 = 2;
    match mbps {
        0..=1_000 => (X1, 1),
        1_001..=10_000 => (X1, 8),
        10_001..=20_000 => (X4, 2),
        20_001..=25_000 => (X1, 32),
        25_001..=40_000 => (X4, 8),
        40_001..=50_000 => (X2, 32),
        50_001..=100_000 => (X4, 32),
        100_001..=200_000 => (X4, 64),
        _ => (X4, 128),
    }
}

fn int(limit: impl TryInto<c_int>) -> c_int {
    limit.try_into().unwrap_or(c_int::MAX)
}

const COMPAT_PORT_ATTR: usize = 48;
const DEFAULT_PKEY: u16 = 0xffff;
/// 4.096 µs · 2^15 ≈ 134 ms: what a sleeping peer's scheduler may add.
const ACK_DELAY: u8 = 15;
/// What programs do not take for an adapter that they know.
const NO_VENDOR: u32 = 0xff_ffff;
const PHYS_DISABLED: u8 = 3;
const PHYS_LINK_UP: u8 = 5;
/// `enum ibv_gid_type_sysfs`, which knows only RoCE v1 (with InfiniBand) and v2.
const SYSFS_ROCE_V2: c_int = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_structure_gets_no_more_than_it_holds() {
        let from = [1_u8; 8];
        let mut to = [9_u8; 8];
        answer(&from, &raw mut to, 3).unwrap();
        assert_eq!(to, [1, 1, 1, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn a_longer_structure_ends_in_zeroes() {
        let mut to = [9_u8; 8];
        answer(&[1_u8; 4], (&raw mut to).cast(), 8).unwrap();
        assert_eq!(to, [1, 1, 1, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn speeds_come_out_as_linux_reports_them_for_roce() {
        assert_eq!(width_and_speed(1_000), (1, 1));
        assert_eq!(width_and_speed(25_000), (1, 32));
        assert_eq!(width_and_speed(100_000), (2, 32));
        assert_eq!(width_and_speed(400_000), (2, 128));
    }
}
