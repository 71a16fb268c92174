// SPDX-License-Identifier: Apache-2.0
/*
 * LD_PRELOAD library for an IKE daemon on a kernel without ESP and AH: the
 * acknowledgement of a request on a NETLINK_XFRM socket says success where the
 * kernel refused it. The daemon then negotiates as if its SAs were installed;
 * none is. Queries are answered as the kernel answers them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/xfrm.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

static int get_option(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, name, &value, &size) ? -1 : value;
}

static int is_change(int type)
{
	switch (type) {
	case XFRM_MSG_NEWSA:
	case XFRM_MSG_UPDSA:
	case XFRM_MSG_DELSA:
	case XFRM_MSG_NEWPOLICY:
	case XFRM_MSG_UPDPOLICY:
	case XFRM_MSG_DELPOLICY:
		return 1;
	}
	return 0;
}

static void accept_changes(int fd, void *data, ssize_t size)
{
	struct nlmsghdr *header = data;
	int saved = errno;

	if (size < (ssize_t)sizeof(*header) || get_option(fd, SO_DOMAIN) != AF_NETLINK ||
	    get_option(fd, SO_PROTOCOL) != NETLINK_XFRM) {
		errno = saved;
		return;
	}
	for (size_t left = size; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
		struct nlmsgerr *reply = NLMSG_DATA(header);

		if (header->nlmsg_type == NLMSG_ERROR && header->nlmsg_len >= NLMSG_LENGTH(sizeof(*reply)) &&
		    is_change(reply->msg.nlmsg_type))
			reply->error = 0;
	}
	errno = saved;
}

typedef ssize_t (*recvfrom_fn)(int, void *, size_t, int, struct sockaddr *, socklen_t *);
typedef ssize_t (*recvmsg_fn)(int, struct msghdr *, int);
typedef ssize_t (*read_fn)(int, void *, size_t);

ssize_t recvfrom(int fd, void *data, size_t size, int flags, struct sockaddr *from, socklen_t *len)
{
	static recvfrom_fn next;

	if (!next)
		next = (recvfrom_fn)dlsym(RTLD_NEXT, "recvfrom");
	ssize_t n = next(fd, data, size, flags, from, len);
	/* With MSG_TRUNC the length may be beyond the buffer. */
	if (n > 0)
		accept_changes(fd, data, n < (ssize_t)size ? n : (ssize_t)size);
	return n;
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
	return recvfrom(fd, data, size, flags, NULL, NULL);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	static recvmsg_fn next;

	if (!next)
		next = (recvmsg_fn)dlsym(RTLD_NEXT, "recvmsg");
	ssize_t n = next(fd, message, flags);
	if (n > 0 && message->msg_iovlen > 0 && (size_t)n <= message->msg_iov[0].iov_len)
		accept_changes(fd, message->msg_iov[0].iov_base, n);
	return n;
}

ssize_t read(int fd, void *data, size_t size)
{
	static read_fn next;

	if (!next)
		next = (read_fn)dlsym(RTLD_NEXT, "read");
	ssize_t n = next(fd, data, size);
	if (n > 0)
		accept_changes(fd, data, n);
	return n;
}

/* What a build with _FORTIFY_SOURCE calls instead. */
ssize_t __recv_chk(int fd, void *data, size_t size, size_t room, int flags)
{
	(void)room;
	return recvfrom(fd, data, size, flags, NULL, NULL);
}

ssize_t __recvfrom_chk(int fd, void *data, size_t size, size_t room, int flags, struct sockaddr *from,
		       socklen_t *len)
{
	(void)room;
	return recvfrom(fd, data, size, flags, from, len);
}

ssize_t __read_chk(int fd, void *data, size_t size, size_t room)
{
	(void)room;
	return read(fd, data, size);
}
