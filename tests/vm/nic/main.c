// SPDX-License-Identifier: GPL-2.0-only
/* The devices of qsnic, and the way of a frame through a pair of them. */
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/module.h>
#include "qsnic.h"

static unsigned int pairs = 1;
module_param(pairs, uint, 0444);
MODULE_PARM_DESC(pairs, "pairs of devices: qsnic0 and qsnic1, seen on qswire0, and so on");

/* Two ends and the wire of each pair. */
static struct net_device **devs;

/* Show a frame to those who listen on the wire. */
static void qsnic_show(struct qsnic *p, struct sk_buff *skb)
{
	struct sk_buff *copy;

	if (!netif_running(p->wire))
		return;
	copy = skb_copy(skb, GFP_ATOMIC);
	if (!copy)
		return;
	copy->protocol = eth_type_trans(copy, p->wire);
	copy->pkt_type = PACKET_OTHERHOST;
	netif_rx(copy);
}

/* Tell the stack that the device has done the state's work on the packet. */
static int qsnic_mark(struct sk_buff *skb, struct qsnic_sa *sa, u32 status)
{
	struct sec_path *sp = secpath_set(skb);
	struct xfrm_offload *xo;

	if (!sp || !refcount_inc_not_zero(&sa->x->refcnt)) {
		secpath_reset(skb);
		return -ENOMEM;
	}
	sp->xvec[sp->len++] = sa->x;
	sp->olen++;
	xo = xfrm_offload(skb);
	xo->flags = CRYPTO_DONE;
	xo->status = status;
	return 0;
}

/* Take a frame off the wire, and free it where it goes no further. */
static void qsnic_rx(struct qsnic *p, struct sk_buff *skb)
{
	enum qsnic_counter counter = QSNIC_RX_ERROR;
	struct qsnic_sa *sa = NULL;
	struct qsnic_policy *pol;
	struct qsnic_esp e;
	u32 status = CRYPTO_SUCCESS;
	unsigned int len = skb->len;
	int err;

	if (qsnic_parse(skb, &e))
		sa = qsnic_find_in(p, &e);
	if (!sa) {
		/* The kernel leaves it to the device to refuse what is in clear
		 * and should not be.
		 */
		pol = qsnic_find_policy(p, skb, XFRM_DEV_OFFLOAD_IN);
		if (pol && (pol->protect || pol->action != XFRM_POLICY_ALLOW)) {
			counter = QSNIC_RX_CLEAR;
			goto drop;
		}
		counter = QSNIC_RX_PLAIN;
		goto up;
	}
	if (skb_linearize_cow(skb))
		goto drop;
	if (sa->type == XFRM_DEV_OFFLOAD_PACKET) {
		err = qsnic_decapsulate(p, sa, skb, &e);
		if (err) {
			if (err == -EBADMSG)
				counter = QSNIC_RX_AUTH;
			else if (err == -EALREADY)
				counter = QSNIC_RX_REPLAY;
			else if (err == -EKEYEXPIRED)
				counter = QSNIC_RX_EXPIRED;
			goto drop;
		}
		pol = qsnic_find_policy(p, skb, XFRM_DEV_OFFLOAD_IN);
		if (!pol || pol->action != XFRM_POLICY_ALLOW || !pol->protect ||
		    (pol->reqid && pol->reqid != sa->reqid) || pol->mode != sa->mode) {
			counter = QSNIC_RX_POLICY;
			goto drop;
		}
		counter = QSNIC_RX_PACKET;
	} else {
		counter = QSNIC_RX_CRYPTO;
		if (qsnic_decrypt(sa, skb, &e)) {
			counter = QSNIC_RX_AUTH;
			status = sa->mode == XFRM_MODE_TUNNEL ? CRYPTO_TUNNEL_ESP_AUTH_FAILED :
				 CRYPTO_TRANSPORT_ESP_AUTH_FAILED;
		}
	}
	if (qsnic_mark(skb, sa, status)) {
		counter = QSNIC_RX_ERROR;
		goto drop;
	}
up:
	qsnic_count(p, counter);
	dev_sw_netstats_rx_add(p->dev, len);
	skb->protocol = eth_type_trans(skb, p->dev);
	netif_rx(skb);
	return;
drop:
	qsnic_count(p, counter);
	kfree_skb(skb);
}

/* Falsify a frame on the wire, where a test asks for it. */
static void qsnic_corrupt(struct qsnic *p, struct sk_buff *skb)
{
	struct qsnic_esp e;

	if (atomic_read(&p->corrupt) > 0 && qsnic_parse(skb, &e) &&
	    atomic_dec_if_positive(&p->corrupt) >= 0)
		skb->data[e.end - 1] ^= 1;
}

/*
 * Do on a frame what a state or a policy asks for.  Returns the frame for the
 * wire, or NULL where it was dropped.
 */
static struct sk_buff *qsnic_protect(struct qsnic *p, struct sk_buff *skb)
{
	struct xfrm_offload *xo = xfrm_offload(skb);
	enum qsnic_counter counter = QSNIC_TX_ERROR;
	struct qsnic_policy *pol;
	struct sk_buff *out = skb;
	struct qsnic_sa *sa;

	if (xo && (xo->flags & XFRM_XMIT)) {
		struct xfrm_state *x = xfrm_input_state(skb);

		/* The state may have gone since. */
		sa = (void *)READ_ONCE(x->xso.offload_handle);
		if (!sa || sa->nic != p || sa->dir != XFRM_DEV_OFFLOAD_OUT ||
		    sa->type != XFRM_DEV_OFFLOAD_CRYPTO) {
			counter = QSNIC_TX_NO_STATE;
			goto drop;
		}
		if (qsnic_encrypt(sa, skb))
			goto drop;
		qsnic_count(p, QSNIC_TX_CRYPTO);
		return skb;
	}
	pol = qsnic_find_policy(p, skb, XFRM_DEV_OFFLOAD_OUT);
	if (pol && pol->action != XFRM_POLICY_ALLOW) {
		counter = QSNIC_TX_BLOCKED;
		goto drop;
	}
	if (!pol || !pol->protect) {
		qsnic_count(p, QSNIC_TX_PLAIN);
		return skb;
	}
	sa = qsnic_find_out(p, pol);
	if (!sa) {
		counter = QSNIC_TX_NO_STATE;
		goto drop;
	}
	out = qsnic_encapsulate(p, sa, skb);
	if (IS_ERR(out)) {
		if (PTR_ERR(out) == -EKEYEXPIRED)
			counter = QSNIC_TX_EXPIRED;
		else if (PTR_ERR(out) == -EOVERFLOW)
			counter = QSNIC_TX_OVERFLOW;
		goto drop;
	}
	qsnic_count(p, QSNIC_TX_PACKET);
	consume_skb(skb);
	return out;
drop:
	qsnic_count(p, counter);
	kfree_skb(skb);
	return NULL;
}

static netdev_tx_t qsnic_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct qsnic *p = netdev_priv(dev);

	rcu_read_lock();
	skb = qsnic_protect(p, skb);
	if (!skb)
		goto out;
	dev_sw_netstats_tx_add(dev, 1, skb->len);
	/* What comes out at the other end knows of the frame alone. */
	skb_scrub_packet(skb, true);
	secpath_reset(skb);
	skb_orphan(skb);
	skb->ip_summed = CHECKSUM_NONE;
	if (skb_linearize_cow(skb) || !netif_running(p->peer)) {
		kfree_skb(skb);
		goto out;
	}
	qsnic_corrupt(p, skb);
	qsnic_show(p, skb);
	qsnic_rx(netdev_priv(p->peer), skb);
out:
	rcu_read_unlock();
	return NETDEV_TX_OK;
}

/* There is a link where both ends are up. */
static int qsnic_open(struct net_device *dev)
{
	struct qsnic *p = netdev_priv(dev);

	if (netif_running(p->peer)) {
		netif_carrier_on(dev);
		netif_carrier_on(p->peer);
	}
	return 0;
}

static int qsnic_stop(struct net_device *dev)
{
	struct qsnic *p = netdev_priv(dev);

	netif_carrier_off(dev);
	netif_carrier_off(p->peer);
	return 0;
}

static const struct net_device_ops qsnic_ops = {
	.ndo_open = qsnic_open,
	.ndo_stop = qsnic_stop,
	.ndo_start_xmit = qsnic_xmit,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
};

static void qsnic_get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	static const char *const drivers[QSNIC_MODELS] = {
		[QSNIC_ANY] = "qsnic",
		[QSNIC_CRYPTO_ONLY] = "qsnic",
		[QSNIC_MLX5] = "mlx5_core",
		[QSNIC_IXGBE] = "ixgbe",
	};
	struct qsnic *p = netdev_priv(dev);

	strscpy(info->driver, drivers[p->model], sizeof(info->driver));
	strscpy(info->fw_version, "1.0", sizeof(info->fw_version));
}

static const struct ethtool_ops qsnic_ethtool_ops = {
	.get_drvinfo = qsnic_get_drvinfo,
	.get_link = ethtool_op_get_link,
};

static void qsnic_setup(struct net_device *dev)
{
	struct qsnic *p = netdev_priv(dev);

	ether_setup(dev);
	dev->netdev_ops = &qsnic_ops;
	dev->ethtool_ops = &qsnic_ethtool_ops;
	dev->xfrmdev_ops = &qsnic_xfrmdev_ops;
	dev->pcpu_stat_type = NETDEV_PCPU_STAT_TSTATS;
	dev->priv_flags |= IFF_NO_QUEUE;
	dev->max_mtu = ETH_MAX_MTU;
	/* Packets come in one piece, with their checksums and room for ESP. */
	dev->features |= NETIF_F_HW_ESP;
	dev->hw_features |= NETIF_F_HW_ESP;
	dev->hw_enc_features |= NETIF_F_HW_ESP;
	dev->needed_headroom = sizeof(struct ipv6hdr) + 32;
	dev->needed_tailroom = 32;
	eth_hw_addr_random(dev);

	spin_lock_init(&p->lock);
	INIT_LIST_HEAD(&p->states);
	INIT_LIST_HEAD(&p->policies);
	hash_init(p->in);
	hash_init(p->out);
	p->error = EINVAL;
	p->slots = p->policy_slots = U16_MAX;
}

/* What is sent on the wire device itself goes nowhere. */
static netdev_tx_t qsnic_wire_xmit(struct sk_buff *skb, struct net_device *dev)
{
	kfree_skb(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops qsnic_wire_ops = {
	.ndo_start_xmit = qsnic_wire_xmit,
};

static void qsnic_wire_setup(struct net_device *dev)
{
	ether_setup(dev);
	dev->netdev_ops = &qsnic_wire_ops;
	dev->flags |= IFF_NOARP;
	dev->priv_flags |= IFF_NO_QUEUE;
	dev->max_mtu = ETH_MAX_MTU;
	eth_hw_addr_random(dev);
}

static void qsnic_remove(void)
{
	unsigned int i;

	qsnic_debug_exit();
	rtnl_lock();
	for (i = 0; i < 3 * pairs; i++)
		if (devs[i] && devs[i]->reg_state == NETREG_REGISTERED)
			unregister_netdevice(devs[i]);
	rtnl_unlock();
	/* States and policies end with their devices, some time later. */
	rcu_barrier();
	destroy_workqueue(qsnic_wq);
	for (i = 0; i < 3 * pairs; i++)
		if (devs[i])
			free_netdev(devs[i]);
	kfree(devs);
}

static int __init qsnic_init(void)
{
	char name[IFNAMSIZ + 8];
	unsigned int i, j;
	int err = -ENOMEM;

	pairs = clamp(pairs, 1U, 8U);
	devs = kcalloc(3 * pairs, sizeof(*devs), GFP_KERNEL);
	if (!devs)
		return -ENOMEM;
	qsnic_wq = alloc_workqueue("qsnic", 0, 0);
	if (!qsnic_wq) {
		kfree(devs);
		return -ENOMEM;
	}
	qsnic_debug_init();
	for (i = 0; i < pairs; i++) {
		struct net_device **end = devs + 3 * i;

		for (j = 0; j < 2; j++) {
			snprintf(name, sizeof(name), "qsnic%u", 2 * i + j);
			end[j] = alloc_netdev(sizeof(struct qsnic), name, NET_NAME_USER, qsnic_setup);
		}
		snprintf(name, sizeof(name), "qswire%u", i);
		end[2] = alloc_netdev(0, name, NET_NAME_USER, qsnic_wire_setup);
		if (!end[0] || !end[1] || !end[2])
			goto fail;
		for (j = 0; j < 2; j++) {
			struct qsnic *p = netdev_priv(end[j]);

			p->dev = end[j];
			p->peer = end[!j];
			p->wire = end[2];
		}
		for (j = 0; j < 3; j++) {
			err = register_netdev(end[j]);
			if (err)
				goto fail;
		}
		for (j = 0; j < 2; j++) {
			netif_carrier_off(end[j]);
			qsnic_debug_add(netdev_priv(end[j]));
		}
	}
	return 0;
fail:
	qsnic_remove();
	return err;
}

static void __exit qsnic_exit(void)
{
	qsnic_remove();
}

module_init(qsnic_init);
module_exit(qsnic_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Pairs of devices with inline ESP, for tests");
