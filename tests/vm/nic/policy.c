// SPDX-License-Identifier: GPL-2.0-only
/* The policies of a device, and which of them a packet falls under. */
#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <net/ipv6.h>
#include "qsnic.h"

static int qsnic_check_policy(struct qsnic *p, struct xfrm_policy *x,
			      struct netlink_ext_ack *extack)
{
	bool in = x->xdo.dir == XFRM_DEV_OFFLOAD_IN;

	if (p->refuse & (in ? QSNIC_REFUSE_POLICY_IN : QSNIC_REFUSE_POLICY_OUT)) {
		NL_SET_ERR_MSG_MOD(extack, "policy refused on request");
		return -(int)p->error;
	}
	if (p->model == QSNIC_CRYPTO_ONLY || p->model == QSNIC_IXGBE) {
		NL_SET_ERR_MSG_MOD(extack, "Packet offload is not supported");
		return -EINVAL;
	}
	if (x->type != XFRM_POLICY_TYPE_MAIN) {
		NL_SET_ERR_MSG_MOD(extack, "Cannot offload non-main policy types");
		return -EINVAL;
	}
	if (x->xfrm_nr > 1) {
		NL_SET_ERR_MSG_MOD(extack, "Cannot offload more than one template");
		return -EINVAL;
	}
	if (!in && x->xdo.dir != XFRM_DEV_OFFLOAD_OUT) {
		NL_SET_ERR_MSG_MOD(extack, "Cannot offload forward policy");
		return -EINVAL;
	}
	if (p->model != QSNIC_MLX5)
		return 0;
	if (!x->xfrm_vec[0].reqid && !x->selector.proto &&
	    ipv6_addr_any(&x->selector.saddr.in6) && ipv6_addr_any(&x->selector.daddr.in6)) {
		NL_SET_ERR_MSG_MOD(extack, "Unsupported policy with reqid 0 without at least one of upper protocol or ip addr(s) different than 0");
		return -EINVAL;
	}
	if (x->selector.proto && x->selector.proto != IPPROTO_UDP && x->selector.proto != IPPROTO_TCP) {
		NL_SET_ERR_MSG_MOD(extack, "Device does not support upper protocol other than TCP/UDP");
		return -EINVAL;
	}
	if (x->priority == U32_MAX) {
		NL_SET_ERR_MSG_MOD(extack, "Device does not support requested policy priority");
		return -EINVAL;
	}
	return 0;
}

int qsnic_policy_add(struct xfrm_policy *x, struct netlink_ext_ack *extack)
{
	struct qsnic *p = netdev_priv(x->xdo.dev);
	const struct xfrm_tmpl *t = &x->xfrm_vec[0];
	struct qsnic_policy *pol, *other;
	struct list_head *before;
	int err;

	err = qsnic_check_policy(p, x, extack);
	if (err)
		return err;
	pol = kzalloc(sizeof(*pol), GFP_ATOMIC);
	if (!pol)
		return -ENOMEM;
	pol->dir = x->xdo.dir;
	pol->action = x->action;
	pol->index = x->index;
	pol->priority = x->priority;
	pol->sel = x->selector;
	if (x->xfrm_nr) {
		pol->protect = true;
		pol->reqid = t->reqid;
		pol->spi = t->id.spi;
		pol->mode = t->mode;
		pol->family = t->encap_family;
		pol->saddr = t->saddr;
		pol->daddr = t->id.daddr;
	}
	spin_lock_bh(&p->lock);
	if (p->nr_policies >= p->policy_slots) {
		spin_unlock_bh(&p->lock);
		kfree(pol);
		NL_SET_ERR_MSG_MOD(extack, "no slot is left for the policy");
		return -ENOSPC;
	}
	p->nr_policies++;
	/* After those of its priority. */
	before = &p->policies;
	list_for_each_entry(other, &p->policies, list)
		if (other->priority > pol->priority) {
			before = &other->list;
			break;
		}
	list_add_tail_rcu(&pol->list, before);
	x->xdo.offload_handle = (unsigned long)pol;
	spin_unlock_bh(&p->lock);
	return 0;
}

void qsnic_policy_delete(struct xfrm_policy *x)
{
	struct qsnic *p = netdev_priv(x->xdo.dev);
	struct qsnic_policy *pol = (void *)x->xdo.offload_handle;

	spin_lock_bh(&p->lock);
	p->nr_policies--;
	list_del_rcu(&pol->list);
	spin_unlock_bh(&p->lock);
}

void qsnic_policy_free(struct xfrm_policy *x)
{
	struct qsnic_policy *pol = (void *)x->xdo.offload_handle;

	kfree_rcu(pol, rcu);
}

/* What selectors are about. */
struct qsnic_flow {
	u16 family;
	xfrm_address_t saddr, daddr;
	u8 proto;
	__be16 sport, dport;	/* of ICMP: type and code, as XFRM has it */
};

static void qsnic_ports(struct sk_buff *skb, int at, struct qsnic_flow *f)
{
	__be16 ports[2];
	u8 icmp[2];

	switch (f->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		if (!skb_copy_bits(skb, at, ports, sizeof(ports))) {
			f->sport = ports[0];
			f->dport = ports[1];
		}
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (!skb_copy_bits(skb, at, icmp, sizeof(icmp))) {
			f->sport = htons(icmp[0]);
			f->dport = htons(icmp[1]);
		}
		break;
	}
}

static bool qsnic_flow(struct sk_buff *skb, u8 dir, struct qsnic_flow *f)
{
	struct ipv6hdr ip6;
	struct iphdr ip;
	__be16 frag;
	__be16 type;
	int at;

	memset(f, 0, sizeof(*f));
	/* What the stack forwards for encapsulation has no frame header yet that
	 * means anything, and what was received has nothing else.
	 */
	type = skb->protocol;
	if (dir == XFRM_DEV_OFFLOAD_IN &&
	    skb_copy_bits(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type)))
		return false;
	if (type == htons(ETH_P_IP)) {
		if (skb_copy_bits(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4)
			return false;
		f->family = AF_INET;
		f->saddr.a4 = ip.saddr;
		f->daddr.a4 = ip.daddr;
		f->proto = ip.protocol;
		if (!(ip.frag_off & htons(IP_OFFSET)))
			qsnic_ports(skb, ETH_HLEN + 4 * ip.ihl, f);
		return true;
	}
	if (type == htons(ETH_P_IPV6)) {
		if (skb_copy_bits(skb, ETH_HLEN, &ip6, sizeof(ip6)) || ip6.version != 6)
			return false;
		f->family = AF_INET6;
		f->saddr.in6 = ip6.saddr;
		f->daddr.in6 = ip6.daddr;
		f->proto = ip6.nexthdr;
		at = ipv6_skip_exthdr(skb, ETH_HLEN + sizeof(ip6), &f->proto, &frag);
		if (at >= 0 && !(frag & htons(IP6_OFFSET)))
			qsnic_ports(skb, at, f);
		return true;
	}
	return false;
}

static bool qsnic_match(const struct xfrm_selector *s, const struct qsnic_flow *f)
{
	/* A selector of no family stands for any addresses. */
	if (s->family != AF_UNSPEC && s->family != f->family)
		return false;
	return addr_match(&f->saddr, &s->saddr, s->prefixlen_s) &&
	       addr_match(&f->daddr, &s->daddr, s->prefixlen_d) &&
	       (!s->proto || s->proto == f->proto) &&
	       !((s->sport ^ f->sport) & s->sport_mask) &&
	       !((s->dport ^ f->dport) & s->dport_mask);
}

/* The first policy of the direction that a frame falls under. */
struct qsnic_policy *qsnic_find_policy(struct qsnic *p, struct sk_buff *skb, u8 dir)
{
	struct qsnic_policy *pol;
	struct qsnic_flow f;

	if (list_empty(&p->policies) || !qsnic_flow(skb, dir, &f))
		return NULL;
	list_for_each_entry_rcu(pol, &p->policies, list)
		if (pol->dir == dir && qsnic_match(&pol->sel, &f))
			return pol;
	return NULL;
}
