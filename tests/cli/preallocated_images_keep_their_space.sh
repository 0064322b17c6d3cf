#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# An image that stores all of its guest's disk, zeros too, was made so that its space is there: a rewrite shares what it has in
# common with others and leaves the zeros, unless it is asked to drop them.
. tests/lib.sh
. tests/cli/lib_compact.sh

make_btrfs 400M

# zeros_of FILE: MiB of its last 8 that are stored
zeros_of()
{
	python3 - "$1" <<'END'
import os, sys
fd, at, stored = os.open(sys.argv[1], os.O_RDONLY), 8 << 20, 0
while at < 16 << 20:
    try:
        begin = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        break
    at = os.lseek(fd, begin, os.SEEK_HOLE)
    stored += at - begin
print(stored >> 20)
END
}

begin_anew()
{
	rm -rf "${STORE:?}"/* "$STORE/.dedupscan" "$CATALOG"
	random_file "$STORE/a.raw" 8M
	dd if=/dev/zero of="$STORE/a.raw" bs=1M seek=8 count=8 conv=notrunc status=none
	copy "$STORE/a.raw" "$STORE/b.raw"
	sync
	assert_eq 8 "$(zeros_of "$STORE/b.raw")" "MiB of zeros before"
}

begin_anew
compact --apply --keep-originals 0 "$STORE"
assert_status 0
assert_has "$output" "rebuild +done"
assert_eq 8 "$(zeros_of "$STORE/b.raw")" "MiB of zeros that stay"

begin_anew
compact --apply --keep-originals 0 --preallocated "$STORE"
assert_status 0
assert_eq 0 "$(zeros_of "$STORE/b.raw")" "MiB of zeros when asked to drop them"
