/* SPDX-License-Identifier: GPL-2.0 */
#ifndef VHS_WINDOW_H
#define VHS_WINDOW_H

#include <linux/types.h>

/*
 * Memory outside the kernel's direct map that the "DMA engine" of the NICs can
 * reach: the counterpart of peer-to-peer access to another device's BAR.
 */
struct vhs_window {
	struct list_head list;
	dma_addr_t start;
	size_t size;
	void *va;
};

void vhs_window_add(struct vhs_window *window);
void vhs_window_del(struct vhs_window *window);

#endif
