// SPDX-License-Identifier: GPL-2.0-only
/*
 * debugfs: what a device holds and has done, and the knobs that make it fail,
 * below /sys/kernel/debug/qsnic/DEVICE (the name the device began with).
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include "qsnic.h"

static struct dentry *root;

const char *const qsnic_models[QSNIC_MODELS] = {
	[QSNIC_ANY] = "any",
	[QSNIC_CRYPTO_ONLY] = "crypto",
	[QSNIC_MLX5] = "mlx5",
	[QSNIC_IXGBE] = "ixgbe",
};

static const char *const counters[QSNIC_COUNTERS] = {
	[QSNIC_TX_PLAIN] = "tx_plain",
	[QSNIC_TX_CRYPTO] = "tx_crypto",
	[QSNIC_TX_PACKET] = "tx_packet",
	[QSNIC_TX_NO_STATE] = "tx_no_state",
	[QSNIC_TX_BLOCKED] = "tx_blocked",
	[QSNIC_TX_EXPIRED] = "tx_expired",
	[QSNIC_TX_OVERFLOW] = "tx_overflow",
	[QSNIC_TX_ERROR] = "tx_error",
	[QSNIC_RX_PLAIN] = "rx_plain",
	[QSNIC_RX_CRYPTO] = "rx_crypto",
	[QSNIC_RX_PACKET] = "rx_packet",
	[QSNIC_RX_AUTH] = "rx_auth",
	[QSNIC_RX_REPLAY] = "rx_replay",
	[QSNIC_RX_POLICY] = "rx_policy",
	[QSNIC_RX_CLEAR] = "rx_clear",
	[QSNIC_RX_EXPIRED] = "rx_expired",
	[QSNIC_RX_ERROR] = "rx_error",
};

static const char *qsnic_dir(u8 dir)
{
	return dir == XFRM_DEV_OFFLOAD_IN ? "in" : "out";
}

static const char *qsnic_mode(u8 mode)
{
	return mode == XFRM_MODE_TUNNEL ? "tunnel" : "transport";
}

static void qsnic_address(struct seq_file *s, const char *name, u16 family, const xfrm_address_t *a)
{
	if (family == AF_INET6)
		seq_printf(s, " %s %pI6c", name, &a->in6);
	else
		seq_printf(s, " %s %pI4", name, &a->a4);
}

static int counters_show(struct seq_file *s, void *v)
{
	struct qsnic *p = s->private;
	int i;

	for (i = 0; i < QSNIC_COUNTERS; i++)
		seq_printf(s, "%s %lld\n", counters[i], atomic64_read(&p->count[i]));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(counters);

static int states_show(struct seq_file *s, void *v)
{
	struct qsnic *p = s->private;
	struct qsnic_sa *sa;

	rcu_read_lock();
	list_for_each_entry_rcu(sa, &p->states, list) {
		seq_printf(s, "%s %s spi 0x%08x reqid %u mode %s",
			   sa->type == XFRM_DEV_OFFLOAD_PACKET ? "packet" : "crypto",
			   qsnic_dir(sa->dir), ntohl(sa->spi), sa->reqid, qsnic_mode(sa->mode));
		qsnic_address(s, "src", sa->family, &sa->saddr);
		qsnic_address(s, "dst", sa->family, &sa->daddr);
		if (sa->encap)
			seq_printf(s, " encap %u %u", ntohs(sa->sport), ntohs(sa->dport));
		seq_printf(s, " esn %d window %u seq %llu packets %lld bytes %lld\n", sa->esn, sa->window,
			   sa->seq, atomic64_read(&sa->packets), atomic64_read(&sa->bytes));
	}
	rcu_read_unlock();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(states);

static int policies_show(struct seq_file *s, void *v)
{
	struct qsnic *p = s->private;
	struct qsnic_policy *pol;

	rcu_read_lock();
	list_for_each_entry_rcu(pol, &p->policies, list) {
		seq_printf(s, "%s %s index %u priority %u", qsnic_dir(pol->dir),
			   pol->action != XFRM_POLICY_ALLOW ? "block" : pol->protect ? "protect" : "bypass",
			   pol->index, pol->priority);
		qsnic_address(s, "src", pol->sel.family, &pol->sel.saddr);
		seq_printf(s, "/%u", pol->sel.prefixlen_s);
		qsnic_address(s, "dst", pol->sel.family, &pol->sel.daddr);
		seq_printf(s, "/%u proto %u sport %u dport %u", pol->sel.prefixlen_d, pol->sel.proto,
			   ntohs(pol->sel.sport), ntohs(pol->sel.dport));
		if (pol->protect)
			seq_printf(s, " reqid %u mode %s", pol->reqid, qsnic_mode(pol->mode));
		seq_putc(s, '\n');
	}
	rcu_read_unlock();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(policies);

static int model_show(struct seq_file *s, void *v)
{
	struct qsnic *p = s->private;

	seq_printf(s, "%s\n", qsnic_models[p->model]);
	return 0;
}

static int model_open(struct inode *inode, struct file *file)
{
	return single_open(file, model_show, inode->i_private);
}

static ssize_t model_write(struct file *file, const char __user *from, size_t n, loff_t *pos)
{
	struct qsnic *p = ((struct seq_file *)file->private_data)->private;
	char name[16] = {};
	int i;

	if (n >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, from, n))
		return -EFAULT;
	i = sysfs_match_string(qsnic_models, name);
	if (i < 0)
		return i;
	p->model = i;
	return n;
}

static const struct file_operations model_fops = {
	.owner = THIS_MODULE,
	.open = model_open,
	.read = seq_read,
	.write = model_write,
	.llseek = seq_lseek,
	.release = single_release,
};

void qsnic_debug_add(struct qsnic *p)
{
	struct dentry *d = debugfs_create_dir(p->dev->name, root);

	debugfs_create_file("counters", 0400, d, p, &counters_fops);
	debugfs_create_file("states", 0400, d, p, &states_fops);
	debugfs_create_file("policies", 0400, d, p, &policies_fops);
	debugfs_create_file("model", 0600, d, p, &model_fops);
	debugfs_create_u32("refuse", 0600, d, &p->refuse);
	debugfs_create_u32("error", 0600, d, &p->error);
	debugfs_create_u32("slots", 0600, d, &p->slots);
	debugfs_create_u32("policy_slots", 0600, d, &p->policy_slots);
	debugfs_create_atomic_t("corrupt", 0600, d, &p->corrupt);
}

void qsnic_debug_init(void)
{
	root = debugfs_create_dir("qsnic", NULL);
}

void qsnic_debug_exit(void)
{
	debugfs_remove_recursive(root);
}
