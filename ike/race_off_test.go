// SPDX-License-Identifier: Apache-2.0

//go:build !race

package ike

const slower = 1
