/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * qsnic: pairs of network devices joined back to back that do ESP (RFC 4303)
 * with AES-GCM (RFC 4106) as NICs with inline IPsec do, in both offload types
 * of XFRM, so that tests have a real one to work with.  What passes between
 * the two devices of a pair, encrypted where it should be, is seen on a third,
 * the wire.
 *
 * A state or policy is copied when the kernel adds it and looked at no more,
 * as hardware does: what the kernel changes later has no effect.
 */
#ifndef QSNIC_H
#define QSNIC_H

#include <linux/bitmap.h>
#include <linux/hashtable.h>
#include <linux/netdevice.h>
#include <linux/version.h>
#include <linux/workqueue.h>
#include <crypto/aead.h>
#include <net/xfrm.h>

#define QSNIC_MAX_WINDOW	4096
#define QSNIC_IV_LEN		8

/* What has happened to frames, by device. */
enum qsnic_counter {
	QSNIC_TX_PLAIN,		/* sent as they came */
	QSNIC_TX_CRYPTO,	/* encrypted */
	QSNIC_TX_PACKET,	/* encapsulated and encrypted */
	QSNIC_TX_NO_STATE,	/* dropped: a policy wants a state and there is none */
	QSNIC_TX_BLOCKED,	/* dropped: a policy says so */
	QSNIC_TX_EXPIRED,	/* dropped: the state's life is over */
	QSNIC_TX_OVERFLOW,	/* dropped: no sequence number is left */
	QSNIC_TX_ERROR,
	QSNIC_RX_PLAIN,		/* received as they came */
	QSNIC_RX_CRYPTO,	/* decrypted */
	QSNIC_RX_PACKET,	/* decrypted and decapsulated */
	QSNIC_RX_AUTH,		/* the ICV is wrong */
	QSNIC_RX_REPLAY,	/* dropped: seen already, or too old */
	QSNIC_RX_POLICY,	/* dropped: no policy admits the inner packet */
	QSNIC_RX_CLEAR,		/* dropped: in clear where a policy wants ESP */
	QSNIC_RX_EXPIRED,	/* dropped: the state's life is over */
	QSNIC_RX_ERROR,
	QSNIC_COUNTERS
};

/* Whose limits a device has. */
enum qsnic_model {
	QSNIC_ANY,		/* those of this driver */
	QSNIC_CRYPTO_ONLY,	/* no packet offload */
	QSNIC_MLX5,
	QSNIC_IXGBE,
	QSNIC_MODELS
};

/* Bits of the knob "refuse". */
#define QSNIC_REFUSE_STATE_IN	BIT(0)
#define QSNIC_REFUSE_STATE_OUT	BIT(1)
#define QSNIC_REFUSE_POLICY_IN	BIT(2)
#define QSNIC_REFUSE_POLICY_OUT	BIT(3)
#define QSNIC_REFUSE_CRYPTO	BIT(4)	/* states of that type */
#define QSNIC_REFUSE_PACKET	BIT(5)

/* A state, as the device holds it. */
struct qsnic_sa {
	struct list_head list;		/* of the device, oldest first */
	struct hlist_node node;		/* by SPI inbound, by reqid outbound */
	struct rcu_work release;
	struct qsnic *nic;
	struct xfrm_state *x;
	struct crypto_aead *aead;

	u8 type, dir, mode;
	u16 family;
	__be32 spi;
	u32 reqid;
	xfrm_address_t saddr, daddr;
	bool encap;
	__be16 sport, dport;
	unsigned int icv;		/* in bytes */
	u32 flags, extra_flags;		/* of xfrm_state.props */
	bool esn;
	u32 window;			/* in packets, 0 for no check */

	spinlock_t lock;		/* guards what follows */
	u64 seq;			/* the last sent, or the highest received */
	DECLARE_BITMAP(seen, QSNIC_MAX_WINDOW);	/* by number modulo its size */

	/* Of packet offload: what the kernel has not been told yet, and all. */
	atomic64_t new_packets, new_bytes;
	atomic_t new_auth, new_replay;
	atomic64_t packets, bytes;
};

/* A policy, as the device holds it. */
struct qsnic_policy {
	struct list_head list;		/* of the device, by priority */
	struct rcu_head rcu;
	u8 dir, action;
	u32 index, priority;
	struct xfrm_selector sel;
	bool protect;			/* it has the template that follows */
	u32 reqid;
	__be32 spi;
	u8 mode;
	u16 family;			/* of the template's addresses */
	xfrm_address_t saddr, daddr;
};

struct qsnic {
	struct net_device *dev, *peer, *wire;

	spinlock_t lock;		/* guards changes of what follows */
	struct list_head states;
	DECLARE_HASHTABLE(in, 10);
	DECLARE_HASHTABLE(out, 10);
	unsigned int nr_states;
	struct list_head policies;
	unsigned int nr_policies;

	/* Knobs. */
	u32 model, refuse, error, slots, policy_slots;
	atomic_t corrupt;		/* so many ESP frames to falsify */

	atomic64_t count[QSNIC_COUNTERS];
};

/* What ESP there is in a frame. */
struct qsnic_esp {
	u16 family;
	xfrm_address_t saddr, daddr;
	unsigned int ip, esp, end;	/* offsets from the start of the frame */
	bool encap;
	__be16 dport;
	__be32 spi;
};

static inline void qsnic_count(struct qsnic *p, enum qsnic_counter c)
{
	atomic64_inc(&p->count[c]);
}

/* state.c */
extern const struct xfrmdev_ops qsnic_xfrmdev_ops;
extern struct workqueue_struct *qsnic_wq;
struct qsnic_sa *qsnic_find_in(struct qsnic *p, const struct qsnic_esp *e);
struct qsnic_sa *qsnic_find_out(struct qsnic *p, const struct qsnic_policy *pol);
int qsnic_live(struct qsnic_sa *sa);
void qsnic_used(struct qsnic_sa *sa, unsigned int bytes);

/* policy.c */
int qsnic_policy_add(struct xfrm_policy *x, struct netlink_ext_ack *extack);
void qsnic_policy_delete(struct xfrm_policy *x);
void qsnic_policy_free(struct xfrm_policy *x);
struct qsnic_policy *qsnic_find_policy(struct qsnic *p, struct sk_buff *skb, u8 dir);

/* esp.c */
bool qsnic_parse(struct sk_buff *skb, struct qsnic_esp *e);
int qsnic_encrypt(struct qsnic_sa *sa, struct sk_buff *skb);
struct sk_buff *qsnic_encapsulate(struct qsnic *p, struct qsnic_sa *sa, struct sk_buff *skb);
int qsnic_decrypt(struct qsnic_sa *sa, struct sk_buff *skb, const struct qsnic_esp *e);
int qsnic_decapsulate(struct qsnic *p, struct qsnic_sa *sa, struct sk_buff *skb,
		      const struct qsnic_esp *e);

/* debug.c */
extern const char *const qsnic_models[QSNIC_MODELS];
void qsnic_debug_init(void);
void qsnic_debug_add(struct qsnic *p);
void qsnic_debug_exit(void);

#endif
