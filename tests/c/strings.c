/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The texts and tables that libibverbs itself holds; needs no device. strings.out is what rdma-core 44 prints. */
#include "rig.h"

static const enum ibv_rate rates[] = {
	IBV_RATE_MAX, IBV_RATE_2_5_GBPS, IBV_RATE_5_GBPS, IBV_RATE_10_GBPS, IBV_RATE_20_GBPS, IBV_RATE_30_GBPS,
	IBV_RATE_40_GBPS, IBV_RATE_60_GBPS, IBV_RATE_80_GBPS, IBV_RATE_120_GBPS, IBV_RATE_14_GBPS,
	IBV_RATE_56_GBPS, IBV_RATE_112_GBPS, IBV_RATE_168_GBPS, IBV_RATE_25_GBPS, IBV_RATE_100_GBPS,
	IBV_RATE_200_GBPS, IBV_RATE_300_GBPS, IBV_RATE_28_GBPS, IBV_RATE_50_GBPS, IBV_RATE_400_GBPS,
	IBV_RATE_600_GBPS,
};

static const int multiples[] = { 0, 1, 2, 3, 4, 8, 11, 12, 16, 20, 24, 32, 48, 160, 240 };

int main(void)
{
	for (int i = -1; i <= 23; i++)
		say("status %d: %s", i, ibv_wc_status_str(i));
	for (int i = -1; i <= 8; i++)
		say("node type %d: %s", i, ibv_node_type_str(i));
	for (int i = -1; i <= 6; i++)
		say("port state %d: %s", i, ibv_port_state_str(i));
	for (int i = -1; i <= 19; i++)
		say("event %d: %s", i, ibv_event_type_str(i));
	for (size_t i = 0; i < COUNT(rates); i++)
		say("rate %d: %d, %d Mbit/s", rates[i], ibv_rate_to_mult(rates[i]), ibv_rate_to_mbps(rates[i]));
	for (size_t i = 0; i < COUNT(multiples); i++)
		say("multiple %d: rate %d", multiples[i], mult_to_ibv_rate(multiples[i]));
	for (size_t i = 0; i < COUNT(rates); i++)
		say("%d Mbit/s: rate %d", ibv_rate_to_mbps(rates[i]), mbps_to_ibv_rate(ibv_rate_to_mbps(rates[i])));
	say("1 Mbit/s: rate %d", mbps_to_ibv_rate(1));
	return 0;
}
