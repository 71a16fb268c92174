// SPDX-License-Identifier: Apache-2.0

// Package offload carries pairs in the kernel and, through it, in NICs that do
// IPsec inline: an sa.Backend over NETLINK_XFRM. It installs SAs (RFC 4301
// section 4.4.2) and policies (section 4.4.1), asks for each to be offloaded
// as far as the pair's hw_offload and the egress device allow, and reads back
// what the kernel made of it: a placement is never what was asked for.
//
// # What stands in the kernel
//
// A child has policies from its first pair or its trap until it is forgotten:
// out, in and fwd for each pair of subnets that its selectors consist of. The
// out policy's template names the one outbound SA that is active. Where there
// is none it either asks for one (a trap) or blocks, so that nothing leaves in
// clear. The in and fwd policies stay as they are: they let in what came
// through an SA of the child, and nothing else.
//
// The kernel by itself prefers the SA that was added last, by whole seconds,
// and from 6.12 on the one it used last. Neither is make before break, so the
// template has the SPI of the active SA: a new one is ready beside it and takes
// over with one UPDPOLICY. NICs that do the policies themselves find the SA by
// its reqid alone and refuse two of the same; with packet offload each outbound
// SA has a reqid of its own, and the policy moves between two priorities, for
// two of the same match do not fit into one table.
//
// # What is ours
//
// An SA of ours has a number of ours in its sequence field, which the kernel
// only keeps; a policy of ours has an index of ours (ownSeq, ownIndex). By that
// the remains of a process that was killed are known and removed when a new one
// starts, and nothing of anybody else's is ever touched. Reserved SPIs are not
// known to the kernel.
package offload
