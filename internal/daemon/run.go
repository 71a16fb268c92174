// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"quicksand/accel"
	"quicksand/accel/dh"
	"quicksand/fallback/steered"
	"quicksand/fallback/tunnel"
	"quicksand/ike"
	"quicksand/internal/swanctl"
	"quicksand/internal/vici"
	"quicksand/offload"
	"quicksand/sa"
)

// Options are what Run is given.
type Options struct {
	Version  string
	Config   string            // path of swanctl.conf; empty: all comes over the control protocol
	Settings *swanctl.Settings // nil: the defaults
	Logger   *slog.Logger      // nil: lines of text on standard error
}

// Run runs quicksand until ctx ends: it reads the configuration, opens the
// sockets, the tunnel and the control socket, gives up the privileges it does
// not need any more, and serves. A hang-up signal has it read the
// configuration again. An error before it serves leaves nothing behind.
func Run(ctx context.Context, o Options) error {
	if o.Settings == nil {
		o.Settings = swanctl.DefaultSettings()
	}
	if o.Logger == nil {
		h := newLogHandler(os.Stderr, o.Settings.LogLevel)
		defer h.out.flush()
		o.Logger = slog.New(h)
	}
	if err := forbidDumps(); err != nil {
		o.Logger.Warn(err.Error())
	}
	config := &ike.Config{}
	load := func() (*ike.Config, error) { return swanctl.Load(o.Config) }
	if o.Config == "" {
		load = nil
	} else {
		var err error
		if config, err = load(); err != nil {
			return err
		}
	}
	p, err := makeParts(o)
	if err != nil {
		return err
	}
	p.Config, p.Load = config, load
	d, err := New(p)
	if err != nil {
		return errors.Join(err, p.close())
	}
	control := vici.New(d, vici.Options{Path: o.Settings.VICISocket, Logger: o.Logger})
	control.Handle("xdp-status", d.xdpStatus)
	if err := control.Listen(); err != nil {
		return errors.Join(err, d.close())
	}
	d.SetReporter(control)
	return d.serve(ctx, o, control)
}

// serve runs a daemon whose parts are all open, with its control socket and its
// metrics, until ctx ends.
func (d *Daemon) serve(ctx context.Context, o Options, control *vici.Server) error {
	// The control connections outlive the loop, so that they hear of the end.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var servers sync.WaitGroup
	defer servers.Wait()
	defer stop()
	servers.Go(func() {
		if err := control.Serve(serving); err != nil {
			d.log.Error("the control socket is gone: " + err.Error())
		}
	})
	var metrics net.Listener
	if o.Settings.Metrics != "" {
		var err error
		if metrics, err = listenMetrics(o.Settings.Metrics); err != nil {
			return errors.Join(err, d.close())
		}
	}
	if err := dropPrivileges(steeringLater(o.Settings)...); err != nil {
		d.log.Warn("running with more privileges than needed: " + err.Error())
	}
	if metrics != nil {
		d.serveMetrics(ctx, metrics)
		d.log.Info("metrics are served", "address", metrics.Addr())
	}
	d.warnOfSettings(o.Settings)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	servers.Go(func() { d.reloadOn(serving, hangup) })
	d.log.Info("quicksand is ready", "version", o.Version, "control", o.Settings.VICISocket,
		"connections", len(d.config.conns), "backends", kindNames(d.stats().Backends))
	tellManager(systemd.SdNotifyReady, d.log)
	context.AfterFunc(ctx, func() { tellManager(systemd.SdNotifyStopping, d.log) })
	return d.Run(ctx)
}

// warnOfSettings says which settings have no effect.
func (d *Daemon) warnOfSettings(s *swanctl.Settings) {
	steered := s.XDPAuto || len(s.XDPInterfaces) > 0
	if steered && !slices.Contains(s.Backend, sa.Userspace) {
		d.log.Warn("xdp_interfaces has no effect: backend does not allow userspace", "backend", kindNames(s.Backend))
	}
	if len(d.stats().Backends) == 0 {
		d.log.Error("no SA can be installed: none of the kinds of engine that the setting backend allows is there",
			"backend", kindNames(s.Backend))
	}
}

// reloadOn reads the configuration again at each signal.
func (d *Daemon) reloadOn(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			// A failure is logged, and everything stays as it was.
			_ = d.ReloadSettings(ctx)
		}
	}
}

// makeParts opens what a daemon is made of, by the settings.
func makeParts(o Options) (p Parts, err error) {
	s := o.Settings
	p = Parts{
		Version: o.Version, IKE: s.Options(), Kinds: s.Backend, Logger: o.Logger, KeyLog: s.KeyLog,
		Ports:     [2]uint16{s.Port, s.PortNATT},
		LocalAddr: routeLookup(tunnel.DefaultMark), Inbox: NewInbox(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
			p = Parts{}
		}
	}()
	if p.DH, err = startDH(s.DHCores, o.Logger); err != nil {
		return p, err
	}
	sockets := &sockets{}
	p.Transport = sockets
	if err = sockets.open(s.Port, s.PortNATT, p.Inbox); err != nil {
		return p, err
	}
	userspace := slices.Contains(s.Backend, sa.Userspace)
	kernel, err := openKernel(s, sockets, o.Logger)
	switch {
	case err == nil && kernel != nil:
		p.Backends = append(p.Backends, kernel)
	case err != nil && !userspace:
		return p, err
	case err != nil:
		o.Logger.Warn("no SA is carried by the kernel or a NIC, but all in user space: " + err.Error())
	}
	if userspace {
		wire, err := p.openWire(s, sockets.natt)
		if err != nil {
			return p, err
		}
		plane, err := tunnel.New(tunnel.Options{Device: s.TUN, MTU: s.MTU, Cores: s.WorkerCores,
			NATT: sockets.natt, Wire: wire, Log: o.Logger})
		if err != nil {
			return p, errors.Join(err, wire.Close())
		}
		p.Backends = append(p.Backends, plane)
	}
	return p, nil
}

// openWire opens what moves the user-space tunnel's packets: the sockets, and
// where the settings name interfaces, steering to AF_XDP above them.
func (p *Parts) openWire(s *swanctl.Settings, natt *tunnel.Socket) (tunnel.Wire, error) {
	floor := tunnel.NewSocketWire(natt, tunnel.DefaultMark)
	if !s.XDPAuto && len(s.XDPInterfaces) == 0 {
		return floor, nil
	}
	wire, err := steered.New(steered.Options{
		Devices: s.XDPInterfaces, Auto: s.XDPAuto, Cores: s.WorkerCores, PinPath: pinPath(s.XDPPins),
		Sockets: floor, Mark: tunnel.DefaultMark, Ports: [2]uint16{s.Port, s.PortNATT},
		IKEInterval: s.XDPIKEInterval, IKEBurst: s.XDPIKEBurst, Log: p.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, floor.Close())
	}
	p.Steered = wire
	return wire, nil
}

// openKernel opens the kernel's XFRM for the kinds of engine that the settings
// allow; it returns nil where they allow none of its.
func openKernel(s *swanctl.Settings, sockets *sockets, log *slog.Logger) (sa.Backend, error) {
	kinds := slices.DeleteFunc(slices.Clone(s.Backend), func(k sa.Kind) bool { return k == sa.Userspace })
	if len(kinds) == 0 {
		return nil, nil
	}
	if err := offload.Ready(); err != nil {
		return nil, err
	}
	if err := errors.Join(sockets.ike.ExemptFromPolicies(), sockets.natt.ExemptFromPolicies()); err != nil {
		return nil, err
	}
	options := offload.Options{Kinds: kinds, Mark: tunnel.DefaultMark, Ports: [2]uint16{s.Port, s.PortNATT}, Log: log}
	if err := sockets.natt.ShareWithKernel(); err != nil {
		log.Warn("SAs behind a NAT are not carried by the kernel: " + err.Error())
	} else {
		options.NATT = sockets.natt
	}
	backend, err := offload.New(options)
	if err != nil {
		return nil, err
	}
	return backend, nil
}

// close closes what is open, where no daemon was made of it.
func (p *Parts) close() error {
	var errs []error
	for _, b := range p.Backends {
		errs = append(errs, b.Close())
	}
	if p.Transport != nil {
		errs = append(errs, p.Transport.Close())
	}
	if p.DH != nil {
		errs = append(errs, p.DH.Close())
	}
	return errors.Join(errs...)
}

// startDH starts the Diffie-Hellman engine, and keeps the rest of the process
// away from its cores.
func startDH(cores []int, log *slog.Logger) (Computer, error) {
	engine, err := dh.New(dh.Options{Cores: cores})
	if err != nil {
		return nil, err
	}
	if len(cores) == 0 {
		return dhComputer{engine}, nil
	}
	_, err = accel.KeepAway(cores)
	switch {
	case errors.Is(err, accel.ErrNoOtherCPU):
		log.Warn("dh_cores leaves no CPU for the rest: they are shared", "dh_cores", accel.FormatCPUs(cores))
	case err != nil:
		engine.Close()
		return nil, err
	default:
		log.Info("Diffie-Hellman has CPUs of its own", "dh_cores", accel.FormatCPUs(cores))
	}
	return dhComputer{engine}, nil
}

// sockets are the IKE port and the NAT traversal port.
type sockets struct{ ike, natt *tunnel.Socket }

func (s *sockets) open(port, portNATT uint16, in *Inbox) (err error) {
	listen := func(port uint16, natt bool) (*tunnel.Socket, error) {
		return tunnel.Listen(port, tunnel.DefaultMark, natt, func(data []byte, local, remote netip.AddrPort, alone bool) {
			take := in.Receive
			if alone {
				take = in.Handle
			}
			take(ike.Datagram{Local: local, Remote: remote, NATT: natt, Data: data})
		})
	}
	if s.ike, err = listen(port, false); err != nil {
		return fmt.Errorf("open IKE port: %w", inUse(err))
	}
	if s.natt, err = listen(portNATT, true); err != nil {
		return fmt.Errorf("open NAT traversal port: %w", inUse(err))
	}
	return nil
}

// inUse says what a port that is taken most likely means.
func inUse(err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w: another IKE daemon runs in this network namespace", err)
	}
	return err
}

// Send implements Transport.
func (s *sockets) Send(local, remote netip.AddrPort, natt bool, data []byte) error {
	if natt {
		return s.natt.SendIKE(data, local, remote)
	}
	return s.ike.SendIKE(data, local, remote)
}

// Keepalive implements Transport.
func (s *sockets) Keepalive(local, remote netip.AddrPort) error {
	return s.natt.SendKeepalive(local, remote)
}

// Close implements Transport.
func (s *sockets) Close() error {
	var errs []error
	for _, socket := range []*tunnel.Socket{s.ike, s.natt} {
		if socket != nil {
			errs = append(errs, socket.Close())
		}
	}
	return errors.Join(errs...)
}
