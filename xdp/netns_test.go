// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// network is a set of namespaces that are joined by veth pairs.
type network struct {
	t  testing.TB
	id string
}

func newNetwork(t testing.TB, names ...string) *network {
	t.Helper()
	needKernel(t)
	n := &network{t: t, id: fmt.Sprintf("qsxdp%d", os.Getpid())}
	for _, name := range names {
		n.ip("netns add %s", n.ns(name))
		t.Cleanup(func() { exec.Command("ip", "netns", "del", n.ns(name)).Run() })
		n.ip("-n %s link set lo up", n.ns(name))
	}
	return n
}

func (n *network) ns(name string) string { return n.id + name }

func (n *network) ip(format string, args ...any) {
	n.t.Helper()
	command := fmt.Sprintf(format, args...)
	if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", command, err, out)
	}
}

// join connects two namespaces: each has a device with the other's name, of
// two queues, whose address ends with its own name's letter.
func (n *network) join(a, b string) {
	n.t.Helper()
	n.ip("link add name %s numrxqueues 2 numtxqueues 2 netns %s type veth peer name %s numrxqueues 2 numtxqueues 2 netns %s", b, n.ns(a), a, n.ns(b))
	for _, end := range [][2]string{{a, b}, {b, a}} {
		n.ip("-n %s link set dev %s address %s", n.ns(end[0]), end[1], mac(end[0], end[1]))
		n.ip("-n %s link set dev %s up", n.ns(end[0]), end[1])
	}
}

// mac is the address of a namespace's device to another.
func mac(at, to string) string { return fmt.Sprintf("02:00:00:00:%02x:%02x", at[0], to[0]) }

func macBytes(at, to string) []byte { return []byte{2, 0, 0, 0, at[0], to[0]} }

// in runs a function on a thread in the namespace, which it does not leave.
func (n *network) in(name string, f func() error) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		fd, err := unix.Open("/run/netns/"+n.ns(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		n.t.Fatalf("in %s: %v", name, err)
	}
}

func (n *network) attach(p *Program, at, device string) Attachment {
	n.t.Helper()
	var a Attachment
	n.in(at, func() (err error) { a, err = p.Attach(device); return err })
	return a
}

func (n *network) sockets(at, device string, queue, count int) []*Socket {
	n.t.Helper()
	var s []*Socket
	n.in(at, func() (err error) { s, err = OpenSockets(device, queue, count, SocketOptions{}); return err })
	n.t.Cleanup(func() {
		for _, one := range s {
			if err := one.Close(); err != nil {
				n.t.Error(err)
			}
		}
	})
	return s
}

// raw is a socket in the namespace that gets the stack's ESP packets.
func (n *network) raw(at string, family int) int {
	n.t.Helper()
	var fd int
	n.in(at, func() (err error) {
		if fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(sa.ESP)); err != nil {
			return err
		}
		wait := unix.NsecToTimeval(int64(5 * time.Second))
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
	})
	n.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// take reads n packets from a raw socket.
func (n *network) take(fd, count int) {
	n.t.Helper()
	b := make([]byte, 2048)
	for i := range count {
		_, _, err := unix.Recvfrom(fd, b, 0)
		for err == unix.EINTR { // a wait with a limit is not taken up again
			_, _, err = unix.Recvfrom(fd, b, 0)
		}
		if err != nil {
			n.t.Fatalf("packet %d of %d: %v", i+1, count, err)
		}
	}
}

// send sends frames through a port, all of them.
func send(t testing.TB, p Port, frames ...[]byte) {
	t.Helper()
	batch := make([]Frame, len(frames))
	if got := p.Alloc(batch); got != len(frames) {
		t.Fatalf("%d frames of %d to send", got, len(frames))
	}
	for i := range batch {
		batch[i].Data = append(batch[i].Data, frames[i]...)
	}
	for len(batch) > 0 {
		sent, err := p.Send(batch)
		if err != nil {
			t.Fatal(err)
		}
		batch = batch[sent:]
	}
}

// receive gets count frames from a port and shows each.
func receive(t testing.TB, p Port, count int, see func([]byte)) {
	t.Helper()
	var frames [64]Frame
	for count > 0 {
		got := p.Receive(frames[:min(count, len(frames))])
		for i := range got {
			see(frames[i].Data)
		}
		p.Free(frames[:got])
		if count -= got; got > 0 {
			continue
		}
		if ready, err := p.Wait(5 * time.Second); err != nil || !ready {
			t.Fatalf("%d frames did not come: %v", count, err)
		}
	}
}

func silent(t testing.TB, p Port) {
	t.Helper()
	var frames [1]Frame
	if p.Receive(frames[:]) != 0 {
		t.Errorf("received %x", frames[0].Data)
	}
}

// to addresses a frame to a namespace, and gives its IPv4 header the sum that
// the stack wants.
func to(at, device string, frame []byte) []byte {
	copy(frame, macBytes(at, device))
	if h := frame[14:]; binary.BigEndian.Uint16(frame[12:]) == 0x0800 {
		sum := uint32(0)
		for i := 0; i < int(h[0]&15)*4; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(h[i:]))
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	}
	return frame
}

func espKey(spi sa.SPI) Key { return Key{local4, spi, sa.ESP} }

// Two SPIs go to two sockets of a queue, whatever their packets are wrapped
// in; what is not steered goes to the stack.
func TestSockets(t *testing.T) {
	n := newNetwork(t, "a", "b")
	n.join("a", "b")
	p := open(t, Options{SocketsPerQueue: 2})
	if a := n.attach(p, "b", "a"); a.Mode != Native || a.Why != "" || a.TakenOver {
		t.Errorf("attached %+v", a)
	}
	sender, queues := n.sockets("a", "b", 0, 1)[0], n.sockets("b", "a", 0, 2)
	t.Logf("without copy: %v", queues[0].ZeroCopy())
	for i, s := range queues {
		if err := p.SetSocket(i, s); err != nil {
			t.Fatal(err)
		}
		spi := espSPI + sa.SPI(i)
		insert(t, p, espKey(spi), Target{ToSocket, uint16(i)})
		insert(t, p, Key{local6, spi, sa.ESP}, Target{ToSocket, uint16(i)})
	}
	insert(t, p, espKey(dropSPI), Target{ToSocket, 2})
	for _, spi := range []sa.SPI{espSPI, espSPI + 1} {
		esp := espPacket(spi, 40)
		for _, frame := range [][]byte{
			frame4(50, esp),
			frame4(17, udpPacket(4500, esp)),
			frame6(50, esp),
			frame6(0, join(extension(50, 1), esp)),
			join(ethernet(0x0800, 0x8100), header4(50, 0, 0, esp)),
			join(ethernet(0x86dd, 0x88a8, 0x8100), header6(17, udpPacket(4500, esp))),
		} {
			send(t, sender, to("b", "a", frame))
			receive(t, queues[spi-espSPI], 1, func(got []byte) {
				if string(got) != string(frame) {
					t.Errorf("received\n%x, sent\n%x", got, frame)
				}
			})
			silent(t, queues[1-(spi-espSPI)])
		}
	}
	before := totals(t, p)
	if before[Socketed].Packets != 12 {
		t.Errorf("to sockets: %v", before[Socketed])
	}

	// Where there is no socket (of that number, on that queue, or any more)
	// packets go to the stack.
	other := n.sockets("a", "b", 1, 1)[0]
	send(t, sender, to("b", "a", frame4(50, espPacket(dropSPI, 40))))
	send(t, other, to("b", "a", frame4(50, espPacket(espSPI, 40))))
	if err := p.RemoveSocket(0, 1); err != nil {
		t.Fatal(err)
	}
	send(t, sender, to("b", "a", frame4(50, espPacket(espSPI+1, 40))))
	if got := totals(t, p)[NoTarget].Packets; got != 3 {
		t.Errorf("no target: %d", got)
	}
	silent(t, queues[0])
	silent(t, queues[1])
	if err := p.SetSocket(2, queues[0]); err == nil {
		t.Error("a third socket of two")
	}
}

// A socket for each queue gets the packets of its queue.
func TestQueues(t *testing.T) {
	n := newNetwork(t, "a", "b")
	n.join("a", "b")
	p := open(t, Options{})
	n.attach(p, "b", "a")
	insert(t, p, espKey(espSPI), Target{Action: ToSocket})
	var senders, receivers [2]*Socket
	for q := range 2 {
		senders[q], receivers[q] = n.sockets("a", "b", q, 1)[0], n.sockets("b", "a", q, 1)[0]
		if err := p.SetSocket(0, receivers[q]); err != nil {
			t.Fatal(err)
		}
	}
	for q, s := range senders {
		frame := to("b", "a", frame4(50, espPacket(espSPI, 100+q)))
		send(t, s, frame)
		receive(t, receivers[q], 1, func(got []byte) {
			if len(got) != len(frame) || receivers[q].Queue() != q {
				t.Errorf("queue %d received %x", q, got)
			}
		})
		silent(t, receivers[1-q])
	}
}

// A hundred thousand packets arrive, each once and in order, while their SPI
// is moved between two sockets, and others come and go in a full table.
func TestMoveUnderTraffic(t *testing.T) {
	n := newNetwork(t, "a", "b")
	n.join("a", "b")
	p := open(t, Options{SocketsPerQueue: 2, MaxSPIs: 1000})
	n.attach(p, "b", "a")
	sender, sockets := n.sockets("a", "b", 0, 1)[0], n.sockets("b", "a", 0, 2)
	for i, s := range sockets {
		if err := p.SetSocket(i, s); err != nil {
			t.Fatal(err)
		}
	}
	insert(t, p, espKey(espSPI), Target{Action: ToSocket})
	stop, stopped := make(chan struct{}), make(chan int, 1)
	end := sync.OnceValue(func() int { close(stop); return <-stopped })
	defer end()
	go func() {
		changes := 0
		defer func() { stopped <- changes }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			k := espKey(sa.SPI(256 + changes%999))
			err := p.Insert(k, Target{Action: Drop})
			err = errors.Join(err, p.Move(espKey(espSPI), Target{ToSocket, uint16(changes & 1)}))
			_, gone := p.Delete(k)
			if err = errors.Join(err, gone); err != nil {
				t.Error(err)
				return
			}
			changes++
		}
	}()
	const packets, batch = 100_000, 50
	frames := make([][]byte, batch)
	var seen [packets]bool
	begin, missing := time.Now(), 0
	for first := 0; first < packets; first += batch {
		for i := range frames {
			esp := espPacket(espSPI, 40)
			binary.BigEndian.PutUint32(esp[4:], uint32(first+i))
			frames[i] = to("b", "a", frame4(50, esp))
		}
		send(t, sender, frames...)
		missing += batch
		var got [batch]Frame
		for until := time.Now().Add(5 * time.Second); missing > 0; {
			for _, s := range sockets {
				count := s.Receive(got[:])
				last := -1
				for _, f := range got[:count] {
					sequence := int(binary.BigEndian.Uint32(f.Data[38:]))
					if seen[sequence] || sequence <= last {
						t.Errorf("packet %d twice, or after %d", sequence, last)
					}
					seen[sequence], last = true, sequence
				}
				s.Free(got[:count])
				missing -= count
			}
			if time.Now().After(until) {
				t.Fatalf("%d packets of the batch at %d did not come: totals %v", missing, first, totals(t, p))
			}
		}
	}
	took := time.Since(begin)
	t.Logf("%d packets, %.0f a second; %d inserts, moves and deletes meanwhile", packets, packets/took.Seconds(), end())
	used, err := p.Use(espKey(espSPI))
	if err != nil || used.Packets != packets || used.Bytes != packets*(20+8+40) {
		t.Errorf("counted %+v: %v", used, err)
	}
	if all := totals(t, p); all[Socketed].Packets != packets || all[UnknownPassed].Packets != 0 || all[NoTarget].Packets != 0 {
		t.Errorf("totals %v", all)
	}
	for _, s := range sockets {
		if stats, err := s.Stats(); err != nil || stats.Dropped+stats.RingFull+stats.InvalidReceive != 0 {
			t.Errorf("socket %+v: %v", stats, err)
		}
	}
}

// Packets that go to a CPU reach the stack.
func TestToCPU(t *testing.T) {
	n := newNetwork(t, "a", "b")
	n.join("a", "b")
	n.ip("-n %s addr add %s/24 dev a", n.ns("b"), local4)
	n.ip("-n %s addr add %s/64 dev a nodad", n.ns("b"), local6)
	n.ip("-n %s route add default dev a", n.ns("b"))
	p := open(t, Options{})
	n.attach(p, "b", "a")
	cpu := uint32(runtime.NumCPU() - 1)
	if err := p.SetCPU(cpu, 1024); err != nil {
		t.Fatal(err)
	}
	insert(t, p, espKey(espSPI), Target{ToCPU, uint16(cpu)})
	insert(t, p, Key{local6, espSPI, sa.ESP}, Target{ToCPU, uint16(cpu)})
	sender := n.sockets("a", "b", 0, 1)[0]
	four, six := n.raw("b", unix.AF_INET), n.raw("b", unix.AF_INET6)
	for range 100 {
		send(t, sender, to("b", "a", frame4(50, espPacket(espSPI, 40))), to("b", "a", frame6(50, espPacket(espSPI, 40))))
		n.take(four, 1)
		n.take(six, 1)
	}
	if got := totals(t, p)[OnCPU].Packets; got != 200 {
		t.Errorf("%d to a CPU", got)
	}
	if err := p.RemoveCPU(cpu); err != nil {
		t.Fatal(err)
	}
	send(t, sender, to("b", "a", frame4(50, espPacket(espSPI, 40))))
	n.take(four, 1)
	if got := totals(t, p)[NoTarget].Packets; got != 1 {
		t.Errorf("%d without CPU", got)
	}
}

// Packets that go to another device reach who is behind it.
func TestToDevice(t *testing.T) {
	n := newNetwork(t, "a", "b", "c")
	n.join("a", "b")
	n.join("b", "c")
	n.ip("-n %s addr add %s/24 dev b", n.ns("c"), local4)
	n.ip("-n %s route add default dev b", n.ns("c"))
	p, far := open(t, Options{}), open(t, Options{})
	n.attach(p, "b", "a")
	n.attach(far, "c", "b")
	n.in("b", func() error {
		index, err := deviceIndex("c")
		if err != nil {
			return err
		}
		return p.SetNextHop(5, NextHop{index, macBytes("c", "b"), macBytes("b", "c")})
	})
	insert(t, p, espKey(espSPI), Target{ToDevice, 5})
	insert(t, far, espKey(espSPI), Target{Action: Pass})
	sender, raw := n.sockets("a", "b", 0, 1)[0], n.raw("c", unix.AF_INET)
	for range 100 {
		send(t, sender, to("b", "a", frame4(50, espPacket(espSPI, 40))))
		n.take(raw, 1)
	}
	if near, beyond := totals(t, p)[Forwarded].Packets, totals(t, far)[Passed].Packets; near != 100 || beyond != 100 {
		t.Errorf("%d forwarded, %d beyond", near, beyond)
	}
}

func deviceIndex(name string) (int, error) {
	d, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return d.Index, nil
}

// A device has one program; a device that has none in its driver has one in
// the stack.
func TestAttach(t *testing.T) {
	n := newNetwork(t, "a", "b")
	n.join("a", "b")
	p, other := open(t, Options{}), open(t, Options{})
	n.attach(other, "b", "a")
	n.in("b", func() error {
		if _, err := p.Attach("a"); !errors.Is(err, ErrOccupied) || !strings.Contains(err.Error(), "quicksand_steer") {
			t.Errorf("attached beside another program: %v", err)
		}
		if _, err := p.Attach("none"); err == nil {
			t.Error("attached to no device")
		}
		if _, err := other.Attach("a"); err == nil || errors.Is(err, ErrOccupied) {
			t.Errorf("attached twice: %v", err)
		}
		return nil
	})
	if a := n.attach(p, "b", "lo"); a.Mode != Generic || a.Why == "" {
		t.Errorf("attached to the loopback: %+v", a)
	}
	if err := other.Detach("a"); err != nil {
		t.Error(err)
	}
	if a := n.attach(p, "b", "a"); a.Mode != Native {
		t.Errorf("attached after the other: %+v", a)
	}
	if err := other.Detach("a"); err == nil {
		t.Error("detached twice")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	n.in("b", func() error {
		for _, device := range []string{"a", "lo"} {
			index, err := deviceIndex(device)
			if err != nil {
				return err
			}
			if m, err := mode(index); err == nil {
				t.Errorf("closed, but attached to %s: %s", device, m)
			}
		}
		return nil
	})
}

// A socket that polls the driver while it waits works as the others do, and so
// does one on a program in the stack.
func TestBusyPoll(t *testing.T) {
	n := newNetwork(t, "a", "b")
	n.join("a", "b")
	p := open(t, Options{})
	n.attach(p, "b", "a")
	sender := n.sockets("a", "b", 0, 1)[0]
	var s []*Socket
	n.in("b", func() (err error) {
		s, err = OpenSockets("a", 0, 1, SocketOptions{BusyPoll: 20 * time.Microsecond, Copy: true, FrameSize: 4096, Frames: 64, Ring: 64})
		return err
	})
	defer s[0].Close()
	if err := p.SetSocket(0, s[0]); err != nil {
		t.Fatal(err)
	}
	insert(t, p, espKey(espSPI), Target{Action: ToSocket})
	// More than there are frames, so that each comes back to be filled again.
	for range 1000 {
		frame := to("b", "a", frame4(50, espPacket(espSPI, 1400)))
		send(t, sender, frame)
		receive(t, s[0], 1, func(got []byte) {
			if string(got) != string(frame) {
				t.Fatalf("received %x", got)
			}
		})
	}
	// What is received may be sent on, changed, in the same frame.
	send(t, sender, to("b", "a", frame4(50, espPacket(espSPI, 40))))
	if ready, err := s[0].Wait(5 * time.Second); !ready || err != nil {
		t.Fatal(ready, err)
	}
	var frames [1]Frame
	if s[0].Receive(frames[:]) != 1 {
		t.Fatal("nothing received")
	}
	frames[0].Data = frames[0].Data[:60]
	if sent, err := s[0].Send(frames[:]); sent != 1 || err != nil {
		t.Fatal(sent, err)
	}
	// The frame sent may not be back yet.
	if all := s[0].Alloc(make([]Frame, 64)); all != 31 && all != 32 {
		t.Errorf("%d frames are free to send, of 64 of which half are to receive", all)
	}
}

// Close ends Wait.
func TestCloseEndsWait(t *testing.T) {
	n := newNetwork(t, "a", "b")
	n.join("a", "b")
	s := n.sockets("a", "b", 0, 1)[0]
	done := make(chan error)
	go func() {
		_, err := s.Wait(-1)
		done <- err
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
