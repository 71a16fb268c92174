// SPDX-License-Identifier: Apache-2.0

// Command cbc writes the assembly of AES-CBC with HMAC: block cipher and hash
// functions over many packets at once (FIPS 197, SP 800-38A, FIPS 180-4).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
)

func main() {
	dir := flag.String("dir", ".", "the `directory` to write to")
	flag.Parse()
	for name, make := range map[string]func(g *generator){
		"cbc_vaes_amd64.s":      vaes,
		"cbc_aesni_amd64.s":     aesni,
		"hmac_sha_amd64.s":      lanesSHA,
		"hmac_sha_ni_amd64.s":   shaNI,
		"hmac_sha_avx2_amd64.s": lanesAVX2,
	} {
		if err := write(filepath.Join(*dir, name), make); err != nil {
			fmt.Fprintf(os.Stderr, "write %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

// A generator builds one file.
type generator struct{ *build.Context }

// function begins a function; args are its parameters as in Go.
func (g *generator) function(name, args string) {
	g.Function(name)
	g.Attributes(noSplit)
	g.SignatureExpr("func" + args)
}

func write(name string, make func(g *generator)) error {
	g := &generator{build.NewContext()}
	g.ConstraintExpr("amd64,!purego")
	make(g)
	f, err := g.Result()
	if err != nil {
		if l, ok := err.(build.ErrorList); ok {
			return errors.Join(messages(l)...)
		}
		return err
	}
	if err := pass.Compile.Execute(f); err != nil {
		return err
	}
	out, err := printer.NewGoAsm(printer.Config{Name: "_asm/cbc", Pkg: "aead"}).Print(f)
	if err != nil {
		return err
	}
	return os.WriteFile(name, append([]byte("// SPDX-License-Identifier: Apache-2.0\n\n"), out...), 0o644)
}

// messages returns every one of avo's errors, of which it shows the first.
func messages(l build.ErrorList) (all []error) {
	for _, e := range l {
		all = append(all, e)
	}
	return all
}
