// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/metrics"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/ike"
	"quicksand/sa"
)

// service answers the protocol's commands for a Daemon.
type service struct {
	Daemon

	mu sync.Mutex
	// baseline holds the message counters at their last reset.
	baseline map[string]uint64
}

// New returns a server that knows the commands and events of swanctl and
// carries them out on d.
func New(d Daemon, o Options) *Server {
	s := NewServer(o)
	v := &service{Daemon: d}
	s.Announce(false, evIKEUpdown, evIKERekey, evChildUpdown, evChildRekey,
		evListSA, evListConn, evListPolicy, evControlLog, "list-cert", "list-authority")
	s.Announce(true, evLog)
	for command, h := range map[string]Handler{
		"list-sas":         v.listSAs,
		"list-conns":       v.listConns,
		"list-policies":    v.listPolicies,
		"list-certs":       nothing,
		"list-authorities": nothing,

		"initiate":  v.initiate,
		"terminate": v.terminate,
		"rekey":     v.rekey,
	} {
		s.Handle(command, h)
	}
	for command, h := range map[string]func(context.Context, *Message) (*Message, error){
		"version":         v.version,
		"stats":           v.stats,
		"reload-settings": v.reloadSettings,
		"get-algorithms":  v.getAlgorithms,
		"get-counters":    v.getCounters,
		"reset-counters":  v.resetCounters,

		"install":   v.install,
		"uninstall": v.uninstall,

		"get-conns":     v.getConns,
		"load-conn":     v.loadConn,
		"unload-conn":   v.unloadConn,
		"get-shared":    v.getShared,
		"load-shared":   v.loadShared,
		"unload-shared": v.unloadShared,
		"clear-creds":   v.clearCreds,

		"get-keys":        emptyList("keys"),
		"get-authorities": emptyList("authorities"),
		"get-pools":       func(context.Context, *Message) (*Message, error) { return nil, nil },
		"flush-certs":     func(context.Context, *Message) (*Message, error) { return success(), nil },
	} {
		s.Handle(command, func(ctx context.Context, req *Message, _ func(string, *Message) error) (*Message, error) {
			return h(ctx, req)
		})
	}
	for command, why := range refused {
		s.Handle(command, func(context.Context, *Message, func(string, *Message) error) (*Message, error) {
			return nil, errors.New(why)
		})
	}
	return s
}

const (
	noCertificates = "certificates and private keys are not supported, peers authenticate with pre-shared keys"
	noPools        = "virtual IP pools are not supported"
)

// refused are commands of strongSwan's that quicksand has no use for.
var refused = map[string]string{
	"load-cert":        noCertificates,
	"load-key":         noCertificates,
	"unload-key":       noCertificates,
	"load-token":       noCertificates,
	"load-authority":   noCertificates,
	"unload-authority": noCertificates,
	"load-pool":        noPools,
	"unload-pool":      noPools,
	"redirect":         "IKEv1 has no redirection",
}

func nothing(context.Context, *Message, func(string, *Message) error) (*Message, error) {
	return nil, nil
}

func emptyList(name string) func(context.Context, *Message) (*Message, error) {
	return func(context.Context, *Message) (*Message, error) {
		m := &Message{}
		m.SetList(name)
		return m, nil
	}
}

// done is the response of a command that returns nothing but err.
func done(err error) (*Message, error) {
	if err != nil {
		return nil, err
	}
	return success(), nil
}

func (v *service) version(context.Context, *Message) (*Message, error) {
	m := &Message{}
	m.Set("daemon", "quicksand")
	m.Set("version", v.Version())
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("ask for the kernel's name: %w", err)
	}
	m.Set("sysname", unix.ByteSliceToString(u.Sysname[:]))
	m.Set("release", unix.ByteSliceToString(u.Release[:]))
	m.Set("machine", unix.ByteSliceToString(u.Machine[:]))
	return m, nil
}

// stats fills strongSwan's fields with their nearest kin: the workers and
// their queue are those of Diffie-Hellman, the plugins are the kinds of engine
// in use.
func (v *service) stats(ctx context.Context, _ *Message) (*Message, error) {
	st, err := v.Stats(ctx)
	if err != nil {
		return nil, err
	}
	m := &Message{}
	up := m.SetSub("uptime")
	up.Set("running", relativeTime(time.Since(st.Started)))
	up.Set("since", st.Started.Local().Format("Jan 02 15:04:05 2006"))
	workers := m.SetSub("workers")
	workers.SetInt("total", int64(st.DHWorkers))
	workers.SetInt("idle", int64(st.DHWorkers-st.DHBusy))
	priorities(workers.SetSub("active"), st.DHBusy)
	priorities(m.SetSub("queues"), st.DHQueued)
	m.SetInt("scheduled", int64(st.Timers))
	sas := m.SetSub("ikesas")
	sas.SetInt("total", int64(st.IKESAs))
	sas.SetInt("half-open", int64(st.HalfOpen))
	m.SetSub("childsas").SetInt("total", int64(st.Pairs))
	var kinds []string
	for _, k := range st.Backends {
		kinds = append(kinds, k.String())
	}
	m.SetList("plugins", kinds...)
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/objects:objects"}}
	metrics.Read(heap)
	mem := m.SetSub("mem")
	mem.Set("total", fmt.Sprint(heap[0].Value.Uint64()))
	mem.Set("allocs", fmt.Sprint(heap[1].Value.Uint64()))
	return m, nil
}

// priorities renders a number of jobs that all have medium priority.
func priorities(m *Message, n int) {
	m.SetInt("critical", 0)
	m.SetInt("high", 0)
	m.SetInt("medium", int64(n))
	m.SetInt("low", 0)
}

// relativeTime renders a duration in the largest unit of which there are two.
func relativeTime(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}} {
		if d >= 2*u.unit {
			return fmt.Sprintf("%d %s", d/u.unit, u.name)
		}
	}
	if d = d / time.Second; d == 1 {
		return "1 second"
	}
	return fmt.Sprintf("%d seconds", d)
}

func (v *service) reloadSettings(ctx context.Context, _ *Message) (*Message, error) {
	return done(v.ReloadSettings(ctx))
}

func (v *service) getAlgorithms(context.Context, *Message) (*Message, error) {
	m := &Message{}
	ciphers, aeads := m.SetSub("encryption"), &Message{}
	integrity := m.SetSub("integrity")
	for e := sa.EncryptionNull; e <= sa.AESGCM16; e++ {
		if e.AEAD() {
			aeads.Set(e.String(), "quicksand")
		} else {
			ciphers.Set(e.String(), "quicksand")
		}
	}
	m.put(Element{Name: "aead", Section: aeads})
	prf := m.SetSub("prf")
	for h := sa.MD5; h <= sa.SHA512; h++ {
		integrity.Set(h.Integrity().String(), "quicksand")
		prf.Set(h.String(), "quicksand")
	}
	dh := m.SetSub("dh")
	for _, g := range []sa.Group{
		sa.MODP1024, sa.MODP1536, sa.MODP2048, sa.MODP3072, sa.MODP4096, sa.MODP6144,
		sa.MODP8192, sa.ECP256, sa.ECP384, sa.ECP521, sa.Curve25519,
	} {
		dh.Set(g.String(), "quicksand")
	}
	return m, nil
}

// getCounters returns the message counters since the last reset. They are kept
// for the daemon as a whole, not by connection.
func (v *service) getCounters(ctx context.Context, req *Message) (*Message, error) {
	if name := req.Get("name"); name != "" {
		return nil, errors.New("counters are kept for the daemon as a whole, not by connection")
	}
	counts, err := v.MessageCounters(ctx)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	m := &Message{}
	all := m.SetSub("counters").SetSub("")
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		all.Set(name, fmt.Sprint(counts[name]-v.baseline[name]))
	}
	m.Set("success", "yes")
	return m, nil
}

func (v *service) resetCounters(ctx context.Context, _ *Message) (*Message, error) {
	counts, err := v.MessageCounters(ctx)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.baseline = counts
	return success(), nil
}

// find looks up a child, or a connection alone where child is empty.
func (v *service) find(ctx context.Context, conn, child string) (*ike.Child, error) {
	all, err := v.Connections(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if conn != "" && c.Name != conn {
			continue
		}
		if child == "" {
			return nil, nil
		}
		for _, ch := range c.Children {
			if ch.Name == child {
				return ch, nil
			}
		}
	}
	if child == "" {
		return nil, fmt.Errorf("IKE_SA config '%s' not found", conn)
	}
	return nil, fmt.Errorf("CHILD_SA config '%s' not found", child)
}
