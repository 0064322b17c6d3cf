#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Where the file system has longer files than ext4, a pool goes on behind 16 TiB.
. tests/lib.sh
. tests/cli/lib_compact.sh
require_tool qemu-img qemu-io python3

TIB=$((1 << 40))
make_xfs 1G
POOL=$STORE/.dedupscan-pool

# says IMAGE RAW
says()
{
	qemu-img compare -q -f qcow2 -F raw "$1" "$2" || fail "$1 has other bytes"
}

enter()
{
	compact --method pool --keep-originals 0 --apply "$STORE"
	assert_status 0 compact
	# shellcheck disable=SC2154
	assert_has_not "$output" "(skipped|failed)"
}

random_file "$TMP/a.raw" 8M
random_file "$TMP/b.raw" 8M
for name in a1 a2; do
	qemu-img convert -O qcow2 "$TMP/a.raw" "$STORE/$name.qcow2"
done
sleep 0.3
enter

file=$(echo "$POOL"/*.qcow2)
lift "$file"
chmod u+w "$file"
truncate -s $((20 * TIB)) "$file"
chmod u-w "$file"

# Half of it is in the front.
cat "$TMP/a.raw" "$TMP/b.raw" >"$TMP/c.raw"
for name in c1 c2; do
	qemu-img convert -O qcow2 "$TMP/c.raw" "$STORE/$name.qcow2"
done
sleep 0.3
enter
[ "$(stat -c %s "$file")" -gt $((20 * TIB)) ] || fail "nothing was written behind 20 TiB"
[ "$(stat -c %b "$file")" -lt $((24 << 11)) ] || fail "what was there was written again"
says "$STORE/a1.qcow2" "$TMP/a.raw"
says "$STORE/c1.qcow2" "$TMP/c.raw"

# Folded, restored, checked and collected.
qemu-io -c "write -q -P 9 9M 1M" "$STORE/c2.qcow2"
qemu-img convert -O raw "$STORE/c2.qcow2" "$TMP/d.raw"
capture "$DEDUPSCAN" snapshot v "$STORE/c2.qcow2"
assert_status 0 snapshot
sleep 0.3
enter
says "$STORE/c2.qcow2" "$TMP/d.raw"
capture "$DEDUPSCAN" restore "$STORE/c2.qcow2@v" "$TMP/back.raw"
assert_status 0 restore
cmp "$TMP/back.raw" "$TMP/d.raw" || fail "what was restored has other bytes"
capture "$DEDUPSCAN" pool check --read-data --pool "$POOL"
assert_status 0 "pool check"
capture "$DEDUPSCAN" expand --keep-originals 0 "$STORE/c1.qcow2" "$STORE/c2.qcow2"
assert_status 0 expand
says "$STORE/c1.qcow2" "$TMP/c.raw"
capture "$DEDUPSCAN" delete "$STORE/c2.qcow2@v"
assert_status 0 delete
for _ in 1 2; do
	capture "$DEDUPSCAN" pool collect --pool "$POOL"
	assert_status 0 "pool collect"
done
# XFS keeps room behind the end for a while, so blocks tell nothing.
python3 - "$file" $((20 * TIB)) <<'END' || fail "what was behind 20 TiB was not freed"
import os, sys
with open(sys.argv[1], "rb") as f:
    try:
        print(os.lseek(f.fileno(), int(sys.argv[2]), os.SEEK_DATA))
    except OSError:
        sys.exit(0)
    sys.exit(1)
END
says "$STORE/a2.qcow2" "$TMP/a.raw"
