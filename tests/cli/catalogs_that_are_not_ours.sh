#!/bin/bash
# A catalog of a newer program, one that is damaged, and a directory that is none: told, and left as they are.
. tests/lib.sh
. tests/cli/lib_store.sh

random_file "$STORE/a.raw" 1M
mkdir "$TMP/none"
capture "$DEDUPSCAN" report --no-scan --catalog "$TMP/none" "$STORE"
assert_status 2
assert_has "$output" 'no catalog in'
assert_eq "" "$(ls -A "$TMP/none")" "made in a directory that is no catalog"
capture "$DEDUPSCAN" report --no-scan --catalog "$TMP/missing" "$STORE"
assert_status 2
assert_has "$output" 'no catalog in'
[ ! -e "$TMP/missing" ] || fail "a catalog was made for a report of it"

scan "$STORE"
assert_status 0
sqlite3 "$CATALOG/catalog.db" >/dev/null \
	"UPDATE numbers SET value = 99 WHERE name = 'version'; DROP TABLE stores; PRAGMA journal_mode=DELETE"
sum=$(cksum <"$CATALOG/catalog.db")
for command in scan report 'report --no-scan'; do
	# shellcheck disable=SC2086 # words
	capture "$DEDUPSCAN" $command --catalog "$CATALOG" "$STORE"
	assert_status 3
	assert_has "$output" 'written by a newer dedupscan'
done
assert_eq "$sum" "$(cksum <"$CATALOG/catalog.db")" "the newer catalog"
sqlite3 "$CATALOG/catalog.db" "UPDATE numbers SET value = 1 WHERE name = 'version'; PRAGMA journal_mode=DELETE" >/dev/null
sum=$(cksum <"$CATALOG/catalog.db")
scan "$STORE"
assert_status 3
assert_has "$output" 'written by an older dedupscan; remove it, and the next scan makes it anew'
assert_eq "$sum" "$(cksum <"$CATALOG/catalog.db")" "the older catalog"

rm -r "$CATALOG"
scan "$STORE"
head -c 8192 /dev/urandom | dd of="$CATALOG/catalog.db" conv=notrunc status=none
scan "$STORE"
assert_status 3
assert_has "$output" "catalog '$CATALOG': (file is not a database|database disk image is malformed)"

rm -r "$CATALOG"
scan "$STORE"
rm "$CATALOG/index/"*
report --no-scan "$STORE"
assert_status 3
assert_has "$output" 'No such file'

if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	rm -r "$CATALOG"
	chmod 755 "$TMP" "$STORE"
	chmod 600 "$STORE/a.raw"
	cp "$STORE/a.raw" "$STORE/b.raw"
	chmod 644 "$STORE/b.raw"
	mkdir "$STORE/locked" "$TMP/theirs"
	chmod 700 "$STORE/locked"
	chown nobody "$TMP/theirs"
	capture setpriv --reuid=nobody --clear-groups "$DEDUPSCAN" scan --no-idle --catalog "$TMP/theirs/catalog" "$STORE"
	assert_status 1
	assert_has "$output" "a.raw': .*Permission denied"
	assert_has "$output" "locked': .*Permission denied"
	assert_has "$output" '^2 images: 1 read, 0 unchanged, 2 failed'
	capture setpriv --reuid=nobody --clear-groups "$DEDUPSCAN" scan --no-idle --catalog "$STORE/catalog" "$STORE"
	assert_status 3
	assert_has "$output" 'Permission denied'
fi
