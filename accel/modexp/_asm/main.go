// SPDX-License-Identifier: Apache-2.0

// Command asm generates the assembly of package modexp and of those below it.
package main

import (
	"flag"
	"log"
	"os"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const (
	block     = 10          // limbs that a tile takes from each operand
	zmm       = 64          // bytes of one limb of eight numbers
	blockSize = block * zmm // bytes of a block of eight numbers
	limbBits  = 52
)

// z names the vector registers by number.
var z = []VecPhysical{
	Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
	Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31,
}

func main() {
	kernel := flag.String("kernel", "modexp", "what to generate: modexp, x25519, x25519words, p256, p256words or p521")
	flag.Parse()
	ConstraintExpr("amd64,!purego")
	switch *kernel {
	case "modexp":
		mulColumns()
		sqrColumns()
		reduce()
		choose()
		chooseShared()
		lones()
		chooseLone()
		mulWords()
		sqrWords()
		reduceWords()
		pickBlocks()
	case "x25519":
		x25519()
	case "x25519words":
		x25519Words()
	case "p256":
		p256()
	case "p256words":
		p256Words()
	case "p521":
		p521()
	default:
		log.Fatalf("no kernel %q", *kernel)
	}
	Generate()
	license()
}

// license puts the licence's line before both files that Generate wrote.
func license() {
	for _, name := range []string{"out", "stubs"} {
		path := flag.Lookup(name).Value.String()
		text, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, append([]byte("// SPDX-License-Identifier: Apache-2.0\n\n"), text...), 0o644)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

// Registers z[0] to z[19] hold twenty columns of a sum, the lowest first. A tile
// is the product of two blocks, and adds to all of them; z[20] to z[29] take one
// of its blocks, z[30] a limb of the other.

func clearColumns(from, to int) {
	for i := from; i < to; i++ {
		VPXORQ(z[i], z[i], z[i])
	}
}

// nextColumns drops the ten lowest columns.
func nextColumns() {
	for i := range block {
		VMOVDQA64(z[block+i], z[i])
	}
	clearColumns(block, 2*block)
}

// loadBlock loads a block of eight numbers into z[20] to z[29].
func loadBlock(p GPPhysical) {
	for i := range block {
		VMOVDQU64(Mem{Base: p, Disp: i * zmm}, z[20+i])
	}
}

// tileRow adds limb z[30], which is limb j of its block, times the block in
// z[20] to z[29]. The low halves come before the high ones so that each column
// is met again only when its last sum is ready.
func tileRow(j int) {
	for i := range block {
		VPMADD52LUQ(z[20+i], z[30], z[i+j])
	}
	for i := range block {
		VPMADD52HUQ(z[20+i], z[30], z[i+j+1])
	}
}

// tilePointers sets the first and the second block of column block c, and how
// many tiles it has: block I of a with block c-I of b, for every I that both
// have. c below the number of blocks: I from 0 and c+1 tiles; else I from
// c-blocks+1, and 2*blocks-1-c tiles.
func tilePointers(c, blocks, a, b, pa, pb, n GPPhysical, sizeB int) {
	l := label("pointers")
	high, done := l+"High", l+"Done"
	CMPQ(c, blocks)
	JAE(LabelRef(high))
	MOVQ(a, pa)
	IMUL3Q(I32(int32(sizeB)), c, pb)
	ADDQ(b, pb)
	LEAQ(Mem{Base: c, Disp: 1}, n)
	JMP(LabelRef(done))
	Label(high)
	MOVQ(c, n)
	SUBQ(blocks, n)
	INCQ(n)
	IMUL3Q(I32(blockSize), n, pa)
	ADDQ(a, pa)
	LEAQ(Mem{Base: blocks, Disp: -1}, n)
	IMUL3Q(I32(int32(sizeB)), n, pb)
	ADDQ(b, pb)
	LEAQ(Mem{Base: n, Index: blocks, Scale: 1}, n)
	SUBQ(c, n)
	Label(done)
}

var labels = map[string]int{}

// label returns a name that the function has not used.
func label(name string) string {
	labels[name]++
	return name + string(rune('A'+labels[name]-1))
}
