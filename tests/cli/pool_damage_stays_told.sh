#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A version that stands on data that is damaged does not enter the pool with it: damage would get a digest of its own.  Nor does an
# image leave the pool with it.
. tests/lib.sh
. tests/cli/lib_pool.sh
require_tool qemu-img qemu-io python3

random_file "$TMP/golden.raw" 16M
cp "$TMP/golden.raw" "$TMP/first.raw"
for name in a b; do
	qemu-img convert -f raw -O qcow2 "$TMP/golden.raw" "$STORE/$name.qcow2"
done
compact
assert_status 0
cluster_file=$(echo "$POOL"/*-*.qcow2)

# damage OFFSET: turns a byte of the data round, so far behind where that begins, and back
damage()
{
	chattr -i "$cluster_file" 2>/dev/null || true
	python3 - "$cluster_file" "$1" <<'END'
import os, sys
f = os.open(sys.argv[1], os.O_RDWR)
at = os.lseek(f, 64 << 30, os.SEEK_DATA) + int(sys.argv[2])
os.pwrite(f, bytes([os.pread(f, 1, at)[0] ^ 255]), at)
os.fsync(f)
END
}

damage $((5 << 20))
qemu-io -f qcow2 -c 'write -q -P 3 4096k 64k' "$STORE/a.qcow2"
"$DEDUPSCAN" snapshot v1 "$STORE/a.qcow2"
compact
assert_status 1
assert_has "$output" "what it stands on is damaged at offset 4194304"
assert_has "$output" "^Some of what versions sealed was NOT folded into the pool"
capture "$DEDUPSCAN" restore "$STORE/a.qcow2@v1" "$TMP/v1.raw"
[ "$status" -ne 0 ] || fail "a version was restored from damaged data"

for name in a b; do
	capture "$DEDUPSCAN" expand --keep-originals 0 "$STORE/$name.qcow2"
	assert_status 1
	assert_has "$output" "$name.qcow2': what the pool has of it is damaged"
done

# Data elsewhere is not hit.
qemu-io -f qcow2 -c 'write -q -P 4 8M 64k' "$STORE/b.qcow2"
"$DEDUPSCAN" snapshot v1 "$STORE/b.qcow2"
compact
assert_has_not "$output" "b.qcow2"

# When it is right again the version enters.
damage $((5 << 20))
compact
assert_status 0
assert_has_not "$output" "damaged"
capture "$DEDUPSCAN" restore "$STORE/a.qcow2@v1" "$TMP/v1.raw"
assert_status 0
printf '\3%.0s' $(seq 65536) | dd of="$TMP/golden.raw" bs=64K seek=64 conv=notrunc iflag=fullblock status=none
cmp "$TMP/golden.raw" "$TMP/v1.raw"

# So it is what leaves.
capture "$DEDUPSCAN" expand --keep-originals 0 "$STORE/a.qcow2"
assert_status 0
qemu-img compare -q -f raw -F qcow2 "$TMP/golden.raw" "$STORE/a.qcow2"

# The pool has it nowhere else.  An image that has the same data heals it, for all that stand on it or have a part of it.
damage $((5 << 20))
for options in --dry-run ""; do
	# shellcheck disable=SC2086 # there may be none
	capture "$DEDUPSCAN" pool repair --read-data $options "$STORE"
	assert_status 1
	assert_has "$output" ", 2 left"
	assert_has "$output" "the pool has it nowhere else; hits '$STORE/b.qcow2' at 4194304, 2097152 bytes"
	assert_has "$output" "the pool has it nowhere else; hits '$STORE/a.qcow2@v1' at 4194304"
done
rm "$STORE/a.qcow2"
qemu-img convert -f raw -O qcow2 "$TMP/first.raw" "$STORE/c.qcow2"
compact
assert_status 0
assert_has_not "$output" "differs"
capture "$DEDUPSCAN" pool repair --read-data "$STORE" # the version has the cluster, too, in another segment
assert_status 0
assert_has "$output" "hits '$STORE/a.qcow2@v1' at 4194304"
assert_has "$output" "tables of a view: "
assert_has "$output" "3 damages repaired, 0 left" # with two views that led there
capture "$DEDUPSCAN" pool check --read-data "$STORE"
assert_status 0
capture "$DEDUPSCAN" restore "$STORE/a.qcow2@v1" "$TMP/again.raw"
assert_status 0
cmp "$TMP/golden.raw" "$TMP/again.raw"
qemu-img compare -q -f raw -F qcow2 "$TMP/first.raw" "$STORE/c.qcow2"
capture "$DEDUPSCAN" expand --keep-originals 0 "$STORE/b.qcow2"
assert_status 0

# Whoever stands on it through a sealed overlay is hit, too.
qemu-io -f qcow2 -c 'write -q -P 6 1M 64k' "$STORE/c.qcow2"
"$DEDUPSCAN" snapshot sealed "$STORE/c.qcow2"
damage $((9 << 20))
capture "$DEDUPSCAN" pool check --read-data "$STORE"
assert_status 1
assert_has "$output" "^data: .*hits '$STORE/c.qcow2' at"
assert_has "$output" "^data: .*hits '$STORE/c.qcow2@sealed' at"
