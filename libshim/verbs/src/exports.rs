//! Every exported symbol, with its version.
//!
//! A symbol is a jump in assembly, bound to its version node by `.symver`: `@@@` makes the node the default one,
//! `@` a historical one. `build.rs` declares the nodes. The private nodes are rdma-core's own: programs linked
//! with its vendor libraries (libmlx5, libefa and others) do not start without them, though nothing calls them.

use std::arch::global_asm;

use crate::{
    channel, context, cq, device, event, kern, message, mr, pd, qp, query, rates, strings, sysfs, unsupported,
};

#[cfg(target_arch = "x86_64")]
macro_rules! jump {
    () => {
        "jmp {target}"
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! jump {
    () => {
        "b {target}"
    };
}

macro_rules! exports {
    ($($id:ident $node:literal $at:literal { $($name:ident => $function:path,)* })*) => {$($(
        global_asm!(
            concat!(".pushsection .text.", stringify!($id), ".", stringify!($name), ",\"ax\",@progbits"),
            concat!(".globl ", stringify!($id), "_", stringify!($name)),
            concat!(".type ", stringify!($id), "_", stringify!($name), ",@function"),
            concat!(stringify!($id), "_", stringify!($name), ":"),
            jump!(),
            concat!(".size ", stringify!($id), "_", stringify!($name), ", .-", stringify!($id), "_", stringify!($name)),
            concat!(".symver ", stringify!($id), "_", stringify!($name), ", ", stringify!($name), $at, $node),
            ".popsection",
            target = sym $function,
        );
    )*)*};
}

/// The symbols that every private node has; `at` says whether it is the default one, `driver` is the node's own.
macro_rules! private {
    ($($id:ident $node:literal $at:literal $driver:ident;)*) => {$(
        exports! {
            $id $node $at {
                $driver => unsupported::nothing,
                __ioctl_final_num_attrs => unsupported::private_code,
                __verbs_log => unsupported::nothing,
                _verbs_init_and_alloc_context => unsupported::private_pointer,
                execute_ioctl => unsupported::private_code,
                ibv_cmd_advise_mr => unsupported::private_code,
                ibv_cmd_alloc_dm => unsupported::private_code,
                ibv_cmd_alloc_dmah => unsupported::private_code,
                ibv_cmd_alloc_mw => unsupported::private_code,
                ibv_cmd_alloc_pd => unsupported::private_code,
                ibv_cmd_attach_mcast => unsupported::private_code,
                ibv_cmd_close_xrcd => unsupported::private_code,
                ibv_cmd_create_ah => unsupported::private_code,
                ibv_cmd_create_comp_cntr => unsupported::private_code,
                ibv_cmd_create_counters => unsupported::private_code,
                ibv_cmd_create_cq => unsupported::private_code,
                ibv_cmd_create_cq_ex => unsupported::private_code,
                ibv_cmd_create_cq_ex2 => unsupported::private_code,
                ibv_cmd_create_flow => unsupported::private_code,
                ibv_cmd_create_flow_action_esp => unsupported::private_code,
                ibv_cmd_create_qp => unsupported::private_code,
                ibv_cmd_create_qp_ex => unsupported::private_code,
                ibv_cmd_create_qp_ex2 => unsupported::private_code,
                ibv_cmd_create_rwq_ind_table => unsupported::private_code,
                ibv_cmd_create_srq => unsupported::private_code,
                ibv_cmd_create_srq_ex => unsupported::private_code,
                ibv_cmd_create_wq => unsupported::private_code,
                ibv_cmd_dealloc_mw => unsupported::private_code,
                ibv_cmd_dealloc_pd => unsupported::private_code,
                ibv_cmd_dereg_mr => unsupported::private_code,
                ibv_cmd_destroy_ah => unsupported::private_code,
                ibv_cmd_destroy_comp_cntr => unsupported::private_code,
                ibv_cmd_destroy_counters => unsupported::private_code,
                ibv_cmd_destroy_cq => unsupported::private_code,
                ibv_cmd_destroy_flow => unsupported::private_code,
                ibv_cmd_destroy_flow_action => unsupported::private_code,
                ibv_cmd_destroy_qp => unsupported::private_code,
                ibv_cmd_destroy_rwq_ind_table => unsupported::private_code,
                ibv_cmd_destroy_srq => unsupported::private_code,
                ibv_cmd_destroy_wq => unsupported::private_code,
                ibv_cmd_detach_mcast => unsupported::private_code,
                ibv_cmd_export_dmabuf_fd => unsupported::private_code,
                ibv_cmd_free_dm => unsupported::private_code,
                ibv_cmd_free_dmah => unsupported::private_code,
                ibv_cmd_get_context => unsupported::private_code,
                ibv_cmd_inc_comp_cntr => unsupported::private_code,
                ibv_cmd_inc_err_comp_cntr => unsupported::private_code,
                ibv_cmd_modify_cq => unsupported::private_code,
                ibv_cmd_modify_flow_action_esp => unsupported::private_code,
                ibv_cmd_modify_qp => unsupported::private_code,
                ibv_cmd_modify_qp_ex => unsupported::private_code,
                ibv_cmd_modify_srq => unsupported::private_code,
                ibv_cmd_modify_wq => unsupported::private_code,
                ibv_cmd_open_qp => unsupported::private_code,
                ibv_cmd_open_xrcd => unsupported::private_code,
                ibv_cmd_poll_cq => unsupported::private_code,
                ibv_cmd_post_recv => unsupported::private_code,
                ibv_cmd_post_send => unsupported::private_code,
                ibv_cmd_post_srq_recv => unsupported::private_code,
                ibv_cmd_qp_attach_comp_cntr => unsupported::private_code,
                ibv_cmd_query_comp_cntr_caps => unsupported::private_code,
                ibv_cmd_query_context => unsupported::private_code,
                ibv_cmd_query_device => unsupported::private_code,
                ibv_cmd_query_device_any => unsupported::private_code,
                ibv_cmd_query_mr => unsupported::private_code,
                ibv_cmd_query_port => unsupported::private_code,
                ibv_cmd_query_port_speed => unsupported::private_code,
                ibv_cmd_query_qp => unsupported::private_code,
                ibv_cmd_query_srq => unsupported::private_code,
                ibv_cmd_read_comp_cntr => unsupported::private_code,
                ibv_cmd_read_counters => unsupported::private_code,
                ibv_cmd_read_err_comp_cntr => unsupported::private_code,
                ibv_cmd_reg_dm_mr => unsupported::private_code,
                ibv_cmd_reg_dmabuf_mr => unsupported::private_code,
                ibv_cmd_reg_mr => unsupported::private_code,
                ibv_cmd_reg_mr_ex => unsupported::private_code,
                ibv_cmd_req_notify_cq => unsupported::private_code,
                ibv_cmd_rereg_mr => unsupported::private_code,
                ibv_cmd_resize_cq => unsupported::private_code,
                ibv_cmd_set_comp_cntr => unsupported::private_code,
                ibv_cmd_set_err_comp_cntr => unsupported::private_code,
                ibv_dmabuf_heap_alloc => unsupported::private_code,
                ibv_dmabuf_heap_cc_shared_init => unsupported::private_code,
                ibv_dmabuf_heap_destroy => unsupported::private_code,
                ibv_dmabuf_heap_free => unsupported::private_code,
                ibv_query_gid_type => query::ibv_query_gid_type,
                ibv_read_ibdev_sysfs_file => unsupported::private_minus_one,
                ibv_wr_opcode_str => strings::ibv_wr_opcode_str,
                verbs_init_cq => unsupported::nothing,
                verbs_open_device => unsupported::private_pointer,
                verbs_set_ops => unsupported::nothing,
                verbs_uninit_context => unsupported::nothing,
            }
        }
        global_asm!(
            concat!(".pushsection .bss.", stringify!($id), ".disassociate,\"aw\",@nobits"),
            concat!(".globl ", stringify!($id), "_disassociate"),
            concat!(".type ", stringify!($id), "_disassociate,@object"),
            concat!(stringify!($id), "_disassociate: .zero 1"),
            concat!(".size ", stringify!($id), "_disassociate, 1"),
            concat!(".symver ", stringify!($id), "_disassociate, verbs_allow_disassociate_destroy", $at, $node),
            ".popsection",
        );
    )*};
}

exports! {
    V1_0 "IBVERBS_1.0" "@" {
        ibv_ack_async_event => unsupported::nothing,
        ibv_ack_cq_events => unsupported::nothing,
        ibv_alloc_pd => unsupported::old_pointer,
        ibv_attach_mcast => unsupported::old_code,
        ibv_close_device => unsupported::old_code,
        ibv_create_ah => unsupported::old_pointer,
        ibv_create_cq => unsupported::old_pointer,
        ibv_create_qp => unsupported::old_pointer,
        ibv_create_srq => unsupported::old_pointer,
        ibv_dealloc_pd => unsupported::old_code,
        ibv_dereg_mr => unsupported::old_code,
        ibv_destroy_ah => unsupported::old_code,
        ibv_destroy_cq => unsupported::old_code,
        ibv_destroy_qp => unsupported::old_code,
        ibv_destroy_srq => unsupported::old_code,
        ibv_detach_mcast => unsupported::old_code,
        ibv_free_device_list => unsupported::nothing,
        ibv_get_async_event => unsupported::old_code,
        ibv_get_cq_event => unsupported::old_code,
        ibv_get_device_guid => unsupported::old_code,
        ibv_get_device_list => unsupported::old_pointer,
        ibv_get_device_name => unsupported::old_pointer,
        ibv_modify_qp => unsupported::old_code,
        ibv_modify_srq => unsupported::old_code,
        ibv_open_device => unsupported::old_pointer,
        ibv_query_device => unsupported::old_code,
        ibv_query_gid => unsupported::old_code,
        ibv_query_pkey => unsupported::old_code,
        ibv_query_port => unsupported::old_code,
        ibv_query_qp => unsupported::old_code,
        ibv_query_srq => unsupported::old_code,
        ibv_reg_mr => unsupported::old_pointer,
        ibv_resize_cq => unsupported::old_code,
    }
    V1_0 "IBVERBS_1.0" "@@@" {
        ibv_copy_path_rec_from_kern => kern::ibv_copy_path_rec_from_kern,
        ibv_copy_path_rec_to_kern => kern::ibv_copy_path_rec_to_kern,
        ibv_copy_qp_attr_from_kern => kern::ibv_copy_qp_attr_from_kern,
        ibv_create_comp_channel => channel::ibv_create_comp_channel,
        ibv_destroy_comp_channel => channel::ibv_destroy_comp_channel,
        ibv_get_sysfs_path => sysfs::ibv_get_sysfs_path,
        ibv_rate_to_mult => rates::ibv_rate_to_mult,
        ibv_read_sysfs_file => sysfs::ibv_read_sysfs_file,
        mult_to_ibv_rate => rates::mult_to_ibv_rate,
    }
    V1_1 "IBVERBS_1.1" "@" {
        ibv_register_driver => unsupported::nothing,
    }
    V1_1 "IBVERBS_1.1" "@@@" {
        ibv_ack_async_event => event::ibv_ack_async_event,
        ibv_ack_cq_events => channel::ibv_ack_cq_events,
        ibv_alloc_pd => pd::ibv_alloc_pd,
        ibv_attach_mcast => unsupported::ibv_attach_mcast,
        ibv_close_device => context::ibv_close_device,
        ibv_copy_ah_attr_from_kern => kern::ibv_copy_ah_attr_from_kern,
        ibv_create_ah => unsupported::ibv_create_ah,
        ibv_create_ah_from_wc => unsupported::ibv_create_ah_from_wc,
        ibv_create_cq => cq::ibv_create_cq,
        ibv_create_qp => qp::ibv_create_qp,
        ibv_create_srq => unsupported::ibv_create_srq,
        ibv_dealloc_pd => pd::ibv_dealloc_pd,
        ibv_dereg_mr => mr::ibv_dereg_mr,
        ibv_destroy_ah => unsupported::ibv_destroy_ah,
        ibv_destroy_cq => cq::ibv_destroy_cq,
        ibv_destroy_qp => qp::ibv_destroy_qp,
        ibv_destroy_srq => unsupported::ibv_destroy_srq,
        ibv_detach_mcast => unsupported::ibv_detach_mcast,
        ibv_dofork_range => unsupported::ibv_dofork_range,
        ibv_dontfork_range => unsupported::ibv_dontfork_range,
        ibv_event_type_str => strings::ibv_event_type_str,
        ibv_fork_init => unsupported::ibv_fork_init,
        ibv_free_device_list => device::ibv_free_device_list,
        ibv_get_async_event => event::ibv_get_async_event,
        ibv_get_cq_event => channel::ibv_get_cq_event,
        ibv_get_device_guid => device::ibv_get_device_guid,
        ibv_get_device_list => device::ibv_get_device_list,
        ibv_get_device_name => device::ibv_get_device_name,
        ibv_init_ah_from_wc => unsupported::ibv_init_ah_from_wc,
        ibv_modify_qp => qp::ibv_modify_qp,
        ibv_modify_srq => unsupported::ibv_modify_srq,
        ibv_node_type_str => strings::ibv_node_type_str,
        ibv_open_device => context::ibv_open_device,
        ibv_port_state_str => strings::ibv_port_state_str,
        ibv_query_device => query::ibv_query_device,
        ibv_query_gid => query::ibv_query_gid,
        ibv_query_pkey => query::ibv_query_pkey,
        ibv_query_port => query::ibv_query_port,
        ibv_query_qp => qp::ibv_query_qp,
        ibv_query_srq => unsupported::ibv_query_srq,
        ibv_rate_to_mbps => rates::ibv_rate_to_mbps,
        ibv_reg_mr => mr::ibv_reg_mr,
        ibv_rereg_mr => mr::ibv_rereg_mr,
        ibv_resize_cq => cq::ibv_resize_cq,
        ibv_resolve_eth_l2_from_gid => unsupported::ibv_resolve_eth_l2_from_gid,
        ibv_wc_status_str => strings::ibv_wc_status_str,
        mbps_to_ibv_rate => rates::mbps_to_ibv_rate,
    }
    V1_5 "IBVERBS_1.5" "@@@" {
        ibv_get_pkey_index => query::ibv_get_pkey_index,
    }
    V1_6 "IBVERBS_1.6" "@@@" {
        ibv_qp_to_qp_ex => qp::ibv_qp_to_qp_ex,
    }
    V1_7 "IBVERBS_1.7" "@@@" {
        ibv_reg_mr_iova => mr::ibv_reg_mr_iova,
    }
    V1_8 "IBVERBS_1.8" "@@@" {
        ibv_reg_mr_iova2 => mr::ibv_reg_mr_iova2,
    }
    V1_9 "IBVERBS_1.9" "@@@" {
        ibv_get_device_index => device::ibv_get_device_index,
    }
    V1_10 "IBVERBS_1.10" "@@@" {
        ibv_import_device => unsupported::ibv_import_device,
        ibv_import_mr => unsupported::ibv_import_mr,
        ibv_import_pd => unsupported::ibv_import_pd,
        ibv_query_ece => unsupported::ibv_query_ece,
        ibv_set_ece => unsupported::ibv_set_ece,
        ibv_unimport_mr => unsupported::ibv_unimport_mr,
        ibv_unimport_pd => unsupported::ibv_unimport_pd,
    }
    V1_11 "IBVERBS_1.11" "@@@" {
        _ibv_query_gid_ex => query::_ibv_query_gid_ex,
        _ibv_query_gid_table => query::_ibv_query_gid_table,
    }
    V1_12 "IBVERBS_1.12" "@@@" {
        ibv_reg_dmabuf_mr => mr::ibv_reg_dmabuf_mr,
    }
    V1_13 "IBVERBS_1.13" "@@@" {
        ibv_import_dm => unsupported::ibv_import_dm,
        ibv_is_fork_initialized => unsupported::ibv_is_fork_initialized,
        ibv_unimport_dm => unsupported::ibv_unimport_dm,
    }
    V1_14 "IBVERBS_1.14" "@@@" {
        ibv_query_qp_data_in_order => qp::ibv_query_qp_data_in_order,
    }
    V1_15 "IBVERBS_1.15" "@@@" {
        ibv_alloc_dmah => unsupported::ibv_alloc_dmah,
        ibv_dealloc_dmah => unsupported::ibv_dealloc_dmah,
        ibv_reg_mr_ex => unsupported::ibv_reg_mr_ex,
    }
    V1_16 "IBVERBS_1.16" "@@@" {
        ibv_dm_export_dmabuf_fd => unsupported::ibv_dm_export_dmabuf_fd,
        ibv_query_port_speed => unsupported::ibv_query_port_speed,
    }
    V1_17 "IBVERBS_1.17" "@@@" {
        ibv_alloc_buf => unsupported::ibv_alloc_buf,
        ibv_free_buf => unsupported::ibv_free_buf,
        ibv_reg_buf_mr => unsupported::ibv_reg_buf_mr,
    }
    V1_18 "IBVERBS_1.18" "@@@" {
        _ibv_query_comp_cntr_caps => unsupported::comp_cntr,
        ibv_create_comp_cntr => unsupported::ibv_create_comp_cntr,
        ibv_destroy_comp_cntr => unsupported::comp_cntr,
        ibv_export_buf_dmabuf_fd => unsupported::ibv_export_buf_dmabuf_fd,
        ibv_inc_comp_cntr => unsupported::comp_cntr,
        ibv_inc_err_comp_cntr => unsupported::comp_cntr,
        ibv_qp_attach_comp_cntr => unsupported::comp_cntr,
        ibv_read_comp_cntr => unsupported::comp_cntr,
        ibv_read_err_comp_cntr => unsupported::comp_cntr,
        ibv_set_comp_cntr => unsupported::comp_cntr,
        ibv_set_err_comp_cntr => unsupported::comp_cntr,
    }
    DMV "DMVERBS_1.0" "@@@" {
        dmv_post_recv => message::dmv_post_recv,
        dmv_return_message => message::dmv_return_message,
        dmv_take_message => message::dmv_take_message,
    }
}

private! {
    P34 "IBVERBS_PRIVATE_34" "@@@" verbs_register_driver_34;
    P57 "IBVERBS_PRIVATE_57" "@" verbs_register_driver_57;
    P59 "IBVERBS_PRIVATE_59" "@" verbs_register_driver_59;
    P64 "IBVERBS_PRIVATE_64" "@" verbs_register_driver_64;
    P65 "IBVERBS_PRIVATE_65" "@" verbs_register_driver_65;
}
