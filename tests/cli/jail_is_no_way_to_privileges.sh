#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# F12: installed setuid or setgid the program refuses to run, and nothing of what it knows goes to TMPDIR.
. tests/lib.sh
. tests/cli/lib_store.sh
require_root
require_tool setpriv

as_nobody()
{
	capture setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

chmod 755 "$TMP"
cp "$DEDUPSCAN" "$TMP/copy"
chmod 755 "$TMP/copy"
as_nobody "$TMP/copy" --version
assert_status 0 "without a set bit"
for mode in 4755 2755; do
	chmod $mode "$TMP/copy"
	as_nobody "$TMP/copy" --version
	[ "$status" -ne 0 ] || skip "set bits count for nothing here"
	assert_status 3 $mode
	assert_eq "dedupscan: it must not be installed setuid or setgid" "$output"
done

# so many long names that SQLite puts a part of them into a temporary file
require_tool strace
python3 - "$STORE" <<'END'
import sys
for i in range(20000):
    open(f"{sys.argv[1]}/{i:0200}.raw", "w").close()
END
mkdir "$TMP/tmpdir"
TMPDIR=$TMP/tmpdir SQLITE_TMPDIR=$TMP/tmpdir capture strace -f -e trace=openat,open,creat -o "$TMP/calls" \
	"$DEDUPSCAN" scan --no-idle --jobs 1 --for 1s --catalog "$CATALOG" "$STORE"
assert_status 75
made=$(grep -E 'O_CREAT.*= [0-9]' "$TMP/calls" | grep -oE '"[^"]*"')
assert_has "$made" "^\"$CATALOG/etilqs_"
assert_has_not "$made" "^\"$TMP/tmpdir"
