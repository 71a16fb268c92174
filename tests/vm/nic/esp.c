// SPDX-License-Identifier: GPL-2.0-only
/* ESP on frames: what a NIC's engine does. Frames are linear and writable. */
#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/scatterlist.h>
#include <linux/udp.h>
#include <net/dsfield.h>
#include <net/esp.h>
#include <net/inet_ecn.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include "qsnic.h"

/* SPI, sequence number, IV. */
#define QSNIC_ESP_LEN	(sizeof(struct ip_esp_hdr) + QSNIC_IV_LEN)

/* Find ESP, plain or in UDP, in a frame. */
bool qsnic_parse(struct sk_buff *skb, struct qsnic_esp *e)
{
	struct ethhdr eth;
	struct ipv6hdr ip6;
	struct iphdr ip;
	struct udphdr udp;
	u8 proto;

	memset(e, 0, sizeof(*e));
	if (skb_copy_bits(skb, 0, &eth, sizeof(eth)))
		return false;
	e->ip = ETH_HLEN;
	if (eth.h_proto == htons(ETH_P_IP)) {
		if (skb_copy_bits(skb, e->ip, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
		    ip_is_fragment(&ip))
			return false;
		e->family = AF_INET;
		e->saddr.a4 = ip.saddr;
		e->daddr.a4 = ip.daddr;
		e->esp = e->ip + 4 * ip.ihl;
		e->end = e->ip + ntohs(ip.tot_len);
		proto = ip.protocol;
	} else if (eth.h_proto == htons(ETH_P_IPV6)) {
		if (skb_copy_bits(skb, e->ip, &ip6, sizeof(ip6)) || ip6.version != 6)
			return false;
		e->family = AF_INET6;
		e->saddr.in6 = ip6.saddr;
		e->daddr.in6 = ip6.daddr;
		e->esp = e->ip + sizeof(ip6);
		e->end = e->esp + ntohs(ip6.payload_len);
		proto = ip6.nexthdr;
	} else {
		return false;
	}
	if (proto == IPPROTO_UDP) {
		if (skb_copy_bits(skb, e->esp, &udp, sizeof(udp)))
			return false;
		e->encap = true;
		e->dport = udp.dest;
		e->esp += sizeof(udp);
	} else if (proto != IPPROTO_ESP) {
		return false;
	}
	/* In UDP, a zero is IKE's (RFC 3948 section 2.2). */
	return !skb_copy_bits(skb, e->esp, &e->spi, sizeof(e->spi)) && e->spi &&
	       e->end <= skb->len && e->end > e->esp + QSNIC_ESP_LEN;
}

/*
 * Run AES-GCM over an ESP packet in place (RFC 4106): esp is its header, len
 * its length with the ICV.
 */
static int qsnic_crypt(struct qsnic_sa *sa, void *esp, unsigned int len, u32 seq_hi, bool encrypt)
{
	unsigned int aad_len = sizeof(struct ip_esp_hdr) + (sa->esn ? sizeof(__be32) : 0);
	unsigned int body = len - QSNIC_ESP_LEN - (encrypt ? sa->icv : 0);
	struct ip_esp_hdr *h = esp;
	struct scatterlist sg[2];
	struct {
		u8 aad[12 + QSNIC_IV_LEN];
		u8 iv[QSNIC_IV_LEN];
	} *tmp;
	struct aead_request *req;
	__be32 *word;
	int err;

	tmp = kmalloc(sizeof(*tmp), GFP_ATOMIC);
	req = aead_request_alloc(sa->aead, GFP_ATOMIC);
	if (!tmp || !req) {
		err = -ENOMEM;
		goto out;
	}
	word = (__be32 *)tmp->aad;
	*word++ = h->spi;
	if (sa->esn)
		*word++ = htonl(seq_hi);
	*word++ = h->seq_no;
	memcpy(word, h->enc_data, QSNIC_IV_LEN);
	memcpy(tmp->iv, h->enc_data, QSNIC_IV_LEN);

	sg_init_table(sg, 2);
	sg_set_buf(&sg[0], tmp->aad, aad_len + QSNIC_IV_LEN);
	sg_set_buf(&sg[1], esp + QSNIC_ESP_LEN, len - QSNIC_ESP_LEN);
	aead_request_set_callback(req, 0, NULL, NULL);
	aead_request_set_crypt(req, sg, sg, body, tmp->iv);
	aead_request_set_ad(req, aad_len + QSNIC_IV_LEN);
	err = encrypt ? crypto_aead_encrypt(req) : crypto_aead_decrypt(req);
out:
	kfree_sensitive(req);
	kfree(tmp);
	return err;
}

static void qsnic_set_iv(struct ip_esp_hdr *h, u32 seq_hi)
{
	__be32 iv[2] = { htonl(seq_hi), h->seq_no };

	memcpy(h->enc_data, iv, sizeof(iv));
}

/*
 * Crypto offload: the stack has built the packet, with its trailer and room
 * for the ICV.  The device makes the IV, encrypts, and adds the ICV.
 */
int qsnic_encrypt(struct qsnic_sa *sa, struct sk_buff *skb)
{
	struct xfrm_offload *xo = xfrm_offload(skb);
	struct ip_esp_hdr *h;
	struct qsnic_esp e;
	u32 seq_hi;
	int err;

	if (skb_linearize_cow(skb) || !qsnic_parse(skb, &e) || e.spi != sa->spi)
		return -EINVAL;
	h = (void *)skb->data + e.esp;
	/* The stack's numbers may be those of the next packet already. */
	seq_hi = xo->seq.hi;
	if (ntohl(h->seq_no) > xo->seq.low)
		seq_hi--;
	qsnic_set_iv(h, seq_hi);
	err = qsnic_crypt(sa, h, e.end - e.esp, seq_hi, true);
	if (!err)
		qsnic_used(sa, e.end - e.esp);
	return err;
}

/* Crypto offload: decrypt, and leave header, trailer and replay to the stack. */
int qsnic_decrypt(struct qsnic_sa *sa, struct sk_buff *skb, const struct qsnic_esp *e)
{
	struct ip_esp_hdr *h = (void *)skb->data + e->esp;
	u32 seq_hi = 0;
	int err;

	if (sa->esn) {
		spin_lock_bh(&sa->x->lock);
		seq_hi = xfrm_replay_seqhi(sa->x, h->seq_no);
		spin_unlock_bh(&sa->x->lock);
	}
	err = qsnic_crypt(sa, h, e->end - e->esp, seq_hi, false);
	if (!err)
		qsnic_used(sa, e->end - e->esp);
	return err;
}

/* The outer header of a tunnel (RFC 4301 section 5.1.2), before its packet. */
static void qsnic_push_outer(struct qsnic_sa *sa, struct sk_buff *skb, u8 proto, u8 dsfield, __be16 df)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	u8 outer = sa->extra_flags & XFRM_SA_XFLAG_DONT_ENCAP_DSCP ? 0 : dsfield;

	outer = INET_ECN_encapsulate(outer, dsfield);
	if (sa->flags & XFRM_STATE_NOECN)
		outer &= ~INET_ECN_MASK;
	if (sa->family == AF_INET) {
		ip = skb_push(skb, sizeof(*ip));
		memset(ip, 0, sizeof(*ip));
		ip->version = 4;
		ip->ihl = 5;
		ip->tos = outer;
		ip->tot_len = htons(skb->len);
		ip->frag_off = sa->flags & XFRM_STATE_NOPMTUDISC ? 0 : df;
		if (!ip->frag_off)
			ip->id = htons(get_random_u16());
		ip->ttl = 64;
		ip->protocol = proto;
		ip->saddr = sa->saddr.a4;
		ip->daddr = sa->daddr.a4;
		ip_send_check(ip);
		return;
	}
	ip6 = skb_push(skb, sizeof(*ip6));
	memset(ip6, 0, sizeof(*ip6));
	ip6->version = 6;
	ipv6_change_dsfield(ip6, 0, outer);
	ip6->payload_len = htons(skb->len - sizeof(*ip6));
	ip6->nexthdr = proto;
	ip6->hop_limit = 64;
	ip6->saddr = sa->saddr.in6;
	ip6->daddr = sa->daddr.in6;
}

/* Put an ESP header with its payload's trailer and room for the ICV. */
static void qsnic_push_esp(struct qsnic_sa *sa, struct sk_buff *skb, u8 next, u32 seq)
{
	unsigned int pad = -(skb->len + 2) & 3, i;
	struct ip_esp_hdr *h;
	u8 *tail = skb_put(skb, pad + 2 + sa->icv);

	for (i = 0; i < pad; i++)
		tail[i] = i + 1;
	tail[pad] = pad;
	tail[pad + 1] = next;
	h = skb_push(skb, QSNIC_ESP_LEN);
	h->spi = sa->spi;
	h->seq_no = htonl(seq);
}

static void qsnic_push_udp(struct qsnic_sa *sa, struct sk_buff *skb)
{
	struct udphdr *udp = skb_push(skb, sizeof(*udp));

	udp->source = sa->sport;
	udp->dest = sa->dport;
	udp->len = htons(skb->len);
	udp->check = 0;
}

/* IPv6 wants a checksum (RFC 8200 section 8.1). */
static void qsnic_check_udp6(struct sk_buff *skb, struct ipv6hdr *ip6)
{
	struct udphdr *udp = (void *)(ip6 + 1);
	unsigned int len = ntohs(udp->len);

	udp->check = csum_ipv6_magic(&ip6->saddr, &ip6->daddr, len, IPPROTO_UDP,
				     csum_partial(udp, len, 0));
	if (!udp->check)
		udp->check = CSUM_MANGLED_0;
}

static int qsnic_next_seq(struct qsnic_sa *sa, u64 *seq)
{
	int err = 0;

	spin_lock_bh(&sa->lock);
	if (sa->seq == (sa->esn ? U64_MAX : U32_MAX) &&
	    !(sa->extra_flags & XFRM_SA_XFLAG_OSEQ_MAY_WRAP))
		err = -EOVERFLOW;
	else
		*seq = ++sa->seq;
	spin_unlock_bh(&sa->lock);
	return err;
}

/*
 * Packet offload: make the ESP packet from a frame with the inner one, which
 * the caller goes on to own.
 */
struct sk_buff *qsnic_encapsulate(struct qsnic *p, struct qsnic_sa *sa, struct sk_buff *skb)
{
	u8 proto = sa->encap ? IPPROTO_UDP : IPPROTO_ESP;
	struct ip_esp_hdr *h;
	unsigned int hlen = 0, used;
	struct ethhdr eth;
	struct sk_buff *out;
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip;
	u8 next, dsfield;
	__be16 df = 0;
	bool inner4;
	u64 seq;
	int err;

	err = qsnic_live(sa);
	if (!err)
		err = qsnic_next_seq(sa, &seq);
	if (err)
		return ERR_PTR(err);
	out = skb_copy_expand(skb, skb_headroom(skb) + sizeof(ip.v6) + sizeof(struct udphdr) + QSNIC_ESP_LEN,
			      skb_tailroom(skb) + 2 + 3 + sa->icv, GFP_ATOMIC);
	if (!out)
		return ERR_PTR(-ENOMEM);
	memcpy(&eth, out->data, ETH_HLEN);
	skb_pull(out, ETH_HLEN);
	err = -EINVAL;
	inner4 = ((struct iphdr *)out->data)->version == 4;
	if (inner4) {
		memcpy(&ip.v4, out->data, sizeof(ip.v4));
		dsfield = ip.v4.tos;
		df = ip.v4.frag_off & htons(IP_DF);
		next = IPPROTO_IPIP;
		if (pskb_trim(out, ntohs(ip.v4.tot_len)))
			goto fail;
	} else {
		memcpy(&ip.v6, out->data, sizeof(ip.v6));
		dsfield = ipv6_get_dsfield(&ip.v6);
		next = IPPROTO_IPV6;
		if (pskb_trim(out, sizeof(ip.v6) + ntohs(ip.v6.payload_len)))
			goto fail;
	}
	if (sa->mode == XFRM_MODE_TRANSPORT) {
		if (inner4 ? ip.v4.ihl != 5 || ip_is_fragment(&ip.v4) : ipv6_ext_hdr(ip.v6.nexthdr))
			goto fail;
		next = inner4 ? ip.v4.protocol : ip.v6.nexthdr;
		hlen = inner4 ? sizeof(ip.v4) : sizeof(ip.v6);
		skb_pull(out, hlen);
	}
	used = out->len;
	qsnic_push_esp(sa, out, next, (u32)seq);
	h = (void *)out->data;
	qsnic_set_iv(h, seq >> 32);
	err = qsnic_crypt(sa, h, out->len, seq >> 32, true);
	if (err)
		goto fail;
	if (sa->encap)
		qsnic_push_udp(sa, out);
	if (sa->mode == XFRM_MODE_TUNNEL) {
		qsnic_push_outer(sa, out, proto, dsfield, df);
		eth.h_proto = htons(sa->family == AF_INET ? ETH_P_IP : ETH_P_IPV6);
		ether_addr_copy(eth.h_dest, p->peer->dev_addr);
		ether_addr_copy(eth.h_source, p->dev->dev_addr);
	} else if (inner4) {
		ip.v4.protocol = proto;
		ip.v4.tot_len = htons(out->len + hlen);
		ip_send_check(&ip.v4);
		memcpy(skb_push(out, hlen), &ip.v4, hlen);
	} else {
		ip.v6.nexthdr = proto;
		ip.v6.payload_len = htons(out->len);
		memcpy(skb_push(out, hlen), &ip.v6, hlen);
	}
	if (sa->encap && sa->family == AF_INET6)
		qsnic_check_udp6(out, (void *)out->data);
	memcpy(skb_push(out, ETH_HLEN), &eth, ETH_HLEN);
	skb_reset_mac_header(out);
	out->protocol = eth.h_proto;
	qsnic_used(sa, used);
	return out;
fail:
	kfree_skb(out);
	return ERR_PTR(err);
}

/* The whole sequence number of a received packet (RFC 4303 appendix A2). */
static u64 qsnic_whole_seq(const struct qsnic_sa *sa, u32 low)
{
	u32 window = max(sa->window, 1U);
	u32 hi = sa->seq >> 32, top = sa->seq, bottom = top - window + 1;

	if (!sa->esn)
		return low;
	if (top >= window - 1) {
		if (low < bottom)
			hi++;
	} else if (low >= bottom && hi) {
		hi--;
	}
	return (u64)hi << 32 | low;
}

/* Called with the state's lock. */
static bool qsnic_seen(const struct qsnic_sa *sa, u64 seq)
{
	if (!sa->window || seq > sa->seq)
		return false;
	return !seq || sa->seq - seq >= sa->window || test_bit(seq % QSNIC_MAX_WINDOW, sa->seen);
}

/* Called with the state's lock. */
static void qsnic_advance(struct qsnic_sa *sa, u64 seq)
{
	if (!sa->window)
		return;
	if (seq > sa->seq + QSNIC_MAX_WINDOW)
		bitmap_zero(sa->seen, QSNIC_MAX_WINDOW);
	else
		while (sa->seq < seq)
			__clear_bit(++sa->seq % QSNIC_MAX_WINDOW, sa->seen);
	sa->seq = max(sa->seq, seq);
	__set_bit(seq % QSNIC_MAX_WINDOW, sa->seen);
}

/* Check number and ICV, and decrypt. */
static int qsnic_open_esp(struct qsnic_sa *sa, struct sk_buff *skb, const struct qsnic_esp *e)
{
	struct ip_esp_hdr *h = (void *)skb->data + e->esp;
	bool seen;
	u64 seq;
	int err;

	spin_lock_bh(&sa->lock);
	seq = qsnic_whole_seq(sa, ntohl(h->seq_no));
	seen = qsnic_seen(sa, seq);
	spin_unlock_bh(&sa->lock);
	if (!seen) {
		err = qsnic_crypt(sa, h, e->end - e->esp, seq >> 32, false);
		if (err) {
			atomic_inc(&sa->new_auth);
			return err;
		}
		spin_lock_bh(&sa->lock);
		seen = qsnic_seen(sa, seq);
		if (!seen)
			qsnic_advance(sa, seq);
		spin_unlock_bh(&sa->lock);
	}
	if (!seen)
		return 0;
	atomic_inc(&sa->new_replay);
	return -EALREADY;
}

/* A mark of congestion goes on to the inner packet (RFC 6040). */
static void qsnic_ecn(struct sk_buff *skb, u8 outer, u8 next)
{
	if (!INET_ECN_is_ce(outer))
		return;
	if (next == IPPROTO_IPIP)
		IP_ECN_set_ce((void *)skb->data);
	else
		IP6_ECN_set_ce(skb, (void *)skb->data);
}

/*
 * Packet offload: leave the inner packet in the frame. Returns -EALREADY for
 * a replayed packet, -EBADMSG for a wrong ICV, -EKEYEXPIRED where the state
 * has ended.
 */
int qsnic_decapsulate(struct qsnic *p, struct qsnic_sa *sa, struct sk_buff *skb,
		      const struct qsnic_esp *e)
{
	unsigned int body = e->esp + QSNIC_ESP_LEN, len, hlen, pad;
	struct ethhdr eth;
	u8 next, outer;
	int err;

	err = qsnic_live(sa);
	if (!err)
		err = qsnic_open_esp(sa, skb, e);
	if (err)
		return err;
	if (e->end < body + 2 + sa->icv)
		return -EINVAL;
	next = skb->data[e->end - sa->icv - 1];
	pad = skb->data[e->end - sa->icv - 2];
	if (e->end < body + pad + 2 + sa->icv)
		return -EINVAL;
	len = e->end - sa->icv - 2 - pad - body;
	memcpy(&eth, skb->data, ETH_HLEN);
	outer = e->family == AF_INET ? ((struct iphdr *)(skb->data + e->ip))->tos :
		ipv6_get_dsfield((void *)skb->data + e->ip);
	skb_trim(skb, body + len);
	if (sa->mode == XFRM_MODE_TUNNEL) {
		skb_pull(skb, body);
		if (next == IPPROTO_IPIP && len >= sizeof(struct iphdr))
			eth.h_proto = htons(ETH_P_IP);
		else if (next == IPPROTO_IPV6 && len >= sizeof(struct ipv6hdr))
			eth.h_proto = htons(ETH_P_IPV6);
		else
			return -EINVAL;
		if (!(sa->flags & XFRM_STATE_NOECN))
			qsnic_ecn(skb, outer, next);
	} else {
		hlen = e->family == AF_INET ? 4 * ((struct iphdr *)(skb->data + e->ip))->ihl :
		       sizeof(struct ipv6hdr);
		memmove(skb->data + body - hlen, skb->data + e->ip, hlen);
		skb_pull(skb, body - hlen);
		if (e->family == AF_INET) {
			struct iphdr *ip = (void *)skb->data;

			ip->protocol = next;
			ip->tot_len = htons(skb->len);
			ip_send_check(ip);
		} else {
			struct ipv6hdr *ip6 = (void *)skb->data;

			ip6->nexthdr = next;
			ip6->payload_len = htons(len);
		}
	}
	memcpy(skb_push(skb, ETH_HLEN), &eth, ETH_HLEN);
	qsnic_used(sa, len);
	return 0;
}
