// SPDX-License-Identifier: Apache-2.0

// Command _asm writes the assembly of the Internet checksum (RFC 1071).
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	. "github.com/mmcloughlin/avo/reg"
)

// chunk is how many bytes a step adds up.
const chunk = 64

func main() {
	dir := flag.String("dir", ".", "the `directory` to write to")
	flag.Parse()
	g := build.NewContext()
	g.ConstraintExpr("amd64,!purego")
	function(g, "sumAVX2", "func(p *byte, n int) uint64", false)
	function(g, "copySumAVX2", "func(dst, src *byte, n int) uint64", true)
	if err := write(g, filepath.Join(*dir, "checksum_amd64.s")); err != nil {
		fmt.Fprintf(os.Stderr, "write assembly: %v\n", err)
		os.Exit(1)
	}
}

func write(g *build.Context, name string) error {
	f, err := g.Result()
	if err != nil {
		return err
	}
	if err := pass.Compile.Execute(f); err != nil {
		return err
	}
	out, err := printer.NewGoAsm(printer.Config{Name: "_asm", Pkg: "tun"}).Print(f)
	if err != nil {
		return err
	}
	return os.WriteFile(name, append([]byte("// SPDX-License-Identifier: Apache-2.0\n\n"), out...), 0o644)
}

// function writes a function that adds up n bytes, which are whole chunks and
// at least one, as little-endian 32-bit words in four lanes of 64 bits, and
// copies them where it is to.
func function(g *build.Context, name, signature string, copies bool) {
	g.Function(name)
	g.Attributes(attr.NOSPLIT)
	g.SignatureExpr(signature)
	g.Pragma("noescape")
	src, dst, n := RSI, RDI, RCX
	if copies {
		g.Load(g.Param("dst"), dst)
		g.Load(g.Param("src"), src)
	} else {
		g.Load(g.Param("p"), src)
	}
	g.Load(g.Param("n"), n)
	// Low halves of the lanes go to even sums, high halves to odd ones.
	sums := []VecPhysical{Y0, Y1, Y2, Y3}
	for _, s := range sums {
		g.VPXOR(s, s, s)
	}
	mask := Y4
	g.VPCMPEQD(mask, mask, mask)
	g.VPSRLQ(U8(32), mask, mask)
	g.Label("next")
	for i, data := range []VecPhysical{Y5, Y7} {
		high := []VecPhysical{Y6, Y8}[i]
		g.VMOVDQU(Mem{Base: src, Disp: 32 * i}, data)
		if copies {
			g.VMOVDQU(data, Mem{Base: dst, Disp: 32 * i})
		}
		g.VPSRLQ(U8(32), data, high)
		g.VPAND(mask, data, data)
		g.VPADDQ(data, sums[2*i], sums[2*i])
		g.VPADDQ(high, sums[2*i+1], sums[2*i+1])
	}
	g.ADDQ(Imm(chunk), src)
	if copies {
		g.ADDQ(Imm(chunk), dst)
	}
	g.SUBQ(Imm(chunk), n)
	g.JNZ(LabelRef("next"))
	g.VPADDQ(Y1, Y0, Y0)
	g.VPADDQ(Y3, Y2, Y2)
	g.VPADDQ(Y2, Y0, Y0)
	g.VEXTRACTI128(U8(1), Y0, X1)
	g.VPADDQ(X1, X0, X0)
	g.VPSRLDQ(U8(8), X0, X1)
	g.VPADDQ(X1, X0, X0)
	g.VMOVQ(X0, RAX)
	g.VZEROUPPER()
	g.Store(RAX, g.ReturnIndex(0))
	g.RET()
}
