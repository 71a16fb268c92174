// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"quicksand/ike"
	"quicksand/internal/swanctl"
	"quicksand/sa"
)

// fake is a Daemon that keeps what it is given and makes SAs of thin air.
type fake struct {
	mu      sync.Mutex
	calls   []string
	conns   []*ike.Connection
	secrets []*ike.Secret
	sas     []ike.IKEInfo
	traps   []sa.Policy
	counts  map[string]uint64
	// initiate is called by Initiate, where it is set.
	initiate func(ctx context.Context, log func(Line)) error
}

var errFake = errors.New("it cannot be")

func (f *fake) called(format string, args ...any) func() {
	f.mu.Lock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.mu.Unlock
}

func (f *fake) Version() string { return "1.2.3" }

func (f *fake) Stats(context.Context) (Stats, error) {
	return Stats{
		Started: time.Now().Add(-3 * time.Hour), IKESAs: 5, HalfOpen: 2, Pairs: 7,
		DHWorkers: 4, DHBusy: 1, DHQueued: 3, Timers: 9, Backends: []sa.Kind{sa.Kernel, sa.Userspace},
	}, nil
}

func (f *fake) Connections(context.Context) ([]*ike.Connection, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.conns), nil
}

func (f *fake) SAs(context.Context) ([]ike.IKEInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sas), nil
}

func (f *fake) Traps(context.Context) ([]sa.Policy, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.traps), nil
}

func (f *fake) Counters(_ context.Context, pair uint32) (in, out sa.Counters, err error) {
	if pair != 4 {
		return in, out, errFake
	}
	return sa.Counters{Bytes: 168, Packets: 2, Last: time.Now()}, sa.Counters{Bytes: 1 << 40, Packets: 3}, nil
}

func (f *fake) MessageCounters(context.Context) (map[string]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts["ike.rx"] += 10
	return map[string]uint64{"ike.rx": f.counts["ike.rx"], "ike.rx.malformed": 1}, nil
}

func (f *fake) LoadConnection(_ context.Context, c *ike.Connection) error {
	defer f.called("load %s", c.Name)()
	f.conns = append(slices.DeleteFunc(f.conns, func(o *ike.Connection) bool { return o.Name == c.Name }), c)
	return nil
}

func (f *fake) UnloadConnection(_ context.Context, name string) error {
	defer f.called("unload %s", name)()
	n := len(f.conns)
	f.conns = slices.DeleteFunc(f.conns, func(o *ike.Connection) bool { return o.Name == name })
	if len(f.conns) == n {
		return errFake
	}
	return nil
}

func (f *fake) LoadSecret(_ context.Context, s *ike.Secret) error {
	defer f.called("secret %s of %v", s.Name, s.Owners)()
	f.secrets = append(slices.DeleteFunc(f.secrets, func(o *ike.Secret) bool { return o.Name == s.Name }), s)
	return nil
}

func (f *fake) UnloadSecret(_ context.Context, name string) error {
	defer f.called("unload secret %s", name)()
	f.secrets = slices.DeleteFunc(f.secrets, func(o *ike.Secret) bool { return o.Name == name })
	return nil
}

func (f *fake) Secrets(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, s := range f.secrets {
		names = append(names, s.Name)
	}
	return names, nil
}

func (f *fake) ClearSecrets(context.Context) error {
	defer f.called("clear secrets")()
	f.secrets = nil
	return nil
}

func (f *fake) Initiate(ctx context.Context, conn, child string, log func(Line)) error {
	f.called("initiate %s/%s", conn, child)()
	if f.initiate != nil {
		return f.initiate(ctx, log)
	}
	return nil
}

func (f *fake) Terminate(_ context.Context, s ike.Select, log func(Line)) (int, error) {
	defer f.called("terminate %+v", s)()
	log(Line{Level: slog.LevelInfo, Group: "IKE", Conn: "site", IKE: 1, Text: "deleting IKE_SA site[1]"})
	n := 0
	for _, i := range f.sas {
		if i.Conn == s.Conn {
			n++
		}
	}
	return n, nil
}

func (f *fake) Rekey(_ context.Context, s ike.Select) (int, error) {
	defer f.called("rekey %+v", s)()
	if s.Child == "net" {
		return 2, nil
	}
	return 0, nil
}

func (f *fake) Install(_ context.Context, conn, child string) error {
	defer f.called("install %s/%s", conn, child)()
	f.traps = append(f.traps, sa.Policy{
		Conn: "site", Child: child,
		LocalTS:  sa.PrefixSelector(netip.MustParsePrefix("10.1.0.0/24")),
		RemoteTS: sa.PrefixSelector(netip.MustParsePrefix("10.2.0.0/24")),
	})
	return nil
}

func (f *fake) Uninstall(_ context.Context, conn, child string) error {
	defer f.called("uninstall %s/%s", conn, child)()
	if len(f.traps) == 0 {
		return errFake
	}
	f.traps = nil
	return nil
}

func (f *fake) ReloadSettings(context.Context) error {
	f.called("reload")()
	return nil
}

// configuration is in strongSwan's format, for both loaders.
const configuration = `
connections {
  site {
    version = 1
    local_addrs = 192.0.2.1
    remote_addrs = 198.51.100.0/24, 203.0.113.1
    proposals = aes256-sha256-modp2048
    dpd_delay = 30s
    local {
      auth = psk
      id = gw.example
    }
    remote {
      auth = psk
      id = 203.0.113.1
    }
    children {
      net {
        local_ts = 10.1.0.0/24
        remote_ts = 10.2.0.0/24
        esp_proposals = aes128gcm16-modp2048
      }
      web {
        local_ts = dynamic[tcp/80]
        mode = transport
        rekey_time = 0
        esp_proposals = aes128-sha256
      }
    }
  }
}
secrets {
  ike-site {
    id-a = gw.example
    id-b = 203.0.113.1
    secret = 0s3q2+7w==
  }
}
`

// established is an IKE SA with one child, as of ago before now.
func established(ago time.Duration, now time.Time) ike.IKEInfo {
	gw, err := ike.ParseIdentity("gw.example")
	if err != nil {
		panic(err)
	}
	pair := &sa.Pair{
		Policy: sa.Policy{
			Conn: "site", Child: "net", Reqid: 1,
			LocalTS:  sa.PrefixSelector(netip.MustParsePrefix("10.1.0.0/24")),
			RemoteTS: sa.PrefixSelector(netip.MustParsePrefix("10.2.0.0/24")),
		},
		ID:    4,
		Suite: sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128, ESN: true},
		Encap: true,
		In:    sa.SA{SPI: 0x00877b04, EncryptionKey: sa.Key("not to be seen")},
		Out:   sa.SA{SPI: 0xb033b3f3},
	}
	return ike.IKEInfo{
		ID: 1, Conn: "site", State: ike.IKEEstablished, Initiator: true,
		Cookies:   [2]string{"1de5c4cec5508cef", "5bf92c6addb32636"},
		Local:     netip.MustParseAddrPort("192.0.2.1:4500"),
		Remote:    netip.MustParseAddrPort("203.0.113.1:4500"),
		LocalID:   gw,
		RemoteID:  ike.AddrIdentity(netip.MustParseAddr("203.0.113.1")),
		Transform: sa.IKETransform{Encryption: sa.AESCBC, KeyBits: 256, Hash: sa.SHA256, Group: sa.MODP2048},
		NATRemote: true, NATT: true,
		Established: now.Add(-ago),
		Rekey:       now.Add(4 * time.Hour),
		Children: []ike.ChildInfo{{
			State: ike.ChildInstalled, Pair: pair, Group: sa.MODP2048,
			Placement: sa.Placement{Kind: sa.Userspace, Device: "qs0", Detail: "no NIC of the path offloads"},
			Installed: now.Add(-ago),
			Rekey:     now.Add(time.Hour),
			Expire:    now.Add(2 * time.Hour),
		}},
	}
}

// startFake serves a fake daemon with the configuration loaded and one SA.
func startFake(t *testing.T) (*fake, *Server) {
	t.Helper()
	c, err := swanctl.LoadBytes("test.conf", []byte(configuration))
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{
		conns: c.Connections, secrets: c.Secrets, counts: map[string]uint64{},
		sas: []ike.IKEInfo{established(35*time.Second, time.Now())},
	}
	s := New(f, Options{Path: filepath.Join(t.TempDir(), "vici.sock"), Logger: slog.New(slog.DiscardHandler)})
	serve(t, s)
	return f, s
}

// connect returns a client of our own.
func connect(t *testing.T, s *Server) *Client {
	t.Helper()
	c, err := Dial(t.Context(), s.options.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// swap returns what the fake was called since the last time.
func (f *fake) swap() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}
