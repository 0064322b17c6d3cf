#!/bin/bash
# F11: file names of any bytes, lists of files, patterns, links, and a catalog beneath its own store.
. tests/lib.sh
. tests/cli/lib_store.sh

names=($'new\nline.raw' $'esc\033[31mred.qcow2' $'bad\xff\xfeutf8.raw' '-rf.raw' '--help.raw' ' blank .raw' "quote'.raw" '*.raw'
	$'tab\t.raw' "$(printf 'n%.0s' {1..251}).raw")
for name in "${names[@]}"; do
	random_file "$STORE/$name" 1M
done
touch "$STORE/empty.raw"
scan "$STORE"
assert_status 0
assert_has "$output" "^$((${#names[@]} + 1)) images: "
report --no-scan --csv="$TMP/csv" --json="$TMP/report.json" "$STORE"
assert_status 0
report --no-scan --top 20 "$STORE"
assert_has_not "$output" $'\033|\t'
assert_has "$output" 'new\\x0aline.raw'

# a problem with such a name is told on one line
printf 'QFI\373\0\0\0\143%01000000d' 0 >"$STORE/"$'esc\033[31mred.qcow2'
scan "$STORE"
assert_status 1
assert_has_not "$output" $'\033'
assert_has "$output" 'esc\\x1b\[31mred.qcow2.: qcow2 version'
rm -r "$STORE" "$CATALOG"

mkdir -p "$STORE/d/skip"
for name in a.raw b.iso d/c.raw d/skip/e.raw -x.raw $'two\nlines.raw'; do
	random_file "$STORE/$name" 1M
done
# seen OPTION...: the names that a fresh scan finds, sorted
seen()
{
	rm -rf "$CATALOG"
	capture "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$@"
	assert_status 0 "$*"
	sqlite3 "$CATALOG/catalog.db" "SELECT replace(substr(path, $((${#STORE} + 2))), x'0a', '~') FROM images ORDER BY path" |
		tr '\n' ' '
}
assert_eq '-x.raw a.raw b.iso d/c.raw d/skip/e.raw two~lines.raw ' "$(seen "$STORE")"
assert_eq '-x.raw a.raw d/c.raw two~lines.raw ' "$(seen --exclude '*.iso' --exclude skip "$STORE")"
assert_eq '-x.raw b.iso d/c.raw d/skip/e.raw two~lines.raw ' "$(seen --exclude "$STORE/a*" "$STORE")"
assert_eq 'a.raw d/c.raw d/skip/e.raw ' "$(printf '%s\n\n%s\n' "$STORE/a.raw" "$STORE/d" | seen --files-from -)"
assert_eq 'a.raw two~lines.raw ' "$(printf '%s\0%s\0' "$STORE/a.raw" "$STORE/"$'two\nlines.raw' | seen -0 --files-from -)"
assert_eq 'a.raw ' "$(printf '%s' "$STORE/a.raw" >"$TMP/list" && seen --files-from "$TMP/list")"
assert_eq '-x.raw ' "$(cd "$STORE" && seen -- -x.raw)"
assert_eq '-x.raw a.raw b.iso d/c.raw d/skip/e.raw two~lines.raw ' "$(seen "$STORE/d" "$STORE" "$STORE/a.raw" "$STORE/d/skip")" "overlapping"
scan --files-from "$TMP/none" "$STORE"
assert_status 2
assert_has "$output" "cannot open '$TMP/none'"

# links: none is followed from a directory; one that is named is; names of one file count once
rm -rf "$STORE"
mkdir -p "$STORE" "$TMP/far"
random_file "$STORE/a.raw" 1M
random_file "$TMP/far/b.raw" 1M
ln "$STORE/a.raw" "$STORE/hard.raw"
ln -s a.raw "$STORE/soft.raw"
ln -s ../far "$STORE/far"
ln -s "$STORE" "$TMP/store-link"
rm -rf "$CATALOG"
scan "$STORE"
assert_has "$output" '^1 images: 1 read'
scan "$TMP/store-link" "$STORE/far"
assert_has "$output" '^2 images: '

# the catalog beneath the store, and as the store itself, is left out
CATALOG=$STORE/deep/catalog
scan "$STORE"
scan "$STORE"
assert_status 0
assert_has "$output" '^1 images: '
scan "$CATALOG"
assert_has "$output" '^0 images: '
assert_tidy
