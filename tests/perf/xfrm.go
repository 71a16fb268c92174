// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"quicksand/tests/harness"
	"quicksand/tests/vm/guest"
)

// inGuest is the variable that tells this program that it runs in a guest.
const inGuest = "QUICKSAND_GUEST"

// guestRow is a row with what report.json has not.
type guestRow struct {
	Row
	Spread float64
}

// rowsMark begins the line on which the program in the guest prints its rows.
const rowsMark = "ROWS "

// xfrm measures what needs a kernel with ESP in a guest that has one: this
// program runs there again.
func xfrm(o options) ([]Row, error) {
	if os.Getenv(inGuest) != "" {
		rows, err := xfrmInside(o)
		if err != nil {
			return nil, err
		}
		var out []guestRow
		for _, r := range rows {
			out = append(out, guestRow{r, r.spread})
		}
		b, err := json.Marshal(out)
		if err != nil {
			return nil, err
		}
		fmt.Printf("\n%s%s\n", rowsMark, b)
		return rows, nil
	}
	k, err := guest.Linux612.Get()
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, err := k.Run(context.Background(), guest.Job{
		Modules: []string{"veth", "tun", "xfrm_user", "esp4", "esp6"}, IP: k.IP(),
		Dir: filepath.Dir(filepath.Dir(harness.Binary())), Env: []string{inGuest + "=1"}, Timeout: 10 * time.Minute,
		// With cases named it writes no report of its own.
		Command: []string{program, "-group", "xfrm", "-pairs", strconv.Itoa(o.pairs), "-time", o.time.String(), "-case", cmp.Or(o.cases.String(), ".")},
	})
	if r == nil {
		return nil, err
	}
	if err != nil || r.Status != 0 {
		return nil, errors.Join(err, fmt.Errorf("the guest ended with status %d:\n%s", r.Status, r.Output))
	}
	var rows []Row
	for line := range bytes.Lines(r.Output) {
		rest, found := bytes.CutPrefix(line, []byte(rowsMark))
		if !found {
			continue
		}
		var got []guestRow
		if err := json.Unmarshal(rest, &got); err != nil {
			return nil, fmt.Errorf("read the guest's rows: %w", err)
		}
		for _, g := range got {
			g.Row.spread = g.Spread
			rows = append(rows, g.Row)
		}
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("the guest measured nothing:\n%s", r.Output)
	}
	return rows, nil
}

// guestKernel is the version of the kernel in the guest.
func guestKernel() string {
	k, err := guest.Linux612.Get()
	if err != nil {
		return ""
	}
	return k.Release + ", emulated in software by QEMU " + debian("qemu-system-x86")
}
