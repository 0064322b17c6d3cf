#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Where the kernel cannot compare, zeros are looked at and punched while nobody else has the image open.  Who opens it meanwhile
# gets it at once, and nothing is punched beneath what he writes.
. tests/lib.sh
require_root
require_tool mkfs.ext4 losetup mount python3
STORE=$TMP/store
mkdir -p "$STORE"
truncate -s 900M "$TMP/fs"
mkfs.ext4 -q -m 0 "$TMP/fs"
mount -o loop "$TMP/fs" "$STORE" 2>/dev/null || skip "cannot mount a loop device here"
trap 'umount "$STORE"' EXIT

# One that waits until the image is held, opens it, and writes at the end of it.
cat >"$TMP/opener.py" <<'END'
import os, sys, time
path, size = sys.argv[1], int(sys.argv[2])
number = f":{os.stat(path).st_ino} "
while not os.path.exists(sys.argv[3]):
    with open("/proc/locks") as locks:
        if any("LEASE" in line and number in line for line in locks):
            break
fd = os.open(path, os.O_RDWR)
time.sleep(0.2)
os.pwrite(fd, b"#" * 4096, size - 4096)
END

gave_way=0
for _ in 1 2 3 4 5; do
	rm -rf "$STORE/a.raw" "$TMP/catalog" "$TMP/over"
	head -c 500M /dev/zero >"$STORE/a.raw"
	truncate -s 600M "$STORE/a.raw"
	"$DEDUPSCAN" scan --no-idle --catalog "$TMP/catalog" "$STORE" >/dev/null
	python3 "$TMP/opener.py" "$STORE/a.raw" $((500 * 1024 * 1024)) "$TMP/over" &
	capture "$DEDUPSCAN" compact --no-idle --no-scan --apply --catalog "$TMP/catalog" "$STORE"
	touch "$TMP/over"
	wait $!
	assert_eq "####" "$(tail -c +$((500 * 1024 * 1024 - 4095)) "$STORE/a.raw" | head -c 4)" "what was written meanwhile"
	# shellcheck disable=SC2154 # capture sets it
	[ "$status" -eq 0 ] && continue # he came too late
	assert_eq 1 "$status" "exit status"
	gave_way=1
	break
done
[ "$gave_way" -eq 1 ] || fail "nobody gave way to who opened the image"
grep -q 'holes *skipped.*somebody opens the image' <<<"$output" || fail "it does not say why: $output"
