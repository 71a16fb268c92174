// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// archive is apt with sources, lists and cache of its own, so that the
// machine's stay as they are.
type archive struct {
	dir  string
	args []string
}

// openArchive reads the package lists of the suites.
func openArchive(suites ...string) (*archive, error) {
	const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	a := &archive{dir: filepath.Join(Dir(), "apt")}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("fetch packages: %w", err)
		}
	}
	var sources strings.Builder
	for _, s := range suites {
		fmt.Fprintf(&sources, "deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, mirror(), s)
	}
	list := filepath.Join(a.dir, "sources.list")
	if err := os.WriteFile(list, []byte(sources.String()), 0o644); err != nil {
		return nil, fmt.Errorf("fetch packages: %w", err)
	}
	a.args = []string{
		"-q", "-o", "Dir::Etc::SourceList=" + list, "-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::Etc::Preferences=/dev/null", "-o", "Dir::Etc::PreferencesParts=/dev/null",
		"-o", "Dir::State::Lists=" + filepath.Join(a.dir, "lists"), "-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "Acquire::Languages=none", "-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root",
		// Nobody but this package reads the lists.
		"-o", "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false", "-o", "APT::Update::Post-Invoke-Success::=true",
	}
	return a, run(a.dir, "apt-get", append(a.args, "update")...)
}

// mirror is where the machine gets its Debian from.
func mirror() string {
	out, _ := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)",
		"Identifier: Packages", "Origin: Debian", "Label: Debian").Output()
	if first, _, _ := strings.Cut(string(out), "\n"); first != "" {
		return strings.TrimSuffix(first, "/")
	}
	return "http://deb.debian.org/debian"
}

var imagePackage = regexp.MustCompile(`Depends: linux-image-(\S+)`)

// release is the release of the kernel that the suite's linux-image-amd64
// stands for.
func (a *archive) release(suite string) (string, error) {
	out, err := exec.Command("apt-cache", append(a.args, "depends", "linux-image-amd64/"+suite)...).CombinedOutput()
	m := imagePackage.FindSubmatch(out)
	if err != nil || m == nil {
		return "", fmt.Errorf("find the kernel of %s: %v: %s", suite, err, out)
	}
	return string(m[1]), nil
}

// fetch downloads packages of the suite and returns their files.
func (a *archive) fetch(suite string, packages ...string) ([]string, error) {
	debs := filepath.Join(a.dir, "debs")
	names := make([]string, len(packages))
	for i, p := range packages {
		names[i] = p + "/" + suite
	}
	if err := run(debs, "apt-get", append(append(a.args, "download"), names...)...); err != nil {
		return nil, fmt.Errorf("fetch packages: %w", err)
	}
	files := make([]string, len(packages))
	for i, p := range packages {
		found, err := filepath.Glob(filepath.Join(debs, p+"_*.deb"))
		if err != nil || len(found) == 0 {
			return nil, fmt.Errorf("fetch packages: %s is not there after the download", p)
		}
		files[i] = found[len(found)-1]
	}
	return files, nil
}

// close removes what is not needed once the packages are unpacked.
func (a *archive) close() { os.RemoveAll(a.dir) }

// unpack unpacks the files of a package that match any of the patterns.
func unpack(deb, into string, patterns ...string) error {
	const script = `set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --wildcards -- "${@:3}"`
	return unpackBy(script, deb, into, patterns)
}

// unpackSource is unpack from the archive that a linux-source package holds,
// without the name of its topmost directory.
func unpackSource(deb, into string, patterns ...string) error {
	const script = `set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards '*/linux-source-*.tar.xz' |
		tar -xJ -C "$2" --strip-components=1 --wildcards -- "${@:3}"`
	return unpackBy(script, deb, into, patterns)
}

func unpackBy(script, deb, into string, patterns []string) error {
	if err := os.MkdirAll(into, 0o755); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	if err := run(into, "bash", append([]string{"-c", script, "unpack", deb, into}, patterns...)...); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	return nil
}
