#!/bin/bash
# The demo store is the same each time and holds guests whose file systems are in order, but for the one that is to be damaged.
. tests/lib.sh
require_tool qemu-img qemu-io mke2fs debugfs sfdisk e2fsck

contrib/make-demo-store "$TMP/one" --small
contrib/make-demo-store "$TMP/two" --small
# only the dates of snapshots and the marks of images that have some may differ
for image in esx/mail1.vmdk hyperv/mail2.vhdx lab/lab.qcow2; do
	printf 'Files %s and %s differ\n' "$TMP/one/$image" "$TMP/two/$image"
	qemu-img compare -q "$TMP/one/$image" "$TMP/two/$image" || fail "the guests of $image differ"
done >"$TMP/may"
capture diff -rq "$TMP/one" "$TMP/two"
assert_eq "$(cat "$TMP/may")" "$output" "what differs"

capture contrib/make-demo-store "$TMP/one" --small
assert_eq 1 "$status" "exit status when it is there already"
assert_eq "may one two" "$(cd "$TMP" && echo *)" "left behind"

guests=0
for image in "$TMP"/one/*/*; do
	case $image in
	*/interrupted-copy.qcow2)
		! qemu-img check -q "$image" 2>/dev/null || fail "$image is in order"
		continue
		;;
	*/lab.qcow2) continue ;; # its snapshots are in order, its current state was written over
	*/db1.qcow2) start=2 ;;
	*) start=1 ;;
	esac
	qemu-img convert -O raw "$image" "$TMP/disk"
	dd if="$TMP/disk" of="$TMP/partition" bs=1M skip="$start" conv=sparse status=none
	e2fsck -fn "$TMP/partition" >"$TMP/fsck" 2>&1 || fail "$image: $(cat "$TMP/fsck")"
	guests=$((guests + 1))
done
assert_eq 11 $guests
