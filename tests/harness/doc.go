// SPDX-License-Identifier: Apache-2.0

// Package harness builds small networks of network namespaces, runs IKE
// daemons of several makes in them behind one interface, and judges what they
// do: with ping and iperf3, through their control sockets, and by tshark's
// reading of the packets. It needs root and what tests/setup.sh installs.
//
// Everything belongs to a Net and ends with it; CloseOnSignal does so for all
// of them when the process is interrupted, and New for what processes left
// behind that were not given the time.
package harness
