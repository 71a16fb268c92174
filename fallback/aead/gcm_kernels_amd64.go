// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

//go:noescape
func gcmPowers(k *gcmKey)

//go:noescape
func gcmSealVAES512(k *gcmKey, pkts *Packet, n int)

//go:noescape
func gcmOpenVAES512(k *gcmKey, pkts *Packet, n int, side *byte, room int)

//go:noescape
func gcmSealVAES256(keys **gcmKey, step int, pkts *Packet, n int)

//go:noescape
func gcmOpenVAES256(keys **gcmKey, step int, pkts *Packet, n int, side *byte, room int)

//go:noescape
func gcmSealAESNI(keys **gcmKey, step int, pkts *Packet, n int)

//go:noescape
func gcmOpenAESNI(keys **gcmKey, step int, pkts *Packet, n int, side *byte, room int)
