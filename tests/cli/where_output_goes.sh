#!/bin/bash
# Readers that leave early, full and closed outputs, several reports at once, and a file that is whole or as it was.
. tests/lib.sh
. tests/cli/lib_store.sh

for i in {1..40}; do
	random_file "$STORE/$i.raw" 1M
done
settle
D=("$DEDUPSCAN" report --no-idle --catalog "$CATALOG")

status=0
"${D[@]}" --csv "$STORE" 2>"$TMP/err" | head -1 >"$TMP/out" || status=$?
assert_eq "0  " "$status $(cat "$TMP/err") $(grep -c raw "$TMP/out" | grep -v 0 || true)" "| head -1"
[ "$(wc -l <"$TMP/out")" -eq 1 ] || fail "no first line"
status=0
"$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$STORE" 2>&1 | true || status=$?
assert_eq 0 $status "| true"

# to_bad WHAT COMMAND...: fails with 3 and says so when standard output is full, and when it is closed
to_bad()
{
	local status=0
	"$@" >/dev/full 2>"$TMP/err" || status=$?
	assert_eq 3 $status "> /dev/full: $*"
	assert_has "$(cat "$TMP/err")" '^dedupscan: .*No space left on device'
	status=0
	"$@" >&- 2>"$TMP/err" || status=$?
	assert_eq 3 $status ">&-: $*"
	assert_has "$(cat "$TMP/err")" '^dedupscan: .*Bad file descriptor'
}
to_bad "${D[@]}" "$STORE"
to_bad "${D[@]}" --json "$STORE"
to_bad "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$STORE"
to_bad "$DEDUPSCAN" --help
to_bad "$DEDUPSCAN" --version
to_bad "$DEDUPSCAN" report --help
"${D[@]}" --json="$TMP/j" "$STORE" >/dev/full || fail "nothing goes to standard output here"

# all three closed: no file of ours takes their place
rm -r "$CATALOG"
"${D[@]}" --csv="$TMP/closed.csv" "$STORE" <&- >&- 2>&- || fail "closed descriptors"
"${D[@]}" --no-scan --csv="$TMP/open.csv" "$STORE"
cmp "$TMP/closed.csv" "$TMP/open.csv" || fail "closed descriptors change the report"
(cd "$STORE" && "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" nothing <&- >&- 2>&-) &&
	fail "an error that cannot be told is one still"
head -c 4096 "$CATALOG/catalog.db" | grep -q 'SQLite format 3' || fail "the database was printed to"

# several at once, to files and to standard output
"${D[@]}" --json="$TMP/json" --csv="$TMP/csv" --csv-totals="$TMP/totals" --table "$STORE" >"$TMP/table"
python3 -m json.tool "$TMP/json" >/dev/null || fail "the JSON report"
assert_eq 41 "$(wc -l <"$TMP/csv")" "lines of the CSV report"
assert_has "$(cat "$TMP/table")" '^not zero'
[ -s "$TMP/totals" ] || fail "no totals"

# --output belongs to the style before it; an old file stays when the new one cannot be written
"${D[@]}" --csv --output "$TMP/o.csv" "$STORE" >"$TMP/out"
cmp "$TMP/o.csv" "$TMP/csv" || fail "--output"
assert_eq "" "$(cat "$TMP/out")"
mkdir "$TMP/full"
if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=16k none "$TMP/full" 2>/dev/null; then
	echo old >"$TMP/full/o.csv"
	head -c 12000 /dev/zero >"$TMP/full/filler" || true
	capture "${D[@]}" --json --output "$TMP/full/o.csv" "$STORE"
	umount_later=$(cat "$TMP/full/o.csv"; ls -A "$TMP/full")
	umount "$TMP/full"
	assert_status 3
	assert_eq "$(printf 'old\nfiller\no.csv')" "$umount_later" "the old file, and nothing beside it"
fi
capture "${D[@]}" --json="$TMP/nowhere/x" "$STORE"
assert_status 3
assert_has "$output" 'nowhere/x.*No such file'
