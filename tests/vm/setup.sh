#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what the tests in guests need, beside what all tests do: the
# emulator, the guest's first programs, and what unpacks kernels and builds
# modules. Does nothing when all is there.
set -euo pipefail
exec "$(dirname "$0")/../setup.sh" qemu-system-x86 busybox-static kmod make libelf-dev xz-utils
