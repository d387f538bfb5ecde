// SPDX-License-Identifier: GPL-2.0
/* The "DMA engine": copies between memory named by bus addresses. */

#include <linux/dma-direct.h>
#include <linux/module.h>
#include <linux/rculist.h>
#include <linux/spinlock.h>

#include "vhs.h"
#include "window.h"

static LIST_HEAD(windows);
static DEFINE_SPINLOCK(windows_lock);

void vhs_window_add(struct vhs_window *window)
{
	spin_lock(&windows_lock);
	list_add_rcu(&window->list, &windows);
	spin_unlock(&windows_lock);
}
EXPORT_SYMBOL_GPL(vhs_window_add);

/* Nothing may be bound to the window any more. */
void vhs_window_del(struct vhs_window *window)
{
	spin_lock(&windows_lock);
	list_del_rcu(&window->list);
	spin_unlock(&windows_lock);
	synchronize_net();
}
EXPORT_SYMBOL_GPL(vhs_window_del);

/* Caller is in an RCU read side section; NAPI and transmit are. */
static void *vhs_bus_to_virt(dma_addr_t addr)
{
	struct vhs_window *window;
	phys_addr_t phys = addr;

	list_for_each_entry_rcu(window, &windows, list,
				rcu_read_lock_bh_held())
		if (addr - window->start < window->size)
			return window->va + (addr - window->start);
	if (!pfn_valid(PHYS_PFN(phys)))
		return NULL;
	return phys_to_virt(phys);
}

void *vhs_netmem_va(netmem_ref netmem)
{
	if (!netmem_is_net_iov(netmem))
		return netmem_address(netmem);
	return vhs_bus_to_virt(page_pool_get_dma_addr_netmem(netmem));
}

static void *vhs_frag_va(const skb_frag_t *frag)
{
	void *va;

	if (!skb_frag_is_net_iov(frag))
		return skb_frag_address(frag);
	va = vhs_netmem_va(frag->netmem);
	return va ? va + skb_frag_off(frag) : NULL;
}

void vhs_source_init(struct vhs_source *source, struct sk_buff *skb)
{
	source->skb = skb;
	source->frag = -1;
	source->offset = 0;
}

/* Takes the next @len bytes of the packet, to nowhere if @to is NULL; false:
 * they are out of reach.
 */
bool vhs_dma_copy(struct vhs_source *source, void *to, u32 len)
{
	struct skb_shared_info *shinfo = skb_shinfo(source->skb);

	while (len) {
		const skb_frag_t *frag = NULL;
		u32 size, n;
		void *va;

		if (source->frag < 0) {
			size = skb_headlen(source->skb);
			va = source->skb->data;
		} else {
			frag = &shinfo->frags[source->frag];
			size = skb_frag_size(frag);
			va = vhs_frag_va(frag);
			if (unlikely(!va))
				return false;
		}
		n = min(len, size - source->offset);
		if (to) {
			memcpy(to, va + source->offset, n);
			to += n;
		}
		len -= n;
		source->offset += n;
		if (source->offset == size) {
			source->frag++;
			source->offset = 0;
		}
	}
	return true;
}
