// SPDX-License-Identifier: Apache-2.0

package dh

// operands gathers what a wide kernel computes together: out[i] is for secrets[i]
// and bases[i], which is nil where the base is the group's own.
type operands struct{ out, secrets, bases [][]byte }

func newOperands(most int) *operands {
	all := make([][]byte, 3*most)
	return &operands{all[:0:most], all[most : most : 2*most], all[2*most : 2*most]}
}

func (o *operands) add(out, secret, base []byte) {
	o.out = append(o.out, out)
	o.secrets = append(o.secrets, secret)
	o.bases = append(o.bases, base)
}

// wipe overwrites the secrets.
func (o *operands) wipe() {
	for _, x := range o.secrets {
		clear(x)
	}
}
