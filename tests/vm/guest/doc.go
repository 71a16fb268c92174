// SPDX-License-Identifier: Apache-2.0

// Package guest boots stock Debian kernels in an emulated machine and runs test
// binaries there, for what the machine's own kernel cannot do: ESP in the
// kernel, and NICs that do it inline. It needs root and what tests/vm/setup.sh
// installs.
//
// The guest's root file system is that of the machine, read through 9P and
// overlaid by one in memory: what is installed or built here is there as well,
// and what the guest writes ends with it. Kernels, and the modules that are
// built for them, are kept in Dir.
package guest
