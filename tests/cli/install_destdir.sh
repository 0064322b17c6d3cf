#!/bin/bash
# make install puts the program and the manual pages below DESTDIR and PREFIX, and nothing else anywhere.
. tests/lib.sh

toy_tree "$TMP/tree"
cd "$TMP/tree"
capture make install DESTDIR="$TMP/root" PREFIX=/usr
[ "$status" -eq 0 ] || fail "$output"
assert_eq "./usr/bin/dedupscan
./usr/share/man/man1/dedupscan.1" "$(cd "$TMP/root" && find . -type f | sort)"
assert_eq 755 "$(stat -c %a "$TMP/root/usr/bin/dedupscan")"
