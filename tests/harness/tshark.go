// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Packet is what tshark reads in a packet of IKE, ESP or AH, or with one
// inside.
type Packet struct {
	Frame    int
	Seconds  float64 // since the capture's first packet
	Src, Dst netip.Addr
	SrcPort  uint16 // of UDP; 0 without
	DstPort  uint16

	Protocol int // of the outer IP header

	Keepalive bool // of NAT-T, RFC 3948 section 2.3

	// Of ISAKMP: what is encrypted is there only where the key is known.
	Exchange         Exchange // 0 where the packet is none
	ICookie, RCookie string
	MessageID        uint32
	Encrypted        bool
	Decrypted        bool   // Encrypted, and read
	Payloads         []int  // types in order, nested ones as well
	Notifications    []int  // message types
	Deletes          []int  // protocols of Delete payloads
	DeletedSPIs      string // in hexadecimal
	Groups           []int  // group description attributes of Quick Mode
	Malformed        bool

	// Of ESP and AH.
	SPI      string // in hexadecimal, empty where the packet is neither
	Sequence uint32
	AH       bool
	ICVGood  bool // checked and right
	ICVBad   bool // checked and wrong
	Inner    int  // protocol of what was inside, of ESP that was decrypted
}

// Exchange is the exchange type of an ISAKMP header (RFC 2408 section 3.1,
// RFC 2409 section 10).
type Exchange int

// The exchanges that quicksand knows.
const (
	MainMode      Exchange = 2
	Informational Exchange = 5
	QuickMode     Exchange = 32
)

// The notifications that the tests look for (RFC 2408 section 3.14.1, RFC 2407
// section 4.6.3, RFC 3706 section 5).
const (
	InvalidKeyInformation  = 17
	PayloadMalformed       = 16
	InvalidSPI             = 11
	NoProposalChosen       = 14
	InvalidIDInformation   = 18
	InvalidHashInformation = 23
	AuthenticationFailed   = 24
	ResponderLifetime      = 24576
	InitialContact         = 24578
	RUThere                = 36136
	RUThereAck             = 36137
)

const (
	fieldSeparator      = "\t"
	occurrenceSeparator = "|"
	icmp, icmp6         = 1, 58 // IP protocols
)

var tsharkFields = []string{
	"frame.number", "frame.time_relative", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "udp.srcport", "udp.dstport",
	"isakmp.exchangetype", "isakmp.ispi", "isakmp.rspi", "isakmp.messageid", "isakmp.flag_e", "isakmp.typepayload",
	"isakmp.notify.msgtype", "isakmp.delete.protoid", "isakmp.delete.spi", "isakmp.ipsec.attr.group_description",
	"_ws.malformed", "esp.spi", "esp.sequence", "esp.icv_good", "esp.icv_bad", "esp.protocol", "ah.spi", "ah.sequence",
	"udpencap.nat_keepalive", "ip.proto", "ipv6.nxt",
}

// Dissect has tshark read a capture with the keys in a directory of Wireshark's
// tables, and returns the packets of IKE, ESP and AH, not those that an ICMP
// error quotes. An empty directory name
// stands for no keys.
func Dissect(pcap, keyDir string) ([]Packet, error) {
	config, err := os.MkdirTemp("", "wireshark")
	if err != nil {
		return nil, fmt.Errorf("dissect %s: %w", pcap, err)
	}
	defer os.RemoveAll(config)
	for _, table := range []string{ikeTable, espTable} {
		if keyDir == "" {
			break
		}
		b, err := os.ReadFile(filepath.Join(keyDir, table))
		if err == nil {
			err = os.WriteFile(filepath.Join(config, table), b, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("dissect %s: %w", pcap, err)
		}
	}
	args := []string{"-n", "-r", pcap, "-Y", "isakmp || esp || ah || udpencap",
		"-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE",
		"-o", "esp.enable_null_encryption_decode_heuristic:FALSE",
		"-T", "fields", "-E", "separator=/t", "-E", "aggregator=" + occurrenceSeparator, "-E", "occurrence=a"}
	for _, f := range tsharkFields {
		args = append(args, "-e", f)
	}
	cmd := exec.Command("tshark", args...)
	cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+config)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("dissect %s: %w: %s", pcap, err, stderr.String())
	}
	// A table that tshark cannot read is only a warning to it.
	for line := range strings.Lines(stderr.String()) {
		if strings.Contains(line, ikeTable) || strings.Contains(line, espTable) {
			return nil, fmt.Errorf("dissect %s: %s", pcap, strings.TrimSpace(line))
		}
	}
	var packets []Packet
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimRight(line, "\n"), fieldSeparator)
		if len(fields) != len(tsharkFields) {
			return nil, fmt.Errorf("dissect %s: %d fields in %q", pcap, len(fields), line)
		}
		if p := parsePacket(fields); p.Protocol != icmp && p.Protocol != icmp6 {
			packets = append(packets, p)
		}
	}
	return packets, nil
}

func parsePacket(fields []string) Packet {
	all := map[string][]string{}
	for i, f := range fields {
		if f != "" {
			all[tsharkFields[i]] = strings.Split(f, occurrenceSeparator)
		}
	}
	// The outer headers' fields come first.
	first := func(names ...string) string {
		for _, n := range names {
			if len(all[n]) > 0 {
				return all[n][0]
			}
		}
		return ""
	}
	numbers := func(name string) (out []int) {
		for _, s := range all[name] {
			out = append(out, int(parseNumber(s)))
		}
		return out
	}
	p := Packet{
		Frame:         int(parseNumber(first("frame.number"))),
		Protocol:      int(parseNumber(first("ip.proto", "ipv6.nxt"))),
		SrcPort:       uint16(parseNumber(first("udp.srcport"))),
		DstPort:       uint16(parseNumber(first("udp.dstport"))),
		Keepalive:     all["udpencap.nat_keepalive"] != nil,
		Exchange:      Exchange(parseNumber(first("isakmp.exchangetype"))),
		ICookie:       plainHex(first("isakmp.ispi")),
		RCookie:       plainHex(first("isakmp.rspi")),
		MessageID:     uint32(parseNumber(first("isakmp.messageid"))),
		Encrypted:     isTrue(first("isakmp.flag_e")),
		Payloads:      numbers("isakmp.typepayload"),
		Notifications: numbers("isakmp.notify.msgtype"),
		Deletes:       numbers("isakmp.delete.protoid"),
		DeletedSPIs:   plainHex(strings.Join(all["isakmp.delete.spi"], " ")),
		Groups:        numbers("isakmp.ipsec.attr.group_description"),
		Malformed:     all["_ws.malformed"] != nil,
		Sequence:      uint32(parseNumber(first("esp.sequence", "ah.sequence"))),
		AH:            all["ah.spi"] != nil,
		ICVGood:       isTrue(first("esp.icv_good")),
		ICVBad:        isTrue(first("esp.icv_bad")),
		Inner:         int(parseNumber(first("esp.protocol"))),
	}
	p.Seconds, _ = strconv.ParseFloat(first("frame.time_relative"), 64)
	p.Src, _ = netip.ParseAddr(first("ip.src", "ipv6.src"))
	p.Dst, _ = netip.ParseAddr(first("ip.dst", "ipv6.dst"))
	if spi := first("esp.spi", "ah.spi"); spi != "" {
		p.SPI = fmt.Sprintf("%08x", uint32(parseNumber(spi)))
	}
	p.Decrypted = p.Encrypted && len(p.Payloads) > 0 && !p.Malformed
	return p
}

// parseNumber reads decimal and 0x numbers; anything else is 0.
func parseNumber(s string) uint64 {
	v, _ := strconv.ParseUint(s, 0, 64)
	return v
}

func isTrue(s string) bool { return s == "1" || strings.EqualFold(s, "true") }

func plainHex(s string) string {
	return strings.NewReplacer(":", "", "0x", "").Replace(s)
}

// From reports whether the packet's outer source is the address.
func (p Packet) From(addr string) bool { return p.Src.String() == addr }

// Notifies reports whether the packet holds the notification.
func (p Packet) Notifies(message int) bool { return slices.Contains(p.Notifications, message) }

// String is a line for people.
func (p Packet) String() string {
	s := fmt.Sprintf("%d %.3f %v:%d > %v:%d", p.Frame, p.Seconds, p.Src, p.SrcPort, p.Dst, p.DstPort)
	switch {
	case p.Keepalive:
		return s + " keepalive"
	case p.Exchange != 0:
		return s + fmt.Sprintf(" exchange %d message %08x encrypted %v payloads %v notify %v delete %v %s malformed %v",
			p.Exchange, p.MessageID, p.Encrypted, p.Payloads, p.Notifications, p.Deletes, p.DeletedSPIs, p.Malformed)
	case p.SPI != "":
		return s + fmt.Sprintf(" SPI %s sequence %d good %v bad %v inner %d", p.SPI, p.Sequence, p.ICVGood, p.ICVBad, p.Inner)
	}
	return s
}
