/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Listing and opening devices, and what they, their ports and tables say. */
#include "rig.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <string.h>

static void list_devices(void)
{
	int count = -1, seen = 0;
	struct ibv_device **list = ibv_get_device_list(&count);
	bool named = true, guids = true, same = true;

	need(list);
	while (list[seen]) {
		named = named && strlen(ibv_get_device_name(list[seen])) > 0;
		guids = guids && ibv_get_device_guid(list[seen]) != 0;
		for (int i = 0; i < seen; i++)
			same = same && strcmp(ibv_get_device_name(list[i]), ibv_get_device_name(list[seen])) != 0;
		seen++;
	}
	yes("the list ends with NULL after the count", seen == count);
	yes("every device has a name", named);
	yes("no two have the same name", same);
	yes("every device has a GUID", guids);
	ibv_free_device_list(list);
}

static void open_device(void)
{
	struct ibv_context *second = ibv_open_device(device->device);

	yes("an open device still has its name after the list was freed",
	    strlen(ibv_get_device_name(device->device)) > 0);
	say("node type: %s", ibv_node_type_str(device->device->node_type));
	yes("transport is that of InfiniBand verbs", device->device->transport_type == IBV_TRANSPORT_IB);
	yes("there is a completion vector", device->num_comp_vectors >= 1);
	yes("a device opens twice", second != NULL && second != device);
	yes("with an event descriptor each", second && second->async_fd >= 0 && second->async_fd != device->async_fd);
	yes("and a command descriptor", second && fcntl(second->cmd_fd, F_GETFD) >= 0);
	outcome("close the second", second ? ibv_close_device(second) : EINVAL);
}

static void limits(void)
{
	struct ibv_device_attr attr;
	struct ibv_device_attr_ex more;

	memset(&attr, 0xa5, sizeof(attr));
	memset(&more, 0xa5, sizeof(more));
	outcome("query_device", ibv_query_device(device, &attr));
	yes("a vendor", attr.vendor_id != 0);
	yes("the GUID is the list's", attr.node_guid == ibv_get_device_guid(device->device));
	yes("one port", attr.phys_port_cnt == 1);
	yes("room for objects", attr.max_qp > 0 && attr.max_cq > 0 && attr.max_mr > 0 && attr.max_pd > 0);
	yes("queues of 256", attr.max_qp_wr >= 256 && attr.max_cqe >= 256);
	yes("lists of 16 elements", attr.max_sge >= 16);
	yes("regions of 1 GiB", attr.max_mr_size >= 1ull << 30);
	yes("READs and atomics in flight, both ways", attr.max_qp_rd_atom >= 1 && attr.max_qp_init_rd_atom >= 1);
	yes("atomics", attr.atomic_cap != IBV_ATOMIC_NONE);
	yes("a partition key", attr.max_pkeys >= 1);
	yes("the firmware version is a string", memchr(attr.fw_ver, 0, sizeof(attr.fw_ver)) != NULL);

	outcome("query_device_ex", ibv_query_device_ex(device, NULL, &more));
	yes("it holds the same", memcmp(&more.orig_attr.node_guid, &attr.node_guid, sizeof(attr.node_guid)) == 0 &&
	    more.orig_attr.max_qp == attr.max_qp && more.orig_attr.max_sge == attr.max_sge &&
	    more.orig_attr.max_cqe == attr.max_cqe && more.orig_attr.max_mr_size == attr.max_mr_size);
}

static void ports(void)
{
	struct ibv_port_attr attr;

	memset(&attr, 0xa5, sizeof(attr));
	outcome("query_port 1", ibv_query_port(device, 1, &attr));
	say("state: %s", ibv_port_state_str(attr.state));
	yes("link layer Ethernet", attr.link_layer == IBV_LINK_LAYER_ETHERNET);
	yes("addresses are GIDs", attr.flags & IBV_QPF_GRH_REQUIRED);
	yes("MTU codes in range", attr.active_mtu >= IBV_MTU_256 && attr.active_mtu <= attr.max_mtu &&
	    attr.max_mtu <= IBV_MTU_4096);
	yes("messages of 1 GiB", attr.max_msg_sz >= 1u << 30);
	yes("a GID table and a partition key table", attr.gid_tbl_len >= 1 && attr.pkey_tbl_len >= 1);
	yes("a speed and a width", attr.active_speed != 0 && attr.active_width != 0);
	outcome("query_port 0", ibv_query_port(device, 0, &attr));
	outcome("query_port 2", ibv_query_port(device, 2, &attr));
}

static void tables(void)
{
	struct ibv_gid_entry entry, entries[64];
	union ibv_gid found;
	uint16_t pkey = 0;
	ssize_t count;

	memset(entries, 0, sizeof(entries));
	outcome("query_gid", errno_if(ibv_query_gid(device, 1, gid_index, &found) != 0));
	yes("the GID is not zero", !all(found.raw, sizeof(found.raw), 0));
	yes("past the table there is none", ibv_query_gid(device, 1, port.gid_tbl_len, &found) != 0);
	outcome("query_gid_ex", ibv_query_gid_ex(device, 1, gid_index, &entry, 0));
	yes("it is the same GID, of port 1 and this index", memcmp(&entry.gid, &gid, sizeof(gid)) == 0 &&
	    entry.port_num == 1 && entry.gid_index == (uint32_t)gid_index);
	yes("of an interface", entry.ndev_ifindex != 0);
	count = ibv_query_gid_table(device, entries, COUNT(entries), 0);
	yes("query_gid_table gives entries", count >= 1 && count <= (ssize_t)COUNT(entries));
	found = (union ibv_gid){ .raw = { 0 } };
	for (ssize_t i = 0; i < count; i++)
		if (entries[i].port_num == 1 && entries[i].gid_index == (uint32_t)gid_index)
			found = entries[i].gid;
	yes("this GID among them", memcmp(&found, &gid, sizeof(gid)) == 0);
	outcome("query_pkey", errno_if(ibv_query_pkey(device, 1, 0, &pkey) != 0));
	say("it is the default partition: %#x", ntohs(pkey));
	yes("past the table there is none", ibv_query_pkey(device, 1, port.pkey_tbl_len, &pkey) != 0);
	yes("its index is 0", ibv_get_pkey_index(device, 1, htons(0xffff)) == 0);
	yes("an unknown one has no index", ibv_get_pkey_index(device, 1, htons(0x1234)) < 0);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	list_devices();
	open_device();
	limits();
	ports();
	tables();
	rig_close();
	say("closed");
	return 0;
}
