// SPDX-License-Identifier: GPL-2.0-only
/* The states of a device: what it takes, what it counts, when they end. */
#include <net/bonding.h>
#include "qsnic.h"

struct workqueue_struct *qsnic_wq;

static int qsnic_check_mlx5(struct xfrm_state *x, struct netlink_ext_ack *extack)
{
	const struct xfrm_lifetime_cfg *l = &x->lft;

	if (x->aead->alg_icv_len != 128) {
		NL_SET_ERR_MSG_MOD(extack, "Cannot offload xfrm states with AEAD ICV length other than 128bit");
		return -EINVAL;
	}
	if (x->aead->alg_key_len != 128 + 32 && x->aead->alg_key_len != 256 + 32) {
		NL_SET_ERR_MSG_MOD(extack, "Cannot offload xfrm states with AEAD key length other than 128/256 bit");
		return -EINVAL;
	}
	if (x->sel.proto && x->sel.proto != IPPROTO_UDP && x->sel.proto != IPPROTO_TCP) {
		NL_SET_ERR_MSG_MOD(extack, "Device does not support upper protocol other than TCP/UDP");
		return -EINVAL;
	}
	if (x->encap && x->props.mode != XFRM_MODE_TRANSPORT) {
		NL_SET_ERR_MSG_MOD(extack, "Encapsulation is supported in transport mode only");
		return -EINVAL;
	}
	if (x->xso.type != XFRM_DEV_OFFLOAD_PACKET)
		return 0;
	if (x->replay_esn && x->xso.dir == XFRM_DEV_OFFLOAD_IN) {
		switch (x->replay_esn->replay_window) {
		case 32:
		case 64:
		case 128:
		case 256:
			break;
		default:
			NL_SET_ERR_MSG_MOD(extack, "Unsupported replay window size");
			return -EINVAL;
		}
	}
	if (!x->props.reqid) {
		NL_SET_ERR_MSG_MOD(extack, "Cannot offload without reqid");
		return -EINVAL;
	}
	if (l->soft_byte_limit >= l->hard_byte_limit && l->hard_byte_limit != XFRM_INF) {
		NL_SET_ERR_MSG_MOD(extack, "Hard byte limit must be greater than soft one");
		return -EINVAL;
	}
	if (l->soft_packet_limit >= l->hard_packet_limit && l->hard_packet_limit != XFRM_INF) {
		NL_SET_ERR_MSG_MOD(extack, "Hard packet limit must be greater than soft one");
		return -EINVAL;
	}
	if (!l->soft_byte_limit || !l->hard_byte_limit) {
		NL_SET_ERR_MSG_MOD(extack, "Soft/hard byte limits can't be 0");
		return -EINVAL;
	}
	if (!l->soft_packet_limit || !l->hard_packet_limit) {
		NL_SET_ERR_MSG_MOD(extack, "Soft/hard packet limits can't be 0");
		return -EINVAL;
	}
	return 0;
}

static int qsnic_check_ixgbe(struct xfrm_state *x, struct netlink_ext_ack *extack)
{
	if (x->props.mode != XFRM_MODE_TRANSPORT) {
		NL_SET_ERR_MSG_MOD(extack, "Unsupported mode for ipsec offload");
		return -EINVAL;
	}
	if (x->xso.type != XFRM_DEV_OFFLOAD_CRYPTO) {
		NL_SET_ERR_MSG_MOD(extack, "Unsupported ipsec offload type");
		return -EINVAL;
	}
	if (x->props.flags & XFRM_STATE_ESN) {
		NL_SET_ERR_MSG_MOD(extack, "Device doesn't support offload with ESN");
		return -EINVAL;
	}
	if (x->aead->alg_icv_len == 128 && x->aead->alg_key_len == 128 + 32)
		return 0;
	if (x->xso.dir == XFRM_DEV_OFFLOAD_IN)
		NL_SET_ERR_MSG_MOD(extack, "Failed to get key data for Rx SA table");
	else
		NL_SET_ERR_MSG_MOD(extack, "Failed to get key data for Tx SA table");
	return -EINVAL;
}

/* Say whether the device takes a state, by its own limits and its model's. */
static int qsnic_check(struct qsnic *p, struct xfrm_state *x, struct netlink_ext_ack *extack)
{
	bool in = x->xso.dir == XFRM_DEV_OFFLOAD_IN;
	bool packet = x->xso.type == XFRM_DEV_OFFLOAD_PACKET;

	if (p->refuse & ((in ? QSNIC_REFUSE_STATE_IN : QSNIC_REFUSE_STATE_OUT) |
			 (packet ? QSNIC_REFUSE_PACKET : QSNIC_REFUSE_CRYPTO))) {
		NL_SET_ERR_MSG_MOD(extack, "state refused on request");
		return -(int)p->error;
	}
	if (x->id.proto != IPPROTO_ESP) {
		NL_SET_ERR_MSG_MOD(extack, "only ESP can be offloaded");
		return -EINVAL;
	}
	if (!x->aead || strcmp(x->aead->alg_name, "rfc4106(gcm(aes))") ||
	    !x->geniv || strcmp(x->geniv, "seqiv")) {
		NL_SET_ERR_MSG_MOD(extack, "only AES-GCM with IVs by seqiv can be offloaded");
		return -EINVAL;
	}
	if (x->props.mode != XFRM_MODE_TUNNEL && x->props.mode != XFRM_MODE_TRANSPORT) {
		NL_SET_ERR_MSG_MOD(extack, "only tunnel and transport mode can be offloaded");
		return -EINVAL;
	}
	if (x->encap && x->encap->encap_type != UDP_ENCAP_ESPINUDP) {
		NL_SET_ERR_MSG_MOD(extack, "no encapsulation but that in UDP can be offloaded");
		return -EINVAL;
	}
	/* The stack checks policies before it looks into UDP, and would find a
	 * packet that claims to have been decrypted.
	 */
	if (x->encap && !packet) {
		NL_SET_ERR_MSG_MOD(extack, "Encapsulation is supported in packet offload mode only");
		return -EINVAL;
	}
	if (x->replay_esn && x->replay_esn->replay_window > QSNIC_MAX_WINDOW) {
		NL_SET_ERR_MSG_MOD(extack, "the replay window is too wide");
		return -EINVAL;
	}
	if (p->model == QSNIC_CRYPTO_ONLY && packet) {
		NL_SET_ERR_MSG_MOD(extack, "Packet offload is not supported");
		return -EINVAL;
	}
	if (p->model == QSNIC_MLX5)
		return qsnic_check_mlx5(x, extack);
	if (p->model == QSNIC_IXGBE)
		return qsnic_check_ixgbe(x, extack);
	return 0;
}

static int qsnic_set_key(struct qsnic_sa *sa, const struct xfrm_algo_aead *a)
{
	int err;

	/* Synchronous, since frames are sent and received in one go. */
	sa->aead = crypto_alloc_aead(a->alg_name, 0, CRYPTO_ALG_ASYNC);
	if (IS_ERR(sa->aead))
		return PTR_ERR(sa->aead);
	err = crypto_aead_setkey(sa->aead, a->alg_key, (a->alg_key_len + 7) / 8);
	if (!err)
		err = crypto_aead_setauthsize(sa->aead, sa->icv);
	if (err)
		crypto_free_aead(sa->aead);
	return err;
}

static struct qsnic_sa *qsnic_copy(struct qsnic *p, struct xfrm_state *x)
{
	struct qsnic_sa *sa = kzalloc(sizeof(*sa), GFP_KERNEL);
	int err;

	if (!sa)
		return ERR_PTR(-ENOMEM);
	sa->nic = p;
	sa->x = x;
	sa->type = x->xso.type;
	sa->dir = x->xso.dir;
	sa->mode = x->props.mode;
	sa->family = x->props.family;
	sa->spi = x->id.spi;
	sa->reqid = x->props.reqid;
	sa->saddr = x->props.saddr;
	sa->daddr = x->id.daddr;
	sa->flags = x->props.flags;
	sa->extra_flags = x->props.extra_flags;
	sa->icv = x->aead->alg_icv_len / 8;
	if (x->encap) {
		sa->encap = true;
		sa->sport = x->encap->encap_sport;
		sa->dport = x->encap->encap_dport;
	}
	sa->esn = x->props.flags & XFRM_STATE_ESN;
	if (x->replay_esn) {
		sa->window = x->replay_esn->replay_window;
		sa->seq = sa->dir == XFRM_DEV_OFFLOAD_IN ?
			  (u64)x->replay_esn->seq_hi << 32 | x->replay_esn->seq :
			  (u64)x->replay_esn->oseq_hi << 32 | x->replay_esn->oseq;
	} else {
		sa->window = x->props.replay_window;
		sa->seq = sa->dir == XFRM_DEV_OFFLOAD_IN ? x->replay.seq : x->replay.oseq;
	}
	spin_lock_init(&sa->lock);
	err = qsnic_set_key(sa, x->aead);
	if (err) {
		kfree(sa);
		return ERR_PTR(err);
	}
	return sa;
}

static int qsnic_state_add(struct net_device *dev, struct xfrm_state *x,
			   struct netlink_ext_ack *extack)
{
	struct qsnic *p = netdev_priv(dev);
	struct qsnic_sa *sa;
	int err;

	/* Stands for a negotiation; there are no keys yet. */
	if (x->xso.flags & XFRM_DEV_OFFLOAD_FLAG_ACQ)
		return 0;
	err = qsnic_check(p, x, extack);
	if (err)
		return err;
	sa = qsnic_copy(p, x);
	if (IS_ERR(sa)) {
		NL_SET_ERR_MSG_MOD(extack, "the device cannot take the key");
		return PTR_ERR(sa);
	}
	spin_lock_bh(&p->lock);
	if (p->nr_states >= p->slots) {
		spin_unlock_bh(&p->lock);
		crypto_free_aead(sa->aead);
		kfree(sa);
		NL_SET_ERR_MSG_MOD(extack, "no slot is left for the state");
		return -ENOSPC;
	}
	p->nr_states++;
	list_add_tail_rcu(&sa->list, &p->states);
	if (sa->dir == XFRM_DEV_OFFLOAD_IN)
		hash_add_rcu(p->in, &sa->node, (__force u32)sa->spi);
	else
		hash_add_rcu(p->out, &sa->node, sa->reqid);
	x->xso.offload_handle = (unsigned long)sa;
	spin_unlock_bh(&p->lock);
	return 0;
}

/* The kernel holds locks here; what sleeps is left to qsnic_state_free(). */
static void qsnic_state_delete(struct net_device *dev, struct xfrm_state *x)
{
	struct qsnic_sa *sa = (void *)x->xso.offload_handle;
	struct qsnic *p;

	if (!sa)
		return;
	p = sa->nic;
	spin_lock_bh(&p->lock);
	p->nr_states--;
	list_del_rcu(&sa->list);
	hash_del_rcu(&sa->node);
	spin_unlock_bh(&p->lock);
}

static void qsnic_release(struct work_struct *work)
{
	struct qsnic_sa *sa = container_of(to_rcu_work(work), struct qsnic_sa, release);

	crypto_free_aead(sa->aead);
	kfree(sa);
}

static void qsnic_state_free(struct net_device *dev, struct xfrm_state *x)
{
	struct qsnic_sa *sa = (void *)x->xso.offload_handle;

	if (!sa)
		return;
	x->xso.offload_handle = 0;
	INIT_RCU_WORK(&sa->release, qsnic_release);
	queue_rcu_work(qsnic_wq, &sa->release);
}

/* Called with the lock of the state or of all, so that one at a time adds. */
static void qsnic_update_stats(struct xfrm_state *x)
{
	struct qsnic_sa *sa = (void *)x->xso.offload_handle;

	if (!sa)
		return;
	x->stats.integrity_failed += atomic_xchg(&sa->new_auth, 0);
	if (sa->type != XFRM_DEV_OFFLOAD_PACKET)
		return;
	x->stats.replay += atomic_xchg(&sa->new_replay, 0);
	x->curlft.packets += atomic64_xchg(&sa->new_packets, 0);
	x->curlft.bytes += atomic64_xchg(&sa->new_bytes, 0);
}

/*
 * Check that a state may still be used.  The kernel is told of limits that
 * have been reached, and sends its messages.
 */
int qsnic_live(struct qsnic_sa *sa)
{
	struct xfrm_state *x = sa->x;
	int err = -EKEYEXPIRED;

	spin_lock_bh(&x->lock);
	if (x->km.state == XFRM_STATE_VALID && !xfrm_state_check_expire(x))
		err = 0;
	spin_unlock_bh(&x->lock);
	return err;
}

/* Count a packet; bytes are those that the kernel's own ESP would count. */
void qsnic_used(struct qsnic_sa *sa, unsigned int bytes)
{
	atomic64_inc(&sa->packets);
	atomic64_add(bytes, &sa->bytes);
	atomic64_inc(&sa->new_packets);
	atomic64_add(bytes, &sa->new_bytes);
}

struct qsnic_sa *qsnic_find_in(struct qsnic *p, const struct qsnic_esp *e)
{
	struct qsnic_sa *sa;

	hash_for_each_possible_rcu(p->in, sa, node, (__force u32)e->spi)
		if (sa->spi == e->spi && sa->family == e->family && sa->encap == e->encap &&
		    (!sa->encap || sa->dport == e->dport) &&
		    xfrm_addr_equal(&sa->daddr, &e->daddr, e->family))
			return sa;
	return NULL;
}

/* The newest state comes first in its chain. */
struct qsnic_sa *qsnic_find_out(struct qsnic *p, const struct qsnic_policy *pol)
{
	struct qsnic_sa *sa;

	hash_for_each_possible_rcu(p->out, sa, node, pol->reqid) {
		if (sa->reqid != pol->reqid || sa->type != XFRM_DEV_OFFLOAD_PACKET ||
		    sa->mode != pol->mode || (pol->spi && sa->spi != pol->spi))
			continue;
		if (sa->mode == XFRM_MODE_TUNNEL &&
		    (sa->family != pol->family ||
		     !xfrm_addr_equal(&sa->saddr, &pol->saddr, pol->family) ||
		     !xfrm_addr_equal(&sa->daddr, &pol->daddr, pol->family)))
			continue;
		return sa;
	}
	return NULL;
}

/* What the kernel asks of packets before it hands them over: of the inner ones,
 * which may be of the other family than what they get around them.
 */
static bool qsnic_offload_ok(struct sk_buff *skb, struct xfrm_state *x)
{
	if (ip_hdr(skb)->version == 4)
		return ip_hdr(skb)->ihl == 5;
	return !ipv6_ext_hdr(ipv6_hdr(skb)->nexthdr);
}

/* The high half is looked up in the kernel's own window for each packet. */
static void qsnic_advance_esn(struct xfrm_state *x)
{
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
#define qsnic_op_add	qsnic_state_add
#define qsnic_op_delete	qsnic_state_delete
#define qsnic_op_free	qsnic_state_free
#else
/* A bond hands its states on without saying to which of its devices. */
static struct net_device *qsnic_real_dev(struct xfrm_state *x)
{
	struct net_device *dev = x->xso.real_dev ?: x->xso.dev;

	if (netif_is_bond_master(dev)) {
		rcu_read_lock();
		dev = bond_option_active_slave_get_rcu(netdev_priv(dev));
		rcu_read_unlock();
	}
	return dev && dev->xfrmdev_ops == &qsnic_xfrmdev_ops ? dev : NULL;
}

static int qsnic_op_add(struct xfrm_state *x, struct netlink_ext_ack *extack)
{
	struct net_device *dev = qsnic_real_dev(x);

	return dev ? qsnic_state_add(dev, x, extack) : -EOPNOTSUPP;
}

static void qsnic_op_delete(struct xfrm_state *x)
{
	qsnic_state_delete(x->xso.dev, x);
}

static void qsnic_op_free(struct xfrm_state *x)
{
	qsnic_state_free(x->xso.dev, x);
}
#endif

const struct xfrmdev_ops qsnic_xfrmdev_ops = {
	.xdo_dev_state_add = qsnic_op_add,
	.xdo_dev_state_delete = qsnic_op_delete,
	.xdo_dev_state_free = qsnic_op_free,
	.xdo_dev_offload_ok = qsnic_offload_ok,
	.xdo_dev_state_advance_esn = qsnic_advance_esn,
	.xdo_dev_state_update_stats = qsnic_update_stats,
	.xdo_dev_policy_add = qsnic_policy_add,
	.xdo_dev_policy_delete = qsnic_policy_delete,
	.xdo_dev_policy_free = qsnic_policy_free,
};
