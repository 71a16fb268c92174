// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed init.sh
var initScript []byte

// Job is what a guest does.
type Job struct {
	Modules []string // by name or, where they were built here, by file
	IP      string   // an ip(8) to use instead of the machine's
	Dir     string   // working directory
	Command []string // program and arguments
	Env     []string
	// Log, where set, is written what the program prints as it prints it.
	Log io.Writer
	// Timeout ends the guest, counted from the start of the machine.
	Timeout time.Duration
}

// Result is what became of a job.
type Result struct {
	Status  int    // of the program
	Output  []byte // of the program, standard output and error
	Console string // what the kernel said
	Boot    time.Duration
	Total   time.Duration
}

// ErrTimeout is returned where the guest had to be ended. The Result has what
// it said until then.
var ErrTimeout = errors.New("the guest did not end in time")

// errNotReady is the error of a guest that did not come up.
var errNotReady = errors.New("the guest did not come up")

// readyTimeout is how long a guest may take until its first process is through.
const readyTimeout = 60 * time.Second

// Run boots a guest for the job, a second time where the emulator failed the
// first: rarely, a guest does not come up, or a CPU takes the breakpoint that
// another one puts for a moment into code that it patches (int3).
func (k *Kernel) Run(ctx context.Context, j Job) (*Result, error) {
	dir, err := os.MkdirTemp(Dir(), "run-")
	if err != nil {
		return nil, fmt.Errorf("run guest: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := k.prepare(dir, j); err != nil {
		return nil, fmt.Errorf("run guest: %w", err)
	}
	r, err := k.boot(ctx, dir, j)
	if ctx.Err() == nil && (errors.Is(err, errNotReady) || r != nil && strings.Contains(r.Console, "Oops: int3")) {
		r, err = k.boot(ctx, dir, j)
	}
	if err != nil {
		err = fmt.Errorf("run guest: %w", err)
	}
	return r, err
}

// firstModules are what the guest's first process needs.
var firstModules = []string{"virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng"}

// prepare writes the guest's first root file system and its job.
func (k *Kernel) prepare(dir string, j Job) error {
	var c cpio
	for _, d := range []string{"bin", "proc", "sys", "dev", "modules"} {
		c.dir(d)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("find busybox (tests/vm/setup.sh installs it): %w", err)
	}
	c.file("bin/busybox", 0o755, busybox)
	c.file("init", 0o755, initScript)
	files, err := k.withDependencies(firstModules)
	if err != nil {
		return err
	}
	var order strings.Builder
	for _, f := range files {
		b, err := readModule(f)
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(filepath.Base(f), ".ko")
		c.file("modules/"+name+".ko", 0o644, b)
		fmt.Fprintln(&order, name+".ko")
	}
	c.file("modules/order", 0o644, []byte(order.String()))
	if err := os.WriteFile(filepath.Join(dir, "initrd"), c.bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "job"), []byte(k.script(j)), 0o644)
}

// withDependencies returns the files of the modules and of those they need, in
// the order in which they load.
func (k *Kernel) withDependencies(names []string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	for _, n := range names {
		out, err := exec.Command("modprobe", "-d", k.dir, "-S", k.Release, "--show-depends", n).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("find module %s: %w: %s", n, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "insmod" && !seen[f[1]] {
				seen[f[1]] = true
				files = append(files, f[1])
			}
		}
	}
	return files, nil
}

func readModule(path string) ([]byte, error) {
	if program := map[string]string{".xz": "xz", ".zst": "zstd"}[filepath.Ext(path)]; program != "" {
		b, err := exec.Command(program, "-dc", path).Output()
		if err != nil {
			err = fmt.Errorf("unpack module %s: %w", path, err)
		}
		return b, err
	}
	return os.ReadFile(path)
}

// script is what the guest runs once it has the machine's files.
func (k *Kernel) script(j Job) string {
	var b strings.Builder
	line := func(words ...string) {
		for i, w := range words {
			words[i] = quote(w)
		}
		b.WriteString(strings.Join(words, " ") + "\n")
	}
	b.WriteString("exec >/dev/ttyS1 2>&1\n")
	line("mkdir", "-p", "/usr/lib/modules/"+k.Release)
	line("mount", "--bind", k.modules(), "/usr/lib/modules/"+k.Release)
	if j.IP != "" {
		b.WriteString("mount --bind " + quote(j.IP) + " \"$(readlink -f \"$(command -v ip)\")\"\n")
	}
	for _, m := range j.Modules {
		if filepath.IsAbs(m) {
			line("insmod", m)
		} else {
			line("modprobe", m)
		}
	}
	b.WriteString("echo VMREADY \"$(cut -d' ' -f1 /proc/uptime)\"\n")
	line("cd", j.Dir)
	line(slices.Concat([]string{"env"}, j.Env, j.Command)...)
	// The port is closed, and thereby drained, before the machine goes.
	b.WriteString("status=$?\necho\necho VMEXIT $status\nexec >/dev/null 2>&1\n/bin/busybox poweroff -f\n")
	return b.String()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// boot runs the emulator once.
func (k *Kernel) boot(ctx context.Context, dir string, j Job) (*Result, error) {
	ctx, cancel := context.WithTimeout(ctx, j.Timeout)
	defer cancel()
	console := filepath.Join(dir, "console")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-M", "pc", "-smp", "2", "-m", "1024",
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "file:"+console, "-serial", "stdio",
		"-device", "virtio-rng-pci",
		"-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
		"-kernel", k.vmlinux(), "-initrd", filepath.Join(dir, "initrd"),
		"-append", "console=ttyS0 panic=-1 oops=panic loglevel=5 mitigations=off nokaslr net.ifnames=0 guest.job="+filepath.Join(dir, "job"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start emulator: %w", err)
	}
	unready := time.AfterFunc(readyTimeout, cancel)
	r := &Result{Status: -1}
	from := io.Reader(out)
	if j.Log != nil {
		from = io.TeeReader(out, j.Log)
	}
	err = r.read(from, func() {
		unready.Stop()
		r.Boot = time.Since(start)
	})
	ended := cmd.Wait()
	unready.Stop()
	r.Total = time.Since(start)
	b, _ := os.ReadFile(console)
	r.Console = strings.ReplaceAll(string(b), "\r", "")
	switch {
	case r.Status >= 0:
		return r, nil
	case r.Boot == 0:
		return r, fmt.Errorf("%w: %v: %v %s%s\n%s", errNotReady, ended, err, said.Bytes(), r.Output, r.Console)
	case ctx.Err() != nil:
		return r, ErrTimeout
	}
	return r, fmt.Errorf("the guest ended early: %v: %s\n%s", ended, said.Bytes(), r.Console)
}

// read reads what the guest prints, until it ends.
func (r *Result) read(out io.Reader, ready func()) error {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		switch text := string(bytes.TrimRight(line, "\r\n")); {
		case strings.HasPrefix(text, "VMREADY "):
			ready()
			r.Output = nil
		case strings.HasPrefix(text, "VMEXIT "):
			status, convErr := strconv.Atoi(text[len("VMEXIT "):])
			if convErr == nil {
				r.Status = status
			}
		default:
			r.Output = append(r.Output, line...)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// splat begins what a kernel says when it finds a fault in itself.
var splat = regexp.MustCompile(`(?m)^.*(WARNING: CPU|WARNING: at|BUG:|Oops|kernel BUG|Call Trace|Kernel panic|refcount_t|unregister_netdevice: waiting).*$`)

// Faults returns the first lines of the faults that the kernel found in
// itself.
func (r *Result) Faults() []string { return splat.FindAllString(r.Console, -1) }
