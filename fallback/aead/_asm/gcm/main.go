// SPDX-License-Identifier: Apache-2.0

// Command gcm writes the assembly of AES-GCM over many packets of one SA (NIST
// SP 800-38D, RFC 4106).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	dir := flag.String("dir", ".", "the `directory` to write to")
	flag.Parse()
	for name, make := range map[string]func(g *generator){
		"gcm_key_amd64.s":     powers,
		"gcm_aesni_amd64.s":   aesni,
		"gcm_vaes256_amd64.s": vaes256,
		"gcm_vaes512_amd64.s": wide,
	} {
		if err := write(filepath.Join(*dir, name), make); err != nil {
			fmt.Fprintf(os.Stderr, "write %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

// A generator builds one file.
type generator struct {
	*build.Context
	labels int
	consts map[string]operand.Mem
}

// function begins a function; args are its parameters as in Go.
func (g *generator) function(name, args string) {
	g.Function(name)
	g.SignatureExpr("func" + args)
}

// label makes a label that no other call returns.
func (g *generator) label(name string) string {
	g.labels++
	return fmt.Sprintf("%s%d", name, g.labels)
}

// constant returns 16 bytes of read-only data, given as two halves.
func (g *generator) constant(name string, low, high uint64) operand.Mem {
	if m, ok := g.consts[name]; ok {
		return m
	}
	m := g.StaticGlobal(name)
	g.DataAttributes(attr.RODATA | attr.NOPTR)
	g.AppendDatum(operand.U64(low))
	g.AppendDatum(operand.U64(high))
	g.consts[name] = m
	return m
}

// at is memory at an offset from a register.
func at(base reg.Register, disp int) operand.Mem { return operand.Mem{Base: base, Disp: disp} }

func write(name string, make func(g *generator)) error {
	g := &generator{build.NewContext(), 0, map[string]operand.Mem{}}
	g.ConstraintExpr("amd64,!purego")
	make(g)
	f, err := g.Result()
	if err != nil {
		if l, ok := err.(build.ErrorList); ok {
			var all []error
			for _, e := range l {
				all = append(all, e)
			}
			return errors.Join(all...)
		}
		return err
	}
	if err := pass.Compile.Execute(f); err != nil {
		return err
	}
	out, err := printer.NewGoAsm(printer.Config{Name: "_asm/gcm", Pkg: "aead"}).Print(f)
	if err != nil {
		return err
	}
	return os.WriteFile(name, append([]byte("// SPDX-License-Identifier: Apache-2.0\n\n"), out...), 0o644)
}
