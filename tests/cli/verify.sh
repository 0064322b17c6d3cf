#!/bin/bash
# verify tells images that are what the last scan or a recorded digest says from those that are not, and changes nothing.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io python3

verify()
{
	capture "$DEDUPSCAN" verify --no-idle --catalog "$CATALOG" "$@"
}

# json EXPRESSION: of the document d in $output; i("NAME") is an image
json()
{
	python3 -c '
import json, sys
d = json.loads(sys.argv[1])
i = lambda name: next(i for i in d["images"] if i["path"].endswith("/" + name))
print(eval(sys.argv[2]))' "$output" "$1"
}

rows()
{
	sqlite3 "$CATALOG/catalog.db" .dump
}

# scan_anew: with time stamps that can be believed
scan_anew()
{
	settle
	scan "$S"
}

# poke FILE OFFSET: changes a byte, and puts the time of modification back
poke()
{
	local was
	was=$(od -An -tu1 -j "$2" -N 1 "$1")
	touch -r "$1" "$TMP/stamp"
	# shellcheck disable=SC2059
	printf "\\$(printf %03o $((was ^ 255)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
	touch -r "$TMP/stamp" "$1"
}

# as_scanned NAME: the catalog takes the time of the last change, which nobody can put back, for that of the scan
as_scanned()
{
	local ctime
	ctime=$(python3 -c 'import os, sys; print(os.stat(sys.argv[1]).st_ctime_ns)' "$STORE/$1")
	sqlite3 "$CATALOG/catalog.db" "UPDATE images SET ctime = $ctime WHERE path = '$STORE/$1'"
}

S=$STORE
random_file "$S/a.raw" 9M
truncate -s 41M "$S/a.raw" # 8 MiB, a segment of which half is data, holes
qemu-img convert -O qcow2 "$S/a.raw" "$S/b.qcow2"
qemu-img snapshot -c first "$S/b.qcow2"
at=$(qemu-img map --output=json "$S/b.qcow2" | python3 -c '
import json, sys
print(*(e["offset"] + (6 << 20) - e["start"] for e in json.load(sys.stdin) if e["start"] <= 6 << 20 < e["start"] + e["length"]))')
qemu-io -c 'write -P 3 6M 64k' "$S/b.qcow2" >/dev/null
qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 "$S/top.qcow2"
qemu-io -c 'write -P 9 20M 64k' "$S/top.qcow2" >/dev/null
qemu-img create -q -f vmdk -o subformat=monolithicFlat "$S/flat.vmdk" 3M
random_file "$S/flat-flat.vmdk" 3M
echo 'no image' >"$S/note.txt"
verify "$S"
assert_status 2 "there is no catalog"
[ ! -e "$CATALOG" ] || fail "a catalog was made"
scan_anew
assert_status 0

# nothing changed
before=$(rows) files=$(fingerprint_store)
verify "$S"
assert_status 0
assert_eq "ok       $S/a.raw
ok       $S/b.qcow2
ok       $S/flat.vmdk
ok       $S/top.qcow2" "$(head -n -1 <<<"$output")"
assert_has "$output" '^4 images: 4 ok; '
assert_eq "$before" "$(rows)" "rows of the catalog"
assert_eq "$files" "$(fingerprint_store)" "files of the store"
assert_tidy

# damage: other bytes behind the same time stamps.  Segments in a row are one run; the last is as long as the disk.
poke "$S/a.raw" 3000000
poke "$S/a.raw" 4194304
poke "$S/a.raw" 42991615
as_scanned a.raw
verify "$S/a.raw"
assert_status 1
assert_eq "differs  $S/a.raw
         by its time stamps it did not change since the scan
         offset 2097152, length 4194304
         offset 41943040, length 1048576" "$(head -n -1 <<<"$output")"
verify --json "$S"
assert_status 1
assert_eq "differs 5242880 2 ok" "$(json '" ".join(map(str, (i("a.raw")["outcome"], i("a.raw")["bytes_differ"],
	i("a.raw")["nr_runs"], i("b.qcow2")["outcome"])))')"
assert_eq "[0, 0] [2097152, 41943040] [4194304, 1048576]" "$(json '" ".join(
	str([r[k] for r in i("a.raw")["runs"]]) for k in ("snapshot", "offset", "length"))')"
assert_eq "3 1 0" "$(json '" ".join(str(d["totals"][k]) for k in ("ok", "differs", "changed"))')"
touch "$S/a.raw"

# damage in an extent, and in what a snapshot keeps
poke "$S/flat-flat.vmdk" 2500000
verify "$S"
assert_has "$output" '^changed +.*/flat.vmdk$'
assert_has "$output" '^ +offset 2097152, length 1048576$'
scan_anew
poke "$S/b.qcow2" $((at + 100)) # of which the snapshot has kept the place
as_scanned b.qcow2
verify "$S/b.qcow2"
assert_eq "differs  $S/b.qcow2
         by its time stamps it did not change since the scan
         offset 6291456, length 2097152, of snapshot 1" "$(head -n -1 <<<"$output")"
touch "$S/b.qcow2"

# changed since the scan, with and without other bytes; holes in the place of zeros are the same bytes
scan_anew
touch "$S/a.raw"
qemu-io -c 'write -P 4 1M 64k' -c 'write -z 30M 1M' "$S/b.qcow2" >/dev/null
dd if=/dev/zero of="$S/a.raw" bs=1M seek=20 count=4 conv=notrunc status=none
verify "$S"
assert_status 1
assert_has "$output" '^ok +.*/a.raw$'
assert_has "$output" '^ +its time stamps changed, its bytes did not$'
assert_has "$output" '^changed +.*/b.qcow2$'
assert_has "$output" '^ +it was changed since the scan$'
assert_has "$output" '^ +offset 0, length 2097152'
assert_has "$output" '^4 images: 3 ok, 1 changed; '
# but in an overlay zeros hide what is behind a hole
scan_anew
qemu-io -c 'write -P 0 10M 2M' "$S/top.qcow2" >/dev/null
verify "$S/top.qcow2"
assert_has "$output" '^changed '
assert_has "$output" '^ +offset 10485760, length 2097152$'
truncate -s 60M "$S/a.raw"
verify "$S/a.raw"
assert_has "$output" 'since the scan; its virtual size is 62914560, was 42991616$'
scan_anew

# what the last scan did not find again is not missed
fallocate -p -o 2M -l 4M "$S/a.raw"
scan_anew
[ "$(sqlite3 "$CATALOG/catalog.db" 'SELECT count(*) FROM segments WHERE stored = 0')" -ge 1 ] || fail "no row of a vanished segment"
verify "$S"
assert_status 0

# new, gone, renamed, under two names, no longer to be read
cp "$S/a.raw" "$S/new.raw"
ln "$S/flat.vmdk" "$S/same.vmdk"
mv "$S/top.qcow2" "$S/renamed.qcow2"
printf 'QFI\373\0\0\0\143' | dd of="$S/b.qcow2" conv=notrunc status=none
rm "$S/a.raw"
verify "$S"
assert_status 1
assert_has "$output" '^unknown +.*/new.raw$'
assert_has "$output" '^missing +.*/a.raw$'
assert_has "$output" '^ok +.*/renamed.qcow2$'
assert_has "$output" '^unread +.*/b.qcow2$'
assert_has "$output" '^ +qcow2 version 99'
assert_has_not "$output" 'note.txt|same.vmdk|top.qcow2|flat-flat'
verify --exclude '*.raw' "$S"
assert_has_not "$output" 'new.raw'
scan_anew
verify "$S"
assert_has "$output" '^unknown +.*/b.qcow2$'
assert_has "$output" '^ +the scan could not read it: qcow2 version 99'
assert_has "$output" '^ok +.*/new.raw$'

# it stops, and what it was told not to use it leaves alone
random_file "$S/long.raw" 24M
scan_anew
began=$(date +%s%3N)
verify --limit 2M --for 1s "$S/long.raw"
assert_status 75
[ $(($(date +%s%3N) - began)) -lt 4000 ] || fail "--for 1s took too long"
verify --limit 2M --for 1s --record "$TMP/stopped" "$S/long.raw"
assert_status 75
[ ! -e "$TMP/stopped" ] || fail "half a file of digests"
verify --limit 12M "$S/long.raw"
assert_status 0

for words in '' '--nonsense x' '--record' '--record a --check b x' '--memory 64M x' '--format qed x'; do
	# shellcheck disable=SC2086 # words
	capture "$DEDUPSCAN" verify $words
	assert_status 2 "verify $words"
done
capture "$DEDUPSCAN" verify --help
assert_status 0
