#!/bin/bash
# A second make does nothing; other flags, a touched header and a new file build again what depends on them, and only that.
. tests/lib.sh

toy_tree "$TMP/tree"
cd "$TMP/tree"

capture make
[ "$status" -eq 0 ] || fail "$output"
assert_has "$output" 'CC +dedupscan.c'
capture make
assert_eq "make: Nothing to be done for 'all'." "$output"

capture make CFLAGS='-O0 -DWORD="a b"'
assert_has "$output" 'CC +dedupscan.c'
assert_has "$output" 'CC +scanner/base/toy.c'
capture make CFLAGS='-O0 -DWORD="a b"'
assert_eq "make: Nothing to be done for 'all'." "$output"
make >/dev/null

printf 'int more(void);\nint more(void)\n{\n\treturn 0;\n}\n' >scanner/base/more.c
capture make
assert_has "$output" 'CC +scanner/base/more.c'
assert_has_not "$output" 'CC +scanner/base/toy.c'

sleep 0.02
touch scanner/base/toy.h
capture make
assert_has "$output" 'CC +scanner/base/toy.c'
assert_has_not "$output" 'CC +scanner/base/more.c'

capture make SAN=undefined
assert_has "$output" 'LINK +build-undefined/dedupscan'
capture make
assert_eq "make: Nothing to be done for 'all'." "$output"
