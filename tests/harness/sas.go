// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/strongswan/govici/vici"
)

// IKESA is an IKE SA as the control protocol lists it.
type IKESA struct {
	Name       string
	UniqueID   uint32 `vici:"uniqueid"`
	Version    int    `vici:"version"`
	State      string `vici:"state"`
	LocalHost  string `vici:"local-host"`
	LocalPort  uint16 `vici:"local-port"`
	LocalID    string `vici:"local-id"`
	RemoteHost string `vici:"remote-host"`
	RemotePort uint16 `vici:"remote-port"`
	RemoteID   string `vici:"remote-id"`
	Initiator  bool   `vici:"initiator"`
	ICookie    string `vici:"initiator-spi"`
	RCookie    string `vici:"responder-spi"`
	NATLocal   bool   `vici:"nat-local"`
	NATRemote  bool   `vici:"nat-remote"`
	Encryption string `vici:"encr-alg"`
	KeyBits    int    `vici:"encr-keysize"`
	Integrity  string `vici:"integ-alg"`
	PRF        string `vici:"prf-alg"`
	Group      string `vici:"dh-group"`
	RekeyTime  int    `vici:"rekey-time"` // seconds from now; 0 for never
	Children   []ChildSA

	ChildSections *vici.Message `vici:"child-sas"`
}

// ChildSA is a child SA as the control protocol lists it.
type ChildSA struct {
	Name       string   `vici:"name"`
	UniqueID   uint32   `vici:"uniqueid"`
	State      string   `vici:"state"`
	Mode       string   `vici:"mode"`
	Protocol   string   `vici:"protocol"`
	Encap      bool     `vici:"encap"`
	SPIIn      string   `vici:"spi-in"`
	SPIOut     string   `vici:"spi-out"`
	Encryption string   `vici:"encr-alg"`
	KeyBits    int      `vici:"encr-keysize"`
	Integrity  string   `vici:"integ-alg"`
	Group      string   `vici:"dh-group"`
	ESN        string   `vici:"esn"` // "1" with extended sequence numbers
	BytesIn    uint64   `vici:"bytes-in"`
	BytesOut   uint64   `vici:"bytes-out"`
	PacketsIn  uint64   `vici:"packets-in"`
	PacketsOut uint64   `vici:"packets-out"`
	RekeyTime  int      `vici:"rekey-time"` // seconds from now; 0 for never
	LifeTime   int      `vici:"life-time"`
	LocalTS    []string `vici:"local-ts"`
	RemoteTS   []string `vici:"remote-ts"`
	// What quicksand adds: which of parallel pairs it is, and where it runs.
	Lane      int    `vici:"lane"`
	Placement string `vici:"placement"`
	Device    string `vici:"placement-device"`
	Detail    string `vici:"placement-detail"`
}

// Suite is the child's algorithms and PFS group in one word.
func (c ChildSA) Suite() string {
	var parts []string
	if c.Encryption != "" {
		e := c.Encryption
		if c.KeyBits != 0 {
			e = fmt.Sprintf("%s-%d", e, c.KeyBits)
		}
		parts = append(parts, e)
	}
	if c.Integrity != "" {
		parts = append(parts, c.Integrity)
	}
	if c.Group != "" {
		parts = append(parts, c.Group)
	}
	if c.ESN != "" {
		parts = append(parts, "ESN")
	}
	return c.Protocol + ":" + strings.Join(parts, "/")
}

// Suite is the IKE SA's algorithms and group in one word.
func (s IKESA) Suite() string {
	e := s.Encryption
	if s.KeyBits != 0 {
		e = fmt.Sprintf("%s-%d", e, s.KeyBits)
	}
	return strings.Join([]string{e, s.Integrity, s.PRF, s.Group}, "/")
}

// listSAs asks the daemon behind a VICI socket for its SAs, through a client
// that is not of this project.
func listSAs(socket string) ([]IKESA, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	session, err := vici.NewSession(vici.WithAddr("unix", socket))
	if err != nil {
		return nil, fmt.Errorf("list SAs: %w", err)
	}
	defer session.Close()
	// The client's own streaming sometimes takes the response before the events
	// that came ahead of it, and loses these.
	const most = 4096
	events := make(chan vici.Event, most)
	session.NotifyEvents(events)
	if err := session.Subscribe("list-sa"); err != nil {
		return nil, fmt.Errorf("list SAs: %w", err)
	}
	if _, err := session.Call(ctx, "list-sas", nil); err != nil {
		return nil, fmt.Errorf("list SAs: %w", err)
	}
	var out []IKESA
	for len(events) > 0 {
		m := (<-events).Message
		for _, name := range m.Keys() {
			section, ok := m.Get(name).(*vici.Message)
			if !ok {
				continue
			}
			sa, err := readSA(name, section)
			if err != nil {
				return nil, fmt.Errorf("list SAs: %w", err)
			}
			out = append(out, sa)
		}
	}
	return out, nil
}

func readSA(name string, section *vici.Message) (IKESA, error) {
	sa := IKESA{Name: name}
	if err := vici.UnmarshalMessage(section, &sa); err != nil {
		return sa, err
	}
	if sa.ChildSections == nil {
		return sa, nil
	}
	for _, key := range sa.ChildSections.Keys() {
		sub, ok := sa.ChildSections.Get(key).(*vici.Message)
		if !ok {
			continue
		}
		var c ChildSA
		if err := vici.UnmarshalMessage(sub, &c); err != nil {
			return sa, err
		}
		sa.Children = append(sa.Children, c)
	}
	return sa, nil
}
