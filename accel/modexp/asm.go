// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !purego

package modexp

//go:generate go run -C _asm . -kernel modexp -out ../ifma_amd64.s -stubs ../ifma_amd64.go -pkg modexp

const haveAssembly = true
