#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The guest's first process. The first serial port is the kernel's; on the
# second the job says VMREADY, prints, and says VMEXIT with its status.
/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
stty -F /dev/ttyS1 raw -echo

fail() {
  echo "VMFAIL $*" >/dev/ttyS1
  poweroff -f
}

for module in $(cat /modules/order); do
  insmod "/modules/$module" || fail "insmod $module"
done

# What is written to the machine's files goes into memory.
mkdir -p /lower /upper /root
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 root /lower ||
  fail "mount the machine's root"
mount -t tmpfs tmpfs /upper
mkdir -p /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root ||
  fail "mount the overlay"
cd /root
mkdir -p proc sys dev run tmp var/tmp
mount --move /proc proc
mount --move /sys sys
mount --move /dev dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
for d in run dev/shm; do
  mount -t tmpfs -o mode=1777 tmpfs $d
done
mkdir run/netns
mount -t debugfs debugfs sys/kernel/debug
mount -t bpf bpf sys/fs/bpf
ifconfig lo 127.0.0.1 up

mount --move . /
exec chroot . /bin/sh "$(sed 's/.*guest.job=//; s/ .*//' proc/cmdline)"
