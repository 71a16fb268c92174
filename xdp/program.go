// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"quicksand/bpf"
)

// maxSPIs bounds the memory of a table: about 60 MB and 50 MB for each CPU.
const maxSPIs = 1 << 20

// rodata holds the program's constants, which belong to one load of it.
const rodata = ".rodata"

// Options shape a program. The zero value is usable.
type Options struct {
	MaxSPIs         int           // room in the table, up to 1<<20; 0 is 65536
	Ports           Ports         // zero is 500, and 4500 encapsulated
	Destinations    int           // addresses that SPIs are for, up to 1<<14-1; 0 is 4096
	DropUnknown     bool          // drop IPsec packets whose SPI is not in the table
	IKEInterval     time.Duration // each source may begin an exchange this often; 0 is no limit
	IKEBurst        int           // and so many at once; at least 1
	MaxSources      int           // sources remembered, the latest; 0 is 65536
	Queues          int           // receive queues with sockets; 0 is 64
	SocketsPerQueue int           // AF_XDP sockets on each of them; 0 is 1
	NextHops        int           // 0 is 64

	// PinPath is a folder in a BPF file system in which tables and links are
	// kept, so that steering goes on when the process ends: the next one that
	// is opened with the same PinPath takes all of it over. One at a time may
	// have it open, others get ErrBusy. Empty is none:
	// everything then ends with Close, or with the process.
	PinPath string
}

func (o *Options) defaults() error {
	set := func(p *int, value int) {
		if *p == 0 {
			*p = value
		}
	}
	set(&o.MaxSPIs, 1<<16)
	set(&o.Destinations, 4096)
	set(&o.MaxSources, 1<<16)
	set(&o.Queues, 64)
	set(&o.SocketsPerQueue, 1)
	set(&o.NextHops, 64)
	set(&o.IKEBurst, 1)
	if o.Ports.IKE == 0 && o.Ports.Encaps == nil {
		o.Ports = Ports{IKE: 500, Encaps: []uint16{4500}}
	}
	switch {
	case o.MaxSPIs < 0 || o.MaxSPIs > maxSPIs:
		return fmt.Errorf("check options: room for %d SPIs: more than %d", o.MaxSPIs, maxSPIs)
	case o.Destinations < 0 || o.Destinations > maxHomes:
		return fmt.Errorf("check options: %d destinations: more than %d", o.Destinations, maxHomes)
	case len(o.Ports.Encaps) > 4:
		return fmt.Errorf("check options: %d ports for encapsulation: more than 4", len(o.Ports.Encaps))
	case o.Queues < 0 || o.SocketsPerQueue < 0 || o.NextHops < 0 || o.MaxSources < 0 || o.IKEBurst < 0 || o.IKEInterval < 0:
		return errors.New("check options: a number is negative")
	case o.SocketsPerQueue > maxTarget+1 || o.NextHops > maxTarget+1:
		return errors.New("check options: more sockets or next hops than a target can name")
	}
	return nil
}

// weaklyOrdered says that the CPU's stores are not seen in the order in which
// they are made.
var weaklyOrdered = runtime.GOARCH != "amd64" && runtime.GOARCH != "386" && runtime.GOARCH != "s390x"

// Program is the loaded program with its tables. Its methods may be called
// from several goroutines.
type Program struct {
	*Table
	options Options
	objects bpf.SteerObjects
	links   links
	pins    *os.File // the folder, locked; nil if nothing is pinned
}

// Open loads the program, and takes over the tables that are pinned at
// options.PinPath. It steers nothing before Attach.
func Open(options Options) (*Program, error) {
	if err := options.defaults(); err != nil {
		return nil, err
	}
	spec, err := options.spec()
	if err != nil {
		return nil, err
	}
	p := &Program{options: options}
	load := &ebpf.CollectionOptions{}
	if options.PinPath != "" {
		if p.pins, err = lockPins(options.PinPath); err != nil {
			return nil, err
		}
		load.Maps.PinPath = options.PinPath
		for _, m := range spec.Maps {
			if m.Name != rodata {
				m.Pinning = ebpf.PinByName
			}
		}
	}
	if err := p.open(spec, load); err != nil {
		return nil, errors.Join(err, p.objects.Close(), p.unlockPins())
	}
	return p, nil
}

// open loads the program and takes over what is pinned.
func (p *Program) open(spec *ebpf.CollectionSpec, load *ebpf.CollectionOptions) error {
	if err := checkLayout(p.options.PinPath); err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&p.objects, load); err != nil {
		if errors.Is(err, ebpf.ErrMapIncompatible) {
			return fmt.Errorf("take over pinned tables at %s: %w (they were made with other options: remove them first)", p.options.PinPath, err)
		}
		return fmt.Errorf("load program: %w", err)
	}
	if err := p.objects.Layout.Update(uint32(0), uint64(layoutVersion), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	var err error
	p.Table, err = newTable(&p.objects, p.options.MaxSPIs)
	return err
}

// ErrBusy is returned when another process, or another Program of this one,
// has the pinned tables open: one at a time may change them.
var ErrBusy = errors.New("pinned tables are in use")

// lockPins makes the folder and takes it for this process, until it is closed.
func lockPins(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make pin folder: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open pin folder: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrBusy
		}
		return nil, errors.Join(fmt.Errorf("take over pinned tables at %s: %w", path, err), dir.Close())
	}
	return dir, nil
}

func (p *Program) unlockPins() error {
	if p.pins == nil {
		return nil
	}
	pins := p.pins
	p.pins = nil
	return pins.Close()
}

// ErrLayout is returned when tables are pinned whose layout is another one.
// They are left as they are, and steer on until Unpin removes them.
var ErrLayout = errors.New("pinned tables have another layout")

// firstMaps are those that only the first layout has, which had no number.
var firstMaps = []string{"spis", "verdicts"}

// checkLayout says whether this version understands what is pinned.
func checkLayout(path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(path, firstMaps[0])); err == nil {
		return fmt.Errorf("take over pinned tables at %s: %w: 1, and this is %d", path, ErrLayout, layoutVersion)
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(path, "layout"), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read layout of pinned tables at %s: %w", path, err)
	}
	defer m.Close()
	var layout uint64
	if err := m.Lookup(uint32(0), &layout); err != nil {
		return fmt.Errorf("read layout of pinned tables at %s: %w", path, err)
	}
	// One that is 0 is of a process that ended before it wrote anything.
	if layout != 0 && layout != layoutVersion {
		return fmt.Errorf("take over pinned tables at %s: %w: %d, and this is %d", path, ErrLayout, layout, layoutVersion)
	}
	return nil
}

// spec is the program's specification with the options put in.
func (o *Options) spec() (*ebpf.CollectionSpec, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count possible CPUs: %w", err)
	}
	spec, err := bpf.LoadSteer()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	return spec, o.apply(spec, cpus)
}

// apply puts the options into any specification that holds the program.
func (o *Options) apply(spec *ebpf.CollectionSpec, cpus int) error {
	g := shape(o.MaxSPIs)
	rows := uint64(cpus + 1)
	if rows*uint64(g.places()) > math.MaxUint32 {
		return fmt.Errorf("check options: counters of %d SPIs on %d CPUs are more than a map can have", o.MaxSPIs, cpus)
	}
	signposts := uint32(1) << bits.Len(uint(o.Destinations*signpostsEach-1))
	for name, entries := range map[string]uint32{
		"buckets":   uint32(g.places() / bucketPlaces),
		"signposts": signposts,
		"homes":     uint32(o.Destinations + 1),
		"uses":      uint32(g.places()) * uint32(rows),
		"tallies":   uint32(cpus),
		"sources":   uint32(o.MaxSources),
		"sockets":   uint32(o.Queues * o.SocketsPerQueue),
		"cpus":      uint32(cpus),
		"devices":   uint32(o.NextHops),
		"next_hops": uint32(o.NextHops),
	} {
		spec.Maps[name].MaxEntries = entries
	}
	var ports [4]uint16
	copy(ports[:], o.Ports.Encaps)
	drop := uint8(0)
	if o.DropUnknown {
		drop = 1
	}
	for name, value := range map[string]any{
		"level_buckets":       g.buckets,
		"level_first":         g.first,
		"signpost_mask":       signposts - 1,
		"places":              uint32(g.places()),
		"weakly_ordered":      weaklyOrdered,
		"sockets_per_queue":   uint32(o.SocketsPerQueue),
		"drop_unknown":        drop,
		"ike_port":            o.Ports.IKE,
		"encapsulation_ports": ports,
		"ike_interval":        uint64(o.IKEInterval),
		"ike_burst":           uint64(o.IKEInterval) * uint64(o.IKEBurst),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// MaxVerified bounds the instructions that the verifier may walk, of the
// million that it allows: kernels differ in how many ways they see through a
// program, and all from 6.1 on are to load this one.
const MaxVerified = 100_000

// Cost is what the program is to the kernel.
type Cost struct {
	Instructions int // of the program, as loaded
	Verified     int // instructions that the verifier walked
	MachineCode  int // octets; 0 without the JIT compiler
}

// Cost asks the kernel.
func (p *Program) Cost() (Cost, error) {
	info, err := p.objects.QuicksandSteer.Info()
	if err != nil {
		return Cost{}, fmt.Errorf("read program: %w", err)
	}
	var c Cost
	verified, _ := info.VerifiedInstructions()
	machineCode, _ := info.JitedSize()
	c.Verified, c.MachineCode = int(verified), int(machineCode)
	size, err := info.TranslatedSize()
	if err != nil {
		return Cost{}, fmt.Errorf("read program: %w", err)
	}
	c.Instructions = size / 8
	return c, nil
}

// Close ends the program's steering and frees its tables, unless they are
// pinned: then both go on.
func (p *Program) Close() error {
	return errors.Join(p.links.close(), p.Table.close(), p.objects.Close(), p.unlockPins())
}

// Remove closes the program and removes what is pinned, so that nothing of it
// is left.
func (p *Program) Remove() error {
	var err error
	if p.options.PinPath != "" {
		err = Unpin(p.options.PinPath)
	}
	return errors.Join(err, p.Close())
}

// Unpin removes what programs have pinned at path. What no open program uses
// ends with it.
func Unpin(path string) error {
	spec, err := bpf.LoadSteer()
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	var errs []error
	remove := func(name string) {
		if err := os.Remove(filepath.Join(path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin %s: %w", name, err))
		}
	}
	pinned, err := filepath.Glob(filepath.Join(path, linkPrefix+"*"))
	if err != nil {
		return fmt.Errorf("list pinned links: %w", err)
	}
	for _, link := range pinned {
		remove(filepath.Base(link))
	}
	for name := range spec.Maps {
		if name != rodata {
			remove(name)
		}
	}
	for _, name := range firstMaps {
		remove(name)
	}
	remove(".")
	return errors.Join(errs...)
}
