//! Names of enumeration values, worded as rdma-core's: programs' output is compared.

use std::ffi::{CStr, c_char, c_int, c_uint};

/// ibv_node_type_str(3).
pub extern "C" fn ibv_node_type_str(node_type: c_int) -> *const c_char {
    name(&NODES, i64::from(node_type) - 1)
}

/// ibv_port_state_str(3).
pub extern "C" fn ibv_port_state_str(port_state: c_uint) -> *const c_char {
    name(&PORTS, port_state.into())
}

/// ibv_event_type_str(3).
pub extern "C" fn ibv_event_type_str(event: c_uint) -> *const c_char {
    name(&EVENTS, event.into())
}

/// ibv_wc_status_str(3).
pub extern "C" fn ibv_wc_status_str(status: c_uint) -> *const c_char {
    name(&STATUSES, status.into())
}

/// Names a work request's opcode, for rdma-core's own libraries.
pub extern "C" fn ibv_wr_opcode_str(opcode: c_uint) -> *const c_char {
    name(&OPCODES, opcode.into())
}

fn name(names: &[&'static CStr], index: i64) -> *const c_char {
    usize::try_from(index).ok().and_then(|index| names.get(index)).unwrap_or(&UNKNOWN).as_ptr()
}

const UNKNOWN: &CStr = c"unknown";

/// From 1 on.
const NODES: [&CStr; 7] = [
    c"InfiniBand channel adapter",
    c"InfiniBand switch",
    c"InfiniBand router",
    c"iWARP NIC",
    c"usNIC",
    c"usNIC UDP",
    c"unspecified",
];

const PORTS: [&CStr; 6] = [c"no state change (NOP)", c"down", c"init", c"armed", c"active", c"active defer"];

const EVENTS: [&CStr; 20] = [
    c"CQ error",
    c"local work queue catastrophic error",
    c"invalid request local work queue error",
    c"local access violation work queue error",
    c"communication established",
    c"send queue drained",
    c"path migrated",
    c"path migration request error",
    c"local catastrophic error",
    c"port active",
    c"port error",
    c"LID change",
    c"P_Key change",
    c"SM change",
    c"SRQ catastrophic error",
    c"SRQ limit reached",
    c"last WQE reached",
    c"client reregistration",
    c"GID table change",
    c"WQ fatal",
];

const STATUSES: [&CStr; 24] = [
    c"success",
    c"local length error",
    c"local QP operation error",
    c"local EE context operation error",
    c"local protection error",
    c"Work Request Flushed Error",
    c"memory management operation error",
    c"bad response error",
    c"local access error",
    c"remote invalid request error",
    c"remote access error",
    c"remote operation error",
    c"transport retry counter exceeded",
    c"RNR retry counter exceeded",
    c"local RDD violation error",
    c"remote invalid RD request",
    c"aborted error",
    c"invalid EE context number",
    c"invalid EE context state",
    c"fatal error",
    c"response timeout error",
    c"general error",
    c"TM error",
    c"TM software rendezvous",
];

const OPCODES: [&CStr; 16] = [
    c"rdma-write",
    c"rdma-write-with-imm",
    c"send",
    c"send-with-imm",
    c"rdma-read",
    c"atomic-cmp-and-swp",
    c"atomic-fetch-and-add",
    c"local-inv",
    c"bind-mw",
    c"send-with-inv",
    c"tso",
    c"driver1",
    UNKNOWN,
    UNKNOWN,
    c"flush",
    c"atomic-write",
];

#[cfg(test)]
mod tests {
    use super::*;
    use rdma_core_sys::verbs::*;

    fn text(name: *const c_char) -> &'static str {
        // SAFETY: the functions give static strings.
        unsafe { CStr::from_ptr(name) }.to_str().unwrap()
    }

    #[test]
    fn names_stand_at_their_values() {
        assert_eq!(text(ibv_node_type_str(IBV_NODE_CA)), "InfiniBand channel adapter");
        assert_eq!(text(ibv_port_state_str(IBV_PORT_ACTIVE)), "active");
        assert_eq!(text(ibv_event_type_str(IBV_EVENT_GID_CHANGE)), "GID table change");
        assert_eq!(text(ibv_wc_status_str(IBV_WC_RETRY_EXC_ERR)), "transport retry counter exceeded");
        assert_eq!(text(ibv_wc_status_str(IBV_WC_TM_RNDV_INCOMPLETE)), "TM software rendezvous");
    }

    #[test]
    fn values_beyond_the_enumeration_are_unknown() {
        assert_eq!(text(ibv_node_type_str(-1)), "unknown");
        assert_eq!(text(ibv_node_type_str(0)), "unknown");
        assert_eq!(text(ibv_node_type_str(i32::MIN)), "unknown");
        assert_eq!(text(ibv_port_state_str(6)), "unknown");
        assert_eq!(text(ibv_event_type_str(20)), "unknown");
        assert_eq!(text(ibv_wc_status_str(u32::MAX)), "unknown");
    }
}
