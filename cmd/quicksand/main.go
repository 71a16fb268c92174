// SPDX-License-Identifier: Apache-2.0

// Command quicksand is the daemon and its controls in one program: run starts
// it, doctor tells what the machine offers it, and the other verbs, which have
// swanctl's names and flags, steer a daemon that runs, over VICI.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"quicksand/internal/swanctl"
	"quicksand/internal/vici"
)

// version is quicksand's; a release build sets it.
var version = "0.1.0-dev"

// The files that are read where no flag names others.
const (
	defaultConfig   = "/etc/swanctl/swanctl.conf"
	defaultSettings = "/etc/quicksand/quicksand.conf"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errSilent fails without another word: all is said already.
var errSilent = errors.New("failed")

// env is what a verb works with.
type env struct {
	stdout, stderr io.Writer
	flags          *flag.FlagSet // of the verb
	help           string        // of the verb, beside that of its flags
	uri            *string       // of the daemon, where the verb is one of control
}

// parse reads the verb's arguments, which are flags alone.
func (e *env) parse(args []string) error {
	if err := e.flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError{err}
	}
	if e.flags.NArg() > 0 {
		return usagef("unexpected argument %q", e.flags.Arg(0))
	}
	return nil
}

// control adds the flag that every verb of control has.
func (e *env) control() {
	e.uri = e.flags.String("uri", "unix://"+swanctl.DefaultSettings().VICISocket, "`URI` of the daemon's control socket")
}

// dial connects to the daemon.
func (e *env) dial(ctx context.Context) (*vici.Client, error) {
	path, ok := strings.CutPrefix(*e.uri, "unix://")
	if !ok || path == "" {
		return nil, usagef("--uri %q does not have the form unix://PATH", *e.uri)
	}
	return vici.Dial(ctx, path)
}

// call sends one command to the daemon.
func (e *env) call(ctx context.Context, command string, req *vici.Message, event string, each func(*vici.Message)) (*vici.Message, error) {
	c, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Call(ctx, command, req, event, each)
}

// verb is one of the program's commands.
type verb struct {
	name, summary string
	run           func(ctx context.Context, e *env, args []string) error
}

var verbs = []verb{
	{"run", "start the daemon in the foreground", runDaemon},
	{"doctor", "tell what this machine offers the daemon", doctor},
	{"bench", "measure what NIC offload, the kernel and user space carry", runBench},
	{"load-all", "load connections and secrets of a swanctl.conf into the daemon", loadAll},
	{"list-conns", "list the connections that are loaded", listConns},
	{"list-sas", "list IKE SAs, their child SAs, and where these run", listSAs},
	{"list-pols", "list the trap policies that stand", listPols},
	{"initiate", "bring a child SA or an IKE SA up", initiate},
	{"terminate", "take SAs down", terminate},
	{"rekey", "renegotiate SAs", rekey},
	{"install", "put a child's trap policy up", install},
	{"uninstall", "take a child's trap policy down", uninstall},
	{"monitor-sa", "print SAs as they come, go or are renegotiated", monitorSA},
	{"log", "print the daemon's log", logs},
	{"stats", "print the daemon's state in a few numbers", stats},
	{"xdp", "status: print which interfaces are steered, and how", xdpVerb},
	{"counters", "print what was received, sent and refused", counters},
	{"reload-settings", "have the daemon read its files again", reloadSettings},
	{"version", "print the version", printVersion},
	{"config-help", "print every setting of swanctl.conf and quicksand.conf", configHelp},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run carries out a command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return exitUsage
	}
	name := strings.TrimPrefix(args[0], "--") // swanctl's verbs are flags
	if name == "help" || name == "-h" {
		usage(stdout)
		return exitOK
	}
	for _, v := range verbs {
		if v.name == name {
			return v.carryOut(ctx, args[1:], stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "quicksand: there is no command %q; see quicksand help\n", args[0])
	return exitUsage
}

func (v verb) carryOut(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	e := &env{stdout: stdout, stderr: stderr, flags: flag.NewFlagSet(v.name, flag.ContinueOnError)}
	e.flags.SetOutput(io.Discard)
	e.flags.Usage = func() {}
	err := v.run(ctx, e, args)
	var wrong usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, "quicksand %s: %s\n%s", v.name, v.summary, e.help)
		e.flags.SetOutput(stdout)
		e.flags.PrintDefaults()
		return exitOK
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "quicksand %s: %v; see quicksand %s --help\n", v.name, err, v.name)
		return exitUsage
	case !errors.Is(err, errSilent):
		fmt.Fprintf(stderr, "quicksand %s: %v\n", v.name, err)
	}
	return exitFailed
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: quicksand COMMAND [FLAGS]\n\n")
	for _, v := range verbs {
		fmt.Fprintf(w, "  %-16s %s\n", v.name, v.summary)
	}
	fmt.Fprint(w, "\nquicksand COMMAND --help lists the flags of a command.\n"+
		"Exit codes: 0 done, 1 failed, 2 wrong usage.\n")
}

func printVersion(ctx context.Context, e *env, args []string) error {
	e.control()
	ask := e.flags.Bool("daemon", false, "ask the daemon that runs for its version")
	if err := e.parse(args); err != nil {
		return err
	}
	if !*ask {
		fmt.Fprintf(e.stdout, "quicksand %s (%s, %s, %s/%s)\n", version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}
	m, err := e.call(ctx, "version", nil, "", nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "%s %s (%s, %s, %s)\n",
		m.Get("daemon"), m.Get("version"), m.Get("sysname"), m.Get("release"), m.Get("machine"))
	return nil
}

// revision is the commit the program was built from.
func revision() string {
	rev, dirty := "unknown revision", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) > 12:
				rev = s.Value[:12]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = " and changes"
			}
		}
	}
	return rev + dirty
}

func configHelp(_ context.Context, e *env, args []string) error {
	if err := e.parse(args); err != nil {
		return err
	}
	return swanctl.Document(e.stdout)
}
