// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// result is what became of one test in the guest.
type result struct {
	name     string // the last part of its path
	outcome  string // "pass", "fail", "skip", or empty where it did not end
	elapsed  float64
	output   strings.Builder
	children []*result
}

// Replay reports the tests of a binary that ran with -test.v=test2json as
// subtests of t, and returns how many there were at the top. One that did not
// end has failed.
func Replay(t *testing.T, output []byte) int {
	t.Helper()
	root, err := parse(output)
	if err != nil {
		t.Fatal(err)
	}
	if len(root.children) == 0 {
		t.Logf("%s", root.output.String())
	}
	for _, c := range root.children {
		c.replay(t)
	}
	return len(root.children)
}

// parse reads what a test binary printed.
func parse(output []byte) (*result, error) {
	cmd := exec.Command("go", "tool", "test2json", "-t")
	cmd.Stdin = bytes.NewReader(output)
	events, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read test output: %w", err)
	}
	root := &result{}
	all := map[string]*result{"": root}
	var find func(path string) *result
	find = func(path string) *result {
		if r := all[path]; r != nil {
			return r
		}
		parent, name := "", path
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			parent, name = path[:i], path[i+1:]
		}
		r := &result{name: name}
		all[path] = r
		p := find(parent)
		p.children = append(p.children, r)
		return r
	}
	for d := json.NewDecoder(bytes.NewReader(events)); d.More(); {
		var e struct {
			Action, Test, Output string
			Elapsed              float64
		}
		if err := d.Decode(&e); err != nil {
			return nil, fmt.Errorf("read test output: %w", err)
		}
		r := find(e.Test)
		switch e.Action {
		case "output":
			r.output.WriteString(e.Output)
		case "pass", "fail", "skip":
			r.outcome, r.elapsed = e.Action, e.Elapsed
		}
	}
	return root, nil
}

// replay reports the result as a subtest.
func (r *result) replay(t *testing.T) {
	t.Run(r.name, func(t *testing.T) {
		for _, c := range r.children {
			c.replay(t)
		}
		t.Logf("%.1f s in the guest\n%s", r.elapsed, r.said())
		switch r.outcome {
		case "pass":
		case "skip":
			t.SkipNow()
		case "fail":
			t.Fail()
		default:
			t.Error("the test did not end in the guest")
		}
	})
}

// said is what the test printed, without the lines that frame it.
func (r *result) said() string {
	var b strings.Builder
	for line := range strings.Lines(r.output.String()) {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ") {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}
