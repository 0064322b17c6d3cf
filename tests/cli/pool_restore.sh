#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# restore: every kind of every format, read by qemu-img; what one that was killed left; two at once; files that are there; names;
# stops, after which nothing is left.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img python3

OUT=$TMP/out
mkdir "$OUT"

# run STATUS ARGUMENT...: output, with short paths, in $output
run()
{
	local wanted=$1
	shift
	capture "$DEDUPSCAN" "$@"
	output=${output//"$OUT/"/O/}
	assert_status "$wanted" "$*"
}

# says STATUS TEXT ARGUMENT...: restore of the image
says()
{
	run "$1" restore "${@:3}" "$STORE/a.qcow2" "$OUT/$name"
	assert_eq "$2" "$output" "restore ${*:3} to $name"
}

# nothing_is_left: in the folder of new files but what is named
nothing_is_left()
{
	assert_eq "$(printf '%s\n' "$@")" "$(ls -A "$OUT")" "in the folder"
	rm -f "$OUT"/* "$OUT"/.[!.]*
}

random_file "$TMP/a.raw" 41M
truncate -s 45M "$TMP/a.raw"
head -c 2M /dev/zero | tr '\0' x | dd of="$TMP/a.raw" bs=1M seek=42 conv=notrunc status=none
qemu-img convert -f raw -O qcow2 "$TMP/a.raw" "$STORE/a.qcow2"
cp "$STORE/a.qcow2" "$STORE/b.qcow2"
run 0 compact --no-idle --catalog "$CATALOG" --method pool --keep-originals 0 --apply "$STORE"
qemu-img info "$STORE/a.qcow2" | grep -q 'json:' || fail "the image did not enter a pool"

# ---- kinds ----

# is EXTENSION KIND QEMU'S-NAME FILE...: of that kind, in these files
is()
{
	name=disk.$1
	says 0 "" --kind "$2"
	qemu-img compare -q -f raw -F "$3" "$TMP/a.raw" "$OUT/$name" || fail "$name of kind $2 has other bytes"
	[ "$3" = vpc ] || qemu-img check -q -f "$3" "$OUT/$name" || fail "qemu-img check of $name of kind $2"
	info=$(qemu-img info -f "$3" "$OUT/$name")
	nothing_is_left "${@:4}"
}

is qcow2 3 qcow2 disk.qcow2
is qcow2 2 qcow2 disk.qcow2
is qcow2 zlib qcow2 disk.qcow2
assert_has "$info" "compression type: zlib"
is qcow2 zstd qcow2 disk.qcow2
assert_has "$info" "compression type: zstd"
is vmdk monolithicSparse vmdk disk.vmdk
is vmdk monolithicFlat vmdk disk-flat.vmdk disk.vmdk
assert_has "$info" "create type: monolithicFlat"
is vmdk streamOptimized vmdk disk.vmdk
assert_has "$info" "compressed: true"
is vmdk twoGbMaxExtentSparse vmdk disk-s001.vmdk disk.vmdk
is vmdk twoGbMaxExtentFlat vmdk disk-f001.vmdk disk.vmdk
is vhd fixed vpc disk.vhd
is vhdx fixed vhdx disk.vhdx

name=disk.vmdk
says 2 "dedupscan: vmdk images of kind 'vmfs' are not written" --kind vmfs
says 2 "dedupscan: 131072 bytes are no cluster or block of such a vmdk image: a power of two from 8192 to 65536 is" \
	--kind streamOptimized --cluster-size 128K
nothing_is_left

# ---- H4: what is there already ----

touch "$OUT/disk.vmdk"
says 2 "dedupscan: 'disk.vmdk' is there already"
rm "$OUT/disk.vmdk"
echo mine >"$OUT/disk-flat.vmdk"
says 2 "dedupscan: 'disk-flat.vmdk' is there already" --kind monolithicFlat
assert_eq mine "$(cat "$OUT/disk-flat.vmdk")" "what was there"
nothing_is_left disk-flat.vmdk

name=$(printf 'n%.0s' {1..250}).raw
says 2 "dedupscan: the name '$name' is too long"

# ---- F9: what one that was killed left, and what others put there ----

name=disk.vmdk
truncate -s 1G "$OUT/.disk.vmdk.part" "$OUT/.disk-flat.vmdk.part"
says 0 "dedupscan: removed '.disk.vmdk.part', which a restore left that was killed
dedupscan: removed '.disk-flat.vmdk.part', which a restore left that was killed" --kind monolithicFlat
qemu-img compare -q -f raw -F vmdk "$TMP/a.raw" "$OUT/$name" || fail "over what another one left"
nothing_is_left disk-flat.vmdk disk.vmdk

mkdir "$OUT/.disk.vmdk.part"
run 3 restore "$STORE/a.qcow2" "$OUT/$name"
rmdir "$OUT/.disk.vmdk.part"
ln -s "$TMP/a.raw" "$OUT/.disk.vmdk.part"
run 3 restore "$STORE/a.qcow2" "$OUT/$name"
nothing_is_left .disk.vmdk.part
[ -s "$TMP/a.raw" ] || fail "a link was followed"
if [ "$(id -u)" -eq 0 ]; then
	touch "$OUT/.disk.vmdk.part"
	chown 1 "$OUT/.disk.vmdk.part"
	says 3 "dedupscan: '.disk.vmdk.part' is there, and not what this user left; see what it is"
	nothing_is_left .disk.vmdk.part
fi

# while another one writes it
touch "$OUT/.disk.vmdk.part"
status=0
output=$(python3 - "$OUT/.disk.vmdk.part" "$DEDUPSCAN" restore "$STORE/a.qcow2" "$OUT/$name" 2>&1 <<'END'
import fcntl, struct, subprocess, sys
f = open(sys.argv[1], "r+")
fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
sys.exit(subprocess.call(sys.argv[2:]))
END
) || status=$?
assert_status 4 "two at once"
assert_eq "dedupscan: another dedupscan writes '.disk.vmdk.part'; wait for it" "$output" "two at once"
nothing_is_left .disk.vmdk.part

# ---- stopped ----

name=disk.vmdk stopped=0
for ((i = 0; i < 12; i++)); do
	status=0
	timeout --preserve-status -s TERM "0.0$i" "$DEDUPSCAN" restore --kind monolithicFlat "$STORE/a.qcow2" "$OUT/$name" \
		2>"$TMP/said" || status=$?
	case $status in
	0) nothing_is_left disk-flat.vmdk disk.vmdk ;;
	75) stopped=$((stopped + 1)) && nothing_is_left ;;
	143) nothing_is_left ;; # it had not begun
	*) fail "exit status $status: $(cat "$TMP/said")" ;;
	esac
done
[ "$stopped" -gt 0 ] || echo "it was never stopped in the middle"
