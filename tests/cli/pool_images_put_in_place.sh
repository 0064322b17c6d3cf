#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# An image is what its overlay says, whatever the pool noted of it: a clone or a copy put in its place, one that was resized; and pools
# that were put back from before.
. tests/lib.sh
. tests/cli/lib_pool.sh
require_tool qemu-img qemu-io python3

# is IMAGE[@VERSION] RAW: what restore writes
is()
{
	rm -f "$TMP/restored.raw"
	"$DEDUPSCAN" restore "$STORE/$1" "$TMP/restored.raw"
	cmp "$2" "$TMP/restored.raw"
}

random_file "$TMP/a.raw" 8M
for name in a b; do
	qemu-img convert -f raw -O qcow2 "$TMP/a.raw" "$STORE/$name.qcow2"
done
compact
assert_status 0
"$DEDUPSCAN" snapshot v1 "$STORE/a.qcow2"
qemu-io -f qcow2 -c 'write -q -P 7 0 64k' "$STORE/a.qcow2"
"$DEDUPSCAN" snapshot v2 "$STORE/a.qcow2"
compact
compact
assert_status 0

# Back to v1 by a clone.
"$DEDUPSCAN" clone "$STORE/a.qcow2@v1" "$STORE/new.qcow2"
mv "$STORE/new.qcow2" "$STORE/a.qcow2"
for moment in before "after repoint"; do
	is a.qcow2 "$TMP/a.raw"
	assert_eq "" "$("$DEDUPSCAN" diff "$STORE/a.qcow2@v1" "$STORE/a.qcow2" | grep '^0 ' || true)" "$moment"
	"$DEDUPSCAN" repoint "$STORE"
done

# One that stands on what the pool does not have.
sed 's/"filename":"\([^"]*\)views.\(....\)/"filename":"\1views\/0000/' "$STORE/a.qcow2" > "$TMP/strange.qcow2"
cmp -s "$STORE/a.qcow2" "$TMP/strange.qcow2" && fail "its backing file's name is not where it was thought to be"
cp "$STORE/a.qcow2" "$TMP/right.qcow2"
cp "$TMP/strange.qcow2" "$STORE/a.qcow2"
capture "$DEDUPSCAN" restore "$STORE/a.qcow2" "$TMP/strange.raw"
assert_status 3
assert_has "$output" "does not have what .*a.qcow2' stands on"
cp "$TMP/right.qcow2" "$STORE/a.qcow2"

# A disk that became larger, by more than its tree has room for, is no damage.
qemu-io -f qcow2 -c 'write -q -P 8 1M 64k' "$STORE/b.qcow2"
"$DEDUPSCAN" snapshot small "$STORE/b.qcow2"
qemu-img resize -q -f qcow2 "$STORE/b.qcow2" 1G
compact
assert_status 0
capture "$DEDUPSCAN" pool check --read-data "$STORE"
assert_status 0
"$DEDUPSCAN" pool collect "$STORE" > "$TMP/collected"
assert_eq 1073741824 "$(qemu-img info "$STORE/b.qcow2" | sed -n 's/.*virtual size.*(\([0-9]*\) bytes).*/\1/p')" "size of a disk that grew"

# An index that is damaged keeps no image from entering.
for table in "$POOL"/index/*.table; do
	python3 - "$table" <<'END'
import os, sys
f = os.open(sys.argv[1], os.O_RDWR)
for at in range(100, os.fstat(f).st_size, 4096):
    os.pwrite(f, b"damaged", at)
END
done
random_file "$TMP/c.raw" 8M
for name in c d; do
	qemu-img convert -f raw -O qcow2 "$TMP/c.raw" "$STORE/$name.qcow2"
done
compact
compact
assert_status 0
assert_has "$("$DEDUPSCAN" list "$STORE")" "/c.qcow2"
qemu-img compare -q -f raw -F qcow2 "$TMP/c.raw" "$STORE/c.qcow2"

# A pool that was put back from before some images entered: what they stood on is nowhere, and that is not called whole.
"$DEDUPSCAN" pool check "$STORE" > "$TMP/checked" || true
chattr -R -i "$POOL" 2>/dev/null || true
cp -a --sparse=always "$POOL" "$TMP/before"
random_file "$TMP/e.raw" 8M
for name in e f; do
	qemu-img convert -f raw -O qcow2 "$TMP/e.raw" "$STORE/$name.qcow2"
done
compact
assert_status 0
chattr -R -i "$POOL" 2>/dev/null || true
rm -r "$POOL"
cp -a --sparse=always "$TMP/before" "$POOL"
compact
for command in "check" "repair --read-data"; do
	# shellcheck disable=SC2086 # several words
	capture "$DEDUPSCAN" pool $command "$STORE"
	assert_status 1
	assert_has "$output" "is missing.*hits '$STORE/e.qcow2'"
done

# One header that is damaged holds up nobody else who moved.
chattr -R -i "$POOL" 2>/dev/null || true
rm -r "$POOL" "$STORE"/*
for raw in a c; do
	for name in 1 2; do
		qemu-img convert -f raw -O qcow2 "$TMP/$raw.raw" "$STORE/$raw$name.qcow2"
	done
	compact
	assert_status 0
done
chattr -R -i "$POOL" 2>/dev/null || true
printf x | dd of="$(echo "$POOL"/*-*.qcow2)" bs=1 seek=$((65536 + 64)) conv=notrunc status=none
mv "$STORE/c2.qcow2" "$STORE/moved.qcow2"
capture "$DEDUPSCAN" repoint "$STORE"
assert_status 1
assert_has "$output" "moved.qcow2"
assert_has "$output" "slot 1 is damaged; dedupscan pool repair"
assert_has "$("$DEDUPSCAN" list "$STORE")" "/moved.qcow2"
