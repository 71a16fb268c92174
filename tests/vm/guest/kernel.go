// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kernel is a Debian kernel that is ready to boot.
type Kernel struct {
	Release string // as uname -r prints it
	dir     string // below Dir
}

// Source says which kernel, and where it comes from.
type Source struct {
	Name string
	// Suites has the suite that a Debian release takes the kernel from, by the
	// release's codename; the empty name stands for all others.
	Suites map[string]string
	// Devel has what builds modules taken as well: headers, and the source of
	// drivers that Debian does not build; and an ip(8) that knows what the
	// kernel does.
	Devel bool
}

// The kernels that tests run on.
var (
	// Linux612 is the first stable kernel of Debian's with packet offload.
	Linux612 = Source{Name: "6.12", Suites: map[string]string{"bookworm": "bookworm-backports", "": "trixie"}, Devel: true}
	// Linux61 knows crypto offload only: packet offload came with 6.2.
	Linux61 = Source{Name: "6.1", Suites: map[string]string{"": "bookworm"}}
)

func (s Source) suite() string {
	b, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(b)) {
		if code, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok && s.Suites[code] != "" {
			return s.Suites[code]
		}
	}
	return s.Suites[""]
}

// The parts of the kernel that the tests may load; the rest stays in its
// package.
var moduleDirs = []string{
	"arch/x86/crypto", "crypto", "drivers/block/virtio_blk.ko*", "drivers/char/hw_random", "drivers/crypto/virtio",
	"drivers/net/*.ko*", "drivers/net/bonding", "drivers/net/ipvlan", "drivers/ptp", "drivers/virtio", "fs/9p", "fs/fscache",
	"fs/netfs", "fs/overlayfs", "lib", "net",
}

// netdevsim is the path of the driver in the kernel's source.
const netdevsim = "drivers/net/netdevsim"

// Get returns the kernel, and fetches what Dir does not have of it.
func (s Source) Get() (*Kernel, error) {
	unlock, err := lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	stamp := filepath.Join(Dir(), "linux-"+s.Name)
	if b, err := os.ReadFile(stamp); err == nil {
		k := &Kernel{Release: strings.TrimSpace(string(b))}
		k.dir = filepath.Join(Dir(), k.Release)
		if _, err := os.Stat(k.vmlinux()); err == nil {
			return k, nil
		}
	}
	k, err := s.fetch()
	if err != nil {
		return nil, fmt.Errorf("get Linux %s: %w", s.Name, err)
	}
	return k, writeFile(stamp, []byte(k.Release+"\n"))
}

func (s Source) fetch() (*Kernel, error) {
	suite := s.suite()
	a, err := openArchive(suite)
	if err != nil {
		return nil, err
	}
	defer a.close()
	release, err := a.release(suite)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Release: release, dir: filepath.Join(Dir(), release)}
	if err := os.RemoveAll(k.dir); err != nil {
		return nil, err
	}
	version := strings.TrimSuffix(release, "-amd64")
	packages := []string{"linux-image-" + release}
	if s.Devel {
		packages = append(packages, "iproute2", "linux-source-"+s.Name,
			"linux-headers-"+release, "linux-headers-"+version+"-common", "linux-kbuild-"+version)
	}
	debs, err := a.fetch(suite, packages...)
	if err != nil {
		return nil, err
	}
	if err := k.unpackImage(debs[0]); err != nil {
		return nil, err
	}
	if s.Devel {
		if err := unpack(debs[1], k.dir, "./bin/*", "./sbin/*"); err != nil {
			return nil, err
		}
		if err := unpackSource(debs[2], filepath.Join(k.dir, "source"), "*/"+netdevsim+"/*"); err != nil {
			return nil, err
		}
		for _, deb := range debs[3:] {
			if err := unpack(deb, k.dir, "./usr/*"); err != nil {
				return nil, err
			}
		}
		if err := k.repointHeaders(); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *Kernel) vmlinux() string { return filepath.Join(k.dir, "vmlinux") }

// modules is the directory that has the kernel's modules below lib/modules.
func (k *Kernel) modules() string { return filepath.Join(k.dir, "lib/modules", k.Release) }

// IP is the ip(8) that came with the kernel, if it was taken with Devel.
func (k *Kernel) IP() string { return filepath.Join(k.dir, "bin/ip") }

// headers is where modules are built against.
func (k *Kernel) headers() string { return filepath.Join(k.dir, "usr/src/linux-headers-"+k.Release) }

// unpackImage unpacks the kernel, as a file that the emulator boots at once,
// and its modules.
func (k *Kernel) unpackImage(deb string) error {
	patterns := []string{"./boot/vmlinuz-*", "./lib/modules/*/modules.*"}
	for _, d := range moduleDirs {
		patterns = append(patterns, "./lib/modules/*/kernel/"+d)
	}
	listed, err := exec.Command("dpkg-deb", "--contents", deb).Output()
	if err != nil {
		return fmt.Errorf("list %s: %w", filepath.Base(deb), err)
	}
	// tar fails on a pattern that matches nothing, and kernels differ.
	known := patterns[:2]
	for _, p := range patterns[2:] {
		_, tail, _ := strings.Cut(p, "/kernel/")
		if bytes.Contains(listed, []byte("/kernel/"+strings.TrimRight(tail, "*"))) || strings.Contains(tail, "*.") {
			known = append(known, p)
		}
	}
	if err := unpack(deb, k.dir, known...); err != nil {
		return err
	}
	if err := run(k.dir, "depmod", "-b", k.dir, k.Release); err != nil {
		return err
	}
	image := filepath.Join(k.dir, "boot/vmlinuz-"+k.Release)
	elf, err := uncompress(image)
	if err != nil {
		return err
	}
	os.Remove(image)
	return writeFile(k.vmlinux(), elf)
}

// repointHeaders has the headers find each other where they were unpacked.
func (k *Kernel) repointHeaders() error {
	path := filepath.Join(k.headers(), "Makefile")
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("repoint headers: %w", err)
	}
	b = bytes.ReplaceAll(b, []byte("/usr/src/"), []byte(k.dir+"/usr/src/"))
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return fmt.Errorf("repoint headers: %w", err)
	}
	return nil
}

// uncompress returns the ELF file in a bzImage (Documentation/arch/x86/boot.rst,
// payload_offset): one that begins with a compressor's magic number and
// uncompresses to an ELF header. What follows it is not the compressor's.
func uncompress(image string) ([]byte, error) {
	b, err := os.ReadFile(image)
	if err != nil {
		return nil, fmt.Errorf("uncompress kernel: %w", err)
	}
	for _, c := range []struct{ magic, program string }{
		{"\xfd7zXZ\x00", "xz"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"\x1f\x8b\x08", "gzip"}, {"\x02\x21\x4c\x18", "lz4"},
	} {
		const within = 1 << 18
		for at := 0; at < within; {
			i := bytes.Index(b[at:], []byte(c.magic))
			if i < 0 || at+i >= within {
				break
			}
			at += i
			cmd := exec.Command(c.program, "-dc")
			cmd.Stdin = bytes.NewReader(b[at:])
			if out, _ := cmd.Output(); bytes.HasPrefix(out, []byte("\x7fELF")) {
				return out, nil
			}
			at++
		}
	}
	return nil, errors.New("uncompress kernel: no compressed ELF file in " + filepath.Base(image))
}
