// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// newEngine returns an engine that is closed when the test ends.
func newEngine(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// ask submits a request and waits for its answer.
func ask(t testing.TB, e *Engine, r Request) Result {
	t.Helper()
	answer := make(chan Result, 1)
	r.Done = func(res Result) { answer <- res }
	if err := e.Submit(r); err != nil {
		t.Fatal(err)
	}
	return <-answer
}

// key makes a private key of the given bytes, as a peer's implementation would
// have it, and checks that every level gives it the same public value.
func key(t testing.TB, g Group, x []byte) *PrivateKey {
	t.Helper()
	var k *PrivateKey
	for _, c := range groups[g].kernels() {
		other, err := c.kernel().(keyMaker).key(g, bytes.Clone(x))
		if err != nil {
			t.Fatal(err)
		}
		if k != nil && !bytes.Equal(k.public, other.public) {
			t.Errorf("%s: public values differ between levels: %x, %s %x", g, k.public, c.level, other.public)
		}
		k = other
	}
	return k
}

type keyMaker interface {
	key(Group, []byte) (*PrivateKey, error)
}

// shared computes one secret without an engine, at every level, alone and in
// every lane, and fails where the answers differ.
func shared(g Group, k *PrivateKey, peer []byte) ([]byte, error) {
	var first *Result
	for _, c := range groups[g].kernels() {
		kern := c.kernel()
		for _, n := range slices.Compact([]int{1, kern.lanes()}) {
			batch, out := make([]*Request, n), make([]Result, n)
			for i := range batch {
				batch[i] = &Request{Group: g, Private: k, Peer: peer}
			}
			kern.compute(nil, batch, out)
			if first == nil {
				first = &out[0]
			}
			for lane, r := range out {
				if !bytes.Equal(r.Shared, first.Shared) || errors.Is(r.Err, ErrPublic) != errors.Is(first.Err, ErrPublic) {
					return nil, fmt.Errorf("lane %d of %d at level %s answers %x, %v, another %x, %v",
						lane, n, c.level, r.Shared, r.Err, first.Shared, first.Err)
				}
			}
		}
	}
	return first.Shared, first.Err
}

// seeded is a random source that says the same each time.
func seeded(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// readerFunc makes a reader of a function.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func number(t testing.TB, s string) *big.Int {
	t.Helper()
	n, ok := new(big.Int).SetString(s, 16)
	if !ok {
		t.Fatalf("%q is not a hexadecimal number", s)
	}
	return n
}

func readJSON(t testing.TB, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// primes are the MODP groups' moduli.
var primes = map[Group]string{
	MODP1024: prime1024, MODP1536: prime1536, MODP2048: prime2048, MODP3072: prime3072,
	MODP4096: prime4096, MODP6144: prime6144, MODP8192: prime8192,
}
