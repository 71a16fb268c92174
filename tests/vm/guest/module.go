// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Build builds the out-of-tree module in the directory, which has a Makefile of
// the kernel's kind, and returns its file. Dir keeps that for as long as the
// directory stays the same. Settings are such as "CONFIG_X=m".
func (k *Kernel) Build(name, dir string, settings ...string) (string, error) {
	unlock, err := lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	path, err := k.build(name, dir, settings)
	if err != nil {
		return "", fmt.Errorf("build module %s: %w", name, err)
	}
	return path, nil
}

// Netdevsim builds the mainline driver of simulated devices, which Debian's
// kernels leave out. It needs the module psample.
func (k *Kernel) Netdevsim() (string, error) {
	return k.Build("netdevsim", filepath.Join(k.dir, "source", netdevsim), "CONFIG_NETDEVSIM=m")
}

func (k *Kernel) build(name, dir string, settings []string) (string, error) {
	hash, err := hashOf(dir)
	if err != nil {
		return "", err
	}
	out := filepath.Join(k.dir, "built", name+"-"+hash)
	module := filepath.Join(out, name+".ko")
	if _, err := os.Stat(module); err == nil {
		return module, nil
	}
	work := out + ".work"
	for _, d := range []string{out, work} {
		if err := os.RemoveAll(d); err != nil {
			return "", err
		}
	}
	if err := os.CopyFS(work, os.DirFS(dir)); err != nil {
		return "", err
	}
	// The kernel's own type information for modules needs its ELF file with
	// symbols, which no package has.
	args := append([]string{"-s", "-j2", "-C", k.headers(), "M=" + work, "CONFIG_DEBUG_INFO_BTF_MODULES="}, settings...)
	if err := run(work, "make", append(args, "modules")...); err != nil {
		return "", err
	}
	return module, os.Rename(work, out)
}

// hashOf is a hash of the names and contents of a directory's files.
func hashOf(dir string) (string, error) {
	hash := sha256.New()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, path))
		fmt.Fprintf(hash, "%s %d\n", path, len(b))
		hash.Write(b)
		return err
	})
	return fmt.Sprintf("%x", hash.Sum(nil)[:8]), err
}
