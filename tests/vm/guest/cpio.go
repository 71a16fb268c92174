// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"fmt"
)

// cpio is an archive in the "newc" form that the kernel unpacks into its first
// root file system (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	buf   bytes.Buffer
	inode int
}

// Types of files in an archive.
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
)

func (c *cpio) dir(name string)                      { c.add(name, cpioDir|0o755, nil) }
func (c *cpio) file(name string, mode int, b []byte) { c.add(name, cpioFile|mode, b) }

// add adds a file; the directories above it have to be there.
func (c *cpio) add(name string, mode int, data []byte) {
	c.inode++
	const links = 1
	fmt.Fprintf(&c.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.buf.Write(data)
	c.pad()
}

// pad fills up to the next multiple of four bytes.
func (c *cpio) pad() {
	for c.buf.Len()%4 != 0 {
		c.buf.WriteByte(0)
	}
}

// bytes ends the archive and returns it.
func (c *cpio) bytes() []byte {
	c.add("TRAILER!!!", 0, nil)
	return c.buf.Bytes()
}
