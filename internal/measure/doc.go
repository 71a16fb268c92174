// SPDX-License-Identifier: Apache-2.0

// Package measure is what benchmarks are made of: loads of packets, the CPU
// time that they cost, and charts of what came out.
package measure
