#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What a snapshot sealed, and nobody has folded in yet, is damaged behind our back, with its time put back: that is told, and does
# not become the version, and holds up no other.
. tests/lib.sh
. tests/cli/lib_pool.sh
require_tool qemu-img qemu-io python3

# sealed_of IMAGE: the file that was sealed last of it
sealed_of()
{
	qemu-img info -U "$STORE/$1" | grep -oE "$POOL/sealed/[0-9a-f-]+\.qcow2" | head -n 1
}

# with_time_put_back FILE COMMAND...
with_time_put_back()
{
	local file=$1 mode time
	mode=$(stat -c %a "$file")
	time=$(stat -c %y "$file")
	shift
	chmod u+w "$file"
	"$@"
	chmod "$mode" "$file"
	touch -d "$time" "$file"
}

# zero FILE OFFSET LENGTH
zero()
{
	dd if=/dev/zero of="$1" bs=1 seek="$2" count="$3" conv=notrunc status=none
}

# zero_l1 FILE: the first entry that is there
zero_l1()
{
	python3 - "$1" <<'END'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    head = f.read(48)
    nr, at = struct.unpack(">IQ", head[36:48])
    f.seek(at)
    entries = struct.unpack(f">{nr}Q", f.read(8 * nr))
    f.seek(at + 8 * next(i for i, x in enumerate(entries) if x))
    f.write(bytes(8))
END
}

# halve FILE
halve()
{
	truncate -s $(($(stat -c %s "$1") / 2)) "$1"
}

# put_back FILE: the right one
put_back()
{
	cp -p --remove-destination "$TMP/right.qcow2" "$1"
}

random_file "$TMP/golden.raw" 8M
for name in a b; do
	qemu-img convert -f raw -O qcow2 "$TMP/golden.raw" "$STORE/$name.qcow2"
done
compact
assert_status 0

# try LABEL WORDS COMMAND...: the command damages the file that it gets
try()
{
	local label=$1 words=$2 file other
	shift 2
	qemu-io -f qcow2 -c "write -q -P $((RANDOM % 255 + 1)) 1M 2M" -c 'write -q -P 7 5M 64k' "$STORE/a.qcow2"
	qemu-io -f qcow2 -c "write -q -P $((RANDOM % 255 + 1)) 1M 1M" "$STORE/b.qcow2"
	"$DEDUPSCAN" snapshot "$label" "$STORE/a.qcow2"
	"$DEDUPSCAN" snapshot "$label" "$STORE/b.qcow2"
	qemu-img convert -U -f qcow2 -O raw "$STORE/a.qcow2" "$TMP/a.raw"
	file=$(sealed_of a.qcow2)
	other=$(sealed_of b.qcow2)
	[ -n "$file" ] && [ -n "$other" ] || fail "nothing was sealed"
	capture "$DEDUPSCAN" pool check "$STORE"
	assert_status 0
	cp -p "$file" "$TMP/right.qcow2"

	with_time_put_back "$file" "$@" "$file"
	capture "$DEDUPSCAN" pool check "$STORE"
	assert_status 1
	assert_has "$output" "^sealed overlay: .*($words).*; hits .*/a.qcow2.$"
	assert_has_not "$output" "/b.qcow2"
	compact
	assert_has "$output" "a.qcow2': what was sealed of it is damaged, and stays sealed: ($words).*put it back from a backup"
	assert_has "$("$DEDUPSCAN" list "$STORE")" "a.qcow2@$label \(sealed\)"
	assert_has_not "$("$DEDUPSCAN" list "$STORE")" "b.qcow2@$label \(sealed\)"

	capture "$DEDUPSCAN" clone "$STORE/a.qcow2@$label" "$STORE/x.qcow2"
	assert_status 3
	assert_has "$output" "what was sealed of '.*/a.qcow2': .*($words)"

	put_back "$file"
	capture "$DEDUPSCAN" pool check "$STORE"
	assert_status 0
	compact
	assert_status 0
	assert_has_not "$("$DEDUPSCAN" list "$STORE")" "sealed"
	"$DEDUPSCAN" restore "$STORE/a.qcow2@$label" "$TMP/$label.raw"
	cmp "$TMP/a.raw" "$TMP/$label.raw"
	qemu-img compare -q -f raw -F qcow2 "$TMP/a.raw" "$STORE/a.qcow2"
}

zero_header()
{
	zero "$1" 0 512
}

try half "its file has [0-9]+ bytes, and had [0-9]+ when it was sealed" halve
try l1 "its header or its L1 table is not what it was" zero_l1
try header "what leads to its data cannot be read" zero_header

# One that is missing is no other, either; a version that is deleted waits for nothing.
qemu-io -f qcow2 -c 'write -q -P 9 1M 1M' "$STORE/a.qcow2"
qemu-io -f qcow2 -c 'write -q -P 9 1M 1M' "$STORE/b.qcow2"
"$DEDUPSCAN" snapshot last "$STORE/a.qcow2"
"$DEDUPSCAN" snapshot last "$STORE/b.qcow2"
file=$(sealed_of a.qcow2)
mv "$file" "$TMP/right.qcow2"
compact
assert_has "$output" "a.qcow2': what was sealed of it is damaged, and stays sealed: .*No such file"
assert_has_not "$("$DEDUPSCAN" list "$STORE")" "b.qcow2@last \(sealed\)"
put_back "$file"

# What is meant to be another one has another time, and its name says so.
chmod u+w "$file"
zero_l1 "$file"
chmod a-w "$file"
capture "$DEDUPSCAN" pool check "$STORE"
assert_status 0
assert_has "$("$DEDUPSCAN" list "$STORE")" "a.qcow2@last \(sealed, changed\)"
compact
assert_status 0
assert_has "$("$DEDUPSCAN" list "$STORE")" "a.qcow2@last.changed$"

# Without a backup: the version goes, and the image goes back to another one.
qemu-io -f qcow2 -c 'write -q -P 11 1M 1M' "$STORE/a.qcow2"
"$DEDUPSCAN" snapshot lost "$STORE/a.qcow2"
file=$(sealed_of a.qcow2)
with_time_put_back "$file" halve "$file"
"$DEDUPSCAN" delete "$STORE/a.qcow2@lost"
"$DEDUPSCAN" rollback --discard "$STORE/a.qcow2@l1"
qemu-img compare -q -f raw -F qcow2 "$TMP/l1.raw" "$STORE/a.qcow2"
compact
assert_status 0
assert_has_not "$output" "damaged"
capture "$DEDUPSCAN" pool check "$STORE"
assert_status 0
