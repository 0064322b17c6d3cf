#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The simulated file system answers as XFS does, shared blocks included: test_sim.c, with its files on one.
. tests/lib.sh

require_root
require_tool mkfs.xfs losetup
mkdir "$TMP/m"
truncate -s 400M "$TMP/disk"
mkfs.xfs -q -m reflink=1 "$TMP/disk" || skip "mkfs.xfs makes no file system with reflinks here"
mount -o loop "$TMP/disk" "$TMP/m" 2>"$TMP/why" || skip "cannot mount a file: $(cat "$TMP/why")"
capture env TMPDIR="$TMP/m" "$BUILD/tests/crash/test_sim"
umount "$TMP/m"
assert_eq 0 "$status" "$output"
