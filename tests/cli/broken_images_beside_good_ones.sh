#!/bin/bash
# E11, E16: images that are broken, in a loop, without their backing file or no files at all are told; the good ones are counted,
# and nothing is written to any.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img

cd "$STORE"
random_file good.raw 4M
qemu-img convert -O qcow2 good.raw good.qcow2
head -c 100000 good.qcow2 >cut.qcow2
cp good.qcow2 version.qcow2
printf '\0\0\0\143' | dd of=version.qcow2 bs=1 seek=4 conv=notrunc status=none
cp good.qcow2 absurd.qcow2
printf '\377\377\377\377\377\377\377\377' | dd of=absurd.qcow2 bs=1 seek=24 conv=notrunc status=none
cp good.qcow2 l1.qcow2
printf '\0\377\377\377\377\377\377\000' | dd of=l1.qcow2 bs=1 seek=40 conv=notrunc status=none
cp good.qcow2 bits.qcow2
printf '\077' | dd of=bits.qcow2 bs=1 seek=23 conv=notrunc status=none
# backing NAME FILE
backing()
{
	qemu-img create -q -f qcow2 "$2" 1M
	qemu-img rebase -u -b "$1" -F qcow2 "$2"
}
backing loop2.qcow2 loop1.qcow2
backing loop1.qcow2 loop2.qcow2
backing self.qcow2 self.qcow2
backing nothere.qcow2 orphan.qcow2
mkfifo fifo
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
ln -s good.raw link.raw
ln -s /etc directory
ln good.raw hard.raw
echo "no image" >README
cd "$ROOT"
settle
before=$(fingerprint_store)

timeout 60 "$DEDUPSCAN" report --no-idle --catalog "$CATALOG" --json="$TMP/report.json" --csv="$TMP/report.csv" \
	--table="$TMP/table" "$STORE" >"$TMP/out" 2>"$TMP/err" && fail "no exit status for broken images"
status=$? output=$(cat "$TMP/err")
assert_status 1
assert_has "$output" "cut.qcow2': L1 table ends past the end"
assert_has "$output" "version.qcow2': qcow2 version 99"
for name in absurd l1 bits loop1 loop2 self orphan; do
	assert_has "$output" "/$name.qcow2': "
done
assert_has "$output" 'chain loops back'
assert_has "$output" "cannot find the backing file '$STORE/nothere.qcow2'"
assert_has "$output" "fifo': it is a FIFO"
assert_has "$output" "socket': it is a socket"
assert_has_not "$output" 'link.raw|README|good'
assert_eq "" "$(cat "$TMP/out")" "nothing is for standard output"

# good.raw or its hard link, once, and good.qcow2 with the same content
assert_eq $((8 << 20)) "$(figure totals.stored)" "stored"
assert_eq $((4 << 20)) "$(figure totals.distinct)" "distinct"
assert_eq "$before" "$(fingerprint_store)" "the store"
assert_tidy

# and again, from what is known: the same exit status, the same words
scan "$STORE"
assert_status 1
assert_has "$output" "cut.qcow2': L1 table ends past the end"
assert_has "$output" ' 0 B read$'

# named, a FIFO is missed
capture timeout 20 "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$STORE/fifo"
assert_status 1
assert_has "$output" "fifo': it is a FIFO"
