// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"encoding/hex"
	"encoding/json"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
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
// have it.
func key(t testing.TB, g Group, x []byte) *PrivateKey {
	t.Helper()
	switch k := groups[g].kernel().(type) {
	case *modp:
		return k.key(g, x)
	case *curve:
		priv, err := k.key(g, x)
		if err != nil {
			t.Fatal(err)
		}
		return priv
	}
	t.Fatalf("no kernel for %s", g)
	return nil
}

// shared computes one secret without an engine.
func shared(g Group, k *PrivateKey, peer []byte) ([]byte, error) {
	var out [1]Result
	groups[g].kernel().compute(nil, []*Request{{Group: g, Private: k, Peer: peer}}, out[:])
	return out[0].Shared, out[0].Err
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
