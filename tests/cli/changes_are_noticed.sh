#!/bin/bash
# A store that did not change costs no read; every kind of change is noticed, also one that hides its time stamp.
. tests/lib.sh
. tests/cli/lib_store.sh

for name in a b c d e f; do
	random_file "$STORE/$name.raw" 2M
done
cp "$STORE/a.raw" "$STORE/hidden.raw"
touch -d 2020-01-01 "$STORE"/*
settle
scan "$STORE"
assert_has "$output" '^7 images: 7 read, 0 unchanged, 0 failed; 14.0 MiB read$'
scan "$STORE"
assert_has "$output" '^7 images: 0 read, 7 unchanged, 0 failed; 0 B read$'
assert_has "$output" '^14.0 MiB not zero, 12.0 MiB of it distinct'

# removed, renamed, made anew, replaced by another of the same name, written with its time stamp set back, grown
# (a rename moves the time of change, so what was renamed is read again)
random_file "$STORE/new.raw" 1M
random_file "$TMP/other" 2M
rm "$STORE/a.raw"
mv "$STORE/b.raw" "$STORE/moved.raw"
mv "$TMP/other" "$STORE/c.raw"
touch -r "$STORE/d.raw" "$TMP/stamp"
printf x | dd of="$STORE/d.raw" bs=1 seek=1000000 conv=notrunc status=none
touch -r "$TMP/stamp" "$STORE/d.raw"
truncate -s 3M "$STORE/e.raw"
settle
scan "$STORE"
assert_status 0
assert_has "$output" '^7 images: 5 read, 2 unchanged, 0 failed, 1 renamed, 1 gone; '
report --no-scan --json="$TMP/report.json" "$STORE"
assert_status 0
assert_eq 7 "$(figure totals.nr_images)" "images"
assert_eq $((13 << 20)) "$(figure totals.distinct)" "distinct"
scan "$STORE"
assert_has "$output" ' 0 read, 7 unchanged, .* 0 B read$'
assert_tidy

# while somebody has it open for writing, it counts as changed
exec 3<>"$STORE/f.raw"
scan "$STORE"
assert_has "$output" ' 1 read, 6 unchanged'
exec 3>&-
scan "$STORE"
assert_has "$output" ' 1 read, 6 unchanged'
scan "$STORE"
assert_has "$output" ' 0 read, 7 unchanged'

# no image is read for a report of what is known
if command -v strace >/dev/null && strace -o /dev/null true 2>/dev/null; then
	strace -f -y -o "$TMP/trace" -e trace=read,pread64,preadv,readv,mmap \
		"$DEDUPSCAN" report --no-scan --catalog "$CATALOG" "$STORE" >/dev/null
	assert_has "$(cat "$TMP/trace")" 'pread64\([0-9]+<.*catalog.db'
	assert_has_not "$(cat "$TMP/trace")" '\.raw>'
fi
